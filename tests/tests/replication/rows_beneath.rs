//! An own row stands where the index already names a write of another site that is still on its way,
//! and a third write removes it first: the history of the row's own site lists it. That history
//! has to, because elsewhere a later write of the site may have been folded over the row.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Site};
use everywrite_tests::conflicts::Conflict;
use everywrite_tests::process::{Signal, signal_to};
use everywrite_tests::wait;

const TRUNCATING: &str = "select count(*) from pg_locks where relation = 'items'::regclass \
    and mode = 'AccessExclusiveLock' and granted = ";

/// Nobody replays anybody from now on, but b everything.
async fn only_b_replays(cluster: &Cluster) {
    for (site, others) in [(0, [1, 2]), (2, [0, 1])] {
        for other in others {
            let (site, other) = (cluster.site(site), cluster.site(other));
            let pause = format!("select everywrite.pause('{}')", other.node.name());
            site.execute(&pause).await.unwrap();
            site.wait_state(other, OriginState::Paused).await.unwrap();
        }
    }
}

async fn go_on(cluster: &Cluster) {
    for (site, others) in [(0, ["b", "c"]), (2, ["a", "b"])] {
        for other in others {
            let resume = format!("select everywrite.resume('{other}')");
            cluster.site(site).execute(&resume).await.unwrap();
        }
    }
    cluster.converged().await.unwrap();
}

/// How often, and as lost to what, the history of a site lists a row.
async fn lost(site: &Site, note: &str) -> Vec<(String, Option<String>)> {
    let conflicts = site.conflicts().await.unwrap();
    let wrong = conflicts.iter().find_map(Conflict::contradiction);
    assert_eq!(wrong, None);
    let lost = conflicts
        .iter()
        .filter(|c| c.loser().column("note").as_deref() == Some(note));
    lost.map(|c| (c.kind.clone(), c.loser().site.clone()))
        .collect()
}

fn once(kind: &str) -> Vec<(String, Option<String>)> {
    vec![(kind.to_owned(), Some("b".to_owned()))]
}

/// Capture at b is behind: it meets the row when the TRUNCATE has been announced and has locked the table.
#[tokio::test]
async fn a_truncate_that_capture_meets_before_the_row() {
    let cluster = Cluster::start().await.unwrap();
    only_b_replays(&cluster).await;
    let (a, b) = (cluster.site(0), cluster.site(1));
    let sender = "select active_pid from pg_replication_slots where slot_name = 'everywrite'";
    let sender: u32 = b.value(sender).await.unwrap().parse().unwrap();
    signal_to(sender, Signal::STOP);
    b.execute("insert into items values (1, 1, 'own')")
        .await
        .unwrap();
    a.execute("truncate items").await.unwrap();
    b.wait_value(&format!("{TRUNCATING} true"), "1")
        .await
        .unwrap();
    signal_to(sender, Signal::CONT);
    b.wait_value("select count(*) from items", "0")
        .await
        .unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    assert_eq!(lost(b, "own").await, once("truncate_origin_differs"));
    go_on(&cluster).await;
    cluster.finish().unwrap();
}

/// The TRUNCATE is announced and waits for the table when a later row of c is announced too.
#[tokio::test]
async fn a_newer_row_behind_a_truncate() {
    let cluster = Cluster::start().await.unwrap();
    only_b_replays(&cluster).await;
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    // So that b knows c's table before it is locked.
    c.execute("insert into items values (9, 3, 'first')")
        .await
        .unwrap();
    cluster.caught_up(1, 2).await.unwrap();
    b.execute("insert into items values (1, 1, 'own')")
        .await
        .unwrap();
    cluster.received(0, 1).await.unwrap();
    let reader = b.sql().await.unwrap();
    let read = "begin; lock table items in access share mode";
    reader.batch_execute(read).await.unwrap();
    a.execute("truncate items").await.unwrap();
    b.wait_value(&format!("{TRUNCATING} false"), "1")
        .await
        .unwrap();
    let before = b.node.status().await.unwrap().index.entries;
    c.execute("insert into items values (1, 3, 'newer'), (2, 3, 'newer')")
        .await
        .unwrap();
    wait::until("c's rows to be announced", wait::LIMIT, async || {
        let status = b.node.status().await;
        let entries = status.map_err(|err| format!("{err:#}"))?.index.entries;
        match entries > before {
            true => Ok(()),
            false => Err(format!("{entries} keys")),
        }
    })
    .await
    .unwrap();
    reader.batch_execute("commit").await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    cluster.caught_up(1, 2).await.unwrap();
    let rows = "select string_agg(note, ' ' order by id) from items";
    assert_eq!(b.value(rows).await.unwrap(), "newer newer");
    assert_eq!(lost(b, "own").await, once("insert_exists"));
    go_on(&cluster).await;
    cluster.finish().unwrap();
}

