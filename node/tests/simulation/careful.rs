//! How the rows of a group are decided with care, and written blindly: what `replay/careful.rs` and
//! `replay/known.rs` do with SQL. Locks are not needed: nothing comes in between.

use std::collections::BTreeMap;

use everywrite_conflict::unique::{Candidate, Holder, Outcome, UniqueValue, resolve};
use everywrite_conflict::{
    Decision, Entry, KeyHash, Lsn, Net, Operation, Position, Vector, Version, decide,
};

use everywrite_node::replay::meets::{self, Base};
use everywrite_node::settle::LeavesOut;

use crate::data::{self, Key, Row, TABLES, Toast};
use crate::group::{Decided, Group, Slot, State};
use crate::postgres::Stored;
use crate::rules::Rule;
use crate::site::{Site, site_of};
use crate::stream::Written;

pub(crate) type Rows = BTreeMap<Key, Stored>;

/// Asks other sites for the value of a row as a position wrote it: nothing if that is replaced; an error if
/// nobody can tell yet.
pub(crate) type Fetch<'a> =
    &'a dyn Fn(Position, Key, &[everywrite_conflict::NodeId]) -> Result<Option<u64>, ()>;

/// A slot on its way through the decision.
struct Case<'a> {
    slot: &'a Slot,
    /// The row that is there.
    present: Option<Stored>,
    stored: Option<Entry>,
    /// The row that is there is what the index names; else that one is still on its way.
    stands: bool,
    /// Then that row, if it is known to be one of this site.
    beneath: Option<Entry>,
    decision: Decision,
    /// The row to write.
    image: Option<Stored>,
    /// Lost its place to the holder of a unique value.
    lost: bool,
}

fn operation(net: &Net<Row>) -> Operation {
    match net {
        Net::Insert(_) => Operation::Insert,
        Net::Update(_) | Net::Replace(_) => Operation::Update,
        Net::Delete | Net::Nothing => Operation::Delete,
    }
}

impl Site {
    // ---- blindly ----

    /// The guarded statements of a group that goes blindly, in their order: deletes, updates, inserts.
    pub(crate) fn write_fast(&mut self, group: &mut Group) -> Result<(), String> {
        let mut decided = Decided::default();
        let rows = self.server.now.rows.clone();
        let Some(rows) = write_fast(group, &group.slots, rows, &mut decided) else {
            tell!("  site {}: a guard fails", site_of(self.me));
            group.state = State::Failed;
            return Ok(());
        };
        self.paths.fast += 1;
        self.paths.decided += usize::from(group.conflicts);
        group.decided = decided;
        self.server.now.rows = rows;
        self.commit(group)
    }

    // ---- with care ----

