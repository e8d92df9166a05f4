//! Who is not let in, and what is said about it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use everywrite_conflict::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::cluster::{Authority, Node, options, peer, wait_until};
use super::raw::{Raw, hello};
use crate::link::certificates::issue_for;
use crate::link::hello::{PROTOCOL_MAX, PROTOCOL_MIN};
use crate::link::message::{Body, Credit, Subscribe};
use crate::link::{Error, Link};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

fn authority() -> Authority {
    let authority = Authority::new("test");
    for node in 1..=3 {
        authority.issue("test", NodeId(node));
    }
    authority
}

/// Node 1, which expects node 2 and cannot reach it.
fn node_one(authority: &Authority) -> Node {
    Node::start(options(authority, "test", 1, vec![peer(2, nowhere())]))
}

async fn says(node: &Node, about: NodeId, words: &str) {
    let began = std::time::Instant::now();
    loop {
        let error = node.status(about).error;
        if error.as_ref().is_some_and(|error| error.contains(words)) {
            let error = error.unwrap();
            assert!(!error.contains('\n'), "one line: {error}");
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "expected \"{words}\", the status says {error:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn refused(node: &Node, words: &str) {
    let what = format!("a refusal says \"{words}\"");
    wait_until(&what, || {
        node.handle
            .refusals()
            .iter()
            .any(|line| line.contains(words))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster() {
    let authority = authority();
    let one = node_one(&authority);
    authority.issue("other", TWO);
    let two = Node::start(options(
        &authority,
        "other",
        2,
        vec![peer(1, one.handle.listening())],
    ));
    says(
        &two,
        ONE,
        "the other node is of cluster \"test\", this one of \"other\"",
    )
    .await;
    refused(
        &one,
        "closed the connection: the other node is of cluster \"test\"",
    )
    .await;
    assert!(!two.status(ONE).connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_address_and_then_the_right_one() {
    let authority = authority();
    let three = Node::start(options(&authority, "test", 3, vec![peer(1, nowhere())]));
    let proxy = super::proxy::Proxy::start().await;
    proxy.target(three.handle.listening());
    let one = Node::start(options(&authority, "test", 1, vec![peer(2, proxy.address)]));
    says(&one, TWO, "node 3 answers where node 2 is expected").await;
    // It keeps trying.
    let two = Node::start(options(
        &authority,
        "test",
        2,
        vec![peer(1, one.handle.listening())],
    ));
    proxy.target(two.handle.listening());
    wait_until("the right node is connected", || {
        let status = one.status(TWO);
        status.connected && status.error.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_node_and_oneself() {
    let authority = authority();
    let one = node_one(&authority);
    let three = Node::start(options(
        &authority,
        "test",
        3,
        vec![peer(1, one.handle.listening())],
    ));
    says(&three, ONE, "node 3 is not among node 1's peers").await;
    refused(&one, "node 3 is not among node 1's peers").await;

    let mut raw = Raw::dial(&authority, 1, one.handle.listening())
        .await
        .unwrap();
    raw.send(Body::Hello(hello(1, PROTOCOL_MAX))).await;
    let reason = raw.goodbye().await.unwrap();
    assert!(reason.contains("node 1 has dialled itself"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_either_way() {
    let authority = authority();
    let one = node_one(&authority);
    let now = SystemTime::now();
    let valid = (
        now - Duration::from_secs(3600),
        now - Duration::from_secs(60),
    );
    let (ca, ca_key) = (&authority.ca, &authority.ca_key);
    let (cert, key) = issue_for(ca, ca_key, "test", TWO, "old", &[], valid).unwrap();
    authority.put(TWO, &cert, &key);
    let two = Node::start(options(
        &authority,
        "test",
        2,
        vec![peer(1, one.handle.listening())],
    ));
    says(
        &two,
        ONE,
        "refused this node's certificate, which has expired",
    )
    .await;
    refused(&one, "has expired: issue a new one").await;
    // The other way round.
    let mut third = options(&authority, "test", 3, vec![peer(2, two.handle.listening())]);
    third.timing.backoff_max = Duration::from_millis(100);
    let three = Node::start(third);
    says(&three, TWO, "has expired: issue a new one").await;

    // A new certificate is taken into use without a restart.
    authority.issue("test", TWO);
    wait_until("the renewed node is connected", || {
        two.status(ONE).connected
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_ca() {
    let ours = authority();
    let one = node_one(&ours);
    let foreign = authority();
    let two = Node::start(options(
        &foreign,
        "test",
        2,
        vec![peer(1, one.handle.listening())],
    ));
    says(&two, ONE, "was not issued by this cluster's CA").await;
    // The dialler refuses first; let it trust us, and the acceptor must refuse.
    refused(
        &one,
        "refused this node's certificate, which was not issued",
    )
    .await;
    std::fs::write(foreign.path("ca.crt"), &ours.ca).unwrap();
    says(
        &two,
        ONE,
        "refused this node's certificate, which was not issued",
    )
    .await;
    refused(&one, "was not issued by this cluster's CA").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tls_either_way() {
    let authority = authority();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.write_all(b"220 mail.example ready\r\n").await;
            tokio::spawn(async move { while tcp.read_u8().await.is_ok() {} });
        }
    });
    let one = Node::start(options(&authority, "test", 1, vec![peer(2, address)]));
    says(&one, TWO, "does not speak TLS").await;

    let mut tcp = TcpStream::connect(one.handle.listening()).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer))
        .await
        .expect("the connection is closed");
    refused(&one, "does not speak TLS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocol_versions() {
    let authority = authority();
    let one = node_one(&authority);
    for (theirs, words) in [
        (PROTOCOL_MAX + 1, "upgrade this node first"),
        (PROTOCOL_MIN - 1, "upgrade the other node first"),
    ] {
        let mut raw = Raw::dial(&authority, 2, one.handle.listening())
            .await
            .unwrap();
        raw.send(Body::Hello(hello(2, theirs))).await;
        let reason = raw.goodbye().await.unwrap();
        let speaks = format!("node 2 (node2) speaks link protocol {theirs}, this node 1");
        assert!(
            reason.contains(&speaks) && reason.contains(words),
            "{reason}"
        );
    }
    let mut raw = Raw::dial(&authority, 2, one.handle.listening())
        .await
        .unwrap();
    let mut other_format = hello(2, PROTOCOL_MAX);
    other_format.journal_format += 1;
    raw.send(Body::Hello(other_format)).await;
    let reason = raw.goodbye().await.unwrap();
    assert!(reason.contains("writes journal format 2"), "{reason}");
    let mut raw = Raw::dial(&authority, 2, one.handle.listening())
        .await
        .unwrap();
    raw.send(Body::Hello(hello(3, PROTOCOL_MAX))).await;
    let reason = raw.goodbye().await.unwrap();
    assert!(reason.contains("says it is node 3"), "{reason}");

    // And the dialler refuses, too.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let three = Node::start(options(&authority, "test", 3, vec![peer(2, address)]));
    let mut raw = Raw::accept(&authority, 2, &listener).await;
    raw.send(Body::Hello(hello(2, PROTOCOL_MAX + 1))).await;
    assert!(raw.goodbye().await.unwrap().contains("upgrade this node"));
    says(
        &three,
        TWO,
        "speaks link protocol 2, this node 1: upgrade this node",
    )
    .await;
    let mut raw = Raw::accept(&authority, 2, &listener).await;
    raw.send(Body::Hello(hello(2, PROTOCOL_MAX))).await;
    assert!(raw.frame().await.unwrap().is_some(), "it keeps trying");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_frame_ends_that_connection_only() {
    let authority = authority();
    let one = node_one(&authority);
    one.commit(3, 100).await;
    let window_bytes = 1 << 20;
    let subscribe = move |subscription, origin| {
        Body::Subscribe(Subscribe {
            subscription,
            origin,
            from: 0,
            window_bytes,
        })
    };
    let evils: Vec<Vec<Body>> = vec![
        vec![],
        vec![subscribe(1, 0)],
        vec![subscribe(1, 1), subscribe(1, 1)],
        vec![
            subscribe(1, 1),
            Body::Credit(Credit {
                subscription: 1,
                bytes: u32::MAX,
            }),
        ],
        vec![Body::Hello(hello(2, PROTOCOL_MAX))],
    ];
    for evil in evils {
        let mut raw = Raw::dial(&authority, 2, one.handle.listening())
            .await
            .unwrap();
        raw.introduce(2).await;
        wait_until("the node is connected", || {
            one.status(TWO).connected_inbound
        })
        .await;
        if evil.is_empty() {
            raw.send_bytes(&[0, 0, 0, 3, 99, 1, 2]).await;
        }
        for body in evil {
            raw.send(body).await;
        }
        let reason = raw.goodbye().await.expect("it says why");
        assert!(reason.contains("malformed frame"), "{reason}");
        says(&one, TWO, "malformed frame").await;
    }

    // Everybody else is served, and so is this one when it behaves.
    let two = Node::start(options(
        &authority,
        "test",
        2,
        vec![peer(1, one.handle.listening())],
    ));
    let end = one.end_of(ONE);
    wait_until("the transactions are there", || two.end_of(ONE) == end).await;
}

/// A peer that asks for what cannot be served is told, and the connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_cannot_be_served() {
    let authority = authority();
    let one = node_one(&authority);
    one.commit(3, 100).await;
    let mut raw = Raw::dial(&authority, 2, one.handle.listening())
        .await
        .unwrap();
    raw.introduce(2).await;
    for (subscription, origin, from, words) in [
        (1, 9, 0, "no journal of that origin"),
        (2, 1, 999_999, "was it restored from a backup?"),
    ] {
        raw.send(Body::Subscribe(Subscribe {
            subscription,
            origin,
            from,
            window_bytes: 1 << 20,
        }))
        .await;
        let refused = raw.control(|body| match body {
            Body::Refused(refused) => Some(refused),
            _ => None,
        });
        let refused = refused.await.unwrap();
        assert_eq!(refused.subscription, subscription);
        assert!(refused.reason.contains(words), "{}", refused.reason);
    }
}

/// The origin lost its journal: the others see it, and do not take what it sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_lost_its_journal() {
    let authority = authority();
    let one = node_one(&authority);
    one.commit(10, 100).await;
    let proxy = super::proxy::Proxy::start().await;
    proxy.target(one.handle.listening());
    let two = Node::start(options(&authority, "test", 2, vec![peer(1, proxy.address)]));
    let end = one.end_of(ONE);
    wait_until("node 2 has it", || two.end_of(ONE) == end).await;
    one.stop().await;
    let reborn = node_one(&authority);
    reborn.commit(3, 100).await;
    proxy.target(reborn.handle.listening());
    says(&two, ONE, "node 1 cannot feed origin 1").await;
    says(&two, ONE, "was it restored from a backup?").await;
    assert!(two.status(ONE).connected);
    assert_eq!(two.end_of(ONE), end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_configuration_is_told_at_once() {
    let authority = authority();
    let dir = tempfile::tempdir().unwrap();
    let journals = std::sync::Arc::new(
        crate::journal::Journals::open(dir.path(), crate::journal::Options::default()).unwrap(),
    );
    let start = |options| {
        Link::start(
            options,
            std::sync::Arc::clone(&journals),
            std::sync::Arc::default(),
            std::sync::Arc::new(super::cluster::Echo),
            tokio_util::sync::CancellationToken::new(),
        )
        .err()
        .expect("refused")
    };
    let good = |me| options(&authority, "test", me, vec![peer(2, nowhere())]);
    assert!(matches!(start(good(2)), Error::DuplicateNode(TWO)));

    let mut wrong = good(1);
    wrong.certificate = authority.path("3.crt");
    wrong.key = authority.path("3.key");
    let text = start(wrong).to_string();
    assert!(
        text.contains("everywrite://test/3, but this node is everywrite://test/1"),
        "{text}"
    );

    let mut wrong = good(1);
    wrong.key = authority.path("3.key");
    assert!(matches!(start(wrong), Error::TlsSetup(_)));

    let mut wrong = good(1);
    wrong.ca = authority.path("missing.crt");
    assert!(matches!(start(wrong), Error::ReadFile { .. }));

    let mut wrong = good(1);
    wrong.ca = authority.path("1.key");
    assert!(matches!(start(wrong), Error::BadPem { .. }));

    let mut wrong = good(1);
    wrong.listen = "203.0.113.1:1".to_owned();
    assert!(matches!(start(wrong), Error::Listen { .. }));
}
