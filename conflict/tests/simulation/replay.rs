//! Replay at one site: dispatch a group, carry it out (fast or careful), land it.

use std::collections::{BTreeMap, VecDeque};

use everywrite_conflict::policy::Begins;
use everywrite_conflict::unique::{Candidate, Holder, Outcome, UniqueValue, resolve};
use everywrite_conflict::{
    Entry, Fold, Folded, Image, Lsn, Net, NodeId, Operation, Position, Version, decide, invariants,
};

use crate::data::{self, KEYS, Key, Op, Row, TABLES, Toast, Transaction};
use crate::postgres::Stored;
use crate::rules::{Rule, Rules};
use crate::site::{Site, site_of};

/// A group that is being replayed.
pub(crate) struct Flight {
    pub(crate) origin: NodeId,
    pub(crate) group: Vec<Transaction>,
    pub(crate) folded: Vec<Folded<Key, Row>>,
    /// What the index said of the keys before the group was announced.
    pub(crate) before: BTreeMap<Key, Option<Entry>>,
    pub(crate) truncates: Vec<(u8, Version)>,
    /// What the guard of the fast path counts as captured: fixed when the statements are sent.
    pub(crate) guard: Lsn,
}

/// A committed group whose answer has not been read yet.
pub(crate) struct Landing {
    pub(crate) flight: Flight,
    pub(crate) done: Done,
    pub(crate) at: Lsn,
}

/// What a group does to the table.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) rows: Rows,
    pub(crate) lost: Vec<(Key, Version)>,
    /// The rows that go into the conflict history.
    pub(crate) history: Vec<u64>,
}

/// What a site says of a version that it has replayed.
pub(crate) enum Answer {
    /// The value of the row, which is that version.
    Value(u64),
    /// A later version, or a delete, is on its way to whoever asks.
    Replaced,
}

/// Asks for the value of a row as a position wrote it; nothing if nobody can tell yet.
pub(crate) type Fetch<'a> = &'a dyn Fn(Position, Key) -> Option<Answer>;

type Whole = (Key, Version, Option<Stored>);

type Rows = BTreeMap<Key, Stored>;

impl Flight {
    /// Whether that transaction has surely seen what stands at a position.
    fn covers(&self, rules: Rules, transaction: u32, position: Position) -> bool {
        let transaction = &self.group[transaction as usize];
        let earlier = position.origin == self.origin && position.lsn < transaction.position;
        earlier
            || match rules.has(Rule::Base) {
                true => transaction.seen.covers(position),
                false => transaction.vector.covers(position),
            }
    }

    /// Whether it claims to have seen it.
    fn claims(&self, transaction: u32, position: Position) -> bool {
        let transaction = &self.group[transaction as usize];
        let earlier = position.origin == self.origin && position.lsn < transaction.position;
        earlier || transaction.vector.covers(position)
    }

    fn position(&self, transaction: u32) -> Lsn {
        self.group[transaction as usize].position
    }
}