    /// Decides and writes inside a transaction that has made `rows` so far.
    pub(crate) fn careful(
        &mut self,
        group: &Group,
        slots: &[Slot],
        mut rows: Rows,
        decided: &mut Decided,
        fetch: Fetch<'_>,
    ) -> Result<Written, String> {
        for table in 0..TABLES {
            let of = |s: &&Slot| s.key() % TABLES == table;
            let slots: Vec<&Slot> = slots.iter().filter(of).collect();
            if slots.is_empty() {
                continue;
            }
            let Some(mut cases) = self.lock(group, &slots, &rows, decided)? else {
                return Ok(Written::Again);
            };
            let kept = cases.iter().filter(|c| !c.decision.apply);
            let kept = kept.map(|c| (c.slot.hash(), c.slot.version()));
            decided.kept.extend(kept);
            if !self.complete(group, &mut cases, &rows, fetch) {
                return Ok(Written::Error);
            }
            let sets: Vec<Vec<Case<'_>>> = match self.rules.has(Rule::Set) {
                true => vec![cases],
                false => cases.into_iter().map(|c| vec![c]).collect(),
            };
            for mut cases in sets {
                let Some(lost) = self.second_unique(table, &mut cases, &rows, decided) else {
                    return Ok(Written::Again);
                };
                record(group, &cases, decided);
                self.left_out(group, &cases, decided);
                if !change(&mut rows, &cases, &lost, decided) {
                    return Ok(Written::Again);
                }
            }
        }
        Ok(Written::Rows(rows))
    }

    /// Says which rows are older than a write that is left out, because what it lost to is on its way.
    fn left_out(&self, group: &Group, cases: &[Case<'_>], decided: &mut Decided) {
        let before = self.daemon.ledger.applied().get(group.origin);
        let left = |c: &Case<'_>| {
            let newer = c.stored.and_then(|e| e.source);
            let newer = newer.filter(|s| s.origin != self.me && !c.decision.apply && !c.stands);
            newer
                .filter(|_| c.present.is_some())
                .map(|newer| LeavesOut {
                    key: c.slot.hash(),
                    origin: group.origin,
                    before,
                    newer,
                })
        };
        let left: Vec<_> = cases.iter().filter_map(left).collect();
        self.daemon.ledger.leaves_out(&left);
        decided.left_out.extend(left);
    }

    /// Waits until the index is complete for the rows, and decides each by version. Nothing: somebody else
    /// is deciding one of them.
    fn lock<'a>(
        &mut self,
        group: &Group,
        slots: &[&'a Slot],
        rows: &Rows,
        decided: &Decided,
    ) -> Result<Option<Vec<Case<'a>>>, String> {
        let relation = data::relation(slots[0].key());
        let found: Vec<Option<Stored>> =
            slots.iter().map(|s| rows.get(&s.key()).copied()).collect();
        let horizon = self.daemon.horizon;
        let recent = |row: &Stored| row.local.is_some_and(|l| l > horizon);
        if found.iter().any(|f| f.as_ref().is_none_or(recent)) {
            self.pass();
        }
        let hashes: Vec<KeyHash> = slots.iter().map(|s| s.hash()).collect();
        let now = self.daemon.ledger.look(relation, hashes.into_iter());
        let mut cases = Vec::with_capacity(slots.len());
        let mut ours = Lsn::ZERO;
        for ((slot, found), (now, beneath)) in slots.iter().zip(found).zip(now) {
            let slot: &'a Slot = slot;
            let change = meets::Change {
                origin: group.origin,
                last: group.last(),
                version: slot.version(),
                prior: slot.prior,
            };
            let met = change.meets(now, beneath);
            let stored = met.stored;
            let open = |e: &Entry| e.undecided() && !decided.has(slot.key(), e.version);
            if stored.as_ref().is_some_and(open) {
                return Ok(None);
            }
            let last = slot.folded.last;
            // It is there no more if another site's group has replaced it, whose answer may not be read yet, or
            // an earlier part of this transaction.
            let written = || {
                let before = decided.lost.contains(&(slot.key(), slot.version()));
                before && !decided.kept.contains(&(slot.hash(), slot.version()))
            };
            let own = found.is_some_and(|row| row.local.is_some());
            let beneath = beneath.filter(|e| own && !e.deleted && !written());
            let sources = stored.iter().chain(&beneath).filter_map(|e| e.source);
            for source in sources.filter(|s| s.origin == self.me) {
                ours = ours.max(source.lsn);
            }
            let present = found.is_some();
            let base = self.rules.has(Rule::Base);
            let covers = |position| match base {
                true => group.covers(last, position),
                false => group.claims(last, position),
            };
            let claims = |position| group.claims(last, position);
            let operation = operation(&slot.folded.net);
            let mut decision = decide(
                operation,
                slot.version(),
                covers,
                claims,
                stored.as_ref(),
                present,
            );
            decision.apply &= met.allows();
            self.forgotten_too_early(slot, stored, decision, present, claims)?;
            cases.push(Case {
                slot,
                present: found,
                stored,
                stands: true,
                beneath,
                decision,
                image: None,
                lost: false,
            });
        }
        for case in &mut cases {
            // A row that was not there to be locked may be any by now.
            let here = |e: Entry| self.here(&e);
            case.stands =
                case.present.is_some() && case.beneath.is_none() && case.stored.is_none_or(here);
        }
        self.wait_durable(ours);
        Ok(Some(cases))
    }

    /// For the checks: a write that wins over nothing known, and below what was forgotten.
    fn forgotten_too_early(
        &self,
        slot: &Slot,
        stored: Option<Entry>,
        decision: Decision,
        present: bool,
        claims: impl Fn(Position) -> bool,
    ) -> Result<(), String> {
        let (version, forgot) = (slot.version(), self.forgot.get(&slot.key()));
        let below = forgot.is_some_and(|f| f.version > version && !f.source.is_some_and(claims));
        if below && stored.is_none() && decision.apply && (present || slot.image().is_some()) {
            return Err(format!(
                "{forgot:?} of key {} was forgotten and {version:?} still came",
                slot.key()
            ));
        }
        Ok(())
    }

    /// Whether the row that is in the table is the write that the index names.
    pub(crate) fn here(&self, entry: &Entry) -> bool {
        let committed: &Vector = &self.server.now.progress;
        let landed = |s: Position| s.origin == self.me || committed.covers(s);
        !entry.deleted && entry.source.is_some_and(landed)
    }

    /// Gives every winner its whole row; false if nobody knows what it omits.
    fn complete(
        &mut self,
        group: &Group,
        cases: &mut [Case<'_>],
        rows: &Rows,
        fetch: Fetch<'_>,
    ) -> bool {
        // What the keys of the batch met: also those that its rows have come from.
        let left_out = self
            .daemon
            .ledger
            .left_out(cases.iter().map(|c| c.slot.hash()));
        let base_of = |c: &Case<'_>| Base {
            present: c.present.is_some(),
            left_out: left_out.contains(&c.slot.hash()),
            stored: c.stored,
            first: c.slot.folded.first,
        };
        let left: BTreeMap<Key, Base> = cases
            .iter()
            .filter(|c| c.slot.image().is_none())
            .map(|c| (c.slot.key(), base_of(c)))
            .collect();
        for case in cases.iter_mut().filter(|c| c.decision.apply) {
            let Some(row) = case.slot.image() else {
                continue;
            };
            if let Toast::Value(toast) = row.toast {
                case.image = Some(stored(row, toast));
                continue;
            }
            // The values belong to the row that the first writer of the group saw.
            let base = self.rules.has(Rule::Base);
            let covers = |writer, s| match base {
                true => group.covers(writer, s),
                false => group.claims(writer, s),
            };
            let seen = |b: &Base| b.was_seen(covers);
            let base = match &case.slot.folded.moved_from {
                // What a row brings that was deleted, or came, in the same group belongs to no row that
                // stands here.
                None => {
                    let update = matches!(case.slot.folded.net, Net::Update(_));
                    update && seen(&base_of(case))
                }
                Some(from) => left.get(from).is_some_and(seen),
            };
            let key = case.slot.key();
            let from = case.slot.folded.moved_from.unwrap_or(key);
            if let Some(old) = rows.get(&from).filter(|_| base) {
                case.image = Some(stored(row, old.toast));
                continue;
            }
            self.paths.fetched += 1;
            let position = group.position(case.slot);
            let applied = self.daemon.beats.all();
            let others = applied.iter().filter(|b| b.applied.covers(position));
            let others = others.map(|b| b.node).filter(|n| *n != self.me);
            let others: Vec<_> = others.collect();
            match fetch(position, case.slot.key(), &others) {
                // The version is no more where it was written: a later one, or a delete, is
                // on its way here too. Until then there is no row: nobody may build on half of one.
                Ok(None) => self.paths.replaced += 1,
                Ok(Some(toast)) => case.image = Some(stored(row, toast)),
                Err(()) => return false,
            }
        }
        true
    }

    /// Decides who keeps the winners' unique values; nothing if somebody else is deciding one of the rows.
    fn second_unique(
        &mut self,
        table: u8,
        cases: &mut [Case<'_>],
        rows: &Rows,
        decided: &mut Decided,
    ) -> Option<Vec<(Key, Version)>> {
        let relation = data::table(table);
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut holders: Vec<(Key, UniqueValue)> = Vec::new();
        let overwritten = |key: Key, cases: &[Case<'_>]| {
            cases
                .iter()
                .any(|c| c.decision.apply && c.slot.key() == key)
        };
        let mut recent = false;
        for case in cases.iter() {
            let Some(value) = case.image.and_then(|image| image.value) else {
                continue;
            };
            let unique = UniqueValue(u128::from(value));
            candidates.push(Candidate {
                key: case.slot.hash(),
                version: case.slot.version(),
                values: vec![Some(unique)],
            });
            let holds = |(key, row): &(&Key, &Stored)| {
                **key % TABLES == table && row.value == Some(value) && **key != case.slot.key()
            };
            let holder = rows.iter().find(holds);
            if let Some((key, row)) = holder.filter(|(key, _)| !overwritten(**key, cases)) {
                recent |= row.local.is_some_and(|l| l > self.daemon.horizon);
                holders.push((*key, unique));
            }
        }
        if holders.is_empty() && candidates.len() < 2 {
            return Some(Vec::new());
        }
        if recent {
            self.pass();
        }
        let here = |e: &Entry| self.here(e);
        let mut entries: BTreeMap<Key, Option<Entry>> = BTreeMap::new();
        let mut outcomes = Vec::new();
        let asked = holders.iter().map(|h| data::hash(h.0));
        let asked: Vec<_> = asked.chain(candidates.iter().map(|c| c.key)).collect();
        let removed = self
            .daemon
            .ledger
            .lose(relation, asked.into_iter(), |index| {
                let open = |key: Key, entry: Option<Entry>| {
                    entry.is_some_and(|e| e.undecided() && !decided.has(key, e.version))
                };
                let mut standing = Vec::with_capacity(holders.len());
                for &(key, value) in &holders {
                    let entry = index.get(relation, data::hash(key));
                    if open(key, entry) {
                        return None;
                    }
                    // What is only on its way is not the row that stands here.
                    entries.insert(key, entry.filter(here));
                    standing.push(Holder {
                        key: data::hash(key),
                        version: index.standing(relation, data::hash(key), here),
                        index: 0,
                        value,
                    });
                }
                outcomes = resolve(std::mem::take(&mut candidates), standing);
                let losers: Vec<_> = outcomes.iter().filter_map(loser).collect();
                // Each of two decisions about one row would take back the other's when it is undone.
                let taken = |(hash, _): &(KeyHash, Version)| {
                    let entry = index.get(relation, *hash);
                    data::key_of(*hash).is_some_and(|key| open(key, entry))
                };
                (!losers.iter().any(taken)).then_some(losers)
            });
        decided.removed.extend(removed?);
        let ours = entries.values().flatten().filter_map(|e| e.source);
        let ours = ours.filter(|s| s.origin == self.me).map(|s| s.lsn).max();
        self.wait_durable(ours.unwrap_or(Lsn::ZERO));
        let mut lost = Vec::new();
        for (hash, version) in outcomes.iter().filter_map(loser) {
            let Some(key) = data::key_of(hash) else {
                continue;
            };
            decided.lost.push((key, version));
            decided.conflicts += 1;
            let case = cases
                .iter_mut()
                .find(|c| c.slot.key() == key && c.image.is_some());
            match case {
                Some(case) => {
                    decided.history.extend(case.image.map(|i| i.plain));
                    case.lost = true;
                }
                None => decided.history.extend(rows.get(&key).map(|r| r.plain)),
            }
            lost.push((key, version));
        }
        Some(lost)
    }

    /// What another site is told of a row that was written at a position: its value, or that it is replaced.
    pub(crate) fn answer(&mut self, at: Position, key: Key) -> Result<Option<u64>, ()> {
        let applied = match at.origin == self.me {
            true => self.durable_end() >= at.lsn,
            false => self.daemon.ledger.applied().covers(at),
        };
        if !applied || !self.daemon.ready {
            return Err(());
        }
        let found = self.server.now.rows.get(&key).map(|row| row.toast);
        // Whatever was written to the row before it was read is in the index after this.
        self.pass();
        // A large transaction is announced in parts: what it wrote before its TRUNCATE went with the table.
        let ledger = &self.daemon.ledger;
        if found.is_none() && ledger.truncated_at(data::relation(key), at) {
            return Ok(None);
        }
        let entry = self
            .daemon
            .ledger
            .known(data::relation(key), data::hash(key));
        tell!(
            "  site {} is asked for {key} of {at}: {entry:?}, {found:?}",
            site_of(self.me)
        );
        if !self.rules.has(Rule::Very) {
            return Ok(found);
        }
        everywrite_node::replay::very(at, entry, found).map_err(drop)
    }
}

