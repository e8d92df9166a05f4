//! What belongs together is seen together: a reader at another site never sees half a transaction.

use std::time::Duration;

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn readers_elsewhere_see_whole_transactions_in_their_order() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, null from generate_series(1, 10) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();

    let writer = cluster.site(0).sql().await.unwrap();
    let writing = tokio::spawn(async move {
        for round in 1..=300 {
            let (from, to) = (round % 10 + 1, (round * 7 + 3) % 10 + 1);
            let sql = format!(
                "begin; update items set n = n - 1 where id = {from}; \
                 update items set n = n + 1 where id = {to}; \
                 insert into items values ({}, 0, 'round'); commit",
                1000 + round
            );
            writer.batch_execute(&sql).await.unwrap();
        }
    });
    let reader = cluster.site(1).sql().await.unwrap();
    let look = "select coalesce(sum(n), 0)::bigint, \
        count(*) filter (where id > 1000), coalesce(max(id), 1000) - 1000 from items";
    let (mut before, mut looks) = (0, 0);
    while !writing.is_finished() || before < 300 {
        let row = reader.query_one(look, &[]).await.unwrap();
        let (sum, rounds, last): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(sum, 0, "half a transfer");
        assert!(last <= 0 || rounds == last, "rounds are missing in between");
        assert!(rounds >= before, "time went backwards");
        before = rounds;
        looks += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(looks < 60_000, "only {before} rounds arrived");
    }
    writing.await.unwrap();
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}
