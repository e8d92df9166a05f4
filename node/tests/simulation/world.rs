//! Many sites, one seed: a random schedule, then healing, then the checks.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use everywrite_conflict::{NodeId, Position, Stamp, Vector};

use crate::data::Key;
use crate::group::State;
use crate::network::{Arrives, Network, Packet, Sent};
use crate::rnd::Rnd;
use crate::rules::Rules;
use crate::site::{Paths, Site, node, site_of};
use crate::stream::{Forming, Stream};

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
    /// How often, in percent, a server does not come to what it was sent.
    pub(crate) slow: u64,
    /// How often, in percent, capture does not come to what was committed, at all sites but the first.
    pub(crate) late: u64,
    /// So many of the sites, the last ones, never write.
    pub(crate) readers: usize,
    /// How often, in percent, a crash is one of the server alone; 0: as all crashes are mixed.
    pub(crate) alone: u64,
    /// How often, in percent, a local commit does not wait for its flush; 0: now and then.
    pub(crate) unflushed: u64,
    /// How often, in percent of the steps, what a site has goes all the way to others.
    pub(crate) brisk: u64,
    /// Streams omit no values.
    pub(crate) whole: bool,
    /// How often, in percent of the steps, all that has left gets everywhere and is told, while outboxes wait.
    pub(crate) settles: u64,
}

