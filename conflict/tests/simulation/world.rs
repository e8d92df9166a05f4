//! Many sites, one seed: a random schedule, then healing, then the checks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use everywrite_conflict::policy::Epoch;
use everywrite_conflict::{NodeId, Position, Stamp, Vector, Version, invariants};

use crate::data::{self, Key, Op, TABLES, Transaction};
use crate::replay::Answer;
use crate::rnd::Rnd;
use crate::rules::{Rule, Rules};
use crate::site::{Beat, Paths, Site, node, site_of};

/// What kind of cluster, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) sites: usize,
    pub(crate) skew: i64,
    pub(crate) steps: usize,
    pub(crate) keys: usize,
    pub(crate) values: usize,
    /// 0: none, 1: now and then, else in percent of the steps.
    pub(crate) crashes: u64,
    /// How often, in percent of the steps, a table's policy is set.
    pub(crate) policies: u64,
    /// How often, in percent, all sites come to rest instead of only telling how far they are.
    pub(crate) rests: u64,
}

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) forgotten: usize,
    pub(crate) conflicts: usize,
    pub(crate) paths: Paths,
}

struct World {
    sites: Vec<RefCell<Site>>,
    rnd: Rnd,
    clock: i64,
    /// Beats under way: to whom.
    beats: Vec<(usize, Beat)>,
}

/// Runs one schedule. A panic in the crate's own assertions counts as a failure.
pub(crate) fn run(seed: u64, rules: Rules, shape: Shape) -> Result<End, String> {
    catch_unwind(AssertUnwindSafe(|| {
        World::new(seed, rules, shape).run(shape)
    }))
    .unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "an assertion".to_owned()))
    })
}

