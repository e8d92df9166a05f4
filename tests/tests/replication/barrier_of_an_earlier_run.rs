//! Capture meets a barrier that is not of this run of the daemon: the run before left it in the WAL, and its clock
//! was ahead. It says nothing of what stands before a barrier of this run, so what waits for one goes on waiting.
//!
//! Otherwise replay decides before the index knows a local write, and for good puts an older row over it, or
//! removes it.

use everywrite_node::admin::message::WalMessage;
use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::process::signal_to;
use everywrite_tests::wait;
use rustix::process::Signal;

const NOTE: &str = "select note from items where id = 1";

/// To the process that sends b's WAL to its daemon.
async fn signal_capture(cluster: &Cluster, signal: Signal) {
    let sender = "select active_pid from pg_replication_slots where slot_name = 'everywrite'";
    let pid = cluster.site(1).value(sender).await.unwrap();
    signal_to(pid.parse().unwrap(), signal);
}

#[tokio::test]
async fn it_does_not_pass_for_one_of_this_run() {
    let cluster = Plan::default().sites(2).start().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    let begin = "insert into items values (1, 0, 'begin')";
    a.execute(begin).await.unwrap();
    cluster.converged().await.unwrap();

    // Tokens were microseconds once: this is an hour ahead.
    let earlier = "select 1000000 * (extract(epoch from clock_timestamp())::bigint + 3600)";
    let token = b.value(earlier).await.unwrap().parse().unwrap();
    let barrier = WalMessage::Barrier(token).encode().unwrap();
    let hex: String = barrier.iter().map(|byte| format!("{byte:02x}")).collect();
    let emit =
        format!("select pg_logical_emit_message(true, 'everywrite', decode('{hex}', 'hex'))");
    b.execute(&emit).await.unwrap();
    // Capture has met it.
    cluster.caught_up(0, 1).await.unwrap();

    // Both write; a's is the older one, and capture does not know b's when a's arrives there.
    cluster.cut_all();
    let update = |by: &str| format!("update items set note = '{by}' where id = 1");
    a.execute(&update("a")).await.unwrap();
    signal_capture(&cluster, Signal::STOP).await;
    b.execute(&update("b")).await.unwrap();
    cluster.heal();
    // Replay holds the row and waits for a barrier, or is through.
    let waiting = "select count(*) from pg_stat_activity \
        where application_name = 'everywrite replay 1' and state = 'idle in transaction'";
    wait::until("replay to meet the row", wait::LIMIT, async || {
        let waits = b.value(waiting).await.map_err(|err| format!("{err:#}"))?;
        let note = b.value(NOTE).await.map_err(|err| format!("{err:#}"))?;
        let met = waits == "1" || note != "b";
        met.then_some(())
            .ok_or_else(|| format!("{waits} waiting, {note}"))
    })
    .await
    .unwrap();
    // Longer than a barrier that is not met is waited for.
    for _ in 0..3 {
        let barriers = "select pg_current_wal_insert_lsn()::text";
        let before = b.value(barriers).await.unwrap();
        wait::until("another barrier", wait::LIMIT, async || {
            let now = b.value(barriers).await.map_err(|err| format!("{err:#}"))?;
            (now != before).then_some(()).ok_or(now)
        })
        .await
        .unwrap();
    }
    let note = b.value(NOTE).await.unwrap();
    signal_capture(&cluster, Signal::CONT).await;
    assert_eq!(note, "b", "decided before b's own write was known");
    cluster.converged().await.unwrap();
    assert_eq!(a.value(NOTE).await.unwrap(), "b");
    cluster.finish().unwrap();
}