/// What the statements of the fast path make of `rows`; nothing if a guard fails.
pub(crate) fn write_fast(
    group: &Group,
    slots: &[Slot],
    mut rows: Rows,
    decided: &mut Decided,
) -> Option<Rows> {
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    let mut removes = Vec::new();
    let coming = group.coming(group.last());
    for slot in slots {
        let met = slot
            .prior
            .filter(|p| group.conflicts && coming.unseen(&slot.folded, p));
        if let Some(prior) = met {
            let Decision { apply, conflict } = decide(
                operation(&slot.folded.net),
                slot.version(),
                |position| group.covers(slot.folded.last, position),
                |position| group.claims(slot.folded.last, position),
                Some(&prior),
                !prior.deleted,
            );
            if conflict.is_some() {
                decided.conflicts += 1;
                let row = rows.get(&slot.key()).filter(|_| !prior.deleted);
                // A row that capture has not passed is not recorded: the guard fails then.
                let row = row.filter(|r| r.local.is_none_or(|l| l <= group.guard));
                let comes = slot.image().map(|r| r.plain);
                let loses = if apply { row.map(|r| r.plain) } else { comes };
                decided.history.extend(loses);
            }
            if !apply {
                decided.kept.insert((slot.hash(), slot.version()));
                continue;
            }
        }
        match (&slot.folded.net, met.map(|prior| prior.deleted)) {
            (Net::Nothing, _) => removes.push(slot.key()),
            (Net::Delete, _) => deletes.push(slot.key()),
            (Net::Insert(row), None) => inserts.push((slot.key(), row)),
            (Net::Insert(row) | Net::Update(row) | Net::Replace(row), Some(true)) => {
                inserts.push((slot.key(), row));
            }
            (Net::Insert(row) | Net::Update(row) | Net::Replace(row), _) => {
                updates.push((slot.key(), row));
            }
        }
    }
    let guarded = |row: &Stored| row.local.is_none_or(|l| l <= group.guard);
    for key in removes {
        if rows.get(&key).is_some_and(guarded) {
            rows.remove(&key);
        }
    }
    for key in deletes {
        rows.remove(&key).filter(guarded)?;
    }
    for (key, row) in updates {
        let old = rows.get(&key).copied().filter(guarded)?;
        put(&mut rows, key, row, Some(old.toast))?;
    }
    for (key, row) in inserts {
        if rows.contains_key(&key) {
            return None;
        }
        put(&mut rows, key, row, None)?;
    }
    Some(rows)
}

