//! One site: a server and the daemon beside it. Capture, outbox, beats, forgetting.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use everywrite_conflict::policy::Begins;
use everywrite_conflict::policy::{Policies, Rank};
use everywrite_conflict::{
    Entry, Fold, HybridClock, KeyHash, Lsn, NodeId, Position, RelationHash, Settled, Stamp, Vector,
    Version, invariants,
};

use crate::data::{self, KEYS, Key, Op, Ranks, TABLES, Transaction};
use crate::index::Known;
use crate::postgres::{Record, Server};
use crate::repair::Repair;
use crate::replay::{Flight, Landing};
use crate::rules::{Rule, Rules};

/// Position 0 of the journal: before the first transaction.
pub(crate) fn node(site: usize) -> NodeId {
    NodeId(site as u16 + 1)
}

pub(crate) fn site_of(node: NodeId) -> usize {
    usize::from(node.0) - 1
}

#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) node: NodeId,
    pub(crate) end: Lsn,
    pub(crate) applied: Vector,
}

pub(crate) struct Site {
    pub(crate) me: NodeId,
    pub(crate) sites: usize,
    pub(crate) rules: Rules,
    pub(crate) skew: i64,
    /// How much faster than the others its clock goes, in thousandths.
    pub(crate) drift: i64,
    pub(crate) server: Server,
    /// The own journal; up to `durable` it survives the daemon and is shipped.
    pub(crate) journal: Vec<Transaction>,
    pub(crate) durable: usize,
    /// How many transactions of each site's journal are here, and how many of them are synced: those
    /// are replayed and given on.
    pub(crate) received: Vec<usize>,
    pub(crate) received_durable: Vec<usize>,
    pub(crate) released: Vector,
    /// Up to where in the own journal no row is still to be looked at again.
    pub(crate) looked: Lsn,
    pub(crate) daemon: Daemon,
    /// For the checks: the greatest version of each key that was forgotten here.
    pub(crate) forgot: BTreeMap<Key, Entry>,
    pub(crate) forgotten: usize,
    pub(crate) conflicts: usize,
    pub(crate) paths: Paths,
}

/// How often the rare ways were gone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paths {
    pub(crate) fast: usize,
    pub(crate) careful: usize,
    pub(crate) repaired: usize,
    pub(crate) fetched: usize,
    pub(crate) replaced: usize,
    pub(crate) lost: usize,
    pub(crate) travelled: usize,
    pub(crate) overtaken: usize,
    pub(crate) undone: usize,
    pub(crate) over_claimed: usize,
    pub(crate) crashes: usize,
    pub(crate) truncates: usize,
    pub(crate) held: usize,
    pub(crate) split: usize,
}

/// What the daemon has in memory.
pub(crate) struct Daemon {
    pub(crate) index: Known,
    pub(crate) clock: HybridClock,
    pub(crate) policies: Policies,
    pub(crate) settled: Settled,
    /// Up to where capture has read the WAL, and the number of the next record.
    pub(crate) captured: Lsn,
    pub(crate) next_record: usize,
    /// Up to where what capture has read is durable in the journal.
    pub(crate) captured_durable: Lsn,
    /// What the vectors of local transactions claim: everything dispatched.
    pub(crate) claims: Vector,
    /// What they have surely seen, and what is added to that for those that commit behind a place.
    pub(crate) seen: Vector,
    pub(crate) marks: Vec<(Lsn, NodeId, Lsn)>,
    /// Dispatched and landed, by origin.
    pub(crate) dispatched: Vector,
    pub(crate) applied: Vector,
    pub(crate) flights: BTreeMap<NodeId, VecDeque<Flight>>,
    pub(crate) landings: VecDeque<Landing>,
    pub(crate) repairs: BTreeMap<Key, Repair>,
    pub(crate) truncates_to_repeat: BTreeMap<u8, Version>,
    /// The claims of the last transaction before a restart, and where they were applied again.
    pub(crate) tail: Vector,
    pub(crate) tail_applied: Lsn,
    /// Outbox rows whose delete capture has read, with the WAL place from which they may go.
    pub(crate) sent: Vec<(Lsn, u64)>,
    pub(crate) emitted: BTreeSet<u64>,
    /// What may be released as soon as capture is durably past a place in the WAL.
    pub(crate) releasing: VecDeque<(Lsn, Vector)>,
}

