//! Clocks that are equal to the microsecond, wrong by seconds, or step back. Stamps never go back, and whoever
//! has seen a write comes after it, so a wrong clock costs fairness and nothing else.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::machine::now_us;

const ONE: &str = "select items::text from items where id = 1";
const SECOND_US: i64 = 1_000_000;

async fn with_one_row() -> Cluster {
    let cluster = Plan::default().on_machines().start().await.unwrap();
    let begin = "insert into items values (1, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster
}

async fn note(cluster: &Cluster, site: usize, note: &str) {
    let sql = format!("update items set n = n + 1, note = '{note}' where id = 1");
    cluster.site(site).execute(&sql).await.unwrap();
}

/// All sites have that row.
async fn expect(cluster: &Cluster, row: &str) {
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        assert_eq!(site.value(ONE).await.unwrap(), row, "{}", site.node.name());
    }
}

async fn conflicts(cluster: &Cluster) -> usize {
    let mut count = 0;
    for site in &cluster.sites {
        count += site.conflicts().await.unwrap().len();
    }
    count
}

#[tokio::test]
async fn equal_timestamps_are_decided_by_the_site_whoever_comes_first() {
    let cluster = with_one_row().await;
    for (round, [first, second]) in [[0, 1], [1, 0]].into_iter().enumerate() {
        cluster.cut_all();
        let moment = now_us() + 2 * SECOND_US;
        for site in [first, second] {
            cluster.site(site).stop_clock(moment).unwrap();
            note(&cluster, site, &format!("site {site}")).await;
            cluster.site(site).set_clock(0).unwrap();
        }
        // The third site hears the one first in one round and the other in the other.
        cluster.proxy(2, first).heal();
        cluster.proxy(first, 2).heal();
        cluster.caught_up(2, first).await.unwrap();
        cluster.heal();
        expect(&cluster, &format!("(1,{},\"site 1\")", round + 1)).await;
        let decided = cluster.site(2).conflicts().await.unwrap();
        let last = decided.last().unwrap();
        let (winner, loser) = (last.winner(), last.loser());
        let (winner, loser) = (winner.version.unwrap(), loser.version.unwrap());
        assert_eq!((winner.0, loser.0), (moment, moment), "{last:?}");
        assert_eq!((winner.1, loser.1), (2, 1), "{last:?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_site_seconds_behind_writes_over_what_it_has_seen_and_loses_what_it_has_not() {
    let cluster = with_one_row().await;
    cluster.site(1).set_clock(-7 * SECOND_US).unwrap();
    note(&cluster, 1, "seen").await;
    expect(&cluster, "(1,1,seen)").await;
    assert_eq!(conflicts(&cluster).await, 0, "it had seen the row");

    cluster.cut_all();
    note(&cluster, 0, "right clock").await;
    note(&cluster, 1, "later, clock behind").await;
    cluster.heal();
    expect(&cluster, "(1,2,\"right clock\")").await;
    // A delete by the slow clock of what it has seen now stays a delete.
    cluster.site(1).execute("delete from items").await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 0);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_site_seconds_ahead_wins_and_pushes_who_has_seen_it() {
    let cluster = with_one_row().await;
    cluster.site(2).set_clock(7 * SECOND_US).unwrap();
    cluster.cut_all();
    note(&cluster, 2, "clock ahead").await;
    note(&cluster, 0, "later").await;
    cluster.heal();
    expect(&cluster, "(1,1,\"clock ahead\")").await;
    let before = conflicts(&cluster).await;

    // Both have seen it, so both come after it, although their clocks do not.
    note(&cluster, 0, "after it").await;
    expect(&cluster, "(1,2,\"after it\")").await;
    note(&cluster, 1, "after that").await;
    expect(&cluster, "(1,3,\"after that\")").await;
    assert_eq!(conflicts(&cluster).await, before, "nothing was concurrent");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_clock_too_far_ahead_is_held_until_the_others_come_near() {
    let plan = Plan::default()
        .on_machines()
        .configure("replication", "max-clock-skew", "\"2s\"");
    let cluster = plan.start().await.unwrap();
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    a.set_clock(8 * SECOND_US).unwrap();
    let insert = "insert into items values (1, 1, 'ahead')";
    a.execute(insert).await.unwrap();
    let held = b.wait_state(a, OriginState::Held).await.unwrap();
    let reason = held.reason.unwrap_or_default();
    assert!(reason.contains("its clock is ahead"), "{reason}");
    // The others go on among themselves.
    let insert = "insert into items values (1, 2, 'right clock')";
    c.execute(insert).await.unwrap();
    b.wait_value("select n from items", "2").await.unwrap();
    a.set_clock(0).unwrap();
    expect(&cluster, "(1,1,ahead)").await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_clock_that_steps_back_takes_no_later_write_back() {
    let mut cluster = with_one_row().await;
    cluster.cut_all();
    cluster.site(1).set_clock(4 * SECOND_US).unwrap();
    note(&cluster, 1, "ahead").await;
    cluster.site(1).set_clock(-4 * SECOND_US).unwrap();
    note(&cluster, 1, "after the step").await;
    cluster
        .site(1)
        .execute("insert into items values (2, 0, 'short'); delete from items where id = 2")
        .await
        .unwrap();
    note(&cluster, 0, "right clock").await;
    cluster.heal();
    expect(&cluster, "(1,2,\"after the step\")").await;

    // The stamps it has given are remembered through a crash, too.
    cluster.cut_all();
    cluster.site_mut(1).node.crash();
    cluster.site_mut(1).node.start().unwrap();
    cluster.site(1).node.wait_ready().await.unwrap();
    note(&cluster, 1, "after the crash").await;
    cluster.heal();
    expect(&cluster, "(1,3,\"after the crash\")").await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn deletes_by_wrong_clocks_end_alike_in_both_orders_of_arrival() {
    let cluster = with_one_row().await;
    for first in [0, 1] {
        let again = "insert into items values (1, 0, 'begin') on conflict (id) do nothing";
        cluster.site(2).execute(again).await.unwrap();
        cluster.converged().await.unwrap();
        cluster.cut_all();
        // By version the delete comes first and the update last, by time the other way round.
        cluster.site(0).set_clock(5 * SECOND_US).unwrap();
        note(&cluster, 0, "kept").await;
        cluster.site(0).set_clock(0).unwrap();
        cluster.site(1).execute("delete from items").await.unwrap();
        cluster.proxy(2, first).heal();
        cluster.proxy(first, 2).heal();
        cluster.caught_up(2, first).await.unwrap();
        cluster.heal();
        expect(&cluster, &format!("(1,{},kept)", first + 1)).await;
    }
    cluster.finish().unwrap();
}
