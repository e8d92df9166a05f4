//! A peer of another cluster, or one whose certificate is not of the cluster's authority, is refused,
//! and told why.

use everywrite_conflict::NodeId;
use everywrite_tests::cluster::Cluster;
use everywrite_tests::node::{Identity, Node, PeerAddress};
use everywrite_tests::postgres::{DATABASE, SUPERUSER};
use everywrite_tests::wait;

/// Starts a node that dials site a under a false name, and waits for what it is told.
async fn refused(cluster: &Cluster, cluster_name: &str, ca: &str) -> String {
    let server = cluster.site(2).server.url(SUPERUSER, DATABASE);
    let mut identity = Identity::new(3, "c", server).unwrap();
    identity.cluster = cluster_name.to_owned();
    let a = PeerAddress {
        id: NodeId(1),
        name: "a".to_owned(),
        address: cluster.site(0).node.identity().listen,
    };
    let home = cluster.dir().join("stranger");
    let mut stranger = Node::init(identity, &home, &cluster.dir().join(ca), &[a]).unwrap();
    stranger.start().unwrap();
    wait::until("the stranger to be refused", wait::LIMIT, async || {
        let status = stranger.status().await.map_err(|err| format!("{err:#}"))?;
        let peer = status.peers.first().ok_or("no peer")?;
        assert!(!peer.connected, "a stranger was let in");
        peer.error.clone().ok_or_else(|| "no error yet".to_owned())
    })
    .await
    .unwrap()
}

async fn without_c() -> Cluster {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.site_mut(2).node.stop().unwrap();
    cluster
}

#[tokio::test]
async fn a_node_of_another_cluster() {
    let cluster = without_c().await;
    let told = refused(&cluster, "another", "ca-of-another").await;
    assert!(
        told.contains("certificate") || told.contains("cluster"),
        "{told}"
    );
    assert!(cluster.site(0).node.status().await.unwrap().ready);
}

#[tokio::test]
async fn a_node_with_an_authority_of_its_own() {
    let cluster = without_c().await;
    let told = refused(&cluster, "demo", "ca-of-somebody").await;
    assert!(
        told.contains("certificate") || told.contains("authority"),
        "{told}"
    );
}