impl Site {
    pub(crate) fn new(me: usize, sites: usize, rules: Rules, skew: i64, spills: bool) -> Self {
        let mut site = Site {
            me: node(me),
            sites,
            rules,
            skew,
            drift: 0,
            server: Server::default(),
            journal: Vec::new(),
            durable: 0,
            received: vec![0; sites],
            received_durable: vec![0; sites],
            released: Vector::new(),
            looked: Lsn::ZERO,
            daemon: Daemon::new(node(me), sites, Stamp::MIN, spills),
            forgot: BTreeMap::new(),
            forgotten: 0,
            conflicts: 0,
            paths: Paths::default(),
        };
        site.daemon.tail_applied = Lsn::ZERO;
        site
    }

    /// Up to where another site's journal is here.
    pub(crate) fn journal_position(&self, sites: &[RefCell<Site>], origin: usize) -> Lsn {
        let origin_site = sites[origin].borrow();
        end_of(&origin_site.journal[..self.received_durable[origin]])
    }

    /// How many transactions of a site's journal others may have from here.
    pub(crate) fn offers(&self, origin: usize) -> usize {
        match node(origin) == self.me {
            true => self.durable,
            false => self.received_durable[origin],
        }
    }

    pub(crate) fn durable_end(&self) -> Lsn {
        end_of(&self.journal[..self.durable])
    }

    // ---- capture ----

    /// Reads the next commits of the local WAL.
    pub(crate) fn capture(&mut self, most: usize) {
        for _ in 0..most {
            let Some(record) = self.server.wal.get(self.daemon.next_record).cloned() else {
                return;
            };
            self.daemon.next_record += 1;
            self.daemon.captured = record.end;
            let ops = match (&record.ops[..], record.outbox) {
                // The index does not have all that the vector claims: it leaves later.
                (_, Some(id)) if self.tail_is_out() => {
                    self.daemon.emitted.remove(&id);
                    continue;
                }
                ([Op::Lost(key, version)], Some(id)) => {
                    self.daemon.sent.push((record.end, id));
                    if !self.leaves(*key, *version) {
                        self.paths.overtaken += 1;
                        continue;
                    }
                    self.paths.travelled += 1;
                    record.ops.clone()
                }
                _ => record.ops.clone(),
            };
            self.stamp(&record, ops);
        }
    }

    /// What the last transaction before a restart claimed is not all applied again.
    fn tail_is_out(&self) -> bool {
        self.daemon.tail_applied == Lsn::MAX && self.rules.has(Rule::Tail)
    }

    fn leaves(&mut self, key: Key, version: Version) -> bool {
        let (relation, hash) = (data::relation(key), data::hash(key));
        if !self.rules.has(Rule::AtCapture) {
            return true;
        }
        if !self.rules.has(Rule::Current) {
            return self
                .daemon
                .index
                .get(relation, hash)
                .is_none_or(|e| e.version <= version);
        }
        self.daemon.index.travels(relation, hash, version)
    }

    /// What the transaction that commits at `end` has surely seen.
    fn see_before(&mut self, end: Lsn) -> Vector {
        let Daemon { marks, seen, .. } = &mut self.daemon;
        marks.retain(|&(at, origin, last)| {
            if at < end {
                seen.raise(origin, last);
            }
            at >= end
        });
        seen.clone()
    }