impl World {
    fn new(seed: u64, rules: Rules, shape: Shape) -> Self {
        let mut rnd = Rnd(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) + 1);
        let sites = (0..shape.sites).map(|i| {
            let skew = rnd.between(-shape.skew, shape.skew);
            RefCell::new(Site::new(i, shape.sites, rules, skew))
        });
        let sites = sites.collect();
        World {
            sites,
            rnd,
            clock: 1000,
            beats: Vec::new(),
        }
    }

    fn run(mut self, shape: Shape) -> Result<End, String> {
        for _ in 0..shape.steps {
            self.clock += self.rnd.between(0, 3);
            self.step(shape)?;
        }
        self.heal()?;
        self.check()
    }

    fn time(&mut self, site: usize) -> Stamp {
        // A transaction takes its timestamp before its place in the WAL.
        let jitter = self.rnd.between(0, 2);
        Stamp(self.clock + self.sites[site].borrow().skew - jitter)
    }

    fn step(&mut self, shape: Shape) -> Result<(), String> {
        let me = self.rnd.below(self.sites.len());
        let other = self.rnd.below(self.sites.len());
        tell!("site {me}, {other}");
        if shape.crashes > 1 && self.rnd.chance(shape.crashes) {
            self.crash(me);
        }
        if shape.policies > 0 && self.rnd.chance(shape.policies) {
            let time = self.time(me);
            let mut site = self.sites[me].borrow_mut();
            let id = site.me;
            site.server.set_policy(time, id, &mut self.rnd, shape.sites);
        }
        match self.rnd.below(100) {
            0..22 => {
                let time = self.time(me);
                let mut site = self.sites[me].borrow_mut();
                site.server
                    .write_something(time, &mut self.rnd, shape.keys, shape.values);
            }
            22..32 => {
                let most = self.rnd.below(3) + 1;
                self.sites[me].borrow_mut().capture(most);
            }
            32..40 => self.sites[me].borrow_mut().fsync(),
            40..44 => self.send_outbox(me),
            44..54 => self.pull(me, other),
            54..66 => {
                let with = |s: &Site, x: usize| {
                    let here = s.journal_position(&self.sites, x);
                    here > s.daemon.dispatched.get(node(x))
                };
                let origin = self.some_origin(me, with);
                self.dispatch(me, origin);
            }
            66..78 => {
                let flying = |s: &Site, x: usize| {
                    s.daemon
                        .flights
                        .get(&node(x))
                        .is_some_and(|f| !f.is_empty())
                };
                let origin = self.some_origin(me, flying);
                self.carry_out(me, origin, true)?;
            }
            78..85 => {
                self.sites[me].borrow_mut().land();
            }
            85..88 => self.repair(me),
            88..91 => self.sites[me].borrow_mut().server.flush(),
            91..94 => self.beat(me),
            94..96 => {
                self.deliver();
                self.forget(me);
            }
            96 => self.sites[me].borrow_mut().release(),
            97 if shape.crashes > 0 => self.crash(me),
            98 if self.rnd.chance(shape.rests) => {
                self.heal()?;
                self.tell_all();
            }
            98 => self.tell_all(),
            _ => self.sites[me].borrow_mut().skew -= self.rnd.between(1, 20),
        }
        Ok(())
    }

    /// One of the origins that have something to do here, if there is one.
    fn some_origin(&self, me: usize, has: impl Fn(&Site, usize) -> bool) -> usize {
        let site = self.sites[me].borrow();
        let origins = (0..self.sites.len()).filter(|&x| x != me && has(&site, x));
        let all: Vec<usize> = origins.collect();
        let dice = (self.clock as usize).wrapping_mul(31) + self.rnd.0 as usize;
        all.get(dice % all.len().max(1)).copied().unwrap_or(me)
    }

    fn send_outbox(&mut self, me: usize) {
        let time = self.time(me);
        self.sites[me].borrow_mut().send_outbox(time);
    }

    /// Gets some origin's journal from any site that has more of it.
    fn pull(&mut self, me: usize, from: usize) {
        let origin = self.rnd.below(self.sites.len());
        if me == from || origin == me {
            return;
        }
        let there = {
            let from_site = self.sites[from].borrow();
            if from == origin {
                from_site.durable
            } else {
                from_site.received[origin]
            }
        };
        let mut site = self.sites[me].borrow_mut();
        let here = site.received[origin];
        if there > here {
            site.received[origin] = here + 1 + self.rnd.below(there - here);
        }
    }

    fn dispatch(&mut self, me: usize, origin: usize) {
        if me == origin {
            return;
        }
        let most = [1, 1, 2, 3, 5, 8][self.rnd.below(6)];
        let mut site = self.sites[me].borrow_mut();
        let from = self.sites[origin].borrow();
        let received = site.received[origin];
        site.dispatch(node(origin), &from.journal[..received], most);
    }

    fn carry_out(&mut self, me: usize, origin: usize, faults: bool) -> Result<(), String> {
        if me == origin {
            return Ok(());
        }
        let helper = self.rnd.below(self.sites.len());
        let fast = self.rnd.chance(70);
        let rollback = faults && self.rnd.chance(15);
        let fetch = |at: Position, key: Key| self.ask(me, helper, at, key);
        self.sites[me]
            .borrow_mut()
            .carry_out(node(origin), &fetch, fast, rollback)?;
        self.whole_rows(me)
    }

    /// The row of a position from `helper`, if that has it, else from where it was written.
    fn ask(&self, me: usize, helper: usize, at: Position, key: Key) -> Option<Answer> {
        let origin = site_of(at.origin);
        let has = helper != me
            && helper != origin
            && self.sites[helper].borrow().daemon.applied.covers(at);
        let site = if has { helper } else { origin };
        self.sites[site].borrow_mut().answer(at, key)
    }

    /// Every row is one that somebody has written, not half of one and half of another.
    fn whole_rows(&self, me: usize) -> Result<(), String> {
        let site = self.sites[me].borrow();
        for (key, row) in &site.server.now.rows {
            let written =
                |s: &RefCell<Site>| s.borrow().server.written.get(&(*key, row.plain)).copied();
            let toast = self.sites.iter().find_map(written);
            if toast != Some(row.toast) {
                return Err(format!(
                    "site {me}, key {key}: {row:?} was written with {toast:?}"
                ));
            }
        }
        Ok(())
    }

    fn repair(&mut self, me: usize) {
        let mut site = self.sites[me].borrow_mut();
        if let Some(key) = site.daemon.repairs.keys().next().copied() {
            site.repair(key);
        }
        if let Some(table) = site.daemon.truncates_to_repeat.keys().next().copied() {
            site.repeat_truncate(table);
        }
    }

    fn beat(&mut self, me: usize) {
        let beat = self.sites[me].borrow().beat();
        for to in 0..self.sites.len() {
            if to != me {
                self.beats.push((to, beat.clone()));
            }
        }
    }

    /// Some of the beats arrive, in any order; some never do.
    fn deliver(&mut self) {
        for _ in 0..self.rnd.below(6) {
            if self.beats.is_empty() {
                return;
            }
            let (to, beat) = self.beats.swap_remove(self.rnd.below(self.beats.len()));
            if self.rnd.chance(90) {
                let settled = &mut self.sites[to].borrow_mut().daemon.settled;
                settled.beat(beat.node, beat.end, beat.applied);
            }
        }
    }

    fn forget(&mut self, me: usize) {
        let everywhere: Vector = (0..self.sites.len())
            .map(|x| {
                let applied = self.sites.iter().enumerate().map(|(i, s)| match i == x {
                    true => s.borrow().durable_end(),
                    false => s.borrow().daemon.applied.get(node(x)),
                });
                (node(x), applied.min().unwrap_or_default())
            })
            .collect();
        self.sites[me].borrow_mut().forget(&everywhere);
    }

    /// Every site's beat gets everywhere at once.
    fn tell_all(&mut self) {
        for from in 0..self.sites.len() {
            let beat = self.sites[from].borrow().beat();
            for (to, site) in self.sites.iter().enumerate() {
                if to != from {
                    let settled = &mut site.borrow_mut().daemon.settled;
                    settled.beat(beat.node, beat.end, beat.applied.clone());
                }
            }
        }
        for me in 0..self.sites.len() {
            self.forget(me);
        }
    }

    fn crash(&mut self, me: usize) {
        let server = self.rnd.chance(40);
        let journals: Vec<Vec<Transaction>> = self
            .sites
            .iter()
            .map(|s| s.borrow().journal.clone())
            .collect();
        self.sites[me].borrow_mut().crash(server, &journals);
    }

    /// No more writes and faults: everything that was written gets everywhere.
    fn heal(&mut self) -> Result<(), String> {
        let sites = self.sites.len();
        let mut quiet = 0;
        for _ in 0..2000 {
            self.clock += 1;
            for me in 0..sites {
                self.sites[me].borrow_mut().capture(usize::MAX);
                self.sites[me].borrow_mut().fsync();
                self.send_outbox(me);
                for origin in 0..sites {
                    if origin != me {
                        let durable = self.sites[origin].borrow().durable;
                        self.sites[me].borrow_mut().received[origin] = durable;
                        self.dispatch(me, origin);
                        self.carry_out(me, origin, false)?;
                    }
                }
                while self.sites[me].borrow_mut().land() {}
                self.repair(me);
            }
            quiet = if self.quiet() { quiet + 1 } else { 0 };
            if quiet > 2 {
                return Ok(());
            }
        }
        Err("stuck".to_owned())
    }

    fn quiet(&self) -> bool {
        let ends: Vec<_> = self
            .sites
            .iter()
            .map(|s| s.borrow().durable_end())
            .collect();
        self.sites.iter().all(|site| {
            let site = site.borrow();
            let all = ends.iter().enumerate();
            let mut all =
                all.map(|(x, end)| node(x) == site.me || site.daemon.applied.get(node(x)) == *end);
            all.all(|there| there)
                && site.durable == site.journal.len()
                && site.daemon.next_record == site.server.wal.len()
                && site.server.now.outbox.is_empty()
                && site.daemon.repairs.is_empty()
                && site.daemon.truncates_to_repeat.is_empty()
        })
    }

    fn check(&mut self) -> Result<End, String> {
        let rows = |site: &RefCell<Site>| -> BTreeMap<Key, (Option<u8>, u64, u64)> {
            let rows = &site.borrow().server.now.rows;
            rows.iter()
                .map(|(k, r)| (*k, (r.value, r.plain, r.toast)))
                .collect()
        };
        let states: Vec<_> = self.sites.iter().map(rows).collect();
        invariants::convergence(&states).map_err(|e| e.to_string())?;
        self.highest_versions(&states[0])?;
        self.all_is_forgotten()?;
        let mut end = End::default();
        for site in &self.sites {
            let site = site.borrow();
            end.forgotten += site.forgotten;
            end.conflicts += site.conflicts;
            end.paths.add(&site.paths);
        }
        Ok(end)
    }

    /// I5: for every key the state is the write that stays against every other one.
    fn highest_versions(&self, rows: &BTreeMap<Key, (Option<u8>, u64, u64)>) -> Result<(), String> {
        let mut writes: BTreeMap<Key, Vec<Write>> = BTreeMap::new();
        for site in &self.sites {
            for transaction in &site.borrow().journal {
                for (key, write) in Write::of(site.borrow().me, transaction) {
                    writes.entry(key).or_default().push(write);
                }
            }
        }
        for (key, mut writes) in writes {
            // Of one transaction's writes the last one.
            let mut stays = writes.remove(0);
            for write in &writes {
                if write.same(&stays) || write.over(&stays) {
                    stays = write.clone();
                }
            }
            if let Some(other) = writes.iter().find(|w| !w.same(&stays) && w.over(&stays)) {
                return Err(format!("key {key}: {other:?} is above {stays:?}"));
            }
            let newer = |w: &&Write| w.epoch > stays.epoch && !stays.saw(w);
            if let Some(other) = writes.iter().find(newer) {
                return Err(format!("key {key}: {other:?} is newer than {stays:?}"));
            }
            if rows.get(&key).map(|r| r.1) != stays.plain {
                return Err(format!(
                    "key {key}: {:?} is not the write of {stays:?}",
                    rows.get(&key)
                ));
            }
        }
        Ok(())
    }

    /// When all is applied everywhere and has been told, no index remembers anything.
    fn all_is_forgotten(&mut self) -> Result<(), String> {
        for site in &self.sites {
            site.borrow_mut().server.flush();
        }
        self.tell_all();
        for me in 0..self.sites.len() {
            // Capture passes what replay wrote last.
            let mut site = self.sites[me].borrow_mut();
            site.daemon.captured = site.server.insert;
            site.fsync();
            drop(site);
            self.forget(me);
            let site = self.sites[me].borrow();
            if site.rules.has(Rule::Captured) && !site.daemon.index.is_empty() {
                let left: Vec<_> = site.daemon.index.iter().collect();
                return Err(format!("site {me} still remembers {left:?}"));
            }
        }
        Ok(())
    }
}

