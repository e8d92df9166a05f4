//! Daemons and servers stop and start in any order.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn daemons_before_servers_and_servers_before_daemons() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster
        .site(0)
        .execute("insert into items values (1, 0, 'a')")
        .await
        .unwrap();
    cluster.converged().await.unwrap();

    // Site a: the server goes while the daemon stays. Site b: all go, the daemon comes back first.
    // Site c: all go, the server comes back first.
    for site in &mut cluster.sites {
        site.server.stop().unwrap();
    }
    cluster.site_mut(1).node.stop().unwrap();
    cluster.site_mut(2).node.stop().unwrap();
    cluster.site_mut(1).node.start().unwrap();
    cluster.site_mut(2).server.start().await.unwrap();
    cluster
        .site(2)
        .execute("insert into items values (3, 0, 'c')")
        .await
        .unwrap();
    cluster.site_mut(0).server.start().await.unwrap();
    cluster
        .site(0)
        .execute("update items set n = 1")
        .await
        .unwrap();
    cluster.site_mut(1).server.start().await.unwrap();
    cluster.site_mut(2).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    cluster
        .site(1)
        .execute("insert into items values (2, 0, 'b')")
        .await
        .unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 3);
}

#[tokio::test]
async fn an_immediate_shutdown_of_all_servers() {
    let mut cluster = Cluster::start().await.unwrap();
    for site in 0..3 {
        let insert = format!("insert into items values ({site}, 0, null)");
        cluster.site(site).execute(&insert).await.unwrap();
    }
    for site in &mut cluster.sites {
        site.server.stop_immediately().unwrap();
    }
    for site in &mut cluster.sites {
        site.server.start().await.unwrap();
    }
    cluster.wait_ready().await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 3);
}
