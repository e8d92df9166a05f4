//! kill -9 of servers under load, the daemons stay up: what was acknowledged is everywhere, what
//! was not committed is nowhere.

use std::time::Duration;

use everywrite_tests::cluster::Plan;
use everywrite_tests::journals::Archive;
use everywrite_tests::random::Random;
use everywrite_tests::soak;
use everywrite_tests::workload::{self, TABLES, Workload};

#[tokio::test]
async fn killed_at_random_moments_under_load() {
    let plan = Plan::with_schema(&workload::schema(&TABLES));
    let mut cluster = plan.start().await.unwrap();
    let load = Workload::start(&soak::servers(&cluster), &workload::Options::new(3));
    let mut random = Random::new(5);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500 + random.below(1000))).await;
        let index = random.index(3);
        cluster.site_mut(index).server.crash();
        tokio::time::sleep(Duration::from_millis(random.below(500))).await;
        cluster.site_mut(index).server.start().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let history = load.end().await.unwrap();
    cluster.wait_ready().await.unwrap();
    let archive = Archive::new(cluster.dir().join("kept"));
    let judged = soak::judge(&cluster, &TABLES, &history, &archive).await;
    let judged = judged.unwrap_or_else(|wrong| panic!("{}: {wrong:#}", cluster.keep().display()));
    let account = judged.account;
    if !account.violations.is_empty() {
        panic!("{}: {:#?}", cluster.keep().display(), account.violations);
    }
    assert!(history.acknowledged() > 100);
}
