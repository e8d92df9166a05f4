//! What a daemon that starts again makes of its server and of the journals.

use everywrite_conflict::policy::{Begins, Policies};
use everywrite_conflict::{HybridClock, Lsn, Vector};

use super::{Known, Site, What};
use crate::data::{Op, Rule, Transaction, hash};

impl Site {
    /// The daemon starts again: what it had in memory comes from the journals, as far as it was on disk. With
    /// `server` the server does, too, and has lost what was not flushed.
    pub(crate) fn crash(&mut self, server: bool, spills: bool, journals: &[&[Transaction]]) {
        if server {
            let lost = |origin| self.server.applied.get(origin) > self.flushed.applied.get(origin);
            let lost = self.server.applied.iter().filter(|(n, _)| lost(*n)).count();
            self.told.add(What::TakenBack, lost);
            self.server = self.flushed.clone();
        }
        self.told.add(What::StampedAgain, self.stamped.len());
        self.journal.truncate(self.durable);
        while let Some(local) = self.stamped.pop_back() {
            self.written.push_front(local);
        }
        self.captured = self.journal.last().map_or(Lsn::ZERO, |t| t.at.lsn);
        self.on_way.clear();
        self.releasing.clear();
        self.closing.clear();
        self.marks.clear();
        self.count();
        self.index = Known::default();
        let last = self.journal.last();
        self.clock = last.map_or_else(HybridClock::default, |t| {
            HybridClock::restored(t.version.stamp)
        });
        // What is there may have come behind what is still to be captured; nobody can tell.
        self.dispatched = self.server.applied.clone();
        self.seen = Vector::new();
        if let Some(last) = last {
            self.seen.merge(&last.seen);
            self.dispatched.merge(&last.vector);
        }
        self.policies = Policies::new();
        // Those whose capture was not durable are found again in the WAL.
        let (me, captured) = (self.me, self.captured);
        self.server
            .settings
            .retain(|(_, at, _)| at.origin != me || at.lsn <= captured);
        for (setting, at, begun) in &self.server.settings {
            let begins = match *begun || self.without == Some(Rule::Late) {
                true => Begins::Begun,
                false => Begins::Stable([(at.origin, at.lsn)].into_iter().collect()),
            };
            self.policies.set(setting.clone(), begins);
        }
        self.rebuild(spills, journals);
    }

    /// Row events journal by journal, the own one first; then the updates in the order of their stamps.
    fn rebuild(&mut self, spills: bool, journals: &[&[Transaction]]) {
        let own = self.journal.clone();
        let others = journals.iter().copied().flatten();
        let others = others.filter(|t| t.at.origin != self.me && self.server.applied.covers(t.at));
        let all = own.into_iter().chain(others.cloned());
        let left = |t: &Transaction| {
            self.clock.saw(t.version.stamp);
            !self.released.covers(t.at)
        };
        let all: Vec<Transaction> = all.filter(left).collect();
        for t in &all {
            let local_lsn = if t.at.origin == self.me {
                Lsn::ZERO
            } else {
                self.wal
            };
            match &t.op {
                Op::Event(key, row) => {
                    let deleted = row.is_none();
                    self.index.recall_below(hash(*key), t.version.stamp);
                    self.announce(t.version, t.at, &t.vector, *key, deleted, local_lsn);
                }
                Op::Truncate => self.announce_truncate(t.version, t.at, local_lsn),
                Op::Update(..) | Op::Policy(_) => {}
            }
            if spills && t.at.lsn.0.is_multiple_of(4) {
                self.index.spill(|_| true);
            }
        }
        let mut updates: Vec<&Transaction> = all.iter().collect();
        updates.sort_by_key(|t| (t.version.stamp, t.version.origin));
        for t in updates {
            if let Op::Update(key, update) = &t.op {
                self.index.recall(hash(*key));
                self.merge_index(
                    *key,
                    update.rules,
                    t.version,
                    t.at,
                    &t.vector,
                    &update.changes,
                    true,
                );
            }
        }
    }
}
