//! The workload against one server, where the checker must agree with PostgreSQL itself, through a
//! crash too.

use std::collections::BTreeSet;
use std::time::Duration;

use everywrite_tests::checker::{account, rows};
use everywrite_tests::place::scratch;
use everywrite_tests::postgres::{Options, Server};
use everywrite_tests::workload::{self, TABLES, Workload};

#[tokio::test]
async fn everything_acknowledged_is_accounted_for_after_a_crash() {
    let dir = scratch("ew-").unwrap();
    let mut server = Server::create(&dir.path().join("a"), &Options::default())
        .await
        .unwrap();
    server.execute(&workload::schema(&TABLES)).await.unwrap();
    let options = workload::Options {
        clients: 4,
        ..workload::Options::new(7)
    };
    let load = Workload::start(&[server.dir().to_owned()], &options);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.crash();
    server.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let history = load.end().await.unwrap();

    let client = server.connect().await.unwrap();
    history.resolve(0, &client).await.unwrap();
    let end = rows(&client, &TABLES).await.unwrap();
    let account = account(&history.committed(), &end, &BTreeSet::new());
    assert!(account.violations.is_empty(), "{:#?}", account.violations);
    assert!(history.acknowledged() > 100, "{}", history.acknowledged());
    assert_eq!(account.present, end.len());
    assert!(account.superseded > 100, "{account:?}");
    let writes: usize = history.committed().iter().map(|t| t.writes.len()).sum();
    println!("{} transactions, {writes} writes", history.acknowledged());
}