/// A transaction writes over the row and removes what it has written there itself: one loss.
#[tokio::test]
async fn a_truncate_behind_an_insert_of_its_own() {
    let cluster = Cluster::start().await.unwrap();
    only_b_replays(&cluster).await;
    let (a, b) = (cluster.site(0), cluster.site(1));
    b.execute("insert into items values (1, 1, 'own')")
        .await
        .unwrap();
    cluster.received(0, 1).await.unwrap();
    let both = "begin; insert into items values (1, 2, 'passing'); truncate items; commit";
    a.execute(both).await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    assert_eq!(lost(b, "own").await, once("insert_exists"));
    assert_eq!(lost(b, "passing").await, vec![]);
    go_on(&cluster).await;
    cluster.finish().unwrap();
}

/// A row of c is announced and cannot be applied for the moment; then comes a TRUNCATE that is newer.
#[tokio::test]
async fn a_truncate_over_a_row_that_is_held() {
    let mut cluster = Cluster::start().await.unwrap();
    only_b_replays(&cluster).await;
    cluster.expect_errors(&["strict"]);
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    b.execute("alter table items add constraint strict check (n <> 13)")
        .await
        .unwrap();
    b.execute("insert into items values (1, 1, 'own')")
        .await
        .unwrap();
    cluster.received(0, 1).await.unwrap();
    let held = "insert into items values (1, 3, 'held'), (2, 13, 'held')";
    c.execute(held).await.unwrap();
    b.wait_state(c, OriginState::Held).await.unwrap();
    a.execute("truncate items").await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    assert_eq!(lost(b, "own").await, once("truncate_origin_differs"));
    b.execute("alter table items drop constraint strict")
        .await
        .unwrap();
    go_on(&cluster).await;
    assert_eq!(lost(b, "held").await.len(), 2);
    cluster.finish().unwrap();
}

/// A delete of a is announced and cannot be applied for the moment; then comes a row of c that is newer.
#[tokio::test]
async fn a_newer_row_over_a_delete_that_is_held() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["strict"]);
    let begin = "insert into items values (1, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    only_b_replays(&cluster).await;
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    b.execute("alter table items add constraint strict check (n <> 13)")
        .await
        .unwrap();
    b.execute("update items set note = 'own'").await.unwrap();
    cluster.received(0, 1).await.unwrap();
    let held = "begin; delete from items; insert into items values (2, 13, 'held'); commit";
    a.execute(held).await.unwrap();
    b.wait_state(a, OriginState::Held).await.unwrap();
    c.execute("update items set note = 'newer'").await.unwrap();
    cluster.caught_up(1, 2).await.unwrap();
    let own = vec![("update_origin_differs".to_owned(), Some("b".to_owned()))];
    assert_eq!(lost(b, "own").await, own);
    b.execute("alter table items drop constraint strict")
        .await
        .unwrap();
    go_on(&cluster).await;
    let rows = "select string_agg(note, ' ' order by id) from items";
    let rows = cluster.site(2).value(rows).await.unwrap();
    assert_eq!(rows, "newer held");
    cluster.finish().unwrap();
}
