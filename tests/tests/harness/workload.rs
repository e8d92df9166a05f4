//! The workload against one site, where the checker must agree with PostgreSQL itself, through a
//! crash too.

use std::time::Duration;

use everywrite_tests::cluster::Plan;
use everywrite_tests::journals::Archive;
use everywrite_tests::soak;
use everywrite_tests::workload::{self, TABLES, Workload};

#[tokio::test]
async fn everything_acknowledged_is_accounted_for_after_a_crash() {
    let plan = Plan::with_schema(&workload::schema(&TABLES)).sites(1);
    let mut cluster = plan.start().await.unwrap();
    let options = workload::Options {
        clients: 4,
        ..workload::Options::new(7)
    };
    let load = Workload::start(&soak::servers(&cluster), &options);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.site_mut(0).server.crash();
    cluster.site_mut(0).server.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let history = load.end().await.unwrap();

    cluster.wait_ready().await.unwrap();
    let archive = Archive::new(cluster.dir().join("kept"));
    let judged = soak::judge(&cluster, &TABLES, &history, &archive)
        .await
        .unwrap();
    let account = judged.account;
    assert!(account.violations.is_empty(), "{:#?}", account.violations);
    assert!(judged.conflicts.is_empty(), "{:#?}", judged.conflicts);
    assert!(history.acknowledged() > 100, "{}", history.acknowledged());
    assert!(account.superseded > 100, "{account:?}");
    let writes: usize = history.committed().iter().map(|t| t.writes.len()).sum();
    println!("{} transactions, {writes} writes", history.acknowledged());
}
