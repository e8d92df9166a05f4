//! One origin's stream at one site, as `replay/stream.rs` has it: a session, groups on their way, what is
//! decided with care, and what a session that is made anew makes of the one before.
//!
//! That two groups are written in two sessions at once makes no difference here: the later one is committed behind the other or not at
//! all, and until then nobody can write, or see, what it has written (ADR 19).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use everywrite_conflict::{Entry, Lsn, NodeId, Stamp, invariants};
use everywrite_node::replay::priors::Priors;
use everywrite_node::replay::{blindly, waits};
use everywrite_node::settle::{Announcement, Coming, Landed};
use futures_util::FutureExt as _;

use crate::careful::Fetch;
use crate::data::{self, Op, Transaction};
use crate::group::{Decided, Group, State};
use crate::rules::Rule;
use crate::site::{Look, Site, end_of, site_of};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) origin: NodeId,
    /// There is a session.
    pub(crate) connected: bool,
    /// It is gone, with its server, and has not noticed.
    pub(crate) lost: bool,
    /// Its server is gone, also if the session had failed before: nothing of what was sent is carried out any more.
    pub(crate) dead: bool,
    pub(crate) generation: u64,
    /// What the feed gives comes behind here.
    pub(crate) after: Lsn,
    /// Everything up to here was on its way before.
    pub(crate) announced: Lsn,
    /// What changes met when they were first announced.
    pub(crate) priors: Priors,
    single: bool,
    single_until: Lsn,
    /// Sent, and not answered yet, in order.
    pub(crate) on_way: VecDeque<Group>,
    /// Announced, to be decided with care when nothing is on the way.
    pub(crate) careful: VecDeque<Group>,
}

impl Stream {
    pub(crate) fn new(origin: NodeId) -> Self {
        Stream {
            origin,
            connected: false,
            lost: false,
            dead: false,
            generation: 0,
            after: Lsn::ZERO,
            announced: Lsn::ZERO,
            priors: Priors::new(origin),
            single: false,
            single_until: Lsn::ZERO,
            on_way: VecDeque::new(),
            careful: VecDeque::new(),
        }
    }

    /// The session ends with an error, its server lives.
    fn fails(&mut self) {
        self.connected = false;
    }

    /// Up to `last` one transaction a group.
    fn one_by_one(&mut self, last: Lsn) {
        self.single = true;
        self.single_until = self.single_until.max(last);
    }
}

/// How a group is to be formed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forming {
    pub(crate) most: usize,
    /// It takes no more, so it may go behind another one.
    pub(crate) full: bool,
    /// A transaction with parts fails before its commit.
    pub(crate) rollback: bool,
    /// The local clock, and how far a stamp may lie ahead of it.
    pub(crate) now: Stamp,
    pub(crate) max_clock_skew: Duration,
}

impl Site {
    fn take_stream(&mut self, origin: NodeId) -> Option<Stream> {
        self.daemon.streams.remove(&origin)
    }

    fn put_stream(&mut self, stream: Stream) {
        self.daemon.streams.insert(stream.origin, stream);
    }

    /// The stream takes a step: a session is made, or the next group announced and sent.
    pub(crate) fn dispatch(
        &mut self,
        origin: NodeId,
        received: &[Arc<Transaction>],
        forming: Forming,
        fetch: Fetch<'_>,
    ) -> Result<(), String> {
        if !self.daemon.ready {
            return Ok(());
        }
        let Some(mut stream) = self.take_stream(origin) else {
            return Ok(());
        };
        let outcome = self.step(&mut stream, received, forming, fetch);
        self.put_stream(stream);
        outcome
    }

