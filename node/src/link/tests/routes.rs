//! Broken links are routed around.

use everywrite_conflict::{Lsn, NodeId};

use super::cluster::{Cluster, wait_until};
use super::proxy::Mode;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_relayed_and_taken_back() {
    let cluster = Cluster::start(3).await;
    cluster.all_connected().await;
    cluster.node(1).commit(20, 200).await;
    cluster.level().await;

    cluster.set(1, 3, Mode::Cut);
    wait_until("the link is down", || {
        let status = cluster.node(3).status(ONE);
        !status.connected && !status.connected_inbound
    })
    .await;
    for _ in 0..5 {
        cluster.node(1).commit(200, 200).await;
        cluster.node(3).commit(200, 200).await;
        cluster.node(2).commit(50, 200).await;
    }
    cluster.level().await;
    assert_eq!(cluster.node(3).status(TWO).feeds, [ONE, TWO]);
    assert_eq!(cluster.node(1).status(TWO).feeds, [TWO, THREE]);

    cluster.set(1, 3, Mode::Forward);
    wait_until("the origins feed again", || {
        cluster.node(3).status(ONE).feeds == [ONE] && cluster.node(1).status(THREE).feeds == [THREE]
    })
    .await;
    assert_eq!(cluster.node(3).status(TWO).feeds, [TWO]);
    cluster.node(1).commit(100, 200).await;
    cluster.level().await;
}

/// While data flows and links come and go, nothing is lost, doubled or reordered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_links_lose_nothing() {
    let cluster = Cluster::start(3).await;
    let pairs = [(1, 2), (2, 3), (1, 3)];
    for round in 0..9 {
        let (a, b) = pairs[round % 3];
        cluster.set(a, b, Mode::Cut);
        cluster.node(1).commit(500, 300).await;
        cluster.node(2).commit_large(2, 500 << 10).await;
        cluster.node(3).commit(20, 5000).await;
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        cluster.set(a, b, Mode::Forward);
    }
    cluster.level().await;
}

/// A node is lost for good; what only one of the others has of it reaches the third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivors_level_each_other_up() {
    let mut cluster = Cluster::start(3).await;
    cluster.all_connected().await;
    // All of node 3's ways to node 1 break, so that only node 2 gets its last transactions.
    cluster.set(1, 2, Mode::Cut);
    cluster.set(1, 3, Mode::Cut);
    wait_until("node 1 is alone", || {
        let peers = cluster.node(1).handle.peers();
        peers.iter().all(|p| !p.connected && !p.connected_inbound)
    })
    .await;
    cluster.node(3).commit(300, 100).await;
    let end = cluster.node(3).end_of(THREE);
    wait_until("node 2 has it", || cluster.node(2).end_of(THREE) == end).await;
    cluster.take(3).stop().await;
    assert_eq!(cluster.node(1).end_of(THREE), Lsn::ZERO);
    cluster.set(1, 2, Mode::Forward);
    wait_until("node 1 has it", || cluster.node(1).end_of(THREE) == end).await;
    assert_eq!(
        cluster.node(1).history(THREE).await,
        cluster.node(2).history(THREE).await
    );
}