    /// The ranks of a local transaction's writes: their own, and what they inherit.
    fn ranks(&self, stamp: Stamp, ops: &[Op]) -> Ranks {
        let mut ranks = Ranks::default();
        let daemon = &self.daemon;
        let covers = |p: Position| p.origin == self.me || daemon.claims.covers(p);
        for table in 0..TABLES {
            let active = daemon.policies.get(data::table(table));
            let epoch = active.map(|a| a.epoch).unwrap_or_default();
            ranks.epochs.insert(table, epoch);
        }
        let row = |ranks: &mut Ranks, key: Key| {
            let (relation, hash) = (data::relation(key), data::hash(key));
            let own = daemon.policies.rank(relation, stamp, self.me);
            let inherits = self.rules.has(Rule::Inherit);
            let inherited = inherits.then(|| daemon.index.inherited(relation, hash, covers));
            let mut rank = own.max(inherited.unwrap_or(Rank::NONE));
            if rank.epoch.number > 0 && !self.rules.has(Rule::Epoch) {
                rank.epoch = everywrite_conflict::policy::Epoch {
                    number: 1,
                    origin: NodeId(0),
                };
            }
            ranks.rows.insert(key, rank);
        };
        for op in ops {
            match op {
                Op::Insert(key, _) | Op::Update(key, _) | Op::Delete(key) => row(&mut ranks, *key),
                Op::Move(old, new, _) => {
                    row(&mut ranks, *old);
                    row(&mut ranks, *new);
                }
                Op::Truncate(table) => {
                    let relation = data::table(*table);
                    let inherited = daemon.index.inherited_by_truncate(relation);
                    let rank = daemon.policies.truncate_rank(relation, inherited);
                    ranks.truncates.insert(*table, rank);
                }
                Op::Lost(..) | Op::Policy(_) => {}
            }
        }
        ranks
    }

    fn stamp(&mut self, record: &Record, ops: Vec<Op>) {
        let (time, position) = (record.time, record.end);
        let mut stamp = self.daemon.clock.stamp(time);
        if self.rules.complete() {
            // What the server had at the commit, whatever the daemon believes of it.
            let last = self.journal.last().map_or(Stamp::MIN, |t| t.stamp);
            let claims = &self.daemon.claims;
            invariants::clocks(stamp, last, record.newest)
                .and_then(|()| invariants::names_what_was_there(self.me, claims, &record.there))
                .unwrap_or_else(|broken| panic!("{broken}"));
        }
        if !self.rules.has(Rule::Hybrid) {
            stamp = time;
        }
        for op in &ops {
            if let Op::Policy(setting) = op {
                self.daemon.policies.set(setting.clone(), Begins::Begun);
            }
        }
        let seen = self.see_before(position);
        self.recall_captured(position, stamp, &ops);
        let transaction = Transaction {
            position,
            previous: end_of(&self.journal),
            stamp,
            version: Version::new(stamp, self.me),
            ranks: self.ranks(stamp, &ops),
            vector: Arc::new(self.daemon.claims.clone()),
            seen,
            ops,
        };
        tell!("  site {} captures {transaction:?}", site_of(self.me));
        let mut fold = Fold::new();
        transaction.fold_into(&mut fold, 0);
        let source = Some(Position {
            origin: self.me,
            lsn: position,
        });
        for table in transaction.truncates() {
            self.paths.truncates += 1;
            // What replay may have put in after the truncate is removed again.
            let repair = self.rules.has(Rule::Repair);
            let local_lsn = if repair { Lsn::MAX } else { Lsn::ZERO };
            let version = transaction.truncate_version(table);
            let entry = Entry {
                version,
                source,
                deleted: true,
                local_lsn,
            };
            self.daemon
                .index
                .announce_truncate(data::table(table), entry);
            if repair {
                self.daemon.truncates_to_repeat.insert(table, version);
            }
        }
        for folded in fold.finish() {
            let (relation, hash) = (data::relation(folded.key), data::hash(folded.key));
            let deleted = folded.net.row().is_none();
            let before = self
                .daemon
                .index
                .in_memory(relation, hash, |e| e.local_lsn < position);
            let over = before.is_some_and(|e| e.local_lsn >= position);
            self.paths.over_claimed += usize::from(over);
            let repair = deleted && over && self.rules.has(Rule::Repair);
            let own = folded.last.version == transaction.row_version(folded.key);
            let local_lsn = if repair && own { Lsn::MAX } else { Lsn::ZERO };
            let version = folded.last.version;
            let entry = Entry {
                version,
                source,
                deleted,
                local_lsn,
            };
            self.daemon
                .announce(relation, hash, entry, &transaction.vector, self.rules);
            if repair && own {
                self.daemon
                    .repairs
                    .entry(folded.key)
                    .or_default()
                    .versions
                    .insert(version);
            }
        }
        self.journal.push(transaction);
    }

