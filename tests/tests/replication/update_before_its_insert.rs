//! Site a inserts, b updates what it has seen, and c hears b at once but a only late: the update must
//! wait for the insert (causality).

use std::time::Duration;

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn an_update_never_overtakes_the_insert_it_saw() {
    let cluster = Cluster::start().await.unwrap();
    // Silent, not closed: c still believes that it hears a.
    cluster.freeze(0, 2);
    let insert = "insert into items values (1, 1, 'inserted')";
    cluster.site(0).execute(insert).await.unwrap();
    let count = "select count(*) from items";
    cluster.site(1).wait_value(count, "1").await.unwrap();
    let update = "update items set n = 2";
    cluster.site(1).execute(update).await.unwrap();
    let other = "insert into items values (2, 2, 'later')";
    cluster.site(1).execute(other).await.unwrap();

    // c may get the insert from b once it notices the silence. Until then it must show nothing of b.
    let client = cluster.site(2).sql().await.unwrap();
    let seen = "select count(*) filter (where id = 1), count(*) filter (where id = 2) from items";
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let row = client.query_one(seen, &[]).await.unwrap();
        let (first, second): (i64, i64) = (row.get(0), row.get(1));
        assert!(second <= first, "b's later row is here, a's insert is not");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 2);
    let row = cluster
        .site(2)
        .value("select items::text from items where id = 1");
    assert_eq!(row.await.unwrap(), "(1,2,inserted)");
    let conflicts = cluster.site(2).conflicts().await.unwrap();
    assert!(
        conflicts.is_empty(),
        "nothing was concurrent: {conflicts:?}"
    );
    cluster.finish().unwrap();
}
