//! SIGTERM: the daemon ends in good order, soon, with success, and loses nothing.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn stops_within_seconds_under_load_and_goes_on_where_it_was() {
    let mut cluster = Cluster::start().await.unwrap();
    let client = cluster.site(0).sql().await.unwrap();
    let writer = tokio::spawn(async move {
        for id in 0..600 {
            let sql = format!("insert into items values ({id}, 0, null)");
            client.batch_execute(&sql).await.unwrap();
        }
    });
    for index in [0, 1, 2, 0, 1, 2] {
        cluster.site_mut(index).node.stop().unwrap();
        cluster.site_mut(index).node.start().unwrap();
    }
    writer.await.unwrap();
    cluster.wait_ready().await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 600);
    cluster.finish().unwrap();
}