    fn step(
        &mut self,
        stream: &mut Stream,
        received: &[Arc<Transaction>],
        forming: Forming,
        fetch: Fetch<'_>,
    ) -> Result<(), String> {
        let generation = *self.daemon.ledger.watch_server().borrow();
        let idle = stream.on_way.is_empty() && stream.careful.is_empty();
        if !stream.connected || stream.lost || idle && generation != stream.generation {
            self.session(stream, end_of(received));
            return Ok(());
        }
        if !stream.careful.is_empty() {
            return Ok(());
        }
        let most = if stream.single { 1 } else { forming.most };
        let transactions = self.ready(stream.after, received, most, forming);
        let Some(first) = transactions.first().cloned() else {
            return Ok(());
        };
        if first.truncates() {
            return match stream.on_way.is_empty() {
                true => self.long(stream, first, fetch, forming.rollback),
                false => Ok(()),
            };
        }
        let single = stream.single;
        if !blindly::may_go(&stream.on_way, |g| g.named, single, forming.full) {
            return Ok(());
        }
        self.send(
            stream,
            Group::new(stream.origin, transactions),
            forming.full,
        )
    }

    /// What the feed gives: what stands behind `after`, as far as nothing has to be waited for.
    fn ready(
        &self,
        after: Lsn,
        received: &[Arc<Transaction>],
        most: usize,
        forming: Forming,
    ) -> Vec<Arc<Transaction>> {
        let start = received.partition_point(|t| t.position() <= after);
        let applied = self.daemon.ledger.applied();
        let here = waits::Here {
            me: self.me,
            own: self.durable_end(),
            applied: &applied,
        };
        let mut group: Vec<Arc<Transaction>> = Vec::new();
        for transaction in received[start..].iter().take(most) {
            let stamp = transaction.header.stamp;
            let waits = here.misses(&transaction.vector).is_some()
                || waits::ahead(stamp, forming.now, forming.max_clock_skew).is_some();
            let alone = transaction.truncates() || transaction.alone();
            if waits || alone && !group.is_empty() {
                break;
            }
            group.push(Arc::clone(transaction));
            if alone {
                break;
            }
        }
        group
    }

    /// Makes a session, and finds out what became of what the one before had on its way.
    fn session(&mut self, stream: &mut Stream, journal_end: Lsn) {
        self.paths.sessions += 1;
        if stream.lost {
            self.daemon.ledger.broke(stream.generation);
        }
        // What `settle/lifeline.rs` asks.
        if !std::mem::replace(&mut self.daemon.noticed, true) {
            self.daemon.ledger.server_started();
        }
        (stream.lost, stream.dead, stream.connected) = (false, false, false);
        stream.generation = *self.daemon.ledger.watch_server().borrow();
        // If the server has crashed, every stream must know before one of them goes on.
        let progress = self.progress().get(stream.origin);
        let here = self.server.now.insert;
        tell!(
            "  site {} has a session for {}, progress {progress}, here {here}",
            site_of(self.me),
            stream.origin
        );
        self.daemon.ledger.begins_at(here);
        stream.careful.clear();
        let landed = blindly::landed(&stream.on_way, Group::last, progress);
        for (n, group) in std::mem::take(&mut stream.on_way).into_iter().enumerate() {
            if n < landed {
                // It was committed somewhere before, and others may have seen it since.
                if !self.landed(stream, group, Lsn::ZERO, (here, here)) {
                    return;
                }
            } else {
                let last = group.last();
                self.daemon.ledger.commits_not(stream.origin, last);
                self.undo(group.decided);
            }
        }
        // Nothing of what was announced is on its way any more.
        self.daemon.ledger.sighted(stream.origin, stream.announced);
        if journal_end < progress {
            // The journal may be behind the server after a power failure. The peers have it.
            return;
        }
        self.daemon.ledger.applied_is(stream.origin, progress);
        stream.after = progress;
        stream.connected = true;
    }

    pub(crate) fn undo(&mut self, decided: Decided) {
        if self.rules.has(Rule::Undo) {
            self.daemon.ledger.keep(decided.removed);
        } else {
            self.daemon.ledger.lost(&decided.removed);
        }
    }

