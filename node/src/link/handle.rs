//! Starts this node's links, and what the rest of the daemon holds of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::accept::{self, Refusals};
use super::credentials::Credentials;
use super::dial;
use super::error::Error;
use super::hub::{EVENT_QUEUE, Hub};
use super::message::{Body, Question};
use super::node::Node;
use super::options::Options;
use super::peer::PeerState;
use super::questions::{self, QUESTION_BYTES_MAX, QuestionSource};
use super::rows::{self, FetchRow, FetchedRow, RowSource};
use crate::journal::Journals;
use crate::settle::Beats;
use crate::telemetry::PeerStatus;

/// The links of one node.
#[derive(Debug)]
pub struct Link;

/// What the daemon holds of its links. Cheap to clone; dropping it ends nothing, `shutdown` does.
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    listening: SocketAddr,
}

impl Link {
    /// Listens, dials all peers, and pulls all origins from then on, until `shutdown`.
    ///
    /// Reads the certificate files and opens the journals of this node and all peers, blocking.
    /// Must be called on a tokio runtime.
    pub fn start(
        options: Options,
        journals: Arc<Journals>,
        beats: Arc<Beats>,
        rows: Arc<dyn RowSource>,
        shutdown: CancellationToken,
    ) -> Result<Handle, Error> {
        let options = Arc::new(options);
        let mut numbers = BTreeSet::from([options.me]);
        if let Some(twice) = options.peers.iter().find(|peer| !numbers.insert(peer.node)) {
            return Err(Error::DuplicateNode(twice.node));
        }
        let credentials = Credentials::load(Arc::clone(&options))?;
        let open = |origin| {
            journals
                .get_or_open(origin)
                .map_err(|source| Error::OpenJournal { origin, source })
        };
        // Peers may ask for the own transactions at once.
        open(options.me)?;
        let theirs = options
            .peers
            .iter()
            .map(|peer| Ok((peer.node, open(peer.node)?)))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        let (listener, listening) = listen(&options.listen)?;

        let (hub, events) = mpsc::channel(EVENT_QUEUE);
        let peers = options.peers.iter().cloned();
        let node = Arc::new(Node {
            peers: peers
                .map(|peer| (peer.node, Arc::new(PeerState::new(peer))))
                .collect(),
            options,
            credentials,
            journals,
            beats,
            rows,
            questions: OnceLock::new(),
            sessions: Mutex::default(),
            connected: watch::Sender::default(),
            feeds: Mutex::default(),
            refusals: Refusals::default(),
            hub,
            shutdown,
            tasks: TaskTracker::new(),
            last_session: AtomicU64::new(0),
        });
        let tasks = node.tasks.clone();
        tasks.spawn(Hub::new(Arc::clone(&node), theirs).run(events));
        tasks.spawn(accept::run(Arc::clone(&node), listener));
        for peer in node.peers.values() {
            tasks.spawn(dial::run(Arc::clone(&node), Arc::clone(peer)));
        }
        tasks.close();
        info!(address = %listening, peers = node.peers.len(), "link is listening");
        Ok(Handle { node, listening })
    }
}

fn listen(address: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listening = listener.local_addr()?;
        Ok((TcpListener::from_std(listener)?, listening))
    };
    bind().map_err(|source| Error::Listen {
        address: address.to_owned(),
        source,
    })
}

impl Handle {
    /// Where this node listens; tells the port when the configured one was 0.
    pub fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// How every peer's links are.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let node = &self.node;
        let up: Vec<_> = node.sessions.lock().values().map(|s| s.via).collect();
        let feeds = node.feeds.lock().clone();
        let is_up = |who, dialled| up.iter().any(|v| v.node == who && v.dialled == dialled);
        node.peers
            .values()
            .map(|state| {
                let who = state.peer.node;
                let (rtt, skew_us) = state.with_skew(|skew| (skew.rtt(), skew.skew_us()));
                PeerStatus {
                    node: who,
                    name: state.peer.name.clone(),
                    address: state.peer.address.clone(),
                    connected: is_up(who, true),
                    connected_inbound: is_up(who, false),
                    error: state.error(),
                    rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                    clock_skew_ms: skew_us.map(|us| us as f64 / 1e3),
                    received_bytes: state.received_bytes.load(Ordering::Relaxed),
                    sent_bytes: state.sent_bytes.load(Ordering::Relaxed),
                    saved_bytes: state.saved_bytes.load(Ordering::Relaxed),
                    feeds: feeds
                        .iter()
                        .filter(|(_, via)| via.node == who)
                        .map(|(&origin, _)| origin)
                        .collect(),
                    paused: state.is_paused(),
                }
            })
            .collect()
    }

    /// With how many nodes each peer says that it is connected.
    #[cfg(test)]
    pub(super) fn direct_of_peers(&self) -> Vec<usize> {
        let peers = self.node.peers.values();
        peers.map(|peer| peer.told.direct()).collect()
    }

    /// Strangers that were refused lately, one line each.
    pub fn refusals(&self) -> Vec<String> {
        self.node.refusals.all()
    }

    /// Asks a node for a row. Waits until the version asked about is applied there, at most
    /// [`super::Timing::fetch`].
    pub async fn fetch_row(
        &self,
        from: NodeId,
        row: FetchRow,
    ) -> Result<Option<FetchedRow>, Error> {
        let session = self
            .node
            .session_to(from)
            .ok_or(Error::NotConnected(from))?;
        let columns = row.columns.len();
        let (waiting, answer) = session.rows.register();
        session.post(Body::RowRequest(rows::request(waiting.request, row)));
        let limit = self.node.options.timing.fetch;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => rows::result(from, answer, columns),
            Ok(Err(_)) => Err(Error::FetchLost(from)),
            Err(_) => Err(Error::FetchTimeout(from, limit)),
        }
    }

    /// From now on peers' questions are answered by `source`; only the first call counts.
    pub fn answer_with(&self, source: Arc<dyn QuestionSource>) {
        let _ = self.node.questions.set(source);
    }

    /// Asks a node a question in the language of version `version`, and waits at most `limit` for
    /// the answer.
    pub async fn ask(
        &self,
        from: NodeId,
        version: u32,
        question: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Error> {
        let session = self.node.session_to(from).ok_or(Error::CannotAsk(from))?;
        if session.agreed.answers < version {
            return Err(Error::TooOldToAsk(from));
        }
        if question.len() > QUESTION_BYTES_MAX {
            return Err(Error::QuestionTooLarge(question.len()));
        }
        let (waiting, answer) = session.rows.register();
        session.post(Body::Question(Question {
            request: waiting.request,
            question,
        }));
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => questions::result(from, answer),
            Ok(Err(_)) => Err(Error::AnswerLost(from)),
            Err(_) => Err(Error::AnswerTimeout(from, limit)),
        }
    }

    /// Closes the link with a peer, or opens it again. Its transactions may still come through
    /// other nodes. False if there is no such peer.
    pub fn set_paused(&self, peer: NodeId, paused: bool) -> bool {
        let Some(state) = self.node.peers.get(&peer) else {
            return false;
        };
        state.paused.send_replace(paused);
        info!(%peer, paused, "link paused or resumed");
        true
    }

    /// Waits until everything has ended after `shutdown`; no journal is used from then on.
    pub async fn closed(&self) {
        self.node.tasks.wait().await;
    }
}
