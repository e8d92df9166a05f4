//! One origin's stream, as `replay/stream.rs` has it: one group at a time is on its way, a step of it at a call.
//!
//! ```text
//!  Announced ─► Begun ─► Locked ─► Decided ─► Written ─► Committing ─► Committed ─► landed
//!      └─ fast ──────────────────────────────────────────────┘ (guard failed: Announced, with care)
//! ```

use std::collections::BTreeSet;

use everywrite_conflict::{Entry, First, KeyHash, Lsn, NodeId, Position, Vector, Version};
use everywrite_node::replay::priors::{Change, Priors};
use everywrite_node::settle::{Announcement, Coming, Intent, Landed};
use futures_util::FutureExt as _;

use super::looks::Look;
use super::{Site, What};
use crate::data::{Event, Key, Op, Rule, TABLE, Transaction, hash};
use crate::server::{Session, Set, Write};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) connected: bool,
    /// The session is gone, and that was not noticed yet.
    pub(super) lost: bool,
    /// The server's when the session began.
    pub(super) generation: u64,
    /// Everything up to here was on its way before.
    announced: Lsn,
    /// What a key met when a change was first announced.
    priors: Priors,
    pub(super) group: Option<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Announced,
    Begun,
    Locked,
    Decided,
    Written,
    Committing,
    /// Between these places of the local WAL.
    Committed(Lsn, Lsn),
}

/// A transaction on its way.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) transaction: Transaction,
    pub(super) step: Step,
    /// Where everything local before was captured, when it was announced to be written without a look.
    fast: Option<Lsn>,
    /// Whether its tables are merged.
    pub(super) merges: bool,
    /// What its keys met.
    pub(super) met: Vec<Option<Entry>>,
    blind_before: Vector,
    /// For each of its keys whether the row is there, and this site's.
    pub(super) found: Vec<(bool, bool)>,
    /// The barrier to pass before it is decided.
    pub(super) barrier: u64,
    /// The own journal is durable up to here before it goes on.
    pub(super) durable: Lsn,
    pub(super) writes: Vec<Write>,
    /// Changes that are not written.
    pub(super) kept: BTreeSet<(KeyHash, Version)>,
    /// Of a truncate: updates of merged rows that it has not seen.
    pub(super) below: Vec<(KeyHash, Entry)>,
    /// Something lost: the commit is flushed.
    pub(super) binds: bool,
}

impl Group {
    pub(super) fn last(&self) -> Lsn {
        self.transaction.at.lsn
    }

    /// The rows that it is about.
    pub(super) fn keys(&self) -> Vec<Key> {
        match &self.transaction.op {
            Op::Events(events) => events.iter().map(|e| e.key).collect(),
            Op::Update(key, _) => vec![*key],
            Op::Truncate | Op::Policy(_) => Vec::new(),
        }
    }
}

impl Stream {
    fn new(origin: NodeId) -> Self {
        Stream {
            connected: false,
            lost: false,
            generation: 0,
            announced: Lsn::ZERO,
            priors: Priors::new(origin),
            group: None,
        }
    }

    pub(super) fn session_lost(&mut self) {
        self.lost = self.connected;
    }
}

impl Site {
    /// Everything up to here of an origin is committed here.
    pub(crate) fn applied(&self, origin: NodeId) -> Lsn {
        self.ledger.applied().get(origin)
    }

    /// What its streams are at, to be told when a run fails.
    pub(crate) fn at(&self) -> String {
        let at = |(origin, s): (&NodeId, &Stream)| {
            let group = s.group.as_ref().map(|g| (g.last(), g.step, g.barrier));
            format!("{origin} {group:?} connected {} {}", s.connected, !s.lost)
        };
        let streams: Vec<String> = self.streams.iter().map(at).collect();
        format!("{} of {:?}", streams.join(", "), self.barriers)
    }

    /// An origin whose commit is on the way to the server.
    pub(crate) fn sending(&self) -> Option<NodeId> {
        let sent = |g: &Group| g.step == Step::Committing;
        let of = |s: &Stream| s.connected && !s.lost && s.group.as_ref().is_some_and(sent);
        let mut streams = self.streams.iter();
        streams.find(|(_, s)| of(s)).map(|(origin, _)| *origin)
    }

    /// Whether a transaction of that origin is on its way.
    pub(crate) fn is_busy(&self, origin: NodeId) -> bool {
        let stream = self.streams.get(&origin);
        stream.is_none_or(|s| s.group.is_some() || !s.connected || s.lost)
    }