    /// Announces a group; what the ledger held stands in its slots afterwards. Nothing: another
    /// session is deciding one of the rows.
    pub(crate) fn announce(
        &mut self,
        stream: &mut Stream,
        group: &mut Group,
        fast_allowed: bool,
        decided: &Decided,
    ) -> Option<Announcement> {
        let origin = stream.origin;
        let applied = self.daemon.ledger.applied().get(origin);
        let before = stream.on_way.back().map_or(applied, Group::last);
        let fast_allowed = fast_allowed && !group.careful;
        let at = everywrite_conflict::Position {
            origin,
            lsn: group.last(),
        };
        for op in group.ops() {
            if let Op::Policy(setting) = op {
                self.daemon.set_policy(setting, at);
            }
        }
        let known = blindly::Site {
            me: self.me,
            durable: self.durable_end(),
            horizon: self.daemon.horizon,
            applied: self.daemon.ledger.applied(),
        };
        let mut conflicts = false;
        let coming = group.coming(before);
        let blindly = |(slot, prior): (&crate::group::Slot, &Option<Entry>)| {
            let seen = coming.blindly(&slot.folded, prior.as_ref());
            seen.unwrap_or_else(|| {
                conflicts = true;
                prior.is_some_and(|p| known.decides(&coming, &slot.folded, &p))
            })
        };
        let announcement = self.daemon.ledger.announce(
            Coming {
                origin,
                last: group.last(),
                newest: group.newest(),
                merges: false,
                first: group.first(),
            },
            group.intents(),
            |_, key, version| data::key_of(key).is_some_and(|key| decided.has(key, version)),
            |priors| fast_allowed && group.slots.iter().zip(priors).all(blindly),
        )?;
        drop(coming);
        group.conflicts = conflicts;
        stream.announced = stream.announced.max(group.last());
        let changes: Vec<_> = group.slots.iter().map(|s| group.change(s)).collect();
        let held = announcement.priors.iter();
        for ((slot, change), held) in group.slots.iter_mut().zip(&changes).zip(held) {
            slot.prior = stream.priors.announced(change, *held, applied, before);
        }
        tell!(
            "  site {} announces {origin} up to {}, fast {}: {:?}",
            site_of(self.me),
            group.last(),
            announcement.fast,
            group.slots
        );
        Some(announcement)
    }

    fn send(&mut self, stream: &mut Stream, mut group: Group, full: bool) -> Result<(), String> {
        group.fold();
        let first = group.transactions[0].position();
        let fresh = first > stream.announced;
        // Before the announcement: what is captured behind it is not behind this guard.
        group.guard = self.daemon.horizon;
        let announced = self.announce(stream, &mut group, fresh, &Decided::default());
        let Some(announcement) = announced else {
            return Ok(());
        };
        if group.spans() && self.rules.has(Rule::Split) {
            self.paths.split += 1;
            stream.one_by_one(group.last());
            stream.fails();
            return Ok(());
        }
        stream.after = group.last();
        group.blind_before = announcement.blind_before;
        group.named = full;
        group.fast = announcement.fast;
        if !group.fast {
            stream.careful.push_back(group);
            return Ok(());
        }
        self.paths.chained += usize::from(!stream.on_way.is_empty());
        self.daemon.ledger.commits(stream.origin, group.last());
        stream.on_way.push_back(group);
        Ok(())
    }

    /// The server works on what it was sent: the next group of an origin.
    pub(crate) fn carry_out(&mut self, origin: NodeId) -> Result<(), String> {
        let Some(mut stream) = self.take_stream(origin) else {
            return Ok(());
        };
        let mut outcome = Ok(());
        let at = stream.on_way.iter().position(|g| g.state == State::Sent);
        if let Some(at) = at.filter(|_| !stream.dead) {
            let before = at.checked_sub(1).and_then(|b| stream.on_way.get(b));
            let failed = before.is_some_and(|b| b.state == State::Failed);
            let group = &mut stream.on_way[at];
            if failed {
                group.state = State::Failed;
            } else {
                outcome = self.write_fast(group);
            }
        }
        self.put_stream(stream);
        outcome
    }