impl Site {
    /// Sends the next transactions of one origin, if all is there that they have seen.
    pub(crate) fn dispatch(
        &mut self,
        origin: NodeId,
        received: &[Transaction],
        most: usize,
    ) -> bool {
        if self
            .daemon
            .flights
            .get(&origin)
            .is_some_and(|f| f.len() >= 3)
        {
            return false;
        }
        let from = self.daemon.dispatched.get(origin);
        let mut group: Vec<Transaction> = Vec::new();
        let start = received.partition_point(|t| t.position <= from);
        for transaction in received[start..].iter().take(most) {
            let own = self.durable_end();
            let seen = invariants::causality(
                origin,
                &transaction.vector,
                self.me,
                &self.daemon.applied,
                own,
            );
            let truncates = transaction.truncates().next().is_some();
            if seen.is_err() || truncates && !group.is_empty() {
                break;
            }
            group.push(transaction.clone());
            if truncates {
                break;
            }
        }
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return false;
        };
        let position = last.position;
        invariants::origin_order(origin, from, first.previous, first.position)
            .unwrap_or_else(|broken| panic!("{broken}"));
        let mut fold = Fold::new();
        for (number, transaction) in group.iter().enumerate() {
            transaction.fold_into(&mut fold, number as u32);
        }
        let truncates = group.iter().flat_map(|t| {
            t.truncates()
                .map(|table| (table, t.truncate_version(table)))
        });
        let truncates: Vec<_> = truncates.collect();
        let folded = fold.finish();
        if self.rules.has(Rule::Flight) && self.held(origin, &folded, !truncates.is_empty()) {
            self.paths.held += 1;
            return false;
        }
        // A truncate concerns all keys of its table.
        let truncated = |key: &Key| truncates.iter().any(|(table, _)| key % TABLES == *table);
        let truncated = (0..KEYS).filter(truncated);
        let keys = truncated.chain(folded.iter().map(|f| f.key));
        let travelled = first.ops.iter().any(|op| matches!(op, Op::Lost(..)));
        let place = Position {
            origin,
            lsn: first.position,
        };
        let index = &self.daemon.index;
        if travelled || index.group_asks(place, first.stamp, &first.seen) {
            index.recall(keys.clone().map(data::hash));
        }
        // What all of the group have seen is no opponent.
        let seen = |e: &Entry| {
            e.version < first.version
                && e.source.is_some_and(|s| match s.origin == origin {
                    true => s.lsn < first.position,
                    false => first.seen.covers(s),
                })
        };
        let entry = |key: Key| index.in_memory(data::relation(key), data::hash(key), seen);
        if group.len() > 1
            && self.rules.has(Rule::Split)
            && folded
                .iter()
                .any(|f| entry(f.key).is_some_and(|e| f.spans(e.version)))
        {
            self.paths.split += 1;
            return self.dispatch(origin, received, 1);
        }
        let before = keys.map(|key| (key, entry(key))).collect();
        let durable = self.rules.has(Rule::Durable);
        let captured = if durable {
            self.daemon.captured_durable
        } else {
            self.daemon.captured
        };
        let flight = Flight {
            origin,
            group,
            folded,
            before,
            truncates,
            guard: captured,
        };
        tell!(
            "  site {} dispatches {origin} {:?} before {:?}",
            self.me.0 - 1,
            flight.folded,
            flight.before
        );
        self.announce(&flight);
        self.daemon.dispatched.set(origin, position);
        self.daemon.claims.raise(origin, position);
        self.daemon
            .flights
            .entry(origin)
            .or_default()
            .push_back(flight);
        true
    }

    /// Another origin's group has one of the keys. Asked of the groups and not of the index: a local
    /// write, or a decided delete, may be what the index names by now.
    fn held(&self, origin: NodeId, folded: &[Folded<Key, Row>], truncates: bool) -> bool {
        let daemon = &self.daemon;
        let flights = daemon.flights.values().flatten();
        let under_way = flights.chain(daemon.landings.iter().map(|l| &l.flight));
        let others: Vec<&Flight> = under_way.filter(|f| f.origin != origin).collect();
        let touches = |flight: &Flight, key: Key| {
            flight.folded.iter().any(|f| f.key == key)
                || flight.truncates.iter().any(|t| t.0 == key % TABLES)
        };
        let busy = |key: Key| {
            let entry = daemon
                .index
                .in_memory(data::relation(key), data::hash(key), |_| true);
            // A second look, or a decision that is not committed.
            let entry = entry.filter(Entry::in_flight);
            entry.is_some_and(|e| e.source.is_none_or(|s| s.origin != origin))
                || others.iter().any(|flight| touches(flight, key))
        };
        truncates && (!others.is_empty() || !daemon.truncates_to_repeat.is_empty())
            || folded.iter().any(|f| busy(f.key))
    }

    fn announce(&mut self, flight: &Flight) {
        for transaction in &flight.group {
            self.daemon.clock.saw(transaction.stamp);
            for setting in transaction.settings() {
                self.daemon.policies.set(setting.clone(), Begins::Begun);
            }
        }
        for &(table, version) in &flight.truncates {
            let lsn = flight.position(0);
            let source = Some(Position {
                origin: flight.origin,
                lsn,
            });
            let entry = Entry {
                version,
                source,
                deleted: true,
                local_lsn: Lsn::MAX,
            };
            self.daemon
                .index
                .announce_truncate(data::table(table), entry);
        }
        for folded in &flight.folded {
            let lsn = flight.position(folded.last.transaction);
            let entry = Entry {
                version: folded.last.version,
                source: Some(Position {
                    origin: flight.origin,
                    lsn,
                }),
                deleted: folded.net.row().is_none(),
                local_lsn: Lsn::MAX,
            };
            let (relation, hash) = (data::relation(folded.key), data::hash(folded.key));
            let seen = &flight.group[folded.last.transaction as usize].vector;
            self.daemon
                .announce(relation, hash, entry, seen, self.rules);
        }
    }

    /// Carries the next group of an origin out; with `rollback` the careful way fails before its
    /// commit, and the group stays to be tried again.
    pub(crate) fn carry_out(
        &mut self,
        origin: NodeId,
        fetch: Fetch,
        fast: bool,
        rollback: bool,
    ) -> Result<bool, String> {
        let Some(flight) = self
            .daemon
            .flights
            .get_mut(&origin)
            .and_then(VecDeque::pop_front)
        else {
            return Ok(false);
        };
        let done = match fast.then(|| self.fast(&flight)).flatten() {
            Some(rows) => {
                self.paths.fast += 1;
                Some(Done {
                    rows,
                    ..Done::default()
                })
            }
            None => self.careful(&flight, fetch, rollback)?,
        };
        let Some(done) = done else {
            self.paths.undone += 1;
            self.daemon
                .flights
                .entry(origin)
                .or_default()
                .push_front(flight);
            return Ok(false);
        };
        let position = flight.group.last().map_or(Lsn::ZERO, |t| t.position);
        tell!(
            "  site {} applies {origin} up to {position}: lost {:?}",
            self.me.0 - 1,
            done.lost
        );
        self.commits(&flight)?;
        self.server.now.rows = done.rows.clone();
        self.server.now.progress.set(origin, position);
        self.server.record(&done.history);
        for setting in flight.group.iter().flat_map(Transaction::settings) {
            self.server.now.policy(setting);
        }
        if self.rules.has(Rule::Travel) {
            for lost in &done.lost {
                let id = self.server.next_outbox;
                self.server.next_outbox += 1;
                self.server.now.outbox.insert(id, *lost);
            }
        }
        let at = self.server.commit_replayed();
        // A crash that took back what was decided would leave nothing to record (ADR 3).
        if !done.history.is_empty() || !done.lost.is_empty() {
            self.server.flush();
        }
        self.daemon.landings.push_back(Landing { flight, done, at });
        Ok(true)
    }

    /// What must hold when a group commits, whatever the daemon believes of its server.
    fn commits(&mut self, flight: &Flight) -> Result<(), String> {
        let origin = flight.origin;
        let mut progress = self.server.now.progress.get(origin);
        let own = self.durable_end();
        for t in &flight.group {
            let there = &self.server.now.progress;
            invariants::exactly_once(origin, progress, t.position)
                .and_then(|()| invariants::origin_order(origin, progress, t.previous, t.position))
                .and_then(|()| invariants::causality(origin, &t.vector, self.me, there, own))
                .map_err(|e| e.to_string())?;
            progress = t.position;
            self.server.now.newest = self.server.now.newest.max(t.stamp);
        }
        Ok(())
    }

    /// The guarded statements: nothing of the group is in the index, nothing of it was written
    /// by a local transaction that is not captured. A guard that fails gives nothing.
    fn fast(&self, flight: &Flight) -> Option<Rows> {
        let known = flight.before.values().any(Option::is_some);
        if known || !flight.truncates.is_empty() || !self.rules.has(Rule::Set) {
            return None;
        }
        let mut rows = self.server.now.rows.clone();
        let guarded = |row: &Stored| row.local.is_none_or(|l| l <= flight.guard);
        for folded in &flight.folded {
            let there = rows.get(&folded.key).copied();
            match (&folded.net, there) {
                (Net::Nothing, _) => {}
                (Net::Insert(row), None) => {
                    rows.insert(folded.key, stored(row, folded.last.version, None)?);
                }
                (Net::Update(row), Some(old)) if guarded(&old) => {
                    let row = stored(row, folded.last.version, Some(old.toast))?;
                    rows.insert(folded.key, row);
                }
                // What it omits is not in the row that it replaces.
                (Net::Replace(row), Some(old)) if guarded(&old) => {
                    rows.insert(folded.key, stored(row, folded.last.version, None)?);
                }
                (Net::Delete, Some(old)) if guarded(&old) => {
                    rows.remove(&folded.key);
                }
                _ => return None,
            }
        }
        let taken = |key: Key, row: &Stored| rows.iter().any(|(k, r)| same_value(*k, r, key, row));
        let mut touched = flight
            .folded
            .iter()
            .filter_map(|f| Some((f.key, rows.get(&f.key)?)));
        (!touched.any(|(key, row)| taken(key, row))).then_some(rows)
    }

    /// With the rows locked: wait until capture is durably past the local WAL, then the index
    /// decides alone. Nothing comes back if the group has to be tried again.
    fn careful(
        &mut self,
        flight: &Flight,
        fetch: Fetch,
        rollback: bool,
    ) -> Result<Option<Done>, String> {
        self.capture_all();
        self.paths.careful += 1;
        let mut done = Done::default();
        let winners = self.winners(flight, &mut done.history)?;
        let mut rows = self.server.now.rows.clone();
        for &(table, version) in &flight.truncates {
            let index = &self.daemon.index;
            rows.retain(|k, row| {
                let stays = k % TABLES != table || index.survives_truncate(data::hash(*k), version);
                if !stays {
                    done.history.push(row.plain);
                }
                stays
            });
        }
        let mut whole: Vec<Whole> = Vec::new();
        for folded in &winners {
            let Some(row) = self.complete(flight, folded, &winners, &rows, fetch) else {
                return Ok(None);
            };
            whole.push(row);
        }
        let sets: Vec<Vec<Whole>> = match self.rules.has(Rule::Set) {
            true => vec![whole],
            false => whole.into_iter().map(|f| vec![f]).collect(),
        };
        for set in sets {
            for (key, ..) in &set {
                rows.remove(key);
            }
            self.place(set, &mut rows, &mut done);
        }
        done.rows = rows;
        let mut undo = Vec::new();
        for &(key, version) in &done.lost {
            let (relation, hash) = (data::relation(key), data::hash(key));
            undo.push(self.daemon.index.lose(relation, hash, version));
        }
        if !rollback {
            self.paths.lost += done.lost.len();
            return Ok(Some(done));
        }
        while let Some(undo) = undo.pop() {
            if self.rules.has(Rule::Undo) {
                self.daemon.index.undo(undo);
            }
        }
        Ok(None)
    }

    fn winners(
        &mut self,
        flight: &Flight,
        history: &mut Vec<u64>,
    ) -> Result<Vec<Folded<Key, Row>>, String> {
        let mut winners = Vec::new();
        for folded in &flight.folded {
            let version = folded.last.version;
            let now = self
                .stored(flight, folded.key)
                .ok_or("a key in flight is not in the index")?;
            let stored = match now.version == version {
                true => flight.before.get(&folded.key).copied().flatten(),
                false => Some(now),
            };
            let operation = match folded.net {
                Net::Insert(_) => Operation::Insert,
                Net::Update(_) | Net::Replace(_) => Operation::Update,
                Net::Delete | Net::Nothing => Operation::Delete,
            };
            let hybrid = self.rules.has(Rule::Hybrid) && self.rules.stamps_are_above();
            let hybrid = hybrid && (self.rules.has(Rule::Known) || !version.is_ranked());
            let covers = |p| hybrid && flight.covers(self.rules, folded.last.transaction, p);
            let present = self.server.now.rows.contains_key(&folded.key);
            let known = self.rules.has(Rule::Known);
            let claims = |p| known && flight.claims(folded.last.transaction, p);
            let decision = decide(operation, version, covers, claims, stored.as_ref(), present);
            if decision.conflict.is_some() {
                self.conflicts += 1;
                let stands = self.server.now.rows.get(&folded.key).map(|r| r.plain);
                let comes = folded.net.row().map(|r| r.plain);
                history.extend(if decision.apply { stands } else { comes });
            }
            if !decision.apply {
                continue;
            }
            let forgot = self.forgot.get(&folded.key);
            if stored.is_none()
                && forgot.is_some_and(|f| f.version > version && !f.source.is_some_and(claims))
                && (present || folded.net.row().is_some())
            {
                return Err(format!(
                    "{:?} of key {} was forgotten and {version:?} still came",
                    forgot, folded.key
                ));
            }
            winners.push(folded.clone());
        }
        Ok(winners)
    }

    /// What the index says, without the groups of the same origin that were sent behind this one.
    fn stored(&self, flight: &Flight, key: Key) -> Option<Entry> {
        let mut entry = self.daemon.index.get(data::relation(key), data::hash(key));
        for later in self
            .daemon
            .flights
            .get(&flight.origin)
            .into_iter()
            .flatten()
            .rev()
        {
            // By its write of the key or by its truncate of the table: the daemon goes by the
            // source, which is behind the group's own in either case.
            let written = later.folded.iter().filter(|f| f.key == key);
            let written = written.map(|f| f.last.version);
            let truncated = later.truncates.iter().filter(|t| t.0 == key % TABLES);
            let mut announced = written.chain(truncated.map(|t| t.1));
            if entry.is_some_and(|e| announced.any(|version| version == e.version)) {
                entry = later.before.get(&key).copied().flatten();
            }
        }
        entry
    }

    /// The whole row. What its image omits is in the row of before, if that is what its writer
    /// had before it. Otherwise it is asked for. If the version is replaced, there is no row here
    /// until what replaced it comes.
    fn complete(
        &mut self,
        flight: &Flight,
        folded: &Folded<Key, Row>,
        winners: &[Folded<Key, Row>],
        rows: &Rows,
        fetch: Fetch,
    ) -> Option<Whole> {
        let (key, version) = (folded.key, folded.last.version);
        let Some(row) = folded.net.row() else {
            return Some((key, version, None));
        };
        if row.complete() {
            return Some((key, version, stored(row, version, None)));
        }
        // An update behind a delete: of a row that came between them at its origin, unseen.
        let between = folded.moved_from.is_none() && !matches!(folded.net, Net::Update(_));
        let base = folded.moved_from.unwrap_or(key);
        let before = flight.before.get(&base).copied().flatten();
        let covered = |s| flight.covers(self.rules, folded.first.transaction, s);
        let seen = before.is_none_or(|e| e.source.is_some_and(covered));
        let undisturbed = winners.iter().any(|w| w.key == base);
        if let Some(old) = rows.get(&base).filter(|_| seen && undisturbed && !between) {
            return Some((key, version, stored(row, version, Some(old.toast))));
        }
        self.paths.fetched += 1;
        let position = Position {
            origin: flight.origin,
            lsn: flight.position(folded.last.transaction),
        };
        match fetch(position, key)? {
            Answer::Value(toast) => Some((key, version, stored(row, version, Some(toast)))),
            Answer::Replaced => {
                self.paths.replaced += 1;
                Some((key, version, None))
            }
        }
    }

    /// What another site is told of a row that was written at a position which is applied here.
    pub(crate) fn answer(&mut self, at: Position, key: Key) -> Option<Answer> {
        self.capture(usize::MAX);
        self.fsync();
        let entry = self.daemon.index.get(data::relation(key), data::hash(key));
        let row = self.server.now.rows.get(&key);
        tell!(
            "  site {} is asked for {key} of {at}: {entry:?}, {row:?}",
            site_of(self.me)
        );
        let value = row.map(|r| Answer::Value(r.toast));
        match entry {
            Some(entry) if entry.undecided() => None,
            _ if !self.rules.has(Rule::Very) => Some(value.unwrap_or(Answer::Replaced)),
            Some(entry) if entry.source != Some(at) || entry.deleted => Some(Answer::Replaced),
            Some(entry) if entry.in_flight() => None,
            // Committed, and not visible for a moment.
            Some(_) => value,
            // It is forgotten only once whoever asks has it. Here the row could be a later version.
            None => panic!("site {} has forgotten key {key} of {at}", site_of(self.me)),
        }
    }

    fn place(&mut self, set: Vec<Whole>, rows: &mut Rows, done: &mut Done) {
        let Done { lost, history, .. } = done;
        let gone =
            |key: Key, version: Version| lost.iter().any(|(k, v)| *k == key && *v >= version);
        let set: Vec<_> = set
            .into_iter()
            .filter_map(|(k, v, row)| Some((k, v, row?)))
            .collect();
        let set: Vec<_> = set.into_iter().filter(|(k, v, _)| !gone(*k, *v)).collect();
        let value = |key: Key, row: &Stored| {
            row.value
                .map(|v| UniqueValue(u128::from(key % TABLES) << 8 | u128::from(v)))
        };
        let candidates = set.iter().map(|(key, version, row)| Candidate {
            key: data::hash(*key),
            version: *version,
            values: vec![value(*key, row)],
        });
        let applied = self.applied_with_own();
        let holders = rows.iter().filter_map(|(key, row)| {
            let (relation, hash) = (data::relation(*key), data::hash(*key));
            let here = |e: &Entry| {
                row.writer == Some(e.version) || e.source.is_some_and(|s| applied.covers(s))
            };
            Some(Holder {
                key: hash,
                version: self.daemon.index.standing(relation, hash, here),
                index: 0,
                value: value(*key, row)?,
            })
        });
        let keys: BTreeMap<_, _> = (0..KEYS).map(|k| (data::hash(k), k)).collect();
        for outcome in resolve(candidates.collect(), holders.collect()) {
            match outcome {
                Outcome::Place(key) => {
                    let row = set.iter().find(|(k, ..)| data::hash(*k) == key);
                    if let Some((key, _, row)) = row {
                        rows.insert(*key, *row);
                    }
                }
                Outcome::Lost { key, version, .. } => {
                    let key = keys[&key];
                    let comes = set.iter().find(|s| s.0 == key).map(|s| s.2.plain);
                    history.extend(comes.or_else(|| rows.get(&key).map(|r| r.plain)));
                    rows.remove(&key);
                    lost.push((key, version));
                }
            }
        }
    }

    /// Reads the answer of the oldest committed group.
    pub(crate) fn land(&mut self) -> bool {
        let Some(Landing { flight, done, at }) = self.daemon.landings.pop_front() else {
            return false;
        };
        let written = flight.folded.iter().map(|f| (f.key, f.last.version));
        for (key, version) in written.chain(done.lost.iter().copied()) {
            let (relation, hash) = (data::relation(key), data::hash(key));
            let overtaken = self.daemon.index.landed(relation, hash, version, at);
            tell!(
                "  site {} landed key {key} {version:?} at {at}, overtaken {overtaken:?}",
                self.me.0 - 1
            );
            if overtaken.is_some_and(|e| e.deleted) && self.rules.has(Rule::Repair) {
                self.daemon.repairs.entry(key).or_default();
            }
        }
        for &(table, version) in &flight.truncates {
            self.daemon
                .index
                .truncate_landed(data::table(table), version, at);
        }
        for transaction in &flight.group {
            let sure = match self.rules.has(Rule::Sure) {
                true => &transaction.seen,
                false => &transaction.vector,
            };
            self.daemon.settled.replayed(flight.origin, sure);
            self.daemon
                .applied
                .raise(flight.origin, transaction.position);
        }
        // Its commit stands behind `at`.
        let last = self.daemon.applied.get(flight.origin);
        self.daemon.marks.push((Lsn(at.0 + 1), flight.origin, last));
        if self.daemon.tail_applied == Lsn::MAX && self.daemon.applied.covers_all(&self.daemon.tail)
        {
            self.daemon.tail_applied = at;
        }
        true
    }
}

fn stored(row: &Row, version: Version, toast: Option<u64>) -> Option<Stored> {
    let toast = match row.toast {
        Toast::Value(value) => value,
        _ => toast?,
    };
    Some(Stored {
        value: row.value,
        plain: row.plain,
        toast,
        local: None,
        writer: Some(version),
    })
}

fn same_value(a: Key, x: &Stored, b: Key, y: &Stored) -> bool {
    a != b && a % TABLES == b % TABLES && x.value.is_some() && x.value == y.value
}
