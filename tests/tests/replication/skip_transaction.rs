//! `everywrite.skip_transaction(origin, lsn)`: one transaction is left out here, on a person's word.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn leaves_out_that_transaction_and_no_other() {
    let cluster = Cluster::start().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    b.execute("select everywrite.pause('a')").await.unwrap();
    b.wait_state(a, OriginState::Paused).await.unwrap();
    a.execute("insert into items values (1, 0, 'unwanted')")
        .await
        .unwrap();
    cluster.caught_up(2, 0).await.unwrap();
    let unwanted = a.node.status().await.unwrap().capture.journal_end;
    a.execute("insert into items values (2, 0, 'wanted')")
        .await
        .unwrap();

    let skip = format!("select everywrite.skip_transaction('a', '{unwanted}')");
    b.execute(&skip).await.unwrap();
    b.execute("select everywrite.resume('a')").await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    let notes = "select string_agg(note, ' ') from items";
    assert_eq!(b.value(notes).await.unwrap(), "wanted");
    let both = cluster.site(2).value("select count(*) from items").await;
    assert_eq!(both.unwrap(), "2");
    cluster.finish().unwrap();
}
