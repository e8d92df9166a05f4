//! A group that waits at the server, a local write of one of its keys, and a third site's newer write of that.
//!
//! The index of a names the local write and not c's group, which is still under way. b's write beats the local
//! one and must not go ahead by that: c's group would meet a row of another origin, which
//! it takes for the one that its writer knew, and put its own older one over it.

use everywrite_conflict::Lsn;
use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Plan, Site};
use everywrite_tests::{agreement, logs, wait};

const SCHEMA: &str = "create table items (id bigint primary key, n int, note text); \
    create table busy (id bigint primary key, n int)";

/// Waits until a barrier is passed that was set behind everything committed at the site until now.
async fn barrier_behind_all(site: &Site) {
    let end = agreement::mark(site, wait::LIMIT).await.unwrap();
    wait::until("a barrier", wait::LIMIT, async || {
        let lines = logs::lines(&site.node.log());
        let passed = lines
            .iter()
            .rfind(|line| line.contains("a barrier is passed"));
        let place = passed.and_then(|line| line.split("place=").nth(1));
        let place = place.and_then(|place| place.split_whitespace().next()?.parse::<Lsn>().ok());
        let behind = place.is_some_and(|place| place >= end);
        behind
            .then_some(())
            .ok_or_else(|| format!("{place:?} of {end}"))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_third_sites_write_waits_for_a_group_behind_a_local_write() {
    let filter = "\"info,everywrite_node::settle=debug\"";
    let plan = Plan::with_schema(SCHEMA).configure("log", "filter", filter);
    let cluster = plan.start().await.unwrap();
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    let begin = "insert into items values (1, 0, 'begin'); insert into busy values (1, 0)";
    a.execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    // b writes without having seen what the others write.
    let alone = "select everywrite.pause('a'), everywrite.pause('c')";
    b.execute(alone).await.unwrap();
    // Else it may still take c's group in: then its own write names that, and waits for it for another reason.
    for other in [a, c] {
        b.wait_state(other, OriginState::Paused).await.unwrap();
    }

    let holder = a.sql().await.unwrap();
    let lock = "begin; lock table busy in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let group = "begin; update busy set n = 1; update items set note = 'c' where id = 1; commit";
    c.execute(group).await.unwrap();
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
        and application_name = 'everywrite replay 3'";
    a.wait_value(waiting, "1").await.unwrap();

    let local = "update items set note = 'a' where id = 1";
    a.execute(local).await.unwrap();
    // Until a barrier has passed the local write, b's goes the careful way in any case.
    barrier_behind_all(a).await;
    let waits = "a decision waits for groups that are on their way";
    let early = logs::lines(&a.node.log());
    assert!(!early.iter().any(|line| line.contains(waits)));
    let newer = "update items set note = 'b' where id = 1";
    b.execute(newer).await.unwrap();
    // It does not go ahead: it waits for c's group, which is still behind the lock.
    a.wait_logged(waits).await.unwrap();
    a.wait_value(waiting, "1").await.unwrap();
    let note = "select note from items where id = 1";
    assert_eq!(a.value(note).await.unwrap(), "a");
    holder.batch_execute("commit").await.unwrap();

    let again = "select everywrite.resume('a'), everywrite.resume('c')";
    b.execute(again).await.unwrap();
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        assert_eq!(site.value(note).await.unwrap(), "b");
    }
    cluster.finish().unwrap();
}
