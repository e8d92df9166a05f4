//! A table that is not the same at two sites holds the stream, visibly, until it is mended. Nothing
//! is skipped.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn a_missing_column_holds_and_goes_on_when_it_is_there() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["extra", "items"]);
    let add = "alter table items add column extra text";
    let (a, b) = (cluster.site(0), cluster.site(1));
    a.execute(add).await.unwrap();
    cluster.site(2).execute(add).await.unwrap();
    a.execute("insert into items values (1, 0, 'a', 'extra')")
        .await
        .unwrap();
    cluster
        .site(2)
        .wait_value("select count(*) from items", "1")
        .await
        .unwrap();
    let held = b.wait_state(a, OriginState::Held).await.unwrap();
    let reason = held.reason.unwrap_or_default();
    assert!(
        reason.contains("extra") && reason.contains("items"),
        "{reason}"
    );
    // The other direction is not held up.
    b.execute("insert into items values (2, 0, 'b')")
        .await
        .unwrap();
    a.wait_value("select count(*) from items", "2")
        .await
        .unwrap();

    b.execute(add).await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 2);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_missing_table_holds_and_goes_on_when_it_is_there() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["late"]);
    let create = "create table late (id int primary key)";
    cluster.site(0).execute(create).await.unwrap();
    cluster
        .site(0)
        .execute("insert into late values (1)")
        .await
        .unwrap();
    let b = cluster.site(1);
    let held = b
        .wait_state(cluster.site(0), OriginState::Held)
        .await
        .unwrap();
    assert!(held.reason.unwrap_or_default().contains("late"));
    for site in [1, 2] {
        cluster.site(site).execute(create).await.unwrap();
    }
    assert_eq!(cluster.converged().await.unwrap(), 1);
    cluster.finish().unwrap();
}