    /// Commits what a group has made of the rows.
    pub(crate) fn commit(&mut self, group: &mut Group) -> Result<(), String> {
        let origin = group.origin;
        let mut progress = self.server.now.progress.get(origin);
        let own = self.durable_end();
        for t in &group.transactions {
            let (there, header) = (&self.server.now.progress, &t.header);
            // What must hold when a group commits, whatever the daemon believes of its server.
            invariants::exactly_once(origin, progress, header.position)
                .and_then(|()| {
                    invariants::origin_order(origin, progress, header.previous, header.position)
                })
                .and_then(|()| invariants::causality(origin, &t.vector, self.me, there, own))
                .map_err(|e| e.to_string())?;
            progress = header.position;
            self.server.now.newest = self.server.now.newest.max(header.stamp);
        }
        self.server.now.progress.set(origin, progress);
        self.server.record(&group.decided.history);
        self.conflicts += group.decided.conflicts;
        for op in group.ops() {
            if let Op::Policy(setting) = op {
                self.server.now.policy(setting);
            }
        }
        self.server.now.left_out.extend(&group.decided.left_out);
        self.paths.lost += group.decided.outbox.len();
        if self.rules.has(Rule::Travel) {
            for lost in &group.decided.outbox {
                let id = self.server.next_outbox;
                self.server.next_outbox += 1;
                self.server.now.outbox.insert(id, *lost);
            }
        }
        let (before, after) = self.server.commit_replayed();
        // A crash that took back what was decided would leave nothing to record (ADR 3).
        if group.decided.binds() {
            self.server.flush();
        }
        tell!(
            "  site {} commits {origin} up to {progress} at {before}, {:?}",
            site_of(self.me),
            group.decided
        );
        group.state = State::Committed(before, after);
        Ok(())
    }

    /// Reads the next answer of an origin's session.
    pub(crate) fn land(&mut self, origin: NodeId) -> bool {
        let Some(mut stream) = self.take_stream(origin) else {
            return false;
        };
        let state = stream.on_way.front().map(|g| g.state);
        let read = matches!(state, Some(State::Committed(..) | State::Failed));
        let read = read && stream.connected;
        if let Some(group) = read.then(|| stream.on_way.pop_front()).flatten() {
            self.arrived(&mut stream, group);
        }
        self.put_stream(stream);
        read
    }

    fn arrived(&mut self, stream: &mut Stream, group: Group) {
        let (origin, last) = (stream.origin, group.last());
        if let State::Committed(before, after) = group.state {
            if !self.landed(stream, group, before, (before, after)) {
                stream.fails();
            }
            return;
        }
        self.paths.guarded += 1;
        // What was chained to it has failed with it. Nothing of them was written.
        let behind = std::mem::take(&mut stream.on_way);
        self.daemon.ledger.commits_not(origin, last);
        let last = behind.back().map_or(last, Group::last);
        self.daemon.ledger.sighted(origin, last);
        let failed: Vec<Group> = std::iter::once(group).chain(behind).collect();
        for mut group in failed.into_iter().rev() {
            self.met_since(stream, &mut group);
            group.decided = Decided::default();
            group.state = State::Sent;
            stream.careful.push_front(group);
        }
    }

    /// A group that is decided while a later one is announced already finds that one in the index,
    /// not what came from elsewhere between the two.
    fn met_since(&self, stream: &Stream, group: &mut Group) {
        for slot in &mut group.slots {
            let relation = data::relation(slot.key());
            let now = self.daemon.ledger.known(relation, slot.hash());
            let (key, version) = (slot.hash(), slot.version());
            slot.prior = stream.priors.since(key, version, slot.prior, now);
        }
    }

    /// Decides the next group that is to be decided with care, if nothing is on the way and what it has to
    /// wait for has landed; with `rollback` it fails before its commit, and is tried again.
    pub(crate) fn decide(
        &mut self,
        origin: NodeId,
        fetch: Fetch<'_>,
        rollback: bool,
    ) -> Result<(), String> {
        let Some(mut stream) = self.take_stream(origin) else {
            return Ok(());
        };
        let free = stream.connected && !stream.lost && stream.on_way.is_empty();
        let Some(mut group) = free.then(|| stream.careful.pop_front()).flatten() else {
            self.put_stream(stream);
            return Ok(());
        };
        let ended = match self.blind(&group.blind_before) {
            true => {
                self.paths.blind += 1;
                Ok(Ended::Again)
            }
            false => self.decide_group(&mut stream, &mut group, fetch, rollback),
        };
        match ended {
            Ok(Ended::Committed) => stream.on_way.push_front(group),
            Ok(Ended::Again) => stream.careful.push_front(group),
            _ => {}
        }
        self.put_stream(stream);
        ended.map(drop)
    }

