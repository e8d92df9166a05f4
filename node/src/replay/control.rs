//! What people and the status see and steer of one origin's stream.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use everywrite_conflict::{Lsn, Stamp};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::ConflictCounts;
use crate::telemetry::OriginState;

/// Shared between a stream, the commands and the status.
#[derive(Debug)]
pub struct Control {
    /// Paused by a person.
    pub paused: watch::Sender<bool>,
    /// Transactions that a person wants left out.
    pub skipped: Mutex<BTreeSet<Lsn>>,
    /// Something changed that a held stream should try again for.
    pub kick: Notify,
    /// State and reason.
    pub state: Mutex<(OriginState, Option<String>)>,
    /// Commit time of the oldest transaction that is here and not applied.
    pub oldest_waiting: Mutex<Option<Stamp>>,
    /// Transactions applied since start.
    pub transactions: AtomicU64,
    /// Changes applied since start.
    pub changes: AtomicU64,
    /// Groups of the fast path since start.
    pub fast_groups: AtomicU64,
    /// Groups of the careful path since start.
    pub careful_groups: AtomicU64,
    /// Conflicts since start.
    pub conflicts: Mutex<ConflictCounts>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            paused: watch::Sender::new(false),
            skipped: Mutex::default(),
            kick: Notify::new(),
            state: Mutex::new((OriginState::Disconnected, None)),
            oldest_waiting: Mutex::new(None),
            transactions: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            fast_groups: AtomicU64::new(0),
            careful_groups: AtomicU64::new(0),
            conflicts: Mutex::default(),
        }
    }
}

impl Control {
    /// Says what the stream is doing.
    pub fn set(&self, state: OriginState, reason: Option<String>) {
        let mut now = self.state.lock();
        if now.0 != state || now.1 != reason {
            *now = (state, reason);
        }
    }
}
