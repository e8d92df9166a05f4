//! Many sites, one seed: a random schedule, then healing, then the checks.

use everywrite_conflict::{Position, Stamp, Vector, invariants};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::data::{Key, Transaction};
use crate::network::{Network, Packet, Sent};
use crate::replay::Answer;
use crate::rnd::Rnd;
use crate::rules::Rules;
use crate::site::{Paths, Site, end_of, node, site_of};

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
    /// How often, in percent of the steps, the network changes.
    pub(crate) cuts: u64,
    /// How far a clock jumps, forward or back; 0: clocks only drift and are set back a little.
    pub(crate) jumps: i64,
    /// For how many steps a site is away at a time; 0: never.
    pub(crate) away: usize,
    /// How often, in percent of the steps, entries of an index go to files.
    pub(crate) spills: u64,
}

/// Far from zero, whatever the clocks do.
const START: i64 = 1_000_000;

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) forgotten: usize,
    pub(crate) conflicts: usize,
    pub(crate) paths: Paths,
    pub(crate) spilled: usize,
    pub(crate) recalled: usize,
}

pub(crate) struct World {
    pub(crate) sites: Vec<RefCell<Site>>,
    rnd: Rnd,
    clock: i64,
    pub(crate) network: Network,
}

/// Runs one schedule. A panic in the crate's own assertions counts as a failure.
pub(crate) fn run(seed: u64, rules: Rules, shape: Shape) -> Result<End, String> {
    catch_unwind(AssertUnwindSafe(|| {
        World::new(seed, rules, shape).run(shape)
    }))
    .unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let literal = || panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        Err(text.or_else(literal).unwrap_or_default())
    })
}

