//! What is known of the local server: whether it is still the one that was asked, and what a crash has
//! taken back.

use everywrite_conflict::{Lsn, NodeId, Vector};
use tokio::sync::watch;

use super::{Asked, Inner, Ledger};

impl Ledger {
    /// A session begins when the local WAL is at `here`. If the server has lost the end of its WAL
    /// in a crash, that is before places it had reached, and these are given a second time.
    pub fn begins_at(&self, here: Lsn) {
        let mut inner = self.inner.lock();
        inner.reached = inner.reached.min(here);
        for mark in &mut inner.marks {
            mark.after = mark.after.min(here);
        }
        inner.left_out.begins_at(here);
    }

    /// Sets what is applied to what the server says, before anything of `origin` is on its way.
    pub fn applied_is(&self, origin: NodeId, lsn: Lsn) {
        let mut inner = self.inner.lock();
        inner.forgotten_by_server(&[(origin, lsn)]);
        self.applied.send_modify(|v| v.set(origin, lsn));
    }

    /// What the server is going to be compared with, see [`reconcile`](Self::reconcile). To be called
    /// by a session that it has let in.
    pub fn asks(&self) -> Asked {
        let _inner = self.inner.lock();
        Asked {
            applied: self.applied.borrow().clone(),
            generation: *self.server.borrow(),
        }
    }

    /// Compares what was applied before the server was asked with the `progress` that it says it
    /// has: less means that it crashed and has forgotten its newest commits. Every stream has to
    /// begin anew then, and none may rely on what is gone. False: that may have been noticed
    /// meanwhile, and what is gone may be applied again and seen by then; ask again.
    #[must_use = "an answer that is too old says nothing"]
    pub fn reconcile(&self, asked: &Asked, progress: &Vector) -> bool {
        let mut inner = self.inner.lock();
        if *self.server.borrow() != asked.generation {
            return false;
        }
        let before = &asked.applied;
        let lost: Vec<(NodeId, Lsn)> = before
            .iter()
            .map(|(n, _)| (n, progress.get(n)))
            .filter(|(n, lsn)| *lsn < before.get(*n))
            .collect();
        if !lost.is_empty() {
            tracing::warn!(progress = ?progress, "the server has forgotten its newest commits in a crash, they are applied again");
            inner.forgotten_by_server(&lost);
            self.applied
                .send_modify(|v| lost.iter().for_each(|(n, lsn)| v.set(*n, *lsn)));
            self.server.send_modify(|generation| *generation += 1);
        }
        true
    }

    /// A session of this generation broke: perhaps the server is gone, and answers that other
    /// sessions have not read yet may speak of what a crash takes back. They all begin anew.
    pub fn broke(&self, generation: u64) {
        let _inner = self.inner.lock();
        self.server.send_if_modified(|current| {
            let first = *current == generation;
            *current += u64::from(first);
            first
        });
    }

    /// The server was started anew: every session is gone, whether or not it has noticed.
    pub fn server_started(&self) {
        let _inner = self.inner.lock();
        self.server.send_modify(|generation| *generation += 1);
    }

    /// Changes whenever the sessions have to be made anew.
    pub fn watch_server(&self) -> watch::Receiver<u64> {
        self.server.subscribe()
    }
}

impl Inner {
    /// The server has lost the end of its WAL, and of these origins what is behind the places named.
    pub(super) fn forgotten_by_server(&mut self, lost: &[(NodeId, Lsn)]) {
        for (origin, lsn) in lost {
            self.left_out.forgotten_by_server(*origin, *lsn);
            self.beneath.forgotten_by_server(*origin, *lsn);
        }
        // What is gone was seen by nobody who is still to be captured, and is announced again.
        self.marks.retain(|mark| {
            let left = lost.iter().find(|(origin, _)| *origin == mark.origin);
            left.is_none_or(|(_, lsn)| mark.last <= *lsn)
        });
    }
}
