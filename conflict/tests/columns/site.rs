//! One simulated site: a server whose rows change at once, and a daemon that captures behind it, announces
//! before it writes, and does about the cores what the node's shells do.
//!
//! ```text
//!  write ─► rows, WAL ─► capture: stamp, vector ─► journal ─► durable
//!  dispatch: announced ─► (local writes, other streams) ─► land: capture where needed, decide, rows
//! ```

mod restart;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use everywrite_conflict::policy::columns::Take;
use everywrite_conflict::policy::{Begins, Epoch, Policies, Policy, Rank, Setting};
use everywrite_conflict::{
    ColumnChange, Entry, HybridClock, KeyHash, Lsn, NodeId, Operation, Position, RelationHash,
    Stamp, Vector, Version, decide,
};

use crate::known::Known;

use crate::data::{
    Changed, Key, Op, Part, RULES, Rnd, Row, Rule, Transaction, Update, hash, policy,
};

const TABLE: RelationHash = RelationHash(1);

/// A local transaction that is committed, and not captured yet.
#[derive(Clone, Debug)]
enum Written {
    Event(Key, Option<Row>),
    Update(Key, Row, Row),
    Truncate,
    Policy(u32, Policy),
}

impl Written {
    fn is_of(&self, key: Key) -> bool {
        match self {
            Written::Event(k, _) | Written::Update(k, ..) => *k == key,
            Written::Truncate => true,
            Written::Policy(..) => false,
        }
    }
}

#[derive(Clone, Debug)]
struct Local {
    at: Lsn,
    time: Stamp,
    what: Written,
}

/// A group that was announced, until every local transaction that may have seen it is captured.
#[derive(Clone, Debug)]
struct Mark {
    at: Position,
    stamp: Stamp,
    /// It came behind what ends here in the local WAL.
    after: Lsn,
    landed: bool,
    merges: bool,
}

/// One that was announced and has not landed.
#[derive(Clone, Debug)]
struct OnWay {
    transaction: Transaction,
    prior: Option<Entry>,
}

/// What the server has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) rows: BTreeMap<Key, Row>,
    /// What it remembers of policies: the setting, where it was made, whether it has begun.
    settings: Vec<(Setting, Position, bool)>,
    pub(crate) applied: Vector,
}

pub(crate) struct Site {
    pub(crate) me: NodeId,
    pub(crate) skew: i64,
    clock: HybridClock,
    pub(crate) server: Server,
    /// What of it a crash of the server leaves: replay does not wait for its commits to be flushed, and every
    /// local commit flushes all before it.
    pub(crate) flushed: Server,
    index: Known,
    policies: Policies,
    /// Ends of the local WAL, and of what of it is captured.
    wal: Lsn,
    captured: Lsn,
    written: VecDeque<Local>,
    pub(crate) journal: Vec<Transaction>,
    /// How many of them a crash leaves.
    pub(crate) durable: usize,
    /// What a crash takes out of the journal is captured again.
    stamped: VecDeque<Local>,
    dispatched: Vector,
    /// Of that, what had surely landed.
    seen: Vector,
    /// Up to here nothing of the journals is left.
    released: Vector,
    /// What may go of them once capture is durably past that place.
    releasing: VecDeque<(Lsn, Vector)>,
    /// And once all of that is stable.
    closing: VecDeque<(Vector, Vector)>,
    marks: Vec<Mark>,
    on_way: Vec<OnWay>,
    without: Option<Rule>,
    pub(crate) told: Told,
}

/// How often it happened, to see that the runs try it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Forgotten,
    Begun,
    Merged,
    StampedAgain,
    ClaimedTooMuch,
    TakenBack,
    LeftMemory,
    Recalled,
    CameBack,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told(pub(crate) [usize; 9]);

impl Told {
    fn add(&mut self, what: What, times: usize) {
        self.0[what as usize] += times;
    }

    pub(crate) fn and(mut self, other: Told) -> Told {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }
}