impl World {
    fn new(seed: u64, rules: Rules, shape: Shape) -> Self {
        let mut rnd = Rnd(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) + 1);
        let sites = (0..shape.sites).map(|i| {
            let skew = rnd.between(-shape.skew, shape.skew);
            let mut site = Site::new(i, shape.sites, rules, skew, shape.spills > 0);
            if shape.skew > 0 {
                site.drift = rnd.between(-30, 30);
            }
            RefCell::new(site)
        });
        let sites = sites.collect();
        World {
            sites,
            rnd,
            clock: START,
            network: Network::default(),
        }
    }

    fn run(mut self, shape: Shape) -> Result<End, String> {
        for step in 0..shape.steps {
            self.clock += self.rnd.between(0, 3);
            self.network.step(step);
            if shape.away > 0 && self.rnd.below(shape.away) == 0 {
                let site = self.rnd.below(shape.sites);
                self.network.goes_away(site, step + shape.away);
            }
            self.step(shape)?;
        }
        self.heal()?;
        self.check()
    }

    fn time(&mut self, site: usize) -> Stamp {
        // A transaction takes its timestamp before its place in the WAL.
        let jitter = self.rnd.between(0, 2);
        let site = self.sites[site].borrow();
        let drift = (self.clock - START) * site.drift / 1000;
        Stamp(self.clock + drift + site.skew - jitter)
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
        if shape.cuts > 0 && self.rnd.chance(shape.cuts) {
            self.network.changes(&mut self.rnd, shape.sites);
        }
        if shape.jumps > 0 && self.rnd.chance(1) {
            let jump = self.rnd.between(-shape.jumps, shape.jumps);
            self.sites[me].borrow_mut().skew += jump;
        }
        if shape.spills > 0 && self.rnd.chance(shape.spills) {
            let away = self.rnd.below(shape.sites + 1);
            self.sites[me].borrow_mut().spill(away);
        }
        for _ in 0..self.rnd.below(4) {
            self.arrive()?;
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
            32..37 => self.sites[me].borrow_mut().fsync(),
            37..40 => self.sites[me].borrow_mut().fsync_received(),
            40..44 => self.send_outbox(me),
            44..54 => self.ask_for_journal(me, other),
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
            94..96 => self.forget(me)?,
            96 => self.sites[me].borrow_mut().release(),
            97 if shape.crashes > 0 => self.crash(me),
            98 if self.rnd.chance(shape.rests) => {
                self.heal()?;
                self.tell_all()?;
            }
            98 => self.tell_all()?,
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

    /// Asks some site for more of some origin's journal.
    fn ask_for_journal(&mut self, me: usize, other: usize) {
        let origin = self.rnd.below(self.sites.len());
        if me != other && origin != me {
            let have = self.sites[me].borrow().received[origin];
            self.network.send(me, other, Packet::Ask { origin, have });
        }
    }

    /// Something arrives, if it does.
    fn arrive(&mut self) -> Result<(), String> {
        let Some(Sent { from, to, packet }) = self.network.arrives(&mut self.rnd) else {
            return Ok(());
        };
        match packet {
            Packet::Ask { origin, have } => self.answer_for_journal(to, from, origin, have)?,
            Packet::Journal {
                origin,
                from: first,
                to: end,
            } => self.receive(to, origin, first, end),
            Packet::Beat(beat) => {
                let settled = &mut self.sites[to].borrow_mut().daemon.settled;
                settled.beat(beat.node, beat.end, beat.applied);
            }
        }
        Ok(())
    }

    /// `me` sends what it has of an origin's journal behind `have`.
    fn answer_for_journal(
        &mut self,
        me: usize,
        to: usize,
        origin: usize,
        have: usize,
    ) -> Result<(), String> {
        let there = self.sites[me].borrow().offers(origin);
        if there <= have {
            return Ok(());
        }
        let end = have + 1 + self.rnd.below(there - have);
        let of = self.sites[origin].borrow();
        let given = end_of(&of.journal[..end]);
        let durable = match me == origin {
            true => of.durable_end(),
            false => end_of(&of.journal[..self.sites[me].borrow().received_durable[origin]]),
        };
        invariants::durable_first(node(origin), given, durable).map_err(|e| e.to_string())?;
        let from = have;
        let piece = Packet::Journal {
            origin,
            from,
            to: end,
        };
        self.network.send(me, to, piece);
        Ok(())
    }

    /// A piece of a journal arrives. What is here already is passed over; what does not follow on what is
    /// here is asked for again.
    fn receive(&mut self, me: usize, origin: usize, first: usize, end: usize) {
        let mut site = self.sites[me].borrow_mut();
        let here = site.received[origin];
        if end <= here {
            return;
        }
        let from = self.sites[origin].borrow();
        let next = &from.journal[first.max(here)];
        let last = end_of(&from.journal[..here]);
        let follows =
            invariants::origin_order(node(origin), last, next.previous, next.position).is_ok();
        if follows {
            site.received[origin] = end;
        }
    }

    fn dispatch(&mut self, me: usize, origin: usize) {
        if me == origin {
            return;
        }
        let most = [1, 1, 2, 3, 5, 8][self.rnd.below(6)];
        let mut site = self.sites[me].borrow_mut();
        let from = self.sites[origin].borrow();
        let received = site.received_durable[origin];
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
        self.whole_rows(me)?;
        self.unique_values(me)
    }

    /// The row of a position from `helper`, if that has it, else from where it was written.
    fn ask(&self, me: usize, helper: usize, at: Position, key: Key) -> Option<Answer> {
        let origin = site_of(at.origin);
        let has = helper != me
            && helper != origin
            && self.sites[helper].borrow().daemon.applied.covers(at);
        let site = if has { helper } else { origin };
        if !self.network.reaches(me, site) {
            return None;
        }
        self.sites[site].borrow_mut().answer(at, key)
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
        for to in (0..self.sites.len()).filter(|to| *to != me) {
            self.network.send(me, to, Packet::Beat(beat.clone()));
        }
    }

    pub(crate) fn forget(&mut self, me: usize) -> Result<(), String> {
        let everywhere: Vector = (0..self.sites.len())
            .map(|x| {
                let applied = self.sites.iter().enumerate().map(|(i, s)| match i == x {
                    true => s.borrow().durable_end(),
                    false => s.borrow().daemon.applied.get(node(x)),
                });
                (node(x), applied.min().unwrap_or_default())
            })
            .collect();
        let dropped = self.sites[me].borrow_mut().forget(&everywhere);
        self.forgot_what_is_stable(me, &dropped)
    }

    /// Every site's beat gets to everybody whom it reaches, at once.
    pub(crate) fn tell_all(&mut self) -> Result<(), String> {
        for from in 0..self.sites.len() {
            let beat = self.sites[from].borrow().beat();
            for (to, site) in self.sites.iter().enumerate() {
                if to != from && self.network.passes(from, to) {
                    let settled = &mut site.borrow_mut().daemon.settled;
                    settled.beat(beat.node, beat.end, beat.applied.clone());
                }
            }
        }
        for me in 0..self.sites.len() {
            self.forget(me)?;
        }
        Ok(())
    }

    fn crash(&mut self, me: usize) {
        let server = self.rnd.chance(40);
        // What was written and not synced may be there or not; what is half there is cut.
        let mut tail =
            |written: usize, durable: usize| durable + self.rnd.below(written - durable + 1);
        let mut site = self.sites[me].borrow_mut();
        let own = tail(site.journal.len(), site.durable);
        site.journal.truncate(own);
        site.durable = own;
        for origin in 0..site.sites {
            let left = tail(site.received[origin], site.received_durable[origin]);
            site.received[origin] = left;
            site.received_durable[origin] = left;
        }
        drop(site);
        let journals: Vec<Vec<Transaction>> = self
            .sites
            .iter()
            .map(|s| s.borrow().journal.clone())
            .collect();
        self.sites[me].borrow_mut().crash(server, &journals);
    }

    /// No more writes and faults: everything that was written gets everywhere.
    fn heal(&mut self) -> Result<(), String> {
        self.network.heals();
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
                        self.sites[me].borrow_mut().fsync_received();
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
}
