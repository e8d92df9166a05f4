//! A daemon that comes back applies nothing that it had applied before.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn a_restarted_daemon_goes_on_behind_what_the_server_has() {
    let mut cluster = Cluster::start().await.unwrap();
    for n in 0..20 {
        let sql = format!("insert into items values ({n}, 1, 'once')");
        cluster.site(0).execute(&sql).await.unwrap();
    }
    cluster.converged().await.unwrap();
    cluster.site_mut(1).node.stop().unwrap();
    cluster.site_mut(1).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    let more = "insert into items values (100, 1, 'later')";
    cluster.site(0).execute(more).await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 21);
    let origin = cluster.site(1).origin(cluster.site(0)).await.unwrap();
    assert!(
        origin.transactions <= 3,
        "{} transactions were applied after the restart, one was new",
        origin.transactions
    );
    cluster.finish().unwrap();
}