impl Site {
    pub(crate) fn new(me: NodeId, skew: i64, without: Option<Rule>) -> Self {
        Site {
            me,
            skew,
            clock: HybridClock::default(),
            server: Server::default(),
            flushed: Server::default(),
            index: Known::default(),
            policies: Policies::new(),
            wal: Lsn::ZERO,
            captured: Lsn::ZERO,
            written: VecDeque::new(),
            journal: Vec::new(),
            durable: 0,
            stamped: VecDeque::new(),
            dispatched: Vector::new(),
            seen: Vector::new(),
            released: Vector::new(),
            releasing: VecDeque::new(),
            closing: VecDeque::new(),
            marks: Vec::new(),
            on_way: Vec::new(),
            without,
            told: Told::default(),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// A policy that holds from the beginning, at every site.
    pub(crate) fn begins_with(&mut self, rules: usize) {
        let (number, origin) = (1, NodeId(1));
        let setting = Setting {
            relation: TABLE,
            epoch: Epoch { number, origin },
            policy: policy(Some(rules)),
        };
        let lsn = Lsn::ZERO;
        self.server
            .settings
            .push((setting.clone(), Position { origin, lsn }, true));
        self.policies.set(setting, Begins::Begun);
        self.flush();
    }

    /// An application writes.
    pub(crate) fn write(&mut self, time: i64, rnd: &mut Rnd) {
        let key = rnd.below(crate::data::KEYS.into()) as Key;
        let what = match (rnd.below(30), self.server.rows.get(&key).copied()) {
            (0, _) => {
                let known = self.server.settings.iter().map(|(s, ..)| s.epoch.number);
                let pending = self.written.iter().map(|w| match w.what {
                    Written::Policy(number, _) => number,
                    _ => 0,
                });
                let number = known.chain(pending).max().unwrap_or(0) + 1;
                let rules = [Some(0), Some(0), Some(1), None][rnd.below(4)];
                Written::Policy(number, policy(rules))
            }
            (1, _) => Written::Truncate,
            (2..5, Some(_)) => Written::Event(key, None),
            (_, None) => Written::Event(key, Some(rnd.row())),
            (_, Some(old)) => {
                let (mut row, new) = (old, rnd.row());
                for part in Part::all().filter(|_| rnd.below(2) == 0) {
                    part.copy(&mut row, &new);
                }
                Written::Update(key, old, row)
            }
        };
        match &what {
            Written::Event(key, Some(row)) | Written::Update(key, _, row) => {
                self.server.rows.insert(*key, *row);
            }
            Written::Event(key, None) => drop(self.server.rows.remove(key)),
            Written::Truncate => self.server.rows.clear(),
            Written::Policy(..) => {}
        }
        let at = self.commits();
        self.flush();
        let time = Stamp(time + self.skew);
        self.written.push_back(Local { at, time, what });
    }

    fn flush(&mut self) {
        self.flushed = self.server.clone();
    }

    fn commits(&mut self) -> Lsn {
        self.wal = Lsn(self.wal.0 + 1);
        self.wal
    }

    /// Captures the next local transaction.
    pub(crate) fn capture(&mut self) -> bool {
        let Some(local) = self.written.pop_front() else {
            return false;
        };
        self.see_before(local.at);
        let (origin, lsn) = (self.me, local.at);
        let source = Position { origin, lsn };
        let next = self.clock.next(local.time);
        match &local.what {
            Written::Event(key, _) => self.index.recall_to_capture(hash(*key), lsn, next),
            Written::Update(key, ..) => self.index.recall(hash(*key)),
            Written::Truncate | Written::Policy(..) => {}
        }
        let stamp = self.clock.stamp(local.time);
        let (vector, seen) = (self.dispatched.clone(), self.seen.clone());
        let plain = Version::new(stamp, origin);
        let (version, op) = match local.what.clone() {
            Written::Policy(number, policy) => {
                let setting = Setting {
                    relation: TABLE,
                    epoch: Epoch { number, origin },
                    policy,
                };
                self.set_policy(&setting, source);
                let known = (setting.clone(), source, false);
                // It was flushed when it was set.
                self.flushed.settings.push(known.clone());
                self.server.settings.push(known);
                (plain, Op::Policy(setting))
            }
            Written::Event(key, row) => (
                self.event(plain, source, &vector, key, row),
                Op::Event(key, row),
            ),
            Written::Truncate => {
                let inherited = self.index.inherited_by_truncate(TABLE);
                let version = plain.ranked(self.policies.truncate_rank(TABLE, inherited));
                self.announce_truncate(version, source, Lsn::ZERO);
                (version, Op::Truncate)
            }
            Written::Update(key, old, new) => match self.merges() {
                Some((rules, epoch)) => {
                    let version = plain.ranked(Rank { epoch, height: 0 });
                    let changes = self.changes(rules, key, &vector, &old, &new);
                    self.merge_index(key, rules, version, source, &vector, &changes, true);
                    self.told.add(What::Merged, 1);
                    let image = new;
                    let update = Update {
                        rules,
                        image,
                        changes,
                    };
                    (version, Op::Update(key, update))
                }
                None => {
                    let version = self.event(plain, source, &vector, key, Some(new));
                    (version, Op::Event(key, Some(new)))
                }
            },
        };
        self.journal.push(Transaction {
            at: source,
            version,
            vector,
            seen,
            op,
        });
        self.stamped.push_back(local);
        self.captured = lsn;
        true
    }

    /// What it claims: what had landed before it, and, where nothing is merged, perhaps a little more.
    fn see_before(&mut self, position: Lsn) {
        let exact = self.has(Rule::Exact);
        let (clock, dispatched) = (&mut self.clock, &mut self.dispatched);
        let (seen, told) = (&mut self.seen, &mut self.told);
        self.marks.retain_mut(|mark| {
            if exact && mark.merges && !mark.landed {
                mark.after = mark.after.max(position);
            }
            if mark.after >= position {
                return true;
            }
            clock.saw(mark.stamp);
            dispatched.raise(mark.at.origin, mark.at.lsn);
            if mark.landed {
                seen.raise(mark.at.origin, mark.at.lsn);
            }
            told.add(What::ClaimedTooMuch, usize::from(!mark.landed));
            !mark.landed
        });
    }

    fn merges(&self) -> Option<(usize, Epoch)> {
        let (epoch, merges) = self.policies.merges(TABLE)?;
        let merges: Vec<_> = merges.iter().map(|(_, merge)| *merge).collect();
        Some((RULES.iter().position(|r| r[..] == merges[..])?, epoch))
    }

    fn changes(
        &self,
        rules: usize,
        key: Key,
        vector: &Vector,
        old: &Row,
        new: &Row,
    ) -> Vec<Changed> {
        let claims = |p: Position| p.origin == self.me || vector.covers(p);
        let changed = Part::of(rules).filter(|part| part.value(old) != part.value(new));
        let change = |part: Part| {
            let (was, now) = (part.value(old), part.value(new));
            let inherited = self
                .index
                .inherited_height(hash(key), self.name(part), claims);
            let inherited = if self.has(Rule::Inherit) {
                inherited
            } else {
                i64::MIN
            };
            Changed {
                part,
                by: now - was,
                height: RULES[rules][part.column].height(now).max(inherited),
            }
        };
        changed.map(change).collect()
    }

    fn name(&self, part: Part) -> everywrite_conflict::policy::columns::Column {
        match self.has(Rule::Element) {
            true => part.name(),
            false => part.column(),
        }
    }

    /// Announces a local row event.
    fn event(
        &mut self,
        plain: Version,
        source: Position,
        vector: &Vector,
        key: Key,
        row: Option<Row>,
    ) -> Version {
        let claims = |p: Position| p.origin == source.origin || vector.covers(p);
        let own = self.policies.rank(TABLE, plain.stamp, source.origin);
        let version = plain.ranked(own.max(self.index.inherited(TABLE, hash(key), claims)));
        self.announce(version, source, vector, key, row.is_none(), Lsn::ZERO);
        version
    }

    fn announce(
        &mut self,
        version: Version,
        source: Position,
        vector: &Vector,
        key: Key,
        deleted: bool,
        local_lsn: Lsn,
    ) -> Option<Entry> {
        let entry = Entry {
            version,
            source: Some(source),
            deleted,
            local_lsn,
        };
        let vector = Arc::new(vector.clone());
        match version.is_ranked() {
            true => {
                self.index
                    .announce_ranked(TABLE, hash(key), entry, &vector)
                    .0
            }
            false => self.index.announce_over(TABLE, hash(key), entry).0,
        }
    }

    fn announce_truncate(&mut self, version: Version, source: Position, local_lsn: Lsn) {
        let entry = Entry {
            version,
            source: Some(source),
            deleted: true,
            local_lsn,
        };
        self.index.announce_truncate(TABLE, entry);
    }

    #[expect(clippy::too_many_arguments, reason = "one update, said once")]
    fn merge_index(
        &mut self,
        key: Key,
        rules: usize,
        version: Version,
        source: Position,
        vector: &Vector,
        changes: &[Changed],
        present: bool,
    ) -> everywrite_conflict::Merging {
        let known = self.has(Rule::Known) || source.origin == self.me;
        let claims =
            |p: Position| p.origin == source.origin && p.lsn <= source.lsn || vector.covers(p);
        let columns: Vec<ColumnChange> = changes
            .iter()
            .map(|c| ColumnChange {
                column: self.name(c.part),
                merge: RULES[rules][c.part.column],
                height: c.height,
            })
            .collect();
        let update = everywrite_conflict::Update {
            relation: TABLE,
            key: hash(key),
            version,
            source,
            columns: &columns,
            present,
        };
        match known {
            true => self.index.merge(&update, claims),
            false => {
                // Only for the row event.
                let event = self.index.get(TABLE, hash(key)).and_then(|e| e.source);
                self.index.merge(&update, |p| Some(p) == event && claims(p))
            }
        }
    }

    fn set_policy(&mut self, setting: &Setting, at: Position) {
        let begins = match self.has(Rule::Late) {
            true => Begins::Stable([(at.origin, at.lsn)].into_iter().collect()),
            false => Begins::Begun,
        };
        self.policies.set(setting.clone(), begins);
        self.merges_marked();
    }

    fn merges_marked(&mut self) {
        if self.policies.any_merging() {
            self.marks.iter_mut().for_each(|mark| mark.merges = true);
        }
    }

    /// What is captured is on disk.
    pub(crate) fn sync(&mut self) {
        self.durable = self.journal.len();
        self.stamped.clear();
    }

    /// Everything local is captured, and durable, and all that came before it flushed.
    pub(crate) fn barrier(&mut self) {
        self.flush();
        while self.capture() {}
        self.sync();
        self.seen.merge(&self.server.applied);
    }

    /// Whether a transaction can be announced: what it has seen is here, and nothing of its origin is on
    /// its way.
    pub(crate) fn takes(&self, t: &Transaction) -> bool {
        let seen = |(origin, lsn)| self.here(origin) >= lsn;
        let busy = |w: &OnWay| w.transaction.at.origin == t.at.origin;
        t.vector.iter().all(seen) && !self.on_way.iter().any(busy)
    }

    /// What it has of an origin, itself included.
    pub(crate) fn here(&self, origin: NodeId) -> Lsn {
        self.of(origin, &self.server)
    }

    /// The same, as far as no crash takes it back.
    pub(crate) fn flushed_of(&self, origin: NodeId) -> Lsn {
        self.of(origin, &self.flushed)
    }

    fn of(&self, origin: NodeId, server: &Server) -> Lsn {
        let own = || self.journal[..self.durable].last();
        match self.me == origin {
            true => own().map_or(Lsn::ZERO, |t| t.at.lsn),
            false => server.applied.get(origin),
        }
    }

    pub(crate) fn dispatch(&mut self, t: &Transaction) {
        if let Op::Policy(setting) = &t.op {
            self.set_policy(setting, t.at);
        }
        self.marks.push(Mark {
            at: t.at,
            stamp: t.version.stamp,
            after: self.captured,
            landed: false,
            merges: self.policies.any_merging(),
        });
        let prior = match &t.op {
            Op::Event(key, row) => {
                self.index
                    .recall_for(hash(*key), t.at, t.version.stamp, &t.seen);
                let stands = self.index.get(TABLE, hash(*key));
                let loses = stands.is_some_and(|e| e.version >= t.version);
                let below = self
                    .index
                    .below(hash(*key), t.version, Some(t.at), |p| t.claims(p));
                let below = below.filter(|_| !loses);
                let deleted = row.is_none();
                let prior = self.announce(t.version, t.at, &t.vector, *key, deleted, Lsn::MAX);
                below.or(prior)
            }
            Op::Truncate => {
                self.announce_truncate(t.version, t.at, Lsn::MAX);
                None
            }
            Op::Update(..) | Op::Policy(_) => None,
        };
        self.on_way.push(OnWay {
            transaction: t.clone(),
            prior,
        });
    }

    /// The n-th of those on their way is decided and commits.
    pub(crate) fn land(&mut self, n: usize) {
        let OnWay {
            transaction: t,
            prior,
        } = self.on_way.remove(n);
        let waits = match &t.op {
            Op::Event(key, _) | Op::Update(key, _) => {
                let local = |w: &Local| w.what.is_of(*key);
                !self.server.rows.contains_key(key) || self.written.iter().any(local)
            }
            Op::Truncate => true,
            Op::Policy(_) => false,
        };
        while waits && self.capture() {}
        if self.has(Rule::Durable) {
            self.sync();
        }
        if let Op::Event(key, _) | Op::Update(key, _) = &t.op {
            self.index.recall(hash(*key));
        }
        let before = self.wal;
        let at = self.commits();
        match &t.op {
            Op::Policy(setting) => self.server.settings.push((setting.clone(), t.at, false)),
            Op::Event(key, row) => {
                let now = self.index.get(TABLE, hash(*key));
                let stored = now.filter(|e| e.version != t.version).or(prior);
                let operation = match row {
                    Some(_) => Operation::Update,
                    None => Operation::Delete,
                };
                let present = self.server.rows.contains_key(key);
                let claims = |p| t.claims(p);
                if decide(
                    operation,
                    t.version,
                    claims,
                    claims,
                    stored.as_ref(),
                    present,
                )
                .apply
                {
                    match row {
                        Some(row) => drop(self.server.rows.insert(*key, *row)),
                        None => drop(self.server.rows.remove(key)),
                    }
                }
                self.index.landed(TABLE, hash(*key), t.version, at);
            }
            Op::Truncate => {
                self.truncate(&t);
                self.index.truncate_landed(TABLE, t.version, at);
            }
            Op::Update(key, update) => self.merge(&t, *key, update),
        }
        for mark in self.marks.iter_mut().filter(|m| m.at == t.at) {
            mark.after = mark.after.max(before);
            mark.landed = true;
        }
        self.server.applied.raise(t.at.origin, t.at.lsn);
    }

    /// Row by row: those go that the index does not put above it.
    fn truncate(&mut self, t: &Transaction) {
        for key in self.server.rows.keys() {
            self.index
                .recall_for(hash(*key), t.at, t.version.stamp, &t.seen);
        }
        let concerns = |(_, e): &(KeyHash, Entry)| {
            !e.deleted && (e.version > t.version || !e.source.is_some_and(|s| t.has_seen(s)))
        };
        let interesting: BTreeMap<KeyHash, Entry> = self.index.iter().filter(concerns).collect();
        let index = &self.index;
        self.server.rows.retain(|key, _| {
            let stays = |e: &Entry| {
                let above = e.version.is_ranked() && e.version != t.version;
                let now = index.get(TABLE, hash(*key));
                e.version > t.version || above && now.is_some_and(|now| !now.deleted)
            };
            interesting.get(&hash(*key)).is_some_and(stays)
        });
    }

    fn merge(&mut self, t: &Transaction, key: Key, update: &Update) {
        let Update {
            rules,
            image,
            changes,
        } = update;
        let present = self.server.rows.contains_key(&key);
        let merging = self.merge_index(key, *rules, t.version, t.at, &t.vector, changes, present);
        let takes = match (merging.belongs, self.has(Rule::Belongs)) {
            (true, _) => merging.takes,
            (false, true) => return,
            (false, false) => vec![Take::Value; changes.len()],
        };
        let whole = !self.has(Rule::Changed);
        let (difference, touched) = (self.has(Rule::Difference), self.has(Rule::Touched));
        let Some(row) = self.server.rows.get_mut(&key) else {
            // Its event lost to one that was on its way, and that a crash has taken back: that comes again.
            self.server.rows.insert(key, *image);
            self.told.add(What::CameBack, 1);
            return;
        };
        for (&Changed { part, by, .. }, take) in changes.iter().zip(takes) {
            match take {
                Take::Difference if difference => row[part.column] += by,
                Take::Value if !touched => row[part.column] = image[part.column],
                Take::Value | Take::Difference => part.copy(row, image),
                Take::Nothing => {}
            }
        }
        if whole {
            *row = *image;
        }
    }

    /// Forgets what is stable, and begins what that allows.
    pub(crate) fn settle(&mut self, stable: &Vector, rnd: &mut Rnd) {
        let remembers = rnd.below(2) == 0;
        let durable = self.journal[..self.durable]
            .last()
            .map_or(Lsn::ZERO, |t| t.at.lsn);
        let captured = if self.written.is_empty() && self.stamped.is_empty() {
            self.wal
        } else {
            durable
        };
        let some = stable.iter().filter(|_| rnd.below(4) == 0).collect();
        self.releasing.push_back((self.wal, some));
        while let Some((_, released)) = self.releasing.pop_front_if(|r| r.0 <= captured) {
            // Some of it may have lost to what is to go, and only that tells.
            let mut known = self.flushed.applied.clone();
            known.set(self.me, durable);
            self.closing.push_back((known, released));
        }
        while let Some((_, released)) = self.closing.pop_front_if(|c| stable.covers_all(&c.0)) {
            self.released.merge(&released);
        }
        let forgotten = self.index.forget(stable, captured);
        self.told.add(What::Forgotten, forgotten);
        for (_, epoch) in self.policies.settle(stable, captured, self.wal) {
            self.told.add(What::Begun, 1);
            self.merges_marked();
            let of = self
                .server
                .settings
                .iter_mut()
                .filter(|(s, ..)| remembers && s.epoch == epoch);
            of.for_each(|(_, _, begun)| *begun = true);
            if remembers {
                self.flush();
            }
        }
    }

    /// Takes what the index counts into what is told.
    pub(crate) fn count(&mut self) {
        let index = &mut self.index;
        let (spilled, recalled) = (&mut index.spilled, &mut index.recalled);
        self.told.add(What::LeftMemory, std::mem::take(spilled));
        self.told.add(What::Recalled, std::mem::take(recalled));
    }

    /// Some of what may leaves memory.
    pub(crate) fn spill(&mut self, rnd: &mut Rnd) {
        let (which, captured) = (rnd.below(3) as i64, self.captured);
        self.index
            .spill(|e| e.local_lsn <= captured && e.version.stamp.0 % 3 <= which);
    }

    /// How many are on their way.
    pub(crate) fn on_way(&self) -> usize {
        self.on_way.len()
    }
}
