//! What is known of one peer, for the status and the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::error::Error;
use super::gossip::Told;
use super::options::Peer;
use super::skew::Skew;

/// One peer's state, shared by its connections.
pub(super) struct PeerState {
    pub(super) peer: Peer,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    /// What compression kept out of `sent_bytes`.
    pub(super) saved_bytes: AtomicU64,
    /// Whether a person paused it.
    pub(super) paused: watch::Sender<bool>,
    /// Wakes the dialler from its wait: the peer has just shown that it lives.
    pub(super) seen: Notify,
    /// What it knows of others, over whichever connection.
    pub(super) told: Told,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    dialling: Option<String>,
    inbound: Option<String>,
    feeds: BTreeMap<NodeId, String>,
    skew: Skew,
}

/// Where an error belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// The connection that this node dials.
    Dialled,
    /// The connection that the peer dials.
    Inbound,
    /// This origin's subscription on either.
    Feed(NodeId),
}

impl PeerState {
    pub(super) fn new(peer: Peer) -> Self {
        PeerState {
            peer,
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            saved_bytes: AtomicU64::new(0),
            paused: watch::Sender::new(false),
            seen: Notify::new(),
            told: Told::default(),
            notes: Mutex::default(),
        }
    }

    /// Keeps and logs an error. A repeated one is logged at debug level only: a peer that is away
    /// for a day is one line, not one every five seconds.
    pub(super) fn failed(&self, side: Side, err: &Error) {
        let text = with_causes(err);
        let mut notes = self.notes.lock();
        let peer = self.peer.node;
        if notes.put(side, Some(text.clone())) {
            warn!(%peer, name = %self.peer.name, ?side, error = %text, "link failed");
        } else {
            debug!(%peer, ?side, error = %text, "link failed again");
        }
    }

    /// That side works.
    pub(super) fn recovered(&self, side: Side) {
        if self.notes.lock().put(side, None) {
            info!(peer = %self.peer.node, name = %self.peer.name, ?side, "link works again");
        }
    }

    /// All that is wrong, on one line.
    pub(super) fn error(&self) -> Option<String> {
        let notes = self.notes.lock();
        let dialling = notes.dialling.clone();
        let inbound = notes
            .inbound
            .as_ref()
            .map(|text| format!("as it dialled this node: {text}"));
        let all: Vec<String> = dialling
            .into_iter()
            .chain(inbound)
            .chain(notes.feeds.values().cloned())
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    pub(super) fn with_skew<T>(&self, f: impl FnOnce(&mut Skew) -> T) -> T {
        f(&mut self.notes.lock().skew)
    }

    pub(super) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64, saved: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.saved_bytes.fetch_add(saved, Ordering::Relaxed);
    }
}

impl Notes {
    /// True when that is something new.
    fn put(&mut self, side: Side, text: Option<String>) -> bool {
        let before = match side {
            Side::Dialled => std::mem::replace(&mut self.dialling, text.clone()),
            Side::Inbound => std::mem::replace(&mut self.inbound, text.clone()),
            Side::Feed(origin) => match text.clone() {
                Some(text) => self.feeds.insert(origin, text),
                None => self.feeds.remove(&origin),
            },
        };
        before != text
    }
}

/// The error and what is behind it, on one line; texts that already contain their cause are not
/// repeated.
pub(super) fn with_causes(err: &(dyn std::error::Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let more = err.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = err.source();
    }
    text
}