    /// The journal's fsync. What is shipped and what replay builds on is behind it.
    pub(crate) fn fsync(&mut self) {
        self.durable = self.journal.len();
        self.daemon.captured_durable = self.daemon.captured;
        let durable = self.daemon.captured_durable;
        let sent = std::mem::take(&mut self.daemon.sent);
        for (end, id) in sent {
            if end <= durable {
                self.server.now.outbox.remove(&id);
            } else {
                self.daemon.sent.push((end, id));
            }
        }
    }

    /// The same of the other sites' journals here.
    pub(crate) fn fsync_received(&mut self) {
        self.received_durable.clone_from(&self.received);
    }

    pub(crate) fn capture_all(&mut self) {
        self.capture(usize::MAX);
        if self.rules.has(Rule::Durable) {
            self.fsync();
        }
    }

    // ---- decided deletes ----

    /// A session without origin takes an outbox row into the stream.
    pub(crate) fn send_outbox(&mut self, time: Stamp) {
        if self.tail_is_out() {
            return;
        }
        let outbox = &self.server.now.outbox;
        let Some((&id, &(key, version))) =
            outbox.iter().find(|o| !self.daemon.emitted.contains(o.0))
        else {
            return;
        };
        self.daemon.emitted.insert(id);
        let overtaken = || {
            let entry = self.daemon.index.get(data::relation(key), data::hash(key));
            entry.is_none_or(|e| e.version != version)
        };
        if !self.rules.has(Rule::AtCapture) && overtaken() {
            self.server.now.outbox.remove(&id);
            return;
        }
        if !self.rules.has(Rule::Keep) {
            self.server.now.outbox.remove(&id);
        }
        self.server
            .commit_local(time, vec![Op::Lost(key, version)], Some(id));
        self.server.flush();
    }

    // ---- settle ----

    pub(crate) fn beat(&self) -> Beat {
        // Under capture's lock: the end of what is stamped.
        Beat {
            node: self.me,
            end: end_of(&self.journal),
            applied: self.server.flushed.progress.clone(),
        }
    }

    pub(crate) fn applied_with_own(&self) -> Vector {
        let mut applied = self.daemon.applied.clone();
        applied.set(self.me, self.durable_end());
        applied
    }

    /// A local transaction asks the files only for what may have come behind it, and for what travels.
    fn recall_captured(&self, position: Lsn, stamp: Stamp, ops: &[Op]) {
        let index = &self.daemon.index;
        if index.capture_asks(position, stamp) {
            index.recall((0..KEYS).map(data::hash));
        }
        let travelling = ops.iter().filter_map(|op| match op {
            Op::Lost(key, _) => Some(data::hash(*key)),
            _ => None,
        });
        index.recall(travelling);
    }

    /// What is stable but for so many members goes to a file; with as many as there are, all that may.
    pub(crate) fn spill(&mut self, away: usize) {
        let applied = self.applied_with_own();
        let nearly = self.daemon.settled.stable_without(&applied, away);
        let (captured, all) = (self.daemon.captured_durable, away >= self.sites);
        let index = &self.daemon.index;
        index.spill(|e| {
            all || e.local_lsn <= captured && e.source.is_some_and(|s| nearly.covers(s))
        });
        if away.is_multiple_of(2) {
            index.merge_files(away);
        }
    }

