//! Large values that an update does not touch are not in the stream. They belong to the writer's
//! version of the row, and are never mixed with another's.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan};

const DOCS: &str = "create table docs (id bigint primary key, n int, body text); \
    alter table docs alter column body set storage external;";
const STATE: &str =
    "select n || ' ' || left(body, 3) || ' ' || length(body) from docs where id = 1";

async fn with_one_row() -> Cluster {
    let cluster = Plan::with_schema(DOCS).start().await.unwrap();
    let begin = "insert into docs values (1, 0, repeat('old', 5000))";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster
}

async fn end(cluster: &Cluster) -> String {
    cluster.converged().await.unwrap();
    cluster.site(2).value(STATE).await.unwrap()
}

#[tokio::test]
async fn an_update_that_leaves_the_large_value_alone() {
    let cluster = with_one_row().await;
    cluster
        .site(1)
        .execute("update docs set n = 1")
        .await
        .unwrap();
    assert_eq!(end(&cluster).await, "1 old 15000");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_winner_did_not_touch_what_the_loser_changed() {
    let cluster = with_one_row().await;
    cluster.cut_all();
    let large = "update docs set body = repeat('new', 4000)";
    cluster.site(1).execute(large).await.unwrap();
    cluster
        .site(0)
        .execute("update docs set n = 2")
        .await
        .unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, "2 old 15000");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_winner_changed_it_and_the_loser_did_not() {
    let cluster = with_one_row().await;
    cluster.cut_all();
    cluster
        .site(0)
        .execute("update docs set n = 2")
        .await
        .unwrap();
    let large = "update docs set body = repeat('new', 4000)";
    cluster.site(1).execute(large).await.unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, "0 new 12000");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_deleted_row_comes_back_with_its_large_value() {
    let cluster = with_one_row().await;
    cluster.cut_all();
    cluster.site(1).execute("delete from docs").await.unwrap();
    cluster
        .site(0)
        .execute("update docs set n = 3")
        .await
        .unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, "3 old 15000");
    cluster.finish().unwrap();
}

/// Only an update takes what it leaves out from the row that stands: one that was deleted and written
/// again in the same group belongs to another row than the one that is here.
#[tokio::test]
async fn a_row_deleted_and_written_again_in_one_group() {
    let cluster = with_one_row().await;
    let (a, b) = (cluster.site(0), cluster.site(1));
    b.execute("select everywrite.pause('a')").await.unwrap();
    b.wait_state(a, OriginState::Paused).await.unwrap();
    a.execute("delete from docs").await.unwrap();
    // No stream has this row, so the update behind it is the first that b hears of it.
    let again = "insert into docs values (1, 4, repeat('new', 4000))";
    a.execute_unseen(again).await.unwrap();
    a.execute("update docs set n = 5").await.unwrap();
    cluster.received(1, 0).await.unwrap();
    b.execute("select everywrite.resume('a')").await.unwrap();
    assert_eq!(end(&cluster).await, "5 new 12000");
    cluster.finish().unwrap();
}

/// A site that has not the row of before asks for the value, and learns that there is no row any more.
#[tokio::test]
async fn a_large_transaction_truncates_what_it_has_updated() {
    let filler = "create table filler (id bigint primary key, note text);";
    let plan = Plan::with_schema(&format!("{DOCS} {filler}"));
    let plan = plan.set("logical_decoding_work_mem", "64kB");
    let cluster = plan.start().await.unwrap();
    let begin = "insert into docs values (1, 0, repeat('old', 5000))";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    cluster.site(1).execute("delete from docs").await.unwrap();
    cluster.captured().await.unwrap();
    let large = "update docs set n = 1; \
        insert into filler select g, repeat('more', 25) from generate_series(1, 20000) g; \
        truncate docs";
    cluster.site(0).execute(large).await.unwrap();
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 20_000);
    cluster.finish().unwrap();
}
