//! Beats and clocks.

use std::time::{Duration, Instant};

use everywrite_conflict::{Lsn, NodeId, Vector};

use super::cluster::{Cluster, unix_us, wait_until};
use super::proxy::Mode;
use crate::link::Clock;
use crate::settle::Beat;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_go_through_a_middle_node() {
    let cluster = Cluster::start(3).await;
    cluster.set(1, 3, Mode::Cut);
    cluster.node(3).commit(7, 100).await;
    let end = cluster.node(3).end_of(NodeId(3));
    wait_until("node 1 knows how far node 3 is", || {
        let beat = cluster.node(1).beats.get(NodeId(3));
        beat.is_some_and(|beat| beat.journal_end == end)
    })
    .await;
    // A whole beat, as it was given.
    let given = Beat {
        node: NodeId(3),
        sequence: u64::MAX,
        journal_end: Lsn(5),
        applied: Vector::from_iter([(NodeId(1), Lsn(u64::MAX)), (NodeId(2), Lsn(0))]),
        holds: Vector::from_iter([(NodeId(65_535), Lsn(9))]),
    };
    assert!(cluster.node(3).beats.offer(given.clone()));
    wait_until("the beat is there unchanged", || {
        cluster.node(1).beats.get(NodeId(3)).as_deref() == Some(&given)
    })
    .await;
}

/// An acknowledgement does not wait for a period to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_beat_goes_out_at_once() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    let mut times = Vec::new();
    for i in 0..20 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let sequence = unix_us() + 1_000_000_000 + i;
        let mut changed = cluster.node(2).beats.subscribe();
        let began = Instant::now();
        cluster.node(1).beats.offer(Beat {
            node: NodeId(1),
            sequence,
            journal_end: Lsn(1),
            applied: Vector::new(),
            holds: Vector::new(),
        });
        let there = || {
            cluster
                .node(2)
                .beats
                .get(NodeId(1))
                .is_some_and(|b| b.sequence >= sequence)
        };
        while !there() {
            changed.changed().await.unwrap();
        }
        times.push(began.elapsed());
    }
    times.sort();
    println!("own beat: median {:?}, worst {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(20), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_skew_is_measured() {
    let cluster = Cluster::start_with(2, |options| {
        if options.me == NodeId(2) {
            options.clock = Clock::new(|| unix_us() as i64 + 5_000_000);
        }
    })
    .await;
    wait_until("both have measured", || {
        let one = cluster.node(1).status(NodeId(2)).clock_skew_ms;
        let two = cluster.node(2).status(NodeId(1)).clock_skew_ms;
        one.is_some_and(|ms| (ms - 5000.0).abs() < 100.0)
            && two.is_some_and(|ms| (ms + 5000.0).abs() < 100.0)
    })
    .await;
}

/// A beat so large that nothing else on a link comes near it.
fn large(node: u16, sequence: u64) -> Beat {
    let vector: Vector = (1..2_000).map(|n| (NodeId(n), Lsn(sequence))).collect();
    Beat {
        node: NodeId(node),
        sequence,
        journal_end: Lsn(1),
        applied: vector.clone(),
        holds: vector,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_hears_itself_is_not_passed_on() {
    let cluster = Cluster::start(3).await;
    cluster.all_connected().await;
    let sequence = unix_us() + 1_000_000_000;
    let heard = |at: u16, n: u64| {
        let beat = cluster.node(at).beats.get(NodeId(1));
        beat.is_some_and(|beat| beat.sequence >= sequence + n)
    };
    // Until everybody knows who is connected with whom.
    wait_until("all say that they are connected with both others", || {
        (1..=3).all(|n| {
            cluster
                .node(n)
                .handle
                .direct_of_peers()
                .iter()
                .all(|&d| d == 2)
        })
    })
    .await;
    let one_beat = 2 * 2_000 * 10;
    let from_2 = || cluster.node(3).status(NodeId(2)).received_bytes;
    let before = from_2();
    for n in 0..20 {
        cluster.node(1).beats.offer(large(1, sequence + n));
        wait_until("both others have it", || heard(2, n) && heard(3, n)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(from_2() - before < one_beat, "{} bytes", from_2() - before);
}

/// Who loses its own connection says so, and hears from the middle what it heard itself before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_gone_around() {
    let cluster = Cluster::start(3).await;
    cluster.all_connected().await;
    cluster.set(1, 3, Mode::Cut);
    let sequence = unix_us() + 1_000_000_000;
    for n in 0..5 {
        cluster.node(1).beats.offer(large(1, sequence + n));
        wait_until("the beat is at node 3", || {
            let beat = cluster.node(3).beats.get(NodeId(1));
            beat.is_some_and(|beat| beat.sequence >= sequence + n)
        })
        .await;
    }
}