/// Writes a row, if no other has its unique value.
fn put(rows: &mut Rows, key: Key, row: &Row, old: Option<u64>) -> Option<()> {
    let toast = match row.toast {
        Toast::Value(value) => value,
        Toast::Unchanged => old?,
    };
    place(rows, key, stored(row, toast)).then_some(())
}

fn place(rows: &mut Rows, key: Key, row: Stored) -> bool {
    let same = |(k, r): (&Key, &Stored)| {
        *k != key && k % TABLES == key % TABLES && row.value.is_some() && r.value == row.value
    };
    let free = !rows.iter().any(same);
    rows.insert(key, row);
    free
}

/// Puts the conflicts into the history, before the rows change.
fn record(group: &Group, cases: &[Case<'_>], decided: &mut Decided) {
    for case in cases {
        let comes = case.image.map(|i| i.plain);
        let comes = comes.or_else(|| case.slot.image().map(|r| r.plain));
        let applied = case.decision.apply;
        // The transaction of what the index names would find the row no more.
        let seen = |s| group.covers(case.slot.folded.last, s);
        let lost = |e: &Entry| case.present.is_some() && applied && !e.source.is_some_and(seen);
        let own = case.beneath.filter(lost);
        if own.is_none() && case.decision.conflict.is_none() {
            continue;
        }
        decided.conflicts += 1;
        if !applied {
            decided.history.extend(comes);
        } else if own.is_some() || case.stands {
            decided.history.extend(case.present.map(|r| r.plain));
        }
    }
}

/// Writes what was decided, as a set: what is overwritten goes first. False: a row came in between.
fn change(
    rows: &mut Rows,
    cases: &[Case<'_>],
    lost: &[(Key, Version)],
    decided: &mut Decided,
) -> bool {
    let apply = || cases.iter().filter(|c| c.decision.apply);
    for case in apply() {
        rows.remove(&case.slot.key());
    }
    for (key, _) in lost {
        let image = |c: &Case<'_>| c.slot.key() == *key && c.image.is_some();
        if !cases.iter().any(image) {
            rows.remove(key);
        }
    }
    decided.outbox.extend(lost);
    apply().filter(|c| !c.lost).all(|case| match case.image {
        Some(image) => place(rows, case.slot.key(), image),
        None => true,
    })
}

fn loser(outcome: &Outcome) -> Option<(KeyHash, Version)> {
    match outcome {
        Outcome::Lost { key, version, .. } => Some((*key, *version)),
        Outcome::Place(_) => None,
    }
}

fn stored(row: &Row, toast: u64) -> Stored {
    Stored {
        value: row.value,
        plain: row.plain,
        toast,
        local: None,
    }
}
