//! Three sites, every one written at, all of them the same.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn every_site_is_written_and_all_converge() {
    let cluster = Cluster::start().await.unwrap();
    for (index, site) in cluster.sites.iter().enumerate() {
        let sql = format!("insert into items values ({index}, 1, 'from {index}')");
        site.execute(&sql).await.unwrap();
    }
    assert_eq!(cluster.converged().await.unwrap(), 3);

    // Each site changes the row of its neighbour, which it has seen.
    for (index, site) in cluster.sites.iter().enumerate() {
        let neighbour = (index + 1) % 3;
        let sql = format!("update items set n = n + 1, note = null where id = {neighbour}");
        site.execute(&sql).await.unwrap();
    }
    assert_eq!(cluster.converged().await.unwrap(), 3);
    let sum = cluster.site(1).value("select sum(n) from items").await;
    assert_eq!(sum.unwrap(), "6");

    cluster.site(2).execute("delete from items").await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 0);
    for site in &cluster.sites {
        let found = site.conflicts().await.unwrap();
        assert!(found.is_empty(), "nothing was concurrent: {found:?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_backlog_arrives_whole() {
    let cluster = Cluster::start().await.unwrap();
    cluster.cut_all();
    let filler = "insert into items select g, g, repeat('x', 50) from generate_series(1, 20000) g";
    cluster.site(0).execute(filler).await.unwrap();
    let client = cluster.site(0).sql().await.unwrap();
    for id in 1..=500 {
        let sql = format!("update items set n = -n where id = {id}");
        client.batch_execute(&sql).await.unwrap();
    }
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 20_000);
    let negative = cluster
        .site(2)
        .value("select count(*) from items where n < 0");
    assert_eq!(negative.await.unwrap(), "500");
    cluster.finish().unwrap();
}