/// A write of a key, for the checks.
#[derive(Clone, Debug)]
struct Write {
    version: Version,
    at: Position,
    seen: Arc<Vector>,
    plain: Option<u64>,
    epoch: Epoch,
}

impl Write {
    fn of(me: NodeId, transaction: &Transaction) -> Vec<(Key, Write)> {
        let write = |epoch: Epoch, version: Version, plain: Option<u64>| Write {
            version,
            epoch,
            at: Position {
                origin: me,
                lsn: transaction.position,
            },
            seen: Arc::clone(&transaction.vector),
            plain,
        };
        let epoch = |key: Key| transaction.ranks.epochs[&(key % TABLES)];
        let row = |key: Key, plain| {
            // Or that of what it replaced, if that is newer.
            let version = transaction.row_version(key);
            let epoch = epoch(key).max(version.rank().epoch);
            (key, write(epoch, version, plain))
        };
        let mut writes = Vec::new();
        for op in &transaction.ops {
            match op {
                Op::Insert(key, r) | Op::Update(key, r) => writes.push(row(*key, Some(r.plain))),
                Op::Delete(key) => writes.push(row(*key, None)),
                Op::Lost(key, version) => {
                    writes.push((*key, write(version.rank().epoch, *version, None)));
                }
                Op::Move(old, new, r) => {
                    writes.push(row(*old, None));
                    writes.push(row(*new, Some(r.plain)));
                }
                Op::Truncate(table) => {
                    let keys = (0..32).filter(|k| data::relation(*k) == data::table(*table));
                    let version = transaction.truncate_version(*table);
                    let newest = |key: Key| epoch(key).max(version.rank().epoch);
                    writes.extend(keys.map(|key| (key, write(newest(key), version, None))));
                }
                Op::Policy(_) => {}
            }
        }
        writes
    }

    /// Of one version, which is of one outcome.
    fn same(&self, other: &Write) -> bool {
        self.version == other.version
    }

    /// Whether it stays against the other: it has seen it, or neither has and it is greater.
    fn over(&self, other: &Write) -> bool {
        if !self.version.is_ranked() || !other.version.is_ranked() {
            return self.version > other.version;
        }
        self.saw(other) || (!other.saw(self) && self.version > other.version)
    }

    fn saw(&self, other: &Write) -> bool {
        let later = self.at.origin == other.at.origin && self.at.lsn > other.at.lsn;
        later || self.seen.covers(other.at)
    }
}