    /// The next step of an origin's stream; `next`: its transaction behind what is applied, if that is here. False:
    /// there is none, or it has to wait.
    pub(crate) fn replay(
        &mut self,
        origin: NodeId,
        next: Option<&Transaction>,
        rarely: bool,
    ) -> bool {
        let stream = self.streams.remove(&origin);
        let mut stream = stream.unwrap_or_else(|| Stream::new(origin));
        let done = self.step(origin, &mut stream, next, rarely);
        self.streams.insert(origin, stream);
        done
    }

    fn step(
        &mut self,
        origin: NodeId,
        stream: &mut Stream,
        next: Option<&Transaction>,
        rarely: bool,
    ) -> bool {
        if !stream.connected {
            self.connect(origin, stream);
            return true;
        }
        let answered = |g: &Group| matches!(g.step, Step::Committed(..));
        if stream.lost && !(rarely && stream.group.as_ref().is_some_and(answered)) {
            self.told.add(What::SessionLost, 1);
            self.fails(origin, stream);
            self.ledger.broke(stream.generation);
            return true;
        }
        match stream.group.take() {
            Some(group) => self.advance(origin, stream, group),
            None => match next.filter(|t| self.is_ready(t)) {
                Some(t) => {
                    let group = self.announced(stream, t.clone());
                    stream.group = Some(group);
                    true
                }
                None => false,
            },
        }
    }

    /// What a transaction names is applied here; of this site, durable.
    fn is_ready(&self, t: &Transaction) -> bool {
        let applied = self.ledger.applied();
        let reached = |node| match node == self.me {
            true => self.own_end(),
            false => applied.get(node),
        };
        t.vector.iter().all(|(node, lsn)| reached(node) >= lsn)
    }

    /// A new session: the server says what became of what the last one had on its way.
    fn connect(&mut self, origin: NodeId, stream: &mut Stream) {
        stream.generation = *self.ledger.watch_server().borrow();
        let progress = self.asks_for_progress().get(origin);
        let here = self.server.now.wal;
        if let Some(group) = stream.group.take().filter(|_| self.has(Rule::Asked)) {
            self.ledger.begins_at(here);
            if group.last() <= progress {
                // It was committed somewhere before, and others may have seen it since.
                self.landed(stream, group, Lsn::ZERO, (here, here));
            } else {
                self.ledger.commits_not(origin, group.last());
            }
        } else {
            self.ledger.begins_at(here);
        }
        self.ledger.sighted(origin, stream.announced);
        if stream.group.is_none() {
            self.ledger.applied_is(origin, progress);
            stream.connected = true;
        }
    }

    /// The session ends. What was sent to be committed stays on its way: only the next one knows.
    pub(super) fn fails(&mut self, origin: NodeId, stream: &mut Stream) {
        let on_way = |g: &mut Group| !matches!(g.step, Step::Committing | Step::Committed(..));
        if let Some(group) = stream.group.take_if(on_way) {
            self.ledger.commits_not(origin, group.last());
        }
        self.server.release(Session::Stream(origin));
        (stream.connected, stream.lost) = (false, false);
    }

    fn announced(&mut self, stream: &mut Stream, t: Transaction) -> Group {
        let merging = self.ledger.any_merging()
            && match t.op {
                Op::Update(..) => true,
                Op::Events(_) => self.ledger.merging(TABLE),
                Op::Truncate | Op::Policy(_) => false,
            };
        let careful = merging || matches!(t.op, Op::Policy(_));
        // Nobody knows what else will come of a truncate.
        let merges = merging || (matches!(t.op, Op::Truncate) && self.ledger.any_merging());
        let fresh = t.at.lsn > stream.announced;
        let horizon = self.barriers.horizon;
        let told = self.announce(stream, &t, merges, careful, fresh);
        let applied = self.applied(t.at.origin);
        let met = self.meets(stream, &t, &told.priors, applied);
        let fast = told.fast && matches!(t.op, Op::Events(_));
        Group {
            transaction: t,
            step: Step::Announced,
            fast: fast.then_some(horizon),
            merges: merging,
            met,
            blind_before: told.blind_before,
            found: Vec::new(),
            barrier: 0,
            durable: Lsn::ZERO,
            writes: Vec::new(),
            kept: BTreeSet::new(),
            below: Vec::new(),
            binds: false,
        }
    }

