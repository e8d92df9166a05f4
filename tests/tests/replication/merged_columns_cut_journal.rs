//! Columns that are merged, and journals that are cut: which updates a row event has taken away only the event tells.

use std::path::PathBuf;
use std::time::Duration;

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::wait;

use super::merged_columns::{SCHEMA, set};

const SEEN: &str = "select concat_ws(' ', label, seen) from stock where id = 1";
/// Several rounds in which journals are cut.
const ROUNDS: Duration = Duration::from_secs(7);

/// b's copy of a's journal, oldest file first.
fn segments(cluster: &Cluster) -> Vec<PathBuf> {
    let dir = cluster.site(1).node.dir().join("data/journal/1");
    let files = std::fs::read_dir(dir).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut found: Vec<PathBuf> = files
        .filter(|f| f.extension().is_some_and(|e| e == "seg"))
        .collect();
    found.sort();
    found
}

/// b's update loses to a row of a's that it has not seen. b's daemon starts again when a's row is stable at b, and a has
/// not replayed the update: what b knows of the columns is what belongs to the row.
#[tokio::test]
async fn an_update_that_lost_does_not_come_back_when_the_winner_is_cut() {
    let schema = format!("{SCHEMA} create table filler (id int primary key, body text);");
    let plan = Plan::with_schema(&schema).sites(2);
    let plan = plan.configure("journal", "segment-size", "\"1MiB\"");
    let mut cluster = plan.start().await.unwrap();
    let begin = "insert into stock values (1, 'tea', 'here', 10, 5, 5)";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    set(&cluster, 0, r#"{"greatest": ["seen"]}"#).await;

    let (a, b) = (cluster.site(0), cluster.site(1));
    a.execute("select everywrite.pause('b')").await.unwrap();
    b.execute("select everywrite.pause('a')").await.unwrap();
    a.wait_state(b, OriginState::Paused).await.unwrap();
    b.wait_state(a, OriginState::Paused).await.unwrap();
    a.execute("delete from stock").await.unwrap();
    let again = "insert into stock values (1, 'again', 'here', 10, 5, 5)";
    a.execute(again).await.unwrap();
    b.execute("update stock set seen = 100").await.unwrap();
    b.execute("select everywrite.resume('a')").await.unwrap();
    b.wait_value(SEEN, "again 5").await.unwrap();
    // Random bytes, so that nothing is compressed away.
    let fill = "insert into filler select g, (select string_agg(md5(random()::text || g || i), '') \
        from generate_series(1, 32) i) from generate_series(1, 6000) g";
    a.execute(fill).await.unwrap();
    b.wait_value("select count(*) from filler", "6000")
        .await
        .unwrap();
    let oldest = segments(&cluster)[0].clone();
    tokio::time::sleep(ROUNDS).await;

    cluster.site_mut(1).node.crash();
    cluster.site_mut(1).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    a.execute("update stock set seen = 7").await.unwrap();
    a.execute("select everywrite.resume('b')").await.unwrap();
    cluster.converged().await.unwrap();
    assert_eq!(b.value(SEEN).await.unwrap(), "again 7");
    // Now that a has the update, too, the journal is cut.
    wait::until("the oldest file to go", wait::LIMIT, async || {
        (!oldest.exists())
            .then_some(())
            .ok_or_else(|| format!("{:?}", segments(&cluster)))
    })
    .await
    .unwrap();
    cluster.finish().unwrap();
}
