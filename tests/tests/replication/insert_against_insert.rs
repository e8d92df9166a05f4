//! Two sites insert the same key.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn the_later_insert_wins_whole() {
    let cluster = Cluster::start().await.unwrap();
    cluster.cut_all();
    let first = "insert into items values (1, 10, 'first')";
    cluster.site(0).execute(first).await.unwrap();
    let second = "insert into items values (1, 20, null)";
    cluster.site(1).execute(second).await.unwrap();
    cluster.heal();

    assert_eq!(cluster.converged().await.unwrap(), 1);
    let row = cluster.site(2).value("select items::text from items").await;
    assert_eq!(row.unwrap(), "(1,20,)");
    let lost = cluster.site(0).conflicts().await.unwrap();
    assert_eq!(lost[0].kind, "insert_exists");
    assert_eq!(lost[0].loser().column("note").as_deref(), Some("first"));
    cluster.finish().unwrap();
}
