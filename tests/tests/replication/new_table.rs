//! A table that is created at all sites while the daemons run is replicated from then on.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn rows_of_a_new_table_travel() {
    let cluster = Cluster::start().await.unwrap();
    for site in &cluster.sites {
        let create = "create schema \"Odd Name\"; create table \"Odd Name\".\"Tab le\" \
            (\"Key\" int, part text, \"select\" text, primary key (part, \"Key\"))";
        site.execute(create).await.unwrap();
    }
    for (index, site) in cluster.sites.iter().enumerate() {
        let insert = format!("insert into \"Odd Name\".\"Tab le\" values ({index}, 'p', 'x')");
        site.execute(&insert).await.unwrap();
    }
    assert_eq!(cluster.converged().await.unwrap(), 3);
    let update = "update \"Odd Name\".\"Tab le\" set \"select\" = 'y' where \"Key\" = 1";
    cluster.site(2).execute(update).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}
