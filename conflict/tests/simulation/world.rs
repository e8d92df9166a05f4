//! Many sites, one seed: a random schedule, then healing, then the checks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use everywrite_conflict::{Position, Stamp, Vector, Version, invariants};

use crate::data::{self, Key, Op, Transaction};
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

    /// I5: for every key the state is the write with the highest version.
    fn highest_versions(&self, rows: &BTreeMap<Key, (Option<u8>, u64, u64)>) -> Result<(), String> {
        let mut highest: BTreeMap<Key, (Version, Option<u64>)> = BTreeMap::new();
        let mut write = |key: Key, version: Version, plain: Option<u64>| {
            let known = highest.entry(key).or_insert((version, plain));
            if version >= known.0 {
                *known = (version, plain);
            }
        };
        for site in &self.sites {
            for transaction in &site.borrow().journal {
                let version = transaction.version;
                for op in &transaction.ops {
                    match op {
                        Op::Insert(key, row) | Op::Update(key, row) => {
                            write(*key, version, Some(row.plain));
                        }
                        Op::Delete(key) => write(*key, version, None),
                        Op::Lost(key, version) => write(*key, *version, None),
                        Op::Move(old, new, row) => {
                            write(*old, version, None);
                            write(*new, version, Some(row.plain));
                        }
                        Op::Truncate(table) => {
                            for key in (0..32).filter(|k| data::relation(*k) == data::table(*table))
                            {
                                write(key, version, None);
                            }
                        }
                    }
                }
            }
        }
        for (key, (version, plain)) in highest {
            if rows.get(&key).map(|r| r.1) != plain {
                return Err(format!(
                    "key {key}: {:?} is not the write of {version:?}",
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