    /// Forgets what is stable. `everywhere` is what every site has applied, for the rule taken
    /// away that calls this stable.
    pub(crate) fn forget(&mut self, everywhere: &Vector) -> Vec<Entry> {
        let applied = self.applied_with_own();
        let stable = if self.rules.has(Rule::Stable) {
            self.daemon.settled.stable(&applied)
        } else {
            everywhere.clone()
        };
        let captured = if self.rules.has(Rule::Captured) {
            self.daemon.captured_durable
        } else {
            Lsn(Lsn::MAX.0 - 1)
        };
        let keys: Vec<Key> = (0..KEYS).collect();
        let known = |site: &Site| -> Vec<Option<Entry>> {
            let entries = site.daemon.index.all();
            keys.iter()
                .map(|k| entries.get(&data::hash(*k)).copied())
                .collect()
        };
        let before = known(self);
        self.forgotten += self.daemon.index.forget(&stable, captured);
        let after = known(self);
        let mut dropped = Vec::new();
        for ((key, before), after) in keys.iter().zip(before).zip(after) {
            if let (Some(entry), None) = (before, after) {
                tell!("  site {} forgets key {key} {entry:?}", site_of(self.me));
                dropped.push(entry);
                let forgot = self.forgot.entry(*key).or_insert(entry);
                if forgot.version < entry.version {
                    *forgot = entry;
                }
            }
        }
        dropped
    }

    /// Lets go of journal segments that nobody needs any more, this site's index included.
    pub(crate) fn release(&mut self) {
        let mut flushed = self.server.flushed.progress.clone();
        flushed.set(self.me, self.durable_end());
        let released = self.daemon.settled.released(&flushed);
        self.daemon
            .releasing
            .push_back((self.server.insert, released));
        while let Some((at, released)) = self.daemon.releasing.front() {
            let daemon = &self.daemon;
            let repairing = !daemon.repairs.is_empty() || !daemon.truncates_to_repeat.is_empty();
            if (*at > daemon.captured_durable || repairing) && self.rules.has(Rule::Captured) {
                break;
            }
            self.released.merge(released);
            self.daemon.releasing.pop_front();
            // Before anything is let go: of a key that is looked at again the journals must have
            // what is newer, or the look would take that for the row behind the delete.
            if self.rules.has(Rule::Looked) {
                self.looked = self.durable_end();
            }
        }
    }
}

impl Daemon {
    /// Puts an entry into the index, with what its transaction claims to have seen.
    pub(crate) fn announce(
        &mut self,
        relation: RelationHash,
        hash: KeyHash,
        entry: Entry,
        seen: &Arc<Vector>,
        rules: Rules,
    ) {
        match entry.version.is_ranked() && rules.has(Rule::Known) {
            true => drop(self.index.announce_ranked(relation, hash, entry, seen)),
            false => drop(self.index.announce(relation, hash, entry)),
        }
    }

    pub(crate) fn new(me: NodeId, sites: usize, last: Stamp, spills: bool) -> Self {
        Daemon {
            index: Known::new(spills),
            clock: HybridClock::restored(last),
            policies: Policies::new(),
            settled: Settled::new(me, (0..sites).map(node)),
            captured: Lsn::ZERO,
            next_record: 0,
            captured_durable: Lsn::ZERO,
            claims: Vector::new(),
            seen: Vector::new(),
            marks: Vec::new(),
            dispatched: Vector::new(),
            applied: Vector::new(),
            flights: BTreeMap::new(),
            landings: VecDeque::new(),
            repairs: BTreeMap::new(),
            truncates_to_repeat: BTreeMap::new(),
            tail: Vector::new(),
            tail_applied: Lsn::ZERO,
            sent: Vec::new(),
            emitted: BTreeSet::new(),
            releasing: VecDeque::new(),
        }
    }
}

pub(crate) fn end_of(journal: &[Transaction]) -> Lsn {
    journal.last().map_or(Lsn::ZERO, |t| t.position)
}

impl Paths {
    pub(crate) fn add(&mut self, other: &Paths) {
        self.fast += other.fast;
        self.careful += other.careful;
        self.repaired += other.repaired;
        self.fetched += other.fetched;
        self.replaced += other.replaced;
        self.lost += other.lost;
        self.travelled += other.travelled;
        self.overtaken += other.overtaken;
        self.undone += other.undone;
        self.over_claimed += other.over_claimed;
        self.crashes += other.crashes;
        self.truncates += other.truncates;
        self.held += other.held;
        self.split += other.split;
    }
}
