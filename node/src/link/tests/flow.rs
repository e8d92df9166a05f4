//! Transactions from journal to journal.

use std::time::{Duration, Instant};

use everywrite_conflict::{Lsn, NodeId, Stamp};

use super::cluster::{Cluster, Node, PATIENCE, options, peer, wait_until};
use super::proxy::Mode;
use crate::journal::Options as JournalOptions;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_exchange_both_ways() {
    let cluster = Cluster::start(2).await;
    cluster.node(1).commit(100, 200).await;
    cluster.node(2).commit(70, 3000).await;
    cluster.level().await;
    cluster.all_connected().await;
    // What is committed later comes, too, and large transactions and huge rows.
    cluster.node(1).commit_large(5, 1 << 20).await;
    cluster.node(2).commit(1, 9 << 20).await;
    cluster.node(1).commit(10, 10).await;
    cluster.level().await;

    let status = cluster.node(1).status(TWO);
    assert_eq!(status.feeds, [TWO]);
    assert_eq!(status.error, None);
    assert!(status.received_bytes > 9 << 20, "{status:?}");
    assert!(status.sent_bytes > 5 << 20);
    wait_until("pings are answered", || {
        cluster.node(1).status(TWO).rtt_ms.is_some()
    })
    .await;
}

/// Chunks of every size around the window and the pieces come through the smallest window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_larger_than_the_window_come_through() {
    let cluster = Cluster::start_with(2, |options| options.window_bytes = 0).await;
    for bytes in [1, 255 << 10, 256 << 10, 513 << 10, 1 << 20, 3 << 20] {
        cluster.node(1).commit(3, bytes).await;
    }
    cluster.node(1).commit(20_000, 10).await;
    cluster.node(2).commit_large(3, 5 << 20).await;
    cluster.level().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_there_soon() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    let mut worst = Duration::ZERO;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        let began = Instant::now();
        cluster.node(1).commit(1, 100).await;
        let end = cluster.node(1).end_of(ONE);
        let journal = cluster.node(2).journals.get(ONE).unwrap();
        journal.subscribe().wait_for(|e| *e >= end).await.unwrap();
        worst = worst.max(began.elapsed());
    }
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    cluster.set(1, 2, Mode::Freeze);
    wait_until("both sides notice", || {
        [(1, TWO), (2, ONE)].iter().all(|&(n, peer)| {
            let status = cluster.node(n).status(peer);
            !status.connected && !status.connected_inbound && status.error.is_some()
        })
    })
    .await;
    let error = cluster.node(1).status(TWO).error.unwrap();
    assert!(
        error.contains("nothing was received") || error.contains("did not answer in time"),
        "{error}"
    );
    cluster.node(1).commit(10, 100).await;
    cluster.set(1, 2, Mode::Forward);
    cluster.level().await;
    cluster.all_connected().await;
    assert_eq!(cluster.node(1).status(TWO).error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_leaves_no_gap_and_no_duplicate() {
    let cluster = Cluster::start(2).await;
    for round in 0..8 {
        cluster.node(1).commit(3000, 300).await;
        cluster.node(2).commit(50, 20_000).await;
        if round % 2 == 0 {
            cluster.node(1).commit_large(4, 700 << 10).await;
        }
        // In the middle of it.
        cluster.set(1, 2, Mode::Cut);
        cluster.node(1).commit(10, 100).await;
        cluster.set(1, 2, Mode::Forward);
        tokio::time::sleep(Duration::from_millis(20 * round)).await;
    }
    cluster.level().await;
    assert!(
        cluster
            .proxy(1, 2)
            .connections
            .load(std::sync::atomic::Ordering::Relaxed)
            > 2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_goes_on_where_it_was() {
    let mut cluster = Cluster::start(2).await;
    cluster.node(1).commit(50, 100).await;
    cluster.level().await;
    let dir = cluster.take(2).stop().await;
    cluster.node(1).commit(50, 100).await;
    cluster.add(2, &|_| {}, dir);
    cluster.level().await;
}

/// The receiver's journal is full: the sender stops after a window, whatever there is to send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_bounds_what_is_sent() {
    let authority = super::cluster::Authority::new("test");
    authority.issue("test", ONE);
    authority.issue("test", TWO);
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let sender = Node::start(options(&authority, "test", 1, vec![peer(2, nowhere)]));
    sender.commit(96, 1 << 20).await;
    let quota = JournalOptions {
        segment_bytes: 1 << 20,
        quota_bytes: Some(8 << 20),
    };
    let peers = vec![peer(1, sender.handle.listening())];
    let mut slow = options(&authority, "test", 2, peers);
    slow.window_bytes = 2 << 20;
    let receiver = Node::start_in(tempfile::tempdir().unwrap(), slow, quota);

    let received = || receiver.status(ONE).received_bytes;
    let journal = receiver.journals.get(ONE).unwrap();
    wait_until("the receiver is full", || journal.full().is_some()).await;
    let mut before = received();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if received() - before < 1000 {
            break;
        }
        before = received();
    }
    // On disk, twice in the journal's queue (waiting, being written), and one window.
    assert!(received() < (8 + 2 * 17 + 2 + 2) << 20, "{}", received());
    assert!(sender.status(TWO).sent_bytes < 46 << 20);
    // Control messages still come through: the connection lives, and is measured.
    assert!(receiver.status(ONE).connected);
    tokio::time::sleep(Duration::from_millis(1700)).await;
    assert!(receiver.status(ONE).connected, "pings are answered");

    // Room again: the rest comes.
    let began = Instant::now();
    while journal.end() < sender.end_of(ONE) {
        assert!(began.elapsed() < PATIENCE);
        journal.release(journal.end(), Stamp::MIN).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Loopback on a small machine: not a benchmark, but a wall against an accident.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_does_not_delay_control_and_flows() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    cluster.set(1, 2, Mode::Cut);
    cluster.node(1).commit(200_000, 600).await;
    let began = Instant::now();
    cluster.set(1, 2, Mode::Forward);
    let end = cluster.node(1).end_of(ONE);
    let mut worst_ms: f64 = 0.0;
    while cluster.node(2).end_of(ONE) < end {
        assert!(began.elapsed() < PATIENCE);
        let status = cluster.node(2).status(ONE);
        worst_ms = worst_ms.max(status.rtt_ms.unwrap_or(0.0));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("130 MB in {seconds:.2} s, worst round trip {worst_ms:.1} ms");
    assert!(worst_ms < 1000.0, "{worst_ms}");
    assert_ne!(end, Lsn::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_link_is_closed_until_it_is_resumed() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    assert!(!cluster.node(1).handle.set_paused(NodeId(9), true));
    assert!(cluster.node(1).handle.set_paused(TWO, true));
    wait_until("both connections are closed", || {
        let one = cluster.node(1).status(TWO);
        let two = cluster.node(2).status(ONE);
        one.paused && !one.connected && !one.connected_inbound && !two.connected
    })
    .await;
    cluster.node(1).commit(5, 100).await;
    wait_until("the other node says why", || {
        let error = cluster.node(2).status(ONE).error;
        error.is_some_and(|error| error.contains("paused at node 1"))
    })
    .await;
    assert_eq!(cluster.node(1).status(TWO).error, None);
    assert_eq!(cluster.node(2).end_of(ONE), Lsn::ZERO);
    cluster.node(1).handle.set_paused(TWO, false);
    cluster.level().await;
    cluster.all_connected().await;
}

/// Only one of the two can dial: one connection serves both directions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_side_that_cannot_be_dialled_is_enough() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    cluster.proxy(1, 2).set(Mode::Cut);
    wait_until("the one connection is gone", || {
        !cluster.node(1).status(TWO).connected
    })
    .await;
    cluster.node(1).commit(20, 1000).await;
    cluster.node(2).commit(20, 1000).await;
    cluster.level().await;
    assert_eq!(cluster.node(1).status(TWO).feeds, [TWO]);
}
