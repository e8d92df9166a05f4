//! Transactions larger than `logical_decoding_work_mem` are streamed before they commit.

use everywrite_tests::cluster::Plan;

#[tokio::test]
async fn streamed_ones_arrive_whole_or_not_at_all() {
    let plan = Plan::default().set("logical_decoding_work_mem", "64kB");
    let cluster = plan.start().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    let fill = |from: i64, to: i64, note: &str| {
        format!("insert into items select g, 0, '{note}' from generate_series({from}, {to}) g")
    };
    let large = a.sql().await.unwrap();
    large.batch_execute("begin").await.unwrap();
    large
        .batch_execute(&fill(1, 40_000, "large"))
        .await
        .unwrap();
    // Meanwhile small ones commit here and there.
    for id in 0..20 {
        a.execute(&fill(900_000 + id, 900_000 + id, "small"))
            .await
            .unwrap();
        b.execute(&fill(950_000 + id, 950_000 + id, "small"))
            .await
            .unwrap();
    }
    large.batch_execute("savepoint s").await.unwrap();
    large
        .batch_execute(&fill(40_001, 60_000, "taken back"))
        .await
        .unwrap();
    large.batch_execute("rollback to s").await.unwrap();
    large
        .batch_execute(&fill(60_001, 70_000, "large"))
        .await
        .unwrap();
    let other = a.sql().await.unwrap();
    other.batch_execute("begin").await.unwrap();
    other
        .batch_execute(&fill(100_000, 130_000, "never"))
        .await
        .unwrap();
    other.batch_execute("rollback").await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    let seen = b
        .value("select count(*) from items where note <> 'small'")
        .await;
    assert_eq!(
        seen.unwrap(),
        "0",
        "rows of a transaction that is not committed"
    );

    large
        .batch_execute("update items set n = 1 where id <= 100; commit")
        .await
        .unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 50_040);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_streamed_one_meets_a_newer_row() {
    let plan = Plan::default().set("logical_decoding_work_mem", "64kB");
    let cluster = plan.start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 20000) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    cluster
        .site(0)
        .execute("update items set n = 1")
        .await
        .unwrap();
    let newer = "update items set n = 2 where id % 1000 = 0";
    cluster.site(1).execute(newer).await.unwrap();
    // What comes while a large transaction is still being captured may have come before it, as far as that site
    // knows, and then that gets the higher stamp.
    cluster.captured().await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let sum = cluster.site(2).value("select sum(n) from items").await;
    assert_eq!(sum.unwrap(), "20020");
    cluster.finish().unwrap();
}
