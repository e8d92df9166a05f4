//! What a daemon that starts makes of its server and of the journals, as `runtime/node.rs` and
//! `replay/rebuild.rs` do it.

use std::collections::BTreeMap;
use std::sync::Arc;

use everywrite_conflict::{Entry, Lsn, Stamp, Vector, Version};
use everywrite_node::settle::cutting::Cutting;
use everywrite_node::settle::{Beats, Ledger, Stability, Touched};

use super::looks::{Look, Looks};
use super::stream::Step;
use super::{Barriers, Site, What};
use crate::data::{Key, Op, Rnd, TABLE, Transaction, hash};
use crate::server::Session;

/// The last own write of a key, or truncate, that may not have been looked at again.
struct Recent {
    version: Version,
    seen: Vector,
    deleted: bool,
    /// An older replayed write of the key, which it had not seen, is applied here.
    met: bool,
}

impl Site {
    /// The daemon is gone. What it had sent to be committed may be committed all the same.
    pub(crate) fn stop(&mut self, rnd: &mut Rnd) {
        let mut streams = std::mem::take(&mut self.streams);
        for (origin, stream) in &mut streams {
            // Not by a session that was gone before.
            if let Some(group) = &mut stream.group
                && stream.connected
                && !stream.lost
                && group.step == Step::Committing
                && rnd.below(2) == 0
            {
                let _ = self.commits(Session::Stream(*origin), group);
            }
        }
        self.server.sessions_end();
        self.told.add(What::StampedAgain, self.stamped.len());
        self.journal.truncate(self.durable);
        while let Some(local) = self.stamped.pop_back() {
            self.written.push_front(local);
        }
        self.count();
    }

    /// The daemon starts; `journals`: the others', as far as they are durable.
    pub(crate) fn start(&mut self, journals: &[&[Transaction]]) {
        self.looks = Looks::default();
        self.untold = None;
        self.connected = false;
        self.cutting = Cutting::default();
        self.barriers = Barriers {
            last: self.barriers.last,
            ..Barriers::default()
        };
        // Others send again what it said, if need be.
        self.beats = Beats::default();
        self.ledger = Ledger::new(self.me);
        if let Some(folder) = &self.folder {
            let ledger = std::mem::replace(&mut self.ledger, Ledger::new(self.me));
            self.ledger = ledger.spilling(folder, 112).expect("a folder for files");
        }
        self.stability = Stability::new(self.me, &self.members);
        let applied = self.asks_for_progress();
        let here = self.server.now.wal;
        let own = self.journal.last();
        let own = own.map(|t| (t.at.lsn, t.version.stamp, &t.vector, &t.seen));
        self.ledger.restore(own, &applied);
        self.ledger.restored_to(here);
        let own_end = self.own_end();
        let mut now = applied.clone();
        now.set(self.me, own_end);
        for set in &self.server.now.settings {
            if set.at.origin != self.me || set.at.lsn <= own_end {
                let late = !set.begun && self.since(set.at).is_some();
                let since = late.then(|| now.clone());
                self.ledger.set_policy(set.setting.clone(), since);
            }
        }
        self.rebuild(&applied, here, journals);
    }

    /// The own journal first, each as far as it is applied; then the updates, in the order of their stamps.
    fn rebuild(&mut self, applied: &Vector, here: Lsn, journals: &[&[Transaction]]) {
        let (own, me) = (self.journal.clone(), self.me);
        let others = journals.iter().copied();
        let others = others.filter(|j| j.first().is_some_and(|t| t.at.origin != me));
        let mut updates: Vec<&Transaction> = Vec::new();
        let mut recent: BTreeMap<Option<Key>, Recent> = BTreeMap::new();
        for journal in std::iter::once(&own[..]).chain(others) {
            let is_here = |t: &&Transaction| t.at.origin == me || applied.covers(t.at);
            let journal: Vec<&Transaction> = journal.iter().filter(is_here).collect();
            let released = self.released.clone();
            self.ledger
                .rebuild(self.released_stamp, &Arc::default(), []);
            for t in journal.iter().filter(|t| !released.covers(t.at)) {
                self.read(t, here, &mut recent);
                if let Op::Update(..) = t.op {
                    updates.push(t);
                }
            }
            if let Some(last) = journal.last() {
                self.ledger.rebuild(last.version.stamp, &Arc::default(), []);
                self.stability.replayed(last.at.origin, &last.seen);
            }
        }
        updates.sort_by_key(|t| (t.version.stamp, t.version.origin));
        for t in updates {
            if let Op::Update(key, update) = &t.op {
                let columns = self.columns(update.rules, &update.changes);
                let asked = everywrite_conflict::Update {
                    relation: TABLE,
                    key: hash(*key),
                    version: t.version,
                    source: t.at,
                    columns: &columns,
                    present: true,
                };
                self.ledger.rebuild_merged(&asked, &t.vector);
            }
        }
        for (key, own) in recent {
            let passed = || {
                let entry = key.and_then(|key| self.ledger.known(TABLE, hash(key)));
                entry.is_some_and(|e| e.deleted && e.version > own.version)
            };
            let version = own.version;
            if if own.deleted { own.met } else { passed() } {
                self.look_again(Look { key, version });
            }
        }
    }

    fn read(&mut self, t: &Transaction, here: Lsn, recent: &mut BTreeMap<Option<Key>, Recent>) {
        let own = t.at.origin == self.me;
        if !own {
            self.stability.replayed(t.at.origin, &t.seen);
        }
        if let Op::Policy(setting) = &t.op {
            self.ledger.set_policy(setting.clone(), self.since(t.at));
        }
        let events = t.events().iter();
        let mut written: Vec<(Option<Key>, bool, Version)> = events
            .map(|e| (Some(e.key), e.row.is_none(), e.version))
            .collect();
        if matches!(t.op, Op::Truncate) {
            written.push((None, true, t.version));
        }
        for &(key, deleted, version) in &written {
            if own && t.at.lsn > self.looked {
                let (seen, met) = (t.seen.clone(), false);
                let last = Recent {
                    version,
                    seen,
                    deleted,
                    met,
                };
                recent.insert(key, last);
            } else if !own {
                for key in [key, None] {
                    if let Some(own) = recent.get_mut(&key) {
                        own.met |= !deleted && version < own.version && !own.seen.covers(t.at);
                    }
                }
            }
        }
        let entries = written.into_iter().map(|(key, deleted, version)| {
            let touched = Touched {
                relation: TABLE,
                key: key.map(hash),
                deleted,
                version: None,
            };
            let entry = Entry {
                version,
                source: Some(t.at),
                deleted,
                local_lsn: here,
            };
            (touched, entry)
        });
        // A stamp has no rank.
        let stamp: Stamp = t.version.stamp;
        self.ledger
            .rebuild(stamp, &Arc::new(t.vector.clone()), entries);
        if self.ledger.is_full() {
            self.begun += std::time::Duration::from_secs(60);
            self.ledger.spill(&[None], Lsn::MAX, self.begun);
            self.ledger.merge_files(|| false);
        }
    }
}
