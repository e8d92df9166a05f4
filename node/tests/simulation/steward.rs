//! Beats, forgetting, cutting the journals, and what leaves memory: what `settle/steward.rs` does in turn.

use everywrite_conflict::{Entry, Lsn, Stamp, Vector};
use everywrite_node::settle::Beat;
use everywrite_node::settle::cutting::{Found, captured_durably, cut_up_to};

use crate::data::{self, KEYS, Key};
use crate::rules::Rule;
use crate::site::{Site, node, site_of};

impl Site {
    /// Says anew how far this site is.
    pub(crate) fn speak(&mut self, time: Stamp) {
        let holds = self.holds();
        let (applied, journal_end) = self.daemon.ledger.promise();
        let known = self.daemon.beats.get(self.me).map_or(0, |b| b.sequence + 1);
        let now = u64::try_from(time.0).unwrap_or(0);
        self.daemon.beats.offer(Beat {
            node: self.me,
            sequence: now.max(known),
            journal_end,
            applied,
            holds,
        });
    }

    /// One round; `everywhere` is what every site has applied, for the rule taken away that calls this
    /// stable. Returns what memory let go of, and how far capture had come.
    pub(crate) fn forget(&mut self, everywhere: &Vector, cut: bool) -> (Vec<Entry>, Lsn) {
        for beat in self.daemon.beats.all() {
            if beat.node != self.me {
                self.daemon.stability.beat(&beat);
            }
        }
        let own_end = self.durable_end();
        let mut flushed = self.daemon.ledger.flushed();
        flushed.set(self.me, own_end);
        let stable = match self.rules.has(Rule::Stable) {
            true => self.daemon.stability.stable(&flushed),
            false => everywhere.clone(),
        };
        let captured = self.daemon.ledger.watch_captured().borrow().lsn;
        let captured = captured_durably(captured, own_end, self.daemon.ledger.stamped_to());
        let told = match self.rules.has(Rule::Captured) {
            true => captured,
            false => Lsn(Lsn::MAX.0 - 1),
        };
        let before = self.in_memory();
        self.forgotten += self.daemon.ledger.forget(&stable, told);
        let mut dropped = Vec::new();
        for ((key, before), after) in before.into_iter().zip(self.in_memory()) {
            let Some(entry) = before.filter(|_| after.1.is_none()) else {
                continue;
            };
            tell!("  site {} forgets key {key} {entry:?}", site_of(self.me));
            dropped.push(entry);
            let forgot = self.forgot.entry(key).or_insert(entry);
            if forgot.version < entry.version {
                *forgot = entry;
            }
        }
        if self.daemon.ledger.is_full() {
            let nearly = self.daemon.stability.nearly(&flushed);
            self.daemon.ledger.spill(&nearly, captured, self.now());
        }
        if self.daemon.ledger.may_merge() {
            self.daemon.ledger.merge_files(|| false);
        }
        if cut {
            self.cut(&flushed, &stable, captured);
        }
        (dropped, captured)
    }

    /// What memory has of each key.
    fn in_memory(&self) -> Vec<(Key, Option<Entry>)> {
        let keys = 0..KEYS;
        self.daemon
            .ledger
            .with_index(|index| keys.map(|key| (key, index.row(data::hash(key)))).collect())
    }

    /// A round of cutting the journals.
    fn cut(&mut self, flushed: &Vector, stable: &Vector, captured: Lsn) {
        let ledger = &self.daemon.ledger;
        let now = Found {
            released: self.daemon.stability.released(flushed),
            stamped: ledger.stamped_to(),
            reached: ledger.reached(),
            decided: ledger.decided(),
        };
        let Some(found) = self.daemon.found.replace(now) else {
            return;
        };
        if ledger.repairs() == 0 && found.stamped > self.looked {
            self.looked = found.stamped;
        }
        let left = self.daemon.ledger.left(captured);
        if !found.may_go(captured, self.looked, left) {
            return;
        }
        for origin in (0..self.sites).map(node) {
            let up_to = cut_up_to(origin, &found.released, stable);
            if self.released.raise(origin, up_to) {
                self.paths.cut += 1;
                self.released_stamp = self.daemon.ledger.newest_stamp();
            }
        }
    }

    /// Counts what has left memory, before the daemon goes.
    pub(crate) fn count_files(&mut self) {
        let outside = self.daemon.ledger.outside();
        self.paths.spilled = self.paths.spilled.max(outside.keys);
        self.paths.asked += outside.asked;
        self.paths.found += outside.found;
    }
}
