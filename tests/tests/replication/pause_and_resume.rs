//! `everywrite.pause(peer)` and `everywrite.resume(peer)` in SQL.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;

const COUNT: &str = "select count(*) from items";

#[tokio::test]
async fn a_paused_peer_waits_and_then_catches_up() {
    let mut cluster = Cluster::start().await.unwrap();
    let b = cluster.site(1);
    b.execute("select everywrite.pause('a')").await.unwrap();
    b.wait_state(cluster.site(0), OriginState::Paused)
        .await
        .unwrap();

    cluster
        .site(0)
        .execute("insert into items values (1, 0, 'a')")
        .await
        .unwrap();
    cluster
        .site(2)
        .execute("insert into items values (2, 0, 'c')")
        .await
        .unwrap();
    cluster.site(2).wait_value(COUNT, "2").await.unwrap();
    b.wait_value(COUNT, "1").await.unwrap();
    let state = "select state from everywrite.status where name = 'a'";
    b.wait_value(state, "paused").await.unwrap();

    // A restart changes nothing about it.
    cluster.site_mut(1).node.stop().unwrap();
    cluster.site_mut(1).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    let b = cluster.site(1);
    b.wait_state(cluster.site(0), OriginState::Paused)
        .await
        .unwrap();
    assert_eq!(b.value(COUNT).await.unwrap(), "1");

    b.execute("select everywrite.resume('a')").await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 2);
    cluster.finish().unwrap();
}

/// A transaction that waits for a standby stands in the WAL before anybody can see what it wrote.
#[tokio::test]
async fn the_daemon_hears_of_it_before_it_is_visible() {
    let cluster = Cluster::start().await.unwrap();
    let b = cluster.site(1);
    let client = b.sql().await.unwrap();
    for sql in [
        "alter system set synchronous_commit = local",
        "alter system set synchronous_standby_names = 'nobody'",
        "select pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    b.wait_value("show synchronous_standby_names", "nobody")
        .await
        .unwrap();
    let pausing = b.sql().await.unwrap();
    let pausing = tokio::spawn(async move {
        let pause = "set synchronous_commit = on; select everywrite.pause('a')";
        pausing.batch_execute(pause).await
    });
    b.node.wait_for_log("a person decided").await.unwrap();
    for sql in [
        "alter system reset synchronous_standby_names",
        "select pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    pausing.await.unwrap().unwrap();
    b.wait_state(cluster.site(0), OriginState::Paused)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_name_that_is_none_is_told_so() {
    let cluster = Cluster::start().await.unwrap();
    let err = cluster
        .site(0)
        .execute("select everywrite.pause('nobody')")
        .await;
    let text = format!("{:?}", err.unwrap_err());
    assert!(text.contains("there is no site named"), "{text}");
    cluster.finish().unwrap();
}
