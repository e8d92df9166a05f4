//! TRUNCATE deletes every row with a lower version, at every site, and no other.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn later_rows_survive_and_earlier_ones_do_not() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 10) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();

    cluster.cut_all();
    let early = "insert into items values (100, 1, 'before it')";
    cluster.site(1).execute(early).await.unwrap();
    cluster.site(0).execute("truncate items").await.unwrap();
    let late = "insert into items values (200, 2, 'after it'); update items set n = 3 where id = 5";
    cluster.site(1).execute(late).await.unwrap();
    cluster.heal();

    cluster.converged().await.unwrap();
    let rows = "select string_agg(items::text, ' ' order by id) from items";
    let rows = cluster.site(2).value(rows).await.unwrap();
    assert_eq!(rows, "(5,3,begin) (200,2,\"after it\")");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn truncate_and_refill_in_one_transaction() {
    let cluster = Cluster::start().await.unwrap();
    let fill = "insert into items select g, 0, 'old' from generate_series(1, 100) g";
    cluster.site(0).execute(fill).await.unwrap();
    let refill = "begin; truncate items; \
        insert into items select g, 1, 'new' from generate_series(50, 60) g; commit";
    cluster.converged().await.unwrap();
    cluster.site(1).execute(refill).await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 11);
    cluster.finish().unwrap();
}
