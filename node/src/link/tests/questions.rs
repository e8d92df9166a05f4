//! Questions that the link does not understand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::NodeId;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use super::cluster::{Authority, Cluster, Node, options, peer, wait_until};
use super::raw::{Raw, hello};
use crate::link::hello::PROTOCOL_MAX;
use crate::link::message::{Body, Welcome};
use crate::link::{Error, QuestionSource};

const TWO: NodeId = NodeId(2);
const LIMIT: Duration = Duration::from_secs(2);

/// Says what it was asked, many times over.
struct Parrot;

impl QuestionSource for Parrot {
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        async move {
            match &question[..] {
                b"refuse" => Err("not that".to_owned()),
                b"sleep" => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    Ok(question)
                }
                _ => Ok(question.repeat(1 << 20).into()),
            }
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_back_whole() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    let handle = &cluster.node(1).handle;
    let ask = |question: &'static [u8]| handle.ask(TWO, 1, Bytes::from_static(question), LIMIT);
    let early = ask(b"abc").await.unwrap_err();
    assert!(early.to_string().contains("still starting"), "{early}");
    cluster.node(2).handle.answer_with(Arc::new(Parrot));
    let answer = ask(b"abc").await.unwrap();
    assert_eq!(answer.len(), 3 << 20);
    assert!(answer.chunks(3).all(|three| three == b"abc"));
    let refused = ask(b"refuse").await.unwrap_err();
    assert!(refused.to_string().contains("not that"), "{refused}");
    let slow = ask(b"sleep").await;
    assert!(
        matches!(slow, Err(Error::AnswerTimeout(TWO, _))),
        "{slow:?}"
    );
    let newer = handle.ask(TWO, 2, Bytes::new(), LIMIT).await;
    assert!(matches!(newer, Err(Error::TooOldToAsk(TWO))), "{newer:?}");
    let nobody = handle.ask(NodeId(9), 1, Bytes::new(), LIMIT).await;
    assert!(
        matches!(nobody, Err(Error::CannotAsk(NodeId(9)))),
        "{nobody:?}"
    );
}

/// A release before 0.2 says nothing of answers in its hello, and is never asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_node_is_not_asked() {
    let authority = Authority::new("test");
    for node in 1..=2 {
        authority.issue("test", NodeId(node));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let two = peer(2, listener.local_addr().unwrap());
    let one = Node::start(options(&authority, "test", 1, vec![two]));
    let mut old = Raw::accept(&authority, 2, &listener).await;
    let mut said = hello(2, PROTOCOL_MAX);
    said.answers = 0;
    old.send(Body::Hello(said)).await;
    old.control(|body| matches!(body, Body::Hello(_)).then_some(()))
        .await
        .unwrap();
    old.send(Body::Welcome(Welcome {})).await;
    wait_until("it is connected", || one.status(TWO).connected).await;
    let asked = one
        .handle
        .ask(TWO, 1, Bytes::from_static(b"abc"), LIMIT)
        .await;
    let error = asked.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("older release that cannot answer: upgrade"),
        "{error}"
    );
}