    /// Whether one of these groups may be about to be written without a look.
    pub(crate) fn blind(&self, groups: &everywrite_conflict::Vector) -> bool {
        let landed = self.daemon.ledger.wait_for_blind(groups).now_or_never();
        landed.is_none() && self.rules.has(Rule::Flight)
    }

    fn decide_group(
        &mut self,
        stream: &mut Stream,
        group: &mut Group,
        fetch: Fetch<'_>,
        rollback: bool,
    ) -> Result<Ended, String> {
        let (origin, last) = (group.origin, group.last());
        let reached = self.server.now.insert;
        let ledger = &self.daemon.ledger;
        ledger.commits_after(origin, last, reached, stream.generation);
        self.paths.careful += 1;
        let mut decided = Decided::default();
        let rows = self.server.now.rows.clone();
        let written = self.careful(group, &group.slots, rows, &mut decided, fetch)?;
        group.decided = decided;
        self.end(stream, group, written, rollback)
    }

    /// Commits a transaction that was decided with care, or takes back what it decided.
    pub(crate) fn end(
        &mut self,
        stream: &mut Stream,
        group: &mut Group,
        written: Written,
        rollback: bool,
    ) -> Result<Ended, String> {
        match written {
            Written::Rows(rows) if !rollback => {
                self.daemon.ledger.commits(group.origin, group.last());
                self.server.now.rows = rows;
                self.commit(group)?;
                return Ok(Ended::Committed);
            }
            _ => {}
        }
        self.paths.undone += 1;
        self.daemon.ledger.commits_not(group.origin, group.last());
        let decided = std::mem::take(&mut group.decided);
        self.undo(decided);
        if matches!(written, Written::Error) {
            stream.fails();
            return Ok(Ended::Failed);
        }
        Ok(Ended::Again)
    }

    /// A group is committed behind a place of the local WAL. False: perhaps a crash has taken it back, and the
    /// next session asks.
    fn landed(
        &mut self,
        stream: &mut Stream,
        group: Group,
        behind: Lsn,
        (before, after): (Lsn, Lsn),
    ) -> bool {
        let place = Landed {
            origin: group.origin,
            last: group.last(),
            before,
            behind,
            after,
            generation: stream.generation,
        };
        let decided = &group.decided;
        let slots = group.slots.iter().map(|s| (s.key(), s.version()));
        let keys = slots.chain(decided.lost.iter().copied());
        let keys = keys.map(|(key, version)| (data::relation(key), data::hash(key), version));
        let truncated = decided.truncated.iter();
        let truncated: Vec<_> = truncated.map(|(t, v)| (data::table(*t), *v)).collect();
        let kept = |key, version| decided.kept.contains(&(key, version));
        let landed = self.daemon.ledger.landed(&place, keys, &truncated, kept);
        tell!(
            "  site {} reads the answer to {} up to {}: {landed:?}",
            site_of(self.me),
            group.origin,
            group.last()
        );
        let Some(look_again) = landed else {
            stream.on_way.push_front(group);
            return false;
        };
        self.daemon.ledger.lost(&decided.removed);
        let slots = group.slots.iter();
        for slot in slots.filter(|s| look_again.contains(&s.hash())) {
            let relation = data::relation(slot.key());
            if let Some(newer) = self.daemon.ledger.known(relation, slot.hash()) {
                self.look_again(Look {
                    table: data::number(relation),
                    key: Some(slot.key()),
                    version: newer.version,
                });
            }
        }
        let changes = group.slots.iter().map(|s| group.change(s));
        let flushed = || self.daemon.ledger.flushed().get(group.origin);
        stream.priors.landed(changes, before, flushed);
        if stream.single && group.last() >= stream.single_until {
            stream.single = false;
        }
        true
    }
}

/// What a transaction that is decided with care has come to.
pub(crate) enum Written {
    /// The rows as it leaves them.
    Rows(crate::careful::Rows),
    /// Somebody came in between: at once again.
    Again,
    /// In a new session.
    Error,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Committed,
    Again,
    Failed,
}
