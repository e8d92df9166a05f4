//! What a daemon that starts again makes of its server and its journals.

use std::collections::{BTreeMap, BTreeSet};

use everywrite_conflict::policy::Begins;
use everywrite_conflict::{Entry, Fold, Lsn, NodeId, Position, Stamp, Vector, Version};

use crate::data::{self, Key, Transaction};
use crate::repair::Repair;
use crate::rules::Rule;
use crate::site::{Daemon, Site, end_of, node, site_of};

type Journals<'a> = [(NodeId, &'a [Transaction])];

impl Site {
    /// The daemon dies and starts again; with `server` the server does, too, and has lost what
    /// was not flushed. `journals` are those of all sites.
    pub(crate) fn crash(&mut self, server: bool, journals: &[Vec<Transaction>]) {
        self.paths.crashes += 1;
        tell!("site {} crashes, server {server}", site_of(self.me));
        if server {
            self.server.crash();
        }
        let last = self.journal.last();
        let progress = self.server.now.progress.clone();
        let mut daemon = Daemon::new(
            self.me,
            self.sites,
            last.map_or(Stamp::MIN, |t| t.stamp),
            self.daemon.index.spills(),
        );
        daemon.captured = end_of(&self.journal);
        daemon.captured_durable = daemon.captured;
        daemon.next_record = self
            .server
            .wal
            .partition_point(|r| r.end <= daemon.captured);
        daemon.claims = progress.clone();
        for setting in self.server.now.policies.values() {
            daemon.policies.set(setting.clone(), Begins::Begun);
        }
        daemon.dispatched = progress.clone();
        daemon.applied = progress.clone();
        if let Some(last) = last {
            daemon.claims.merge(&last.vector);
            daemon.seen.merge(&last.seen);
            daemon.tail = (*last.vector).clone();
        }
        daemon.tail_applied = if progress.covers_all(&daemon.tail) {
            Lsn::ZERO
        } else {
            Lsn::MAX
        };
        // What the server has was committed before here.
        let here = self.server.insert;
        let marks = progress.iter().map(|(origin, last)| (here, origin, last));
        daemon.marks = marks.collect();
        self.daemon = daemon;
        let journals_here: Vec<(NodeId, &[Transaction])> = (0..self.sites)
            .map(|x| {
                let end = self.offers(x);
                (node(x), &journals[x][..end])
            })
            .collect();
        let insert = self.server.insert;
        for &(origin, journal) in &journals_here {
            if let Some(last) = journal.last()
                && self.rules.has(Rule::Restore)
            {
                self.daemon.clock.saw(last.stamp);
            }
            let own = origin == self.me;
            for transaction in journal {
                let there = own || transaction.position <= progress.get(origin);
                if there && transaction.position > self.released.get(origin) {
                    self.remember(origin, transaction, if own { Lsn::ZERO } else { insert });
                    if self.daemon.index.spills() && transaction.position.0.is_multiple_of(4) {
                        self.daemon.index.spill(|_| true);
                    }
                }
            }
        }
        if self.rules.has(Rule::Repair) {
            self.resume_repairs(&journals_here, &progress);
        }
        for (&id, &(key, version)) in &self.server.now.outbox.clone() {
            // A row with this key was written after the decision: it is overtaken.
            if self.server.now.rows.contains_key(&key) {
                self.server.now.outbox.remove(&id);
                continue;
            }
            let entry = Entry {
                version,
                source: None,
                deleted: true,
                local_lsn: insert,
            };
            self.recall_below(key, version);
            self.daemon
                .index
                .announce(data::relation(key), data::hash(key), entry);
        }
    }

    fn remember(&mut self, origin: NodeId, transaction: &Transaction, local_lsn: Lsn) {
        let source = Some(Position {
            origin,
            lsn: transaction.position,
        });
        let own = origin == self.me;
        for table in transaction.truncates() {
            let version = transaction.truncate_version(table);
            // It may have to be repeated.
            let recent = transaction.position > self.looked;
            let repeat = own && recent && self.rules.has(Rule::Repair);
            let local_lsn = if repeat { Lsn::MAX } else { local_lsn };
            let entry = Entry {
                version,
                source,
                deleted: true,
                local_lsn,
            };
            self.daemon
                .index
                .announce_truncate(data::table(table), entry);
            if repeat {
                let repeat = self
                    .daemon
                    .truncates_to_repeat
                    .entry(table)
                    .or_insert(version);
                *repeat = (*repeat).max(version);
            }
        }
        let mut fold = Fold::new();
        transaction.fold_into(&mut fold, 0);
        for folded in fold.finish() {
            let deleted = folded.net.row().is_none();
            let version = folded.last.version;
            let (relation, hash) = (data::relation(folded.key), data::hash(folded.key));
            let entry = Entry {
                version,
                source,
                deleted,
                local_lsn,
            };
            self.recall_below(folded.key, version);
            self.daemon
                .announce(relation, hash, entry, &transaction.vector, self.rules);
        }
    }

    /// The journals are read one after the other, so what a file has may be above what comes now.
    fn recall_below(&self, key: Key, version: Version) {
        if self.daemon.index.hides_above(version.stamp) {
            self.daemon.index.recall([data::hash(key)]);
        }
    }

    /// Repairs may have been under way: of keys with a local delete above a replayed write.
    fn resume_repairs(&mut self, journals: &Journals, progress: &Vector) {
        let mut replayed: BTreeMap<Key, Vec<(Version, NodeId)>> = BTreeMap::new();
        let mut deleted: BTreeSet<Key> = BTreeSet::new();
        for &(origin, journal) in journals {
            for transaction in journal {
                let there = origin == self.me || transaction.position <= progress.get(origin);
                if !there || transaction.position <= self.released.get(origin) {
                    continue;
                }
                let mut fold = Fold::new();
                transaction.fold_into(&mut fold, 0);
                for folded in fold.finish() {
                    if folded.net.row().is_some() && origin != self.me {
                        let write = (folded.last.version, origin);
                        replayed.entry(folded.key).or_default().push(write);
                    } else if folded.net.row().is_none()
                        && origin == self.me
                        && transaction.position > self.looked
                    {
                        deleted.insert(folded.key);
                    }
                }
            }
        }
        for key in deleted {
            let (relation, hash) = (data::relation(key), data::hash(key));
            let entry = self.daemon.index.get(relation, hash);
            let ours = |e: &Entry| e.deleted && e.source.is_some_and(|s| s.origin == self.me);
            let Some(entry) = entry.filter(ours) else {
                continue;
            };
            let writes = replayed.get(&key).into_iter().flatten();
            let origins = writes.filter(|w| w.0 < entry.version).map(|w| w.1);
            let origins: BTreeSet<NodeId> = origins.collect();
            if !origins.is_empty() {
                let flight = Entry {
                    local_lsn: Lsn::MAX,
                    ..entry
                };
                self.daemon.index.announce(relation, hash, flight);
                let versions = BTreeSet::from([entry.version]);
                let repair = Repair {
                    versions,
                    origins: Some(origins),
                };
                self.daemon.repairs.insert(key, repair);
            }
        }
    }
}