/// Far from zero, whatever the clocks do.
const START: i64 = 1_000_000;
/// Where clocks jump, how far a stamp may lie ahead.
const MAX_CLOCK_SKEW: Duration = Duration::from_micros(150);

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) forgotten: usize,
    pub(crate) conflicts: usize,
    pub(crate) paths: Paths,
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
        tell!("site {me}");
        if shape.crashes > 1 && self.rnd.chance(shape.crashes) {
            self.crash(me, shape.alone)?;
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
            self.forget(me, false)?;
        }
        if shape.brisk > 0 && self.rnd.chance(shape.brisk) {
            self.hurries(me, shape)?;
        }
        if shape.settles > 0 && self.rnd.chance(shape.settles) {
            for _ in 0..3 {
                self.round(false)?;
            }
            self.tell_all()?;
        }
        self.sites[me].borrow_mut().elapsed += Duration::from_millis(100);
        for _ in 0..self.rnd.below(4) {
            self.arrive();
        }
        match self.rnd.below(100) {
            0..22 => {
                let time = self.time(me);
                if me + shape.readers < shape.sites {
                    let mut site = self.sites[me].borrow_mut();
                    site.server.write_something(time, &mut self.rnd, shape);
                }
            }
            22..32 if shape.late > 0 && me > 0 && self.rnd.chance(shape.late) => {}
            22..32 => {
                let most = self.rnd.below(3) + 1;
                self.sites[me].borrow_mut().capture(most);
            }
            32..37 => self.sites[me].borrow_mut().fsync(),
            37..40 => self.sites[me].borrow_mut().fsync_received(),
            40..44 => {
                let most = 1 + self.rnd.below(2);
                self.send_outbox(me, most);
            }
            44..48 => self.link(me),
            48..54 => self.serve(me)?,
            54..63 => {
                let origin = self.some_origin(me, |s| s.careful.is_empty());
                self.dispatch(me, origin, shape.jumps > 0)?;
            }
            63..69 if !self.rnd.chance(shape.slow) => {
                let sent = |s: &Stream| s.on_way.iter().any(|g| g.state == State::Sent);
                let origin = self.some_origin(me, sent);
                self.carry_out(me, origin)?;
            }
            63..75 => {
                let answered = |s: &Stream| s.on_way.iter().any(|g| g.state != State::Sent);
                let origin = self.some_origin(me, answered);
                self.sites[me].borrow_mut().land(node(origin));
            }
            75..83 => {
                let origin = self.some_origin(me, |s| !s.careful.is_empty());
                self.decide(me, origin, true)?;
            }
            83..87 => self.sites[me].borrow_mut().repair(),
            87..89 => self.sites[me].borrow_mut().server.flush(),
            89..91 => self.sites[me].borrow_mut().set_barrier(),
            91..94 => self.beat(me),
            94..96 => self.forget(me, false)?,
            96 => self.forget(me, true)?,
            97 if shape.crashes > 0 => self.crash(me, shape.alone)?,
            98 if self.rnd.chance(shape.rests) => {
                self.heal()?;
                self.agree()?;
                self.tell_all()?;
            }
            98 => self.tell_all()?,
            _ => self.sites[me].borrow_mut().skew -= self.rnd.between(1, 20),
        }
        Ok(())
    }

    /// One of the origins that have something to do here, if there is one.
    fn some_origin(&self, me: usize, has: impl Fn(&Stream) -> bool) -> usize {
        let site = self.sites[me].borrow();
        let streams = site.daemon.streams.values().filter(|s| has(s));
        let all: Vec<usize> = streams.map(|s| site_of(s.origin)).collect();
        let dice = (self.clock as usize).wrapping_mul(31) + self.rnd.0 as usize;
        all.get(dice % all.len().max(1)).copied().unwrap_or(me)
    }

    fn send_outbox(&mut self, me: usize, most: usize) {
        let time = self.time(me);
        self.sites[me].borrow_mut().send_outbox(time, most);
    }

    /// What a site has goes to some of the others, and as far there as it gets.
    fn hurries(&mut self, me: usize, shape: Shape) -> Result<(), String> {
        if me == 0 || !self.rnd.chance(shape.late) {
            self.sites[me].borrow_mut().capture(usize::MAX);
        }
        self.sites[me].borrow_mut().fsync();
        let others = (0..self.sites.len()).filter(|other| *other != me);
        let hears: Vec<usize> = others.filter(|_| self.rnd.chance(60)).collect();
        self.beat(me);
        hears.iter().for_each(|other| self.link(*other));
        (0..20).for_each(|_| self.arrive());
        self.serve(me)?;
        (0..20).for_each(|_| self.arrive());
        for other in hears {
            self.sites[other].borrow_mut().fsync_received();
            self.dispatch(other, me, shape.jumps > 0)?;
            if self.rnd.chance(50) && !self.rnd.chance(shape.slow) {
                self.carry_out(other, me)?;
            }
            if self.rnd.chance(50) {
                self.decide(other, me, true)?;
            }
            if self.rnd.chance(50) {
                self.sites[other].borrow_mut().land(node(me));
            }
        }
        Ok(())
    }

    /// A site's hub looks around.
    fn link(&mut self, me: usize) {
        let reaches = |other| self.network.reaches(me, other);
        let sends = self.sites[me].borrow_mut().link(reaches);
        for (to, packet) in sends {
            self.send(me, to, packet);
        }
    }

    /// What a cut direction swallows breaks the connections of the two.
    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        if !self.network.send(from, to, packet) {
            self.breaks(from, to);
        }
    }

    fn breaks(&self, one: usize, other: usize) {
        self.sites[one].borrow_mut().links.broken(other);
        self.sites[other].borrow_mut().links.broken(one);
    }

    /// Some of those who have subscribed to something at a site get a piece.
    fn serve(&mut self, me: usize) -> Result<(), String> {
        let served = self.sites[me].borrow().links.served();
        for (to, origin) in served {
            if self.rnd.chance(50) {
                continue;
            }
            let most = 1 + self.rnd.below(6);
            let packet = self.sites[me].borrow_mut().serve(to, origin, most)?;
            if let Some(packet) = packet {
                self.send(me, to, packet);
            }
        }
        Ok(())
    }

    /// Something arrives, if it does.
    fn arrive(&mut self) {
        match self.network.arrives(&mut self.rnd) {
            Arrives::Nothing => {}
            Arrives::Packet(sent) => self.arrived(sent),
            Arrives::Lost(one, other) => self.breaks(one, other),
        }
    }

    fn arrived(&self, Sent { from, to, packet }: Sent) {
        let mut site = self.sites[to].borrow_mut();
        match packet {
            Packet::Subscribe {
                origin,
                number,
                from: next,
            } => site.subscribed(from, origin, number, next),
            Packet::Unsubscribe { origin } => site.unsubscribed(from, origin),
            Packet::Refused { origin, number } => site.refused(origin, number),
            Packet::Journal {
                origin,
                number,
                piece,
            } => site.receive(origin, number, piece),
            Packet::Beats(beats) => {
                for beat in beats {
                    site.daemon.beats.offer((*beat).clone());
                }
            }
        }
    }

    fn dispatch(&mut self, me: usize, origin: usize, holds: bool) -> Result<(), String> {
        if me == origin {
            return Ok(());
        }
        let forming = Forming {
            most: [1, 1, 2, 3, 5, 8][self.rnd.below(6)],
            full: self.rnd.chance(50),
            rollback: self.rnd.chance(15),
            now: self.time(me),
            max_clock_skew: if holds { MAX_CLOCK_SKEW } else { Duration::MAX },
        };
        let received = self.sites[me].borrow().durably(origin).to_vec();
        let fetch = |at: Position, key: Key, others: &[NodeId]| self.ask(me, at, key, others);
        let mut site = self.sites[me].borrow_mut();
        site.dispatch(node(origin), &received, forming, &fetch)?;
        drop(site);
        self.standing(me)
    }

    fn carry_out(&mut self, me: usize, origin: usize) -> Result<(), String> {
        self.sites[me].borrow_mut().carry_out(node(origin))?;
        self.standing(me)
    }

    fn decide(&mut self, me: usize, origin: usize, faults: bool) -> Result<(), String> {
        if me == origin {
            return Ok(());
        }
        let rollback = faults && self.rnd.chance(15);
        let fetch = |at: Position, key: Key, others: &[NodeId]| self.ask(me, at, key, others);
        let mut site = self.sites[me].borrow_mut();
        site.decide(node(origin), &fetch, rollback)?;
        drop(site);
        self.standing(me)
    }

    /// What must hold of the rows of a server at any time.
    fn standing(&self, me: usize) -> Result<(), String> {
        self.whole_rows(me)?;
        self.unique_values(me)
    }

    /// The value of a row as a position wrote it: from where that was, or from others who have it.
    fn ask(&self, me: usize, at: Position, key: Key, others: &[NodeId]) -> Result<Option<u64>, ()> {
        let others = others.iter().copied().filter(|n| *n != at.origin);
        let sites = std::iter::once(at.origin).chain(others).map(site_of);
        let mut reached = sites.filter(|site| self.network.reaches(me, *site));
        let answered = reached.find_map(|site| self.sites[site].borrow_mut().answer(at, key).ok());
        answered.ok_or(())
    }

    fn speak(&mut self, me: usize) {
        let time = self.time(me);
        self.sites[me].borrow_mut().speak(time);
    }

    fn beat(&mut self, me: usize) {
        self.speak(me);
        let beats = self.sites[me].borrow().daemon.beats.all();
        for to in (0..self.sites.len()).filter(|to| *to != me) {
            self.send(me, to, Packet::Beats(beats.clone()));
        }
    }

    pub(crate) fn forget(&mut self, me: usize, cut: bool) -> Result<(), String> {
        let everywhere: Vector = (0..self.sites.len())
            .map(|x| {
                let applied = self.sites.iter().enumerate().map(|(i, s)| match i == x {
                    true => s.borrow().durable_end(),
                    false => s.borrow().daemon.ledger.applied().get(node(x)),
                });
                (node(x), applied.min().unwrap_or_default())
            })
            .collect();
        let (dropped, captured) = self.sites[me].borrow_mut().forget(&everywhere, cut);
        self.forgot_what_is_stable(me, &dropped, captured)
    }

    /// Every site's beat gets to everybody whom it reaches, at once.
    pub(crate) fn tell_all(&mut self) -> Result<(), String> {
        for from in 0..self.sites.len() {
            self.speak(from);
            let beats = self.sites[from].borrow().daemon.beats.all();
            for (to, site) in self.sites.iter().enumerate() {
                if to != from && self.network.passes(from, to) {
                    let site = site.borrow();
                    for beat in &beats {
                        site.daemon.beats.offer((**beat).clone());
                    }
                }
            }
        }
        for me in 0..self.sites.len() {
            let cut = self.rnd.chance(30);
            self.forget(me, cut)?;
        }
        Ok(())
    }

    fn crash(&mut self, me: usize, alone: u64) -> Result<(), String> {
        let alone = alone > 0 && self.rnd.chance(alone);
        let (server, daemon) = match self.rnd.below(10) {
            _ if alone => (true, false),
            0..4 => (true, true),
            4..8 => (false, true),
            _ => (true, false),
        };
        if daemon && self.rnd.chance(50) {
            // The server has still got some of what it was sent.
            for origin in 0..self.sites.len() {
                self.carry_out(me, origin)?;
            }
        }
        if server {
            self.sites[me].borrow_mut().server_crashes();
        }
        if !daemon {
            return Ok(());
        }
        // What was written and not synced may be there or not; what is half there is cut.
        let mut tail =
            |written: usize, durable: usize| durable + self.rnd.below(written - durable + 1);
        let mut site = self.sites[me].borrow_mut();
        let own = tail(site.journal.len(), site.durable);
        site.journal.truncate(own);
        site.durable = own;
        for origin in 0..site.sites {
            let left = tail(site.received[origin].len(), site.received_durable[origin]);
            site.received[origin].truncate(left);
            site.received_durable[origin] = left;
        }
        site.crash();
        drop(site);
        for other in (0..self.sites.len()).filter(|other| *other != me) {
            self.sites[other].borrow_mut().links.broken(me);
        }
        Ok(())
    }

    /// No more writes and faults: everything that was written gets everywhere.
    fn heal(&mut self) -> Result<(), String> {
        self.network.heals();
        for one in 0..self.sites.len() {
            (0..one).for_each(|other| self.breaks(one, other));
        }
        let mut quiet = 0;
        for _ in 0..2000 {
            self.round(true)?;
            quiet = if self.quiet() { quiet + 1 } else { 0 };
            if quiet > 2 {
                return Ok(());
            }
        }
        let mut why = String::from("stuck");
        for site in &self.sites {
            let site = site.borrow();
            let d = &site.daemon;
            let streams = d
                .streams
                .values()
                .map(|s| (s.connected, s.on_way.len(), s.careful.len()));
            let left = (
                site.journal.len() - site.durable,
                site.server.wal.len() - d.next_record,
            );
            why += &format!(
                "; {}: applied {:?}, received {:?}, left {left:?}, outbox {}, looks {:?}, streams {:?}",
                site.me,
                d.ledger.applied(),
                site.received_durable,
                site.server.now.outbox.len(),
                d.looks,
                streams.collect::<Vec<_>>()
            );
        }
        Err(why)
    }

    /// All sites do all that they can, and send what is in their outboxes, or not.
    fn round(&mut self, outboxes: bool) -> Result<(), String> {
        self.clock += 1;
        self.flow()?;
        let sites = self.sites.len();
        for me in 0..sites {
            self.sites[me].borrow_mut().server.flush();
            self.sites[me].borrow_mut().capture(usize::MAX);
            self.sites[me].borrow_mut().fsync();
            if outboxes {
                self.send_outbox(me, 2);
            }
            for origin in (0..sites).filter(|origin| *origin != me) {
                self.dispatch(me, origin, false)?;
                self.carry_out(me, origin)?;
                while self.sites[me].borrow_mut().land(node(origin)) {}
                self.decide(me, origin, false)?;
                while self.sites[me].borrow_mut().land(node(origin)) {}
            }
            self.sites[me].borrow_mut().repair();
        }
        Ok(())
    }

    /// The network does all that it has to.
    fn flow(&mut self) -> Result<(), String> {
        for me in 0..self.sites.len() {
            self.sites[me].borrow_mut().elapsed += Duration::from_secs(1);
            self.beat(me);
            self.link(me);
        }
        for _ in 0..2 {
            while let Some(sent) = self.network.next() {
                self.arrived(sent);
            }
            for me in 0..self.sites.len() {
                let served = self.sites[me].borrow().links.served();
                for (to, origin) in served {
                    let packet = self.sites[me].borrow_mut().serve(to, origin, usize::MAX)?;
                    if let Some(packet) = packet {
                        self.send(me, to, packet);
                    }
                }
            }
        }
        for site in &self.sites {
            site.borrow_mut().fsync_received();
        }
        Ok(())
    }

    fn quiet(&self) -> bool {
        let ends: Vec<_> = self
            .sites
            .iter()
            .map(|s| s.borrow().durable_end())
            .collect();
        self.sites.iter().all(|site| {
            let site = site.borrow();
            let applied = site.daemon.ledger.applied();
            let mut all = ends.iter().enumerate();
            let idle = |s: &Stream| s.on_way.is_empty() && s.careful.is_empty();
            all.all(|(x, end)| node(x) == site.me || applied.get(node(x)) == *end)
                && site.durable == site.journal.len()
                && site.daemon.next_record == site.server.wal.len()
                && site.server.now.outbox.is_empty()
                && site.daemon.looks.is_empty()
                && site.daemon.streams.values().all(idle)
        })
    }
}
