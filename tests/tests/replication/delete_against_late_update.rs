//! A delete and a concurrent update that arrives long after it, over three sites: the tombstone is
//! remembered, and the order of arrival does not matter.

use everywrite_tests::cluster::Cluster;

async fn with_one_row() -> Cluster {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 1, 'whole row')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.isolate(0);
    cluster
}

#[tokio::test]
async fn an_older_update_does_not_bring_a_deleted_row_back() {
    let cluster = with_one_row().await;
    let update = "update items set n = 2";
    cluster.site(0).execute(update).await.unwrap();
    cluster.site(1).execute("delete from items").await.unwrap();
    cluster.caught_up(2, 1).await.unwrap();
    // A vacuum must not take the memory of the delete away.
    cluster.site(2).execute("vacuum items").await.unwrap();
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 0);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_newer_update_brings_the_whole_row_back() {
    let cluster = with_one_row().await;
    cluster.site(1).execute("delete from items").await.unwrap();
    cluster.caught_up(2, 1).await.unwrap();
    let update = "update items set n = 2";
    cluster.site(0).execute(update).await.unwrap();
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 1);
    let row = cluster.site(2).value("select items::text from items").await;
    assert_eq!(row.unwrap(), "(1,2,\"whole row\")");
    cluster.finish().unwrap();
}
