//! Keeps house: sets barriers while there is work, speaks the own beat, and lets index and
//! journals forget what is stable.
//!
//! ```text
//!   barrier passed ──► flushed vector ──► own beat ──► peers
//!   beats, replayed vectors ──► stable ──► index forgets
//!                           └─► released ──► journal segments are cut
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use everywrite_conflict::{Lsn, NodeId, Vector};
use tokio_util::sync::CancellationToken;

use super::cutting::{Cutting, Found, Round, captured_durably, cut_up_to};
use super::{Barriers, Beat, Beats, Keeping, Ledger, LookedAt, Stability};
use crate::journal::Journals;

/// How often there is a look at what changed. Short, so that the index stays small; a barrier is
/// set only if something changed.
const TICK: Duration = Duration::from_millis(50);
/// How often the journals are cut: a segment is tens of megabytes.
const CUT: Duration = Duration::from_secs(2);

/// The task's parts.
pub struct Steward {
    /// This node.
    pub me: NodeId,
    /// Index, clock, vectors.
    pub ledger: Arc<Ledger>,
    /// All journals.
    pub journals: Arc<Journals>,
    /// Everybody's beats.
    pub beats: Arc<Beats>,
    /// Barriers in the local WAL.
    pub barriers: Barriers,
    /// What is stable.
    pub stability: Arc<Stability>,
    /// How far nothing is to be looked at again.
    pub looked: LookedAt,
    /// Why no journal is cut, for people.
    pub keeping: Arc<Keeping>,
}

impl Steward {
    /// Runs until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::join!(
            self.set_barriers(&shutdown),
            self.speak(&shutdown),
            self.forget(&shutdown)
        );
    }

    /// A barrier after each burst of work, so that what is applied counts as flushed and the
    /// horizon of the fast path moves on.
    async fn set_barriers(&self, shutdown: &CancellationToken) {
        let mut applied = self.ledger.watch_applied();
        let mut last_stamped = None;
        loop {
            let stamped = self.ledger.stamped_to();
            let idle = last_stamped == Some(stamped) && !applied.has_changed().unwrap_or(false);
            if idle {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = applied.changed() => {}
                    () = tokio::time::sleep(TICK) => continue,
                }
            }
            applied.mark_unchanged();
            last_stamped = Some(stamped);
            tokio::select! {
                () = shutdown.cancelled() => return,
                passed = self.barriers.pass() => if !passed { return },
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn speak(&self, shutdown: &CancellationToken) {
        let mut last: Option<Beat> = None;
        loop {
            let (applied, journal_end) = self.ledger.promise();
            let holds = self.journals.holds();
            let news = last.as_ref().is_none_or(|b| {
                b.applied != applied || b.journal_end != journal_end || b.holds != holds
            });
            if news {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                let now = u64::try_from(now.as_micros()).unwrap_or(0);
                // Peers send back what an earlier run of this node said, perhaps by a faster clock.
                let known = self.beats.get(self.me).map_or(0, |b| b.sequence + 1);
                let sequence = now.max(known);
                let beat = Beat {
                    node: self.me,
                    sequence,
                    journal_end,
                    applied,
                    holds,
                };
                self.beats.offer(beat.clone());
                last = Some(beat);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Lets go to disk what is too much for memory.
    async fn spill(&self, flushed: &Vector, captured: Lsn, shutdown: &CancellationToken) {
        if self.ledger.is_full() {
            let (ledger, nearly) = (Arc::clone(&self.ledger), self.stability.nearly(flushed));
            // Waited for: nothing is forgotten meanwhile.
            let spill = tokio::task::spawn_blocking(move || {
                ledger.spill(&nearly, captured, Instant::now());
            });
            let _ = spill.await;
        }
        if self.ledger.may_merge() {
            // Not waited for: it may take minutes.
            let (ledger, shutdown) = (Arc::clone(&self.ledger), shutdown.clone());
            tokio::task::spawn_blocking(move || ledger.merge_files(|| shutdown.is_cancelled()));
        }
    }

    async fn forget(&self, shutdown: &CancellationToken) {
        let mut cut = tokio::time::Instant::now();
        let mut cutting = Cutting::default();
        let mut looked = self.looked.read();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            for beat in self.beats.all() {
                if beat.node != self.me {
                    self.stability.beat(&beat);
                }
            }
            let own_end = self.journals.get(self.me).map_or(Lsn::ZERO, |j| j.end());
            // Flushed, not only committed: what a crash takes away comes again.
            let mut flushed = self.ledger.flushed();
            flushed.set(self.me, own_end);
            let stable = self.stability.stable(&flushed);
            let captured = self.ledger.watch_captured().borrow().lsn;
            let captured = captured_durably(captured, own_end, self.ledger.stamped_to());
            self.ledger.forget(&stable, captured);
            self.spill(&flushed, captured, shutdown).await;
            if cut.elapsed() < CUT {
                continue;
            }
            cut = tokio::time::Instant::now();
            let now = Found {
                released: self.stability.released(&flushed),
                stamped: self.ledger.stamped_to(),
                reached: self.ledger.reached(),
                decided: self.ledger.decided(),
            };
            let Some(found) = cutting.begins(now) else {
                continue;
            };
            // Two seconds late: a look is asked for a moment after the stamp.
            if self.ledger.repairs() == 0 && found.stamped > looked {
                match self.looked.write(found.stamped) {
                    Ok(()) => looked = found.stamped,
                    Err(error) => {
                        tracing::warn!(error = %error, "the file looked-at could not be written");
                    }
                }
            }
            let left = self.ledger.left(captured);
            self.keeping
                .found(found.kept(captured, looked, left), Instant::now());
            let round = Round {
                captured,
                looked,
                left,
                flushed: &flushed,
                stable: &stable,
                merging: self.ledger.any_merging(),
            };
            for released in cutting.ends(found, round) {
                self.cut(&released, &stable);
            }
        }
    }

    fn cut(&self, released: &Vector, stable: &Vector) {
        // What is stable is flushed here, so the clock is above it.
        let stamp = self.ledger.newest_stamp();
        for journal in self.journals.all() {
            let origin = journal.origin();
            let up_to = cut_up_to(origin, released, stable);
            match journal.release(up_to, stamp) {
                Ok(0) => {}
                Ok(bytes) => tracing::debug!(%origin, %up_to, bytes, "journal cut"),
                Err(error) => {
                    tracing::warn!(%origin, error = %error, "the journal could not be cut");
                }
            }
        }
    }
}
