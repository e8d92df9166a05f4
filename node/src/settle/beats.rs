//! What each node says of itself: how far its own journal goes and what it has applied.
//!
//! A beat (L, V) of node M is a promise: every transaction of M behind L carries a vector of at
//! least V, and V survives any crash of M (it is applied and flushed there). A node that has
//! replayed M up to L therefore knows that nothing older than V can still come from M: this
//! makes writes stable, lets the index forget and the journals be cut. Beats are passed on by
//! every node, so they travel wherever the data can.

use std::collections::BTreeMap;
use std::sync::Arc;

use everywrite_conflict::{Lsn, NodeId, Vector};
use parking_lot::Mutex;
use tokio::sync::watch;

/// One node's promise about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Who speaks.
    pub node: NodeId,
    /// Grows with each beat of a node, across restarts too (microseconds of its clock, raised).
    pub sequence: u64,
    /// The end of its own journal: L.
    pub journal_end: Lsn,
    /// What it has applied and flushed: V.
    pub applied: Vector,
    /// How far it holds every origin's journal durably (its own among them): what it can serve.
    pub holds: Vector,
}

/// The newest beat of every node, this one's among them.
#[derive(Debug)]
pub struct Beats {
    newest: Mutex<BTreeMap<NodeId, Arc<Beat>>>,
    changed: watch::Sender<u64>,
    /// For those whose beats somebody follows.
    followed: Mutex<BTreeMap<NodeId, watch::Sender<u64>>>,
}

impl Default for Beats {
    fn default() -> Self {
        Beats {
            newest: Mutex::default(),
            changed: watch::Sender::new(0),
            followed: Mutex::default(),
        }
    }
}

impl Beats {
    /// Keeps `beat` if it is newer than what is known of that node; true if it was.
    pub fn offer(&self, beat: Beat) -> bool {
        let mut newest = self.newest.lock();
        if newest
            .get(&beat.node)
            .is_some_and(|known| known.sequence >= beat.sequence)
        {
            return false;
        }
        let node = beat.node;
        newest.insert(node, Arc::new(beat));
        drop(newest);
        self.changed.send_modify(|n| *n += 1);
        if let Some(followers) = self.followed.lock().get(&node) {
            followers.send_modify(|n| *n += 1);
        }
        true
    }

    /// The newest beat of one node.
    pub fn get(&self, node: NodeId) -> Option<Arc<Beat>> {
        self.newest.lock().get(&node).cloned()
    }

    /// The newest beat of every node heard of.
    pub fn all(&self) -> Vec<Arc<Beat>> {
        self.newest.lock().values().cloned().collect()
    }

    /// Changes whenever a newer beat was kept.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes whenever a newer beat of that node was kept.
    pub fn follow(&self, node: NodeId) -> watch::Receiver<u64> {
        let mut followed = self.followed.lock();
        followed.entry(node).or_default().subscribe()
    }
}
