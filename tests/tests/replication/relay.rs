//! Two sites that cannot reach each other are fed by the third, and directly again when they can.

use everywrite_tests::cluster::Cluster;
use everywrite_tests::wait;

#[tokio::test]
async fn a_broken_link_is_routed_around() {
    let cluster = Cluster::start().await.unwrap();
    cluster.cut(0, 1);
    cluster
        .site(0)
        .execute("insert into items values (1, 0, 'a')")
        .await
        .unwrap();
    cluster
        .site(1)
        .execute("insert into items values (2, 0, 'b')")
        .await
        .unwrap();
    cluster
        .site(2)
        .execute("insert into items values (3, 0, 'c')")
        .await
        .unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 3);
    let update = "update items set n = n + 1";
    cluster.site(0).execute(update).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.site(1).execute(update).await.unwrap();
    cluster.converged().await.unwrap();

    cluster.heal();
    let (a, b) = (cluster.site(0).node.id(), cluster.site(1).node.id());
    wait::until("b to be fed by a directly", wait::LIMIT, async || {
        let status = cluster.site(1).node.status().await;
        let status = status.map_err(|err| format!("{err:#}"))?;
        let fed = status
            .peers
            .iter()
            .any(|p| p.node == a && p.feeds.contains(&a));
        if fed {
            Ok(())
        } else {
            Err(format!("{:?}", status.peers))
        }
    })
    .await
    .unwrap();
    cluster.site(0).execute(update).await.unwrap();
    cluster.converged().await.unwrap();
    let sum = cluster.site(1).value("select sum(n) from items").await;
    assert_eq!(sum.unwrap(), "9", "at node {b}");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn what_a_lost_site_had_sent_to_one_reaches_the_other() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.cut(0, 2);
    // c cannot hear b either while a still can.
    cluster.cut(1, 2);
    let insert = "insert into items select g, 0, 'of a' from generate_series(1, 50) g";
    cluster.site(0).execute(insert).await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    cluster.site_mut(0).node.crash();
    cluster.site_mut(0).server.crash();
    cluster.proxy(1, 2).heal();
    cluster.proxy(2, 1).heal();
    let count = "select count(*) from items";
    cluster.site(2).wait_value(count, "50").await.unwrap();
    cluster.finish().unwrap();
}