    pub(super) fn announce(
        &mut self,
        stream: &mut Stream,
        t: &Transaction,
        merges: bool,
        careful: bool,
        fresh: bool,
    ) -> Announcement {
        let (origin, last) = (t.at.origin, t.at.lsn);
        if let Op::Policy(setting) = &t.op {
            self.ledger.set_policy(setting.clone(), self.since(t.at));
        }
        let applied = self.applied(origin);
        let vector = std::sync::Arc::new(t.vector.clone());
        let intent = |e: &Event| Intent {
            relation: TABLE,
            key: hash(e.key),
            entry: Entry {
                version: e.version,
                source: Some(t.at),
                deleted: e.row.is_none(),
                local_lsn: Lsn::MAX,
            },
            vector: e.version.is_ranked().then_some(&vector),
            seen: Some(&t.seen),
        };
        let first = First {
            position: t.at,
            stamp: t.version.stamp,
            seen: &t.seen,
        };
        let group = Coming {
            origin,
            last,
            newest: t.version.stamp,
            merges,
            first: (!careful).then_some(first),
        };
        // What of this origin is not applied was only announced.
        let here = |s: &Position| s.origin != origin || s.lsn <= applied;
        let blindly = |prior: &Option<Entry>| {
            let seen = |s: Position| here(&s) && t.has_seen(s);
            prior.is_none_or(|p| p.source.is_some_and(seen))
        };
        let told = self.ledger.announce(
            group,
            t.events().iter().map(intent),
            |_, _, _| false,
            |priors| fresh && !careful && priors.iter().all(blindly),
        );
        stream.announced = stream.announced.max(last);
        told.expect("no row is lost to another's unique value")
    }

    /// What each key meets: what the index held, or what that was when it was announced before.
    fn meets(
        &self,
        stream: &mut Stream,
        t: &Transaction,
        priors: &[Option<Entry>],
        applied: Lsn,
    ) -> Vec<Option<Entry>> {
        let mut all = Vec::new();
        for (event, held) in t.events().iter().zip(priors) {
            let change = change(t, event);
            all.push(stream.priors.announced(&change, *held, applied, applied));
        }
        all
    }

    /// The next step of what is on its way.
    fn advance(&mut self, origin: NodeId, stream: &mut Stream, mut group: Group) -> bool {
        let session = Session::Stream(origin);
        let (ledger, last) = (&self.ledger, group.last());
        let mut done = true;
        match group.step {
            Step::Announced if group.fast.is_some() => {
                ledger.commits(origin, last);
                group.step = Step::Committing;
            }
            Step::Announced if matches!(group.transaction.op, Op::Truncate) => {
                let reached = self.server.now.wal;
                ledger.commits_after(origin, last, reached, stream.generation);
                if !self.announce_truncate(&mut group) {
                    // Groups of other origins are on their way: all is begun anew.
                    self.told.add(What::DecidedAgain, 1);
                    self.fails(origin, stream);
                    self.ledger.commits_not(origin, last);
                    return true;
                }
                group.step = Step::Begun;
            }
            Step::Announced => {
                let blind = ledger.wait_for_blind(&group.blind_before);
                match blind.now_or_never() {
                    None => done = false,
                    Some(()) => {
                        let reached = self.server.now.wal;
                        ledger.commits_after(origin, last, reached, stream.generation);
                        group.step = Step::Begun;
                    }
                }
            }
            Step::Begun => done = self.lock(session, &mut group),
            Step::Locked if group.barrier > self.barriers.passed => {
                self.barrier();
                done = false;
            }
            Step::Locked => {
                self.decide(&mut group);
                group.step = Step::Decided;
            }
            Step::Decided if !self.is_durable(&group) => done = false,
            Step::Decided => match self.server.write(session, &group.writes) {
                Ok(true) => {
                    if matches!(group.transaction.op, Op::Truncate) {
                        let t = &group.transaction;
                        let merges = self.ledger.any_merging();
                        self.announce(stream, t, merges, false, true);
                        let reached = self.server.now.wal;
                        self.ledger
                            .commits_after(origin, last, reached, stream.generation);
                    }
                    if group.merges {
                        // Whatever this came behind keeps its vector, whatever crashes.
                        group.durable = self.ledger.stamped_to();
                    }
                    group.step = Step::Written;
                }
                Ok(false) => done = false,
                Err(_) => {
                    self.told.add(What::DecidedAgain, 1);
                    self.server.release(session);
                    ledger.commits_not(origin, last);
                    group.kept.clear();
                    group.step = Step::Announced;
                }
            },
            Step::Written if !self.is_durable(&group) => done = false,
            Step::Written => {
                ledger.commits(origin, last);
                group.step = Step::Committing;
            }
            Step::Committing => match self.commits(session, &mut group) {
                Ok(true) => {}
                Ok(false) => done = false,
                Err(_) => {
                    // Nothing of it was written: it is not on its way blindly any more.
                    self.told.add(What::DecidedAgain, 1);
                    self.ledger.commits_not(origin, last);
                    self.ledger.sighted(origin, last);
                    group.fast = None;
                    group.step = Step::Announced;
                }
            },
            Step::Committed(before, after) => {
                self.landed(stream, group, before, (before, after));
                if stream.group.is_some() {
                    // Perhaps a crash has taken it back: the next session asks.
                    self.fails(origin, stream);
                }
                return true;
            }
        }
        stream.group = Some(group);
        done
    }

