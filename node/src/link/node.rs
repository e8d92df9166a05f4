//! What all tasks of this node's links share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Refusals;
use super::credentials::Credentials;
use super::hub::Event;
use super::options::Options;
use super::peer::PeerState;
use super::questions::QuestionSource;
use super::routing::{SessionId, Via};
use super::rows::RowSource;
use super::session::Session;
use crate::journal::Journals;
use crate::settle::Beats;

pub(super) struct Node {
    pub(super) options: Arc<Options>,
    pub(super) credentials: Credentials,
    pub(super) journals: Arc<Journals>,
    pub(super) beats: Arc<Beats>,
    pub(super) rows: Arc<dyn RowSource>,
    /// Set once; until then nobody is answered.
    pub(super) questions: OnceLock<Arc<dyn QuestionSource>>,
    pub(super) peers: BTreeMap<NodeId, Arc<PeerState>>,
    /// The connections that are up; only the hub changes it.
    pub(super) sessions: Mutex<BTreeMap<SessionId, Arc<Session>>>,
    /// With whom there is a connection; said again whenever one comes or goes.
    pub(super) connected: watch::Sender<BTreeSet<NodeId>>,
    /// Which origin is fed by which connection; only the hub changes it.
    pub(super) feeds: Mutex<BTreeMap<NodeId, Via>>,
    pub(super) refusals: Refusals,
    pub(super) hub: mpsc::Sender<Event>,
    pub(super) shutdown: CancellationToken,
    /// Every task of the links runs under it, so that nobody uses a journal after the end.
    pub(super) tasks: TaskTracker,
    pub(super) last_session: AtomicU64,
}

impl Node {
    pub(super) fn next_session(&self) -> SessionId {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells the hub; it only ends with the whole link.
    pub(super) async fn tell(&self, event: Event) {
        let _ = self.hub.send(event).await;
    }

    /// The connection to use for a node: the one that this node dialled if there is one.
    pub(super) fn session_to(&self, node: NodeId) -> Option<Arc<Session>> {
        let sessions = self.sessions.lock();
        sessions
            .values()
            .filter(|session| session.via.node == node)
            .max_by_key(|session| session.via.dialled)
            .cloned()
    }

    /// Whether beats go over this connection: the one that this node dialled, if there is one.
    pub(super) fn speaks_on(&self, via: Via) -> bool {
        let dialled = |session: &Arc<Session>| session.via.node == via.node && session.via.dialled;
        via.dialled || !self.sessions.lock().values().any(dialled)
    }

    /// Says again, to whoever follows it, with whom there is a connection.
    pub(super) fn connections_changed(&self) {
        let sessions = self.sessions.lock();
        let with = sessions.values().map(|session| session.via.node);
        self.connected.send_replace(with.collect());
    }
}
