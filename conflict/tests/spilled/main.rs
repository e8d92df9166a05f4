//! An index whose entries leave memory for files says what one says that keeps them all.
//!
//! One site of three, over random schedules: transactions of the two others come in their order, are on their
//! way, land, fail and come again; local ones are captured behind the server; rows lose and are won back; tables
//! are truncated; the daemon starts anew from the journals. Nothing is decided and no row is written here: each
//! question that the site has to ask of its index is asked of both, see `known`.
//!
//! `EVERYWRITE_SEEDS` says how many runs.

mod known;

use std::collections::VecDeque;

use everywrite_conflict::{Entry, First, HybridClock, KeyHash, Lsn, NodeId, Position, Stamp};
use everywrite_conflict::{Vector, Version};
use known::{BothUndo, Known};

const ME: usize = 0;
const SITES: usize = 3;
const KEYS: u64 = 8;
const STEPS: usize = 500;

/// Randomness from one seed (splitmix64): the same seed repeats a run.
struct Rnd(u64);

impl Rnd {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

fn node(site: usize) -> NodeId {
    NodeId(site as u16 + 1)
}

fn key(n: u64) -> KeyHash {
    KeyHash(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n))
}

/// What a transaction does.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// A row is written, or deleted.
    Row(KeyHash, bool),
    /// Alone in its transaction.
    Truncate,
    /// A decided delete that travels, with the winner's version; alone too.
    Lost(KeyHash, Version),
}

#[derive(Clone, Debug)]
struct Transaction {
    at: Position,
    stamp: Stamp,
    seen: Vector,
    ops: Vec<Op>,
}

impl Transaction {
    fn version(&self) -> Version {
        Version::new(self.stamp, self.at.origin)
    }

    fn alone(&self) -> bool {
        !matches!(self.ops[0], Op::Row(..))
    }

    fn entry(&self, op: Op, local_lsn: Lsn) -> (Option<KeyHash>, Entry) {
        let (key, version, deleted) = match op {
            Op::Row(key, deleted) => (Some(key), self.version(), deleted),
            Op::Truncate => (None, self.version(), true),
            Op::Lost(key, version) => (Some(key), version, true),
        };
        let entry = Entry {
            version,
            source: Some(self.at),
            deleted,
            local_lsn,
        };
        (key, entry)
    }
}

/// Another site, or this one's journal.
#[derive(Default)]
struct Origin {
    clock: HybridClock,
    seen: Vector,
    journal: Vec<Transaction>,
}

impl Origin {
    fn end(&self) -> Lsn {
        self.journal.last().map_or(Lsn::ZERO, |t| t.at.lsn)
    }
}

/// A group on its way.
struct Flight {
    group: Vec<Transaction>,
    /// One change a key.
    changes: Vec<(Option<KeyHash>, Entry)>,
    /// What is taken back if it fails.
    lost: Vec<(KeyHash, Version, BothUndo)>,
}

