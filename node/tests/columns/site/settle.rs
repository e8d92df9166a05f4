//! Beats, forgetting, and the cutting of journals, as `settle/steward.rs` does it.

use std::time::Duration;

use everywrite_conflict::{Lsn, Vector};
use everywrite_node::settle::Beat;
use everywrite_node::settle::cutting::{Found, Round};

use super::{Site, What};
use crate::data::Rnd;

impl Site {
    /// The own beat.
    pub(crate) fn speak(&mut self) {
        let (applied, journal_end) = self.ledger.promise();
        self.spoken += 1;
        self.beats.offer(Beat {
            node: self.me,
            sequence: self.spoken,
            journal_end,
            applied,
            holds: Vector::new(),
        });
    }

    /// Forgets what is stable, and begins what that allows.
    pub(crate) fn settle(&mut self, rnd: &mut Rnd) {
        for beat in self.beats.all() {
            if beat.node != self.me {
                self.stability.beat(&beat);
            }
        }
        let own_end = self.own_end();
        let mut flushed = self.ledger.flushed();
        flushed.set(self.me, own_end);
        let stable = self.stability.stable(&flushed);
        let captured = self.ledger.watch_captured().borrow().lsn;
        let captured = match own_end >= self.ledger.stamped_to() {
            true => captured,
            false => own_end.min(captured),
        };
        let forgotten = self.ledger.forget(&stable, captured);
        self.told.add(What::Forgotten, forgotten);
        if self.ledger.is_full() {
            let before = self.ledger.outside().keys;
            let nearly = self.stability.nearly(&flushed);
            // Nobody waits for the pause between two files.
            self.begun += Duration::from_secs(60);
            self.ledger.spill(&nearly, captured, self.begun);
            let left = self.ledger.outside().keys - before;
            self.told.add(What::LeftMemory, left as usize);
        }
        if self.ledger.may_merge() {
            self.ledger.merge_files(|| false);
        }
        self.round(&flushed, &stable, captured, rnd);
    }

    /// A round of cutting.
    fn round(&mut self, flushed: &Vector, stable: &Vector, captured: Lsn, rnd: &mut Rnd) {
        let now = Found {
            released: self.stability.released(flushed),
            stamped: self.ledger.stamped_to(),
            reached: self.ledger.reached(),
            decided: self.ledger.decided(),
        };
        let Some(found) = self.cutting.begins(now) else {
            return;
        };
        if self.ledger.repairs() == 0 {
            self.looked = self.looked.max(found.stamped);
        }
        let round = Round {
            captured,
            looked: self.looked,
            left: self.ledger.left(captured),
            flushed,
            stable,
            merging: self.ledger.any_merging(),
        };
        for released in self.cutting.ends(found, round) {
            for (origin, lsn) in released.iter() {
                let up_to = lsn.min(stable.get(origin));
                // A note that says so may get lost; then only whole segments go.
                if rnd.below(2) == 0 && self.released.raise(origin, up_to) {
                    self.released_stamp = self.ledger.newest_stamp();
                    self.told.add(What::Cut, 1);
                }
            }
        }
    }

    /// The database is told which policies have begun, or that is lost in a crash.
    pub(crate) fn publish(&mut self) {
        let begun = self.ledger.take_begun();
        self.told.add(What::Begun, begun.len());
        for (_, epoch) in &begun {
            let settings = self.server.now.settings.iter_mut();
            let of = settings.filter(|s| s.setting.epoch == *epoch);
            of.for_each(|s| s.begun = true);
        }
        if !begun.is_empty() {
            self.server.ends();
            self.server.flush();
        }
    }
}
