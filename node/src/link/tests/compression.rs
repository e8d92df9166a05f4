//! Compressed and plain, between real nodes; and what a liar is told.

use bytes::{BufMut, BytesMut};
use everywrite_conflict::NodeId;

use super::cluster::{Authority, Cluster, Node, options, peer, wait_until};
use super::raw::Raw;
use crate::link::Compression::{self, Lz4, None, Zstd};
use crate::link::message::Body;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

async fn exchange(first: Compression, second: Compression) {
    let cluster = Cluster::start_with(2, |options| {
        options.window_bytes = 0;
        options.compression = if options.me == ONE { first } else { second };
    })
    .await;
    cluster.all_connected().await;
    for bytes in [1, 200, 3000, 255 << 10, 513 << 10, 3 << 20] {
        cluster.node(1).commit(3, bytes).await;
        cluster.node(2).commit(5, bytes).await;
    }
    cluster.node(1).commit(20_000, 10).await;
    cluster.node(2).commit_large(3, 5 << 20).await;
    // New streams begin in the middle of others.
    cluster.set(1, 2, super::proxy::Mode::Cut);
    cluster.node(1).commit(3000, 300).await;
    cluster.set(1, 2, super::proxy::Mode::Forward);
    cluster.node(2).commit(100, 30).await;
    cluster.level().await;
    for (node, other, compression) in [(1, TWO, first), (2, ONE, second)] {
        let status = cluster.node(node).status(other);
        let plain = status.sent_bytes + status.saved_bytes;
        if compression == None {
            assert_eq!(status.saved_bytes, 0);
        } else {
            // These bytes are 0, 1, … 255, again and again.
            assert!(status.sent_bytes < plain / 4, "{compression:?} {status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_alike() {
    exchange(Lz4, Lz4).await;
    exchange(Zstd, Zstd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_its_own() {
    exchange(None, Zstd).await;
    exchange(Zstd, Lz4).await;
    exchange(Lz4, None).await;
}

/// A release of before says nothing of compression, and is sent plain bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_understand_it() {
    let authority = Authority::new("test");
    authority.issue("test", ONE);
    authority.issue("test", TWO);
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let mut options = options(&authority, "test", 1, vec![peer(2, nowhere)]);
    options.compression = Zstd;
    let one = Node::start(options);
    one.commit(3, 1000).await;
    let mut raw = Raw::dial(&authority, 2, one.handle.listening())
        .await
        .unwrap();
    raw.introduce(2).await;
    raw.send(Body::Subscribe(crate::link::message::Subscribe {
        subscription: 7,
        origin: 1,
        from: 0,
        window_bytes: 1 << 20,
    }))
    .await;
    loop {
        let frame = raw.frame().await.unwrap().expect("a frame");
        if let crate::link::frame::Frame::Data(piece) = frame {
            assert_eq!(piece.packing, Option::None);
            assert!(piece.bytes.len() > 3000);
            break;
        }
    }
}

/// Garbage for a real subscription: the link ends, says what came, and the node lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_the_link_with_words() {
    let authority = Authority::new("test");
    authority.issue("test", ONE);
    authority.issue("test", TWO);
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let one = Node::start(options(&authority, "test", 1, vec![peer(2, nowhere)]));
    for (method, plain_bytes, words) in [
        (1, 1000, "lz4 cannot be unpacked"),
        (2, 1000, "zstd cannot be unpacked"),
        (3, 1000, "continues what was not begun"),
        (9, 1000, "unknown compression 9"),
        (1, u32::MAX, "4294967295 bytes unpacked"),
    ] {
        let mut raw = Raw::dial(&authority, 2, one.handle.listening())
            .await
            .unwrap();
        raw.introduce(2).await;
        let subscription = raw
            .control(|body| match body {
                Body::Subscribe(subscribe) => Some(subscribe.subscription),
                _ => Option::None,
            })
            .await
            .expect("it subscribes");
        let mut frame = BytesMut::new();
        frame.put_u32(11 + 5);
        frame.put_u8(4);
        frame.put_u32(subscription);
        frame.put_u8(0);
        frame.put_u8(method);
        frame.put_u32(plain_bytes);
        frame.put_slice(&[0xf7, 1, 2, 3, 4]);
        raw.send_bytes(&frame).await;
        let reason = raw.goodbye().await.expect("it says why");
        assert!(reason.contains(words), "{reason}");
        wait_until("the status tells", || {
            let error = one.status(TWO).error;
            error.is_some_and(|error| error.contains(words))
        })
        .await;
    }
}