struct World {
    rnd: Rnd,
    time: i64,
    origins: Vec<Origin>,
    known: Known,
    /// Commits that are not captured: where they end.
    wal: VecDeque<(Lsn, Vec<Op>)>,
    insert: Lsn,
    captured: Lsn,
    dispatched: Vector,
    applied: Vector,
    flushed: Vector,
    flights: Vec<VecDeque<Flight>>,
    outbox: Vec<(KeyHash, Version)>,
    /// Of files that are gone with their daemons.
    moved: (usize, usize),
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            rnd: Rnd(seed),
            time: 1_000_000,
            origins: (0..SITES).map(|_| Origin::default()).collect(),
            known: Known::default(),
            wal: VecDeque::new(),
            insert: Lsn::ZERO,
            captured: Lsn::ZERO,
            dispatched: Vector::new(),
            applied: Vector::new(),
            flushed: Vector::new(),
            flights: (0..SITES).map(|_| VecDeque::new()).collect(),
            outbox: Vec::new(),
            moved: (0, 0),
        }
    }

    fn run(mut self) -> (usize, usize) {
        for _ in 0..STEPS {
            self.time += self.rnd.below(4) as i64;
            self.step();
        }
        self.heal();
        assert_eq!(self.known.len(), 0, "something is remembered for ever");
        self.counted();
        self.moved
    }

    fn step(&mut self) {
        let other = 1 + self.rnd.below(SITES - 1);
        match self.rnd.below(100) {
            0..20 => self.writes(other),
            20..26 => {
                let ops = self.some_ops(ME);
                self.commits(ops);
            }
            26..31 => self.captures(),
            31..36 => self.forgets(),
            36..54 => self.dispatches(other),
            54..68 => self.lands(other),
            68..71 => self.breaks(other),
            71..74 => self.loses(other),
            74..78 => self.sends(),
            78..84 => self.spills(),
            84..86 => self.known.merge_files(other),
            86..94 => self.flushed = self.applied.clone(),
            94 => self.server_crashes(),
            95 => self.restarts(),
            _ => {
                let key = self.some_key();
                self.known.get(key);
            }
        }
    }

    fn some_key(&mut self) -> KeyHash {
        key(self.rnd.next() % KEYS)
    }

    fn some_time(&mut self) -> Stamp {
        Stamp(self.time + self.rnd.below(40) as i64)
    }

    /// Of a transaction of a site, which knows all that it has seen.
    fn some_ops(&mut self, site: usize) -> Vec<Op> {
        if self.rnd.chance(2) {
            return vec![Op::Truncate];
        }
        if site != ME && self.rnd.chance(5) {
            let origin = &self.origins[site];
            if let Some(last) = origin.journal.last() {
                let version = last.version();
                return vec![Op::Lost(self.some_key(), version)];
            }
        }
        let rows = 1 + self.rnd.below(3);
        let rows = (0..rows).map(|_| Op::Row(self.some_key(), self.rnd.chance(30)));
        rows.collect()
    }

    /// Another site commits something, with more or less of what there is applied.
    fn writes(&mut self, site: usize) {
        for of in (0..SITES).filter(|of| *of != site) {
            let there = self.origins[of].end().0;
            let from = self.origins[site].seen.get(node(of)).0;
            if there > from && self.rnd.chance(60) {
                let some = from + 1 + self.rnd.next() % (there - from);
                let up_to = Lsn(if self.rnd.chance(50) { there } else { some });
                let journal = self.origins[of].journal.iter();
                let new = journal.filter(|t| t.at.lsn <= up_to).map(|t| t.stamp).max();
                let origin = &mut self.origins[site];
                origin.seen.raise(node(of), up_to);
                new.into_iter().for_each(|stamp| origin.clock.saw(stamp));
            }
        }
        let (time, ops) = (self.some_time(), self.some_ops(site));
        let origin = &mut self.origins[site];
        let lsn = Lsn(origin.end().0 + 1);
        origin.journal.push(Transaction {
            at: Position {
                origin: node(site),
                lsn,
            },
            stamp: origin.clock.stamp(time),
            seen: origin.seen.clone(),
            ops,
        });
    }

    // ---- what is local ----

    fn advances(&mut self) -> Lsn {
        self.insert = Lsn(self.insert.0 + 1);
        self.insert
    }

    fn commits(&mut self, ops: Vec<Op>) {
        let end = self.advances();
        self.wal.push_back((end, ops));
    }

    fn sends(&mut self) {
        if let Some((key, version)) = self.outbox.pop() {
            self.commits(vec![Op::Lost(key, version)]);
        }
    }

    fn captures(&mut self) {
        let Some((position, mut ops)) = self.wal.pop_front() else {
            self.captured = self.insert;
            return;
        };
        self.captured = position;
        let time = self.some_time();
        let stamp = self.origins[ME].clock.stamp(time);
        if self.known.capture_asks(position, stamp) {
            self.known.recall((0..KEYS).map(key));
        }
        ops.retain(|op| match op {
            Op::Lost(key, version) => self.known.travels(*key, *version),
            _ => true,
        });
        if ops.is_empty() {
            return;
        }
        let transaction = Transaction {
            at: Position {
                origin: node(ME),
                lsn: position,
            },
            stamp,
            seen: self.dispatched.clone(),
            ops,
        };
        for (key, entry) in changes(std::slice::from_ref(&transaction), Lsn::ZERO) {
            match key {
                // What came before it is nothing to it.
                Some(key) => {
                    self.known.in_memory(key, |e| e.local_lsn < position);
                    self.known.announce(key, entry);
                }
                None => self.known.announce_truncate(entry),
            }
        }
        self.origins[ME].journal.push(transaction);
    }

    // ---- what comes from others ----

    fn dispatches(&mut self, site: usize) {
        let most = 1 + self.rnd.below(4);
        let (origin, from) = (node(site), self.dispatched.get(node(site)));
        let mut group: Vec<Transaction> = Vec::new();
        let journal = &self.origins[site].journal;
        let start = journal.partition_point(|t| t.at.lsn <= from);
        for transaction in journal[start..].iter().take(most) {
            let here =
                |(of, lsn)| of == node(ME) || self.applied.covers(Position { origin: of, lsn });
            let waits = !transaction.seen.iter().all(here);
            if waits || transaction.alone() && !group.is_empty() {
                break;
            }
            group.push(transaction.clone());
            if transaction.alone() {
                break;
            }
        }
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return;
        };
        let last = last.at.lsn;
        let changes = changes(&group, Lsn::MAX);
        let truncates = changes.iter().any(|(key, _)| key.is_none());
        let keys: Vec<KeyHash> = match truncates {
            true => (0..KEYS).map(key).collect(),
            false => changes.iter().filter_map(|(key, _)| *key).collect(),
        };
        // A delete that travels has another version than its transaction.
        let travels = matches!(first.ops[0], Op::Lost(..));
        let asks = First {
            position: first.at,
            stamp: first.stamp,
            seen: &first.seen,
        };
        if self.known.group_asks((!travels).then_some(asks)) {
            self.known.recall(keys.iter().copied());
        }
        // What all of the group have seen is no opponent.
        let seen = |e: &Entry| {
            e.version < first.version()
                && e.source.is_some_and(|s| match s.origin == origin {
                    true => s.lsn < first.at.lsn,
                    false => first.seen.covers(s),
                })
        };
        for key in keys {
            let entry = self.known.in_memory(key, seen);
            if entry.is_some_and(|e| e.undecided()) {
                return;
            }
        }
        for transaction in &group {
            self.origins[ME].clock.saw(transaction.stamp);
        }
        for &(key, entry) in &changes {
            match key {
                Some(key) => self.known.announce(key, entry),
                None => self.known.announce_truncate(entry),
            }
        }
        self.dispatched.set(origin, last);
        self.flights[site].push_back(Flight {
            group,
            changes,
            lost: Vec::new(),
        });
    }

    fn lands(&mut self, site: usize) {
        let Some(flight) = self.flights[site].pop_front() else {
            return;
        };
        let at = self.advances();
        self.advances();
        for (key, entry) in flight.changes {
            match key {
                Some(key) => self.known.landed(key, entry.version, at),
                None => self.known.truncate_landed(entry.version, at),
            }
        }
        let end = flight.group.last().map_or(Lsn::ZERO, |t| t.at.lsn);
        self.applied.raise(node(site), end);
        if !flight.lost.is_empty() {
            // What was decided is flushed.
            self.flushed = self.applied.clone();
        }
        for (key, version, _) in flight.lost {
            self.known.landed(key, version, at);
            self.outbox.push((key, version));
        }
    }

    /// A row has the unique value of one that is on its way, and goes.
    fn loses(&mut self, site: usize) {
        let key = self.some_key();
        let winner = self.flights[site].front().and_then(|f| f.changes.last());
        let winner = winner.filter(|(winner, _)| winner.is_some_and(|w| w != key));
        let Some(version) = winner.map(|(_, entry)| entry.version) else {
            return;
        };
        if self.known.get(key).is_some_and(|e| e.undecided()) {
            return;
        }
        let undo = self.known.lose(key, version);
        if let Some(flight) = self.flights[site].front_mut() {
            flight.lost.push((key, version, undo));
        }
    }

    /// A session ends: what was on its way comes again.
    fn breaks(&mut self, site: usize) {
        for flight in std::mem::take(&mut self.flights[site]).into_iter().rev() {
            for (key, _, undo) in flight.lost.into_iter().rev() {
                self.known.recall([key]);
                self.known.undo(undo);
            }
        }
        let applied = self.applied.get(node(site));
        self.dispatched.set(node(site), applied);
    }

    /// What was not flushed comes again.
    fn server_crashes(&mut self) {
        self.applied = self.flushed.clone();
        (1..SITES).for_each(|site| self.breaks(site));
    }

    // ---- what is kept, and where ----

    fn spills(&mut self) {
        let (all, stable, captured) = (self.rnd.chance(50), self.stable(), self.captured);
        self.known.spill(|e| {
            all || e.local_lsn <= captured && e.source.is_some_and(|s| stable.covers(s))
        });
    }

    /// What nobody writes any more who has not seen it, and what no crash takes back.
    fn stable(&self) -> Vector {
        let of = |site: usize| {
            let here = match site {
                ME => self.origins[ME].end(),
                _ => self.flushed.get(node(site)),
            };
            let others = (1..SITES).filter(|other| *other != site);
            let saw = others.map(|other| {
                let flushed = self.flushed.get(node(other));
                let mut journal = self.origins[other].journal.iter();
                let next = journal.find(|t| t.at.lsn > flushed).map(|t| &t.seen);
                next.unwrap_or(&self.origins[other].seen).get(node(site))
            });
            (node(site), saw.min().map_or(here, |saw| saw.min(here)))
        };
        (0..SITES).map(of).collect()
    }

    fn forgets(&mut self) {
        let stable = self.stable();
        self.known.forget(&stable, self.captured);
    }

    /// The daemon starts anew, and reads one journal after the other.
    fn restarts(&mut self) {
        (1..SITES).for_each(|site| self.breaks(site));
        self.counted();
        self.known = Known::default();
        for site in 0..SITES {
            let up_to = match site {
                ME => self.origins[ME].end(),
                _ => self.applied.get(node(site)),
            };
            for at in 0..self.origins[site].journal.len() {
                let transaction = self.origins[site].journal[at].clone();
                if transaction.at.lsn > up_to {
                    break;
                }
                for (key, entry) in changes(std::slice::from_ref(&transaction), self.insert) {
                    let Some(key) = key else {
                        self.known.announce_truncate(entry);
                        continue;
                    };
                    if self.known.hides_above(entry.version.stamp) {
                        self.known.recall([key]);
                    }
                    self.known.announce(key, entry);
                }
                if self.rnd.chance(5) {
                    self.known.spill(|_| true);
                }
            }
        }
        let waiting = self.wal.iter().flat_map(|(_, ops)| ops);
        let waiting = waiting.filter_map(|op| match op {
            Op::Lost(key, version) => Some((*key, *version)),
            _ => None,
        });
        for (key, version) in self.outbox.iter().copied().chain(waiting) {
            let entry = Entry {
                version,
                source: None,
                deleted: true,
                local_lsn: self.insert,
            };
            if self.known.hides_above(version.stamp) {
                self.known.recall([key]);
            }
            self.known.announce(key, entry);
        }
    }

    fn counted(&mut self) {
        self.moved.0 += self.known.spilled;
        self.moved.1 += self.known.recalled;
    }

    /// Everything gets everywhere, and everybody says so.
    fn heal(&mut self) {
        while !self.outbox.is_empty() {
            self.sends();
        }
        while !self.wal.is_empty() {
            self.captures();
        }
        let all = |world: &World, site: usize| {
            world.dispatched.get(node(site)) == world.origins[site].end()
        };
        while !(1..SITES).all(|site| all(self, site)) {
            for site in 1..SITES {
                self.dispatches(site);
                self.lands(site);
            }
        }
        for site in 1..SITES {
            while !self.flights[site].is_empty() {
                self.lands(site);
            }
        }
        while !self.outbox.is_empty() || !self.wal.is_empty() {
            self.sends();
            self.captures();
        }
        for site in 1..SITES {
            for of in (0..SITES).filter(|of| *of != site) {
                let end = self.origins[of].end();
                self.origins[site].seen.raise(node(of), end);
            }
        }
        self.flushed = self.applied.clone();
        self.captured = self.insert;
        for n in 0..KEYS {
            self.known.get(key(n));
        }
        self.forgets();
        self.forgets();
    }
}

/// One change of each key.
fn changes(group: &[Transaction], local_lsn: Lsn) -> Vec<(Option<KeyHash>, Entry)> {
    let mut changes: Vec<(Option<KeyHash>, Entry)> = Vec::new();
    for transaction in group {
        for op in &transaction.ops {
            let change = transaction.entry(*op, local_lsn);
            match changes.iter_mut().find(|c| c.0 == change.0) {
                Some(known) => *known = change,
                None => changes.push(change),
            }
        }
    }
    changes
}

#[test]
fn an_index_that_spills_says_what_a_whole_one_says() {
    let seeds = std::env::var("EVERYWRITE_SEEDS").ok();
    let seeds = seeds.and_then(|s| s.parse().ok()).unwrap_or(300);
    let mut moved = (0, 0);
    for seed in 0..seeds {
        let run = std::panic::AssertUnwindSafe(|| World::new(seed).run());
        let (spilled, recalled) = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            println!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        moved = (moved.0 + spilled, moved.1 + recalled);
    }
    assert!(moved.0 > 0 && moved.1 > 0, "{moved:?}");
}