    fn is_durable(&self, group: &Group) -> bool {
        !self.has(Rule::Durable) || self.own_end() >= group.durable
    }

    /// The server commits what it was sent.
    pub(super) fn commits(
        &mut self,
        session: Session,
        group: &mut Group,
    ) -> Result<bool, &'static str> {
        if let Some(horizon) = group.fast {
            let writes = self.guarded(&group.transaction, horizon)?;
            if !self.server.write(session, &writes)? {
                return Ok(false);
            }
            group.writes = writes;
        }
        let before = self.server.now.wal;
        let t = &group.transaction;
        if let Op::Policy(setting) = &t.op {
            let setting = setting.clone();
            let (at, begun) = (t.at, false);
            self.server.now.settings.push(Set { setting, at, begun });
        }
        self.server.now.applied.raise(t.at.origin, t.at.lsn);
        let after = self.server.commit(session, &group.writes);
        if group.binds {
            self.server.flush();
        }
        group.step = Step::Committed(before, after);
        Ok(true)
    }

    /// The fast path's statements: each row must be there or not, and none that a local transaction wrote
    /// behind the horizon.
    fn guarded(&self, t: &Transaction, horizon: Lsn) -> Result<Vec<Write>, &'static str> {
        let guarded = |e: &Event| {
            let stored = self.server.now.rows.get(&e.key);
            let seen = stored.filter(|s| s.local.is_none_or(|l| l <= horizon));
            match (e.row, e.inserts) {
                (Some(row), true) if stored.is_none() => Ok(Write::Insert(e.key, row)),
                (Some(row), false) if seen.is_some() => Ok(Write::Update(e.key, row)),
                (None, _) if seen.is_some() => Ok(Write::Delete(e.key)),
                _ => Err("a guard has failed"),
            }
        };
        t.events().iter().map(guarded).collect()
    }

    /// The answer to a commit. The group is the stream's again if the server may have been started anew.
    fn landed(
        &mut self,
        stream: &mut Stream,
        group: Group,
        behind: Lsn,
        (before, after): (Lsn, Lsn),
    ) {
        let t = &group.transaction;
        let place = Landed {
            origin: t.at.origin,
            last: t.at.lsn,
            before,
            behind,
            after,
            generation: stream.generation,
        };
        let events = t.events().iter();
        let keys = events.map(|e| (TABLE, hash(e.key), e.version));
        let truncated = matches!(t.op, Op::Truncate).then_some((TABLE, t.version));
        let kept = |key, version| group.kept.contains(&(key, version));
        let landed = self.ledger.landed(&place, keys, truncated.as_slice(), kept);
        let Some(look_again) = landed else {
            stream.group = Some(group);
            return;
        };
        for key in look_again {
            if let Some(newer) = self.ledger.known(TABLE, key) {
                let (key, version) = (Some(key.0 as Key), newer.version);
                self.look_again(Look { key, version });
            }
        }
        let changes = t.events().iter().map(|event| change(t, event));
        let flushed = || self.ledger.flushed().get(t.at.origin);
        stream.priors.landed(changes, before, flushed);
    }
}

/// What is remembered of an event.
fn change(t: &Transaction, event: &Event) -> Change {
    Change {
        key: hash(event.key),
        version: event.version,
        position: t.at,
        deleted: event.row.is_none(),
    }
}
