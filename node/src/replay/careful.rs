//! The careful path: lock, let capture catch up, decide in the index, write, record.
//!
//! ```text
//!  wait for blind groups of others
//!  lock every row of the batch ──► anything local that capture may not have passed, or missing?
//!                                     └─► barrier: now the index is complete for these keys
//!  decide each key ──► losers: history        (rows of ours must be durable in the journal first:
//!                 └──► winners                 a stamp that a crash could change decides nothing)
//!                        ├─ second unique keys: who keeps the value; what loses travels as a delete
//!                        └─ missing TOAST values: from the row itself if it is the version that the
//!                           writer saw, else from a site that has the row
//!  history, then deletes, updates, inserts
//! ```
//!
//! Everything happens in one transaction; an error leaves nothing behind but index entries, which
//! are announcements and hold in any case, and the undecided ones of lost rows, which are undone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use everywrite_conflict::unique::{Candidate, Holder, Outcome as Unique, UniqueValue, resolve};
use everywrite_conflict::{
    Decision, Entry, KeyHash, Kind, Lsn, Net, NodeId, Operation, Position, RelationHash, Vector,
    Version, decide,
};
use rustc_hash::FxHashSet;

use super::Error;
use super::batch::{Batch, RowKey, Slot, TableBatch};
use super::columns;
use super::counts::ConflictCounts;
use super::history;
use super::image::Image;
use super::landing::Landing;
use super::mapping::Mapping;
use super::meets::{self, Base};
use super::merging::Merging;
use super::policy;
use super::toast::Toast;
use super::travelling;
use super::writer::{Guard, Writer};
use crate::journal::Journal;
use crate::pg::pgoutput::Cell;
use crate::settle::{Barriers, LeavesOut, Ledger, Lifeline, Lost, origins};

/// What deciding needs.
#[derive(Clone)]
pub struct Context {
    /// This node.
    pub me: NodeId,
    /// Index, clock, vectors.
    pub ledger: Arc<Ledger>,
    /// Whether the server is still the same.
    pub lifeline: Arc<Lifeline>,
    /// Lets capture catch up.
    pub barriers: Barriers,
    /// The own journal.
    pub journal: Journal,
    /// Fetches TOAST values.
    pub toast: Arc<dyn Toast>,
    /// Merges rows that lost.
    pub merging: Arc<Merging>,
}

/// What a careful transaction has decided so far; to be undone if it is rolled back.
#[derive(Default)]
pub(super) struct Decided {
    /// Rows that go because others have their unique values.
    removed: Vec<Lost>,
    /// What lands with the transaction besides its batch: rows that lost a unique value, parts of a large one.
    pub(super) lost: Landing,
    /// Changes that are not written, because something newer is known.
    pub(super) kept: FxHashSet<(KeyHash, Version)>,
    /// Its conflicts.
    pub conflicts: ConflictCounts,
    /// (table, version) of truncates, whose entries land with the transaction.
    pub(super) truncated: Vec<(RelationHash, Version)>,
    /// Deletes were put into the outbox.
    pub outbox: bool,
    /// Something that lost is to be merged, or waits for a person.
    pub aside: bool,
}

impl Decided {
    /// Whether it has decided that the row goes, with this version.
    pub(super) fn has(&self, relation: RelationHash, key: KeyHash, version: Version) -> bool {
        self.removed.iter().any(|l| l.is(relation, key, version))
    }

    /// Whether rows of others lost by it: it is flushed then, because a crash that took it back would
    /// leave nothing to record a second time (ADR 3).
    pub(super) fn binds(&self) -> bool {
        !self.conflicts.is_empty() || self.outbox
    }

    /// The transaction was rolled back.
    pub(super) fn undo(self, ledger: &Ledger) {
        ledger.keep(self.removed);
    }

    /// The transaction is committed.
    pub(super) fn stands(&self, ledger: &Ledger) {
        ledger.lost(&self.removed);
    }
}

/// A slot on its way through the decision.
struct Case<'a> {
    slot: &'a Slot,
    present: bool,
    stored: Option<Entry>,
    /// The row that is there is what the index names; else that one is still on its way.
    stands: bool,
    /// Then that row, if it is known to be one of this site.
    beneath: Option<Entry>,
    decision: Decision,
    /// The image to write, with its TOAST values.
    image: Option<Image>,
    /// Lost its place to the holder of a unique value.
    lost: bool,
}

/// Decides and writes one batch inside the transaction that is open. `decided` is filled as far
/// as it gets, also when it fails.
pub(super) async fn write(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    decided: &mut Decided,
) -> Result<(), Error> {
    policy::write(writer, batch).await?;
    for table in &batch.tables {
        let left = policy::left(ctx, &table.mapping, decided);
        let mut cases = lock(ctx, writer, batch, table, decided).await?;
        let kept = cases.iter().filter(|c| !c.decision.apply);
        let kept = kept.map(|c| (c.slot.hash(), c.slot.version()));
        decided.kept.extend(kept);
        complete(ctx, writer, batch, &table.mapping, &mut cases).await?;
        let lost =
            if table.mapping.second_unique.is_empty() || !cases.iter().any(|c| c.image.is_some()) {
                Vec::new()
            } else {
                second_unique(ctx, writer, batch, &table.mapping, &mut cases, decided).await?
            };
        record(ctx, writer, batch, &table.mapping, &cases, decided)?;
        left_out(ctx, writer, batch, &cases);
        policy::stop(ctx, &table.mapping, decided, left)?;
        change(writer, &table.mapping, &cases, &lost, decided)?;
        let appends: Vec<&Image> = table.appends.iter().collect();
        writer.write(&table.mapping, &[], &[], &appends, Guard::Decided);
        // A unique violation here is somebody who came in between.
        match writer.run().await {
            Err(Error::Guard) => return Err(Error::Again("a row came in between")),
            other => other?,
        };
        columns::write(ctx, writer, batch, table, decided).await?;
    }
    if batch.merges {
        // Whatever this came behind keeps its vector, whatever crashes.
        durable(ctx, ctx.ledger.stamped_to()).await?;
    }
    Ok(())
}

pub(super) fn operation(net: &Net<Image>) -> Operation {
    match net {
        Net::Insert(_) => Operation::Insert,
        Net::Update(_) | Net::Replace(_) => Operation::Update,
        Net::Delete | Net::Nothing => Operation::Delete,
    }
}

/// Locks the rows, waits until the index is complete for them, and decides each by version.
async fn lock<'a>(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    table: &'a TableBatch,
    decided: &Decided,
) -> Result<Vec<Case<'a>>, Error> {
    let (mapping, slots) = (&*table.mapping, &table.slots);
    if slots.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<&Image> = slots.iter().map(|s| &s.folded.key.image).collect();
    let locks = writer.lock(mapping, &keys, ctx.barriers.horizon());
    let outcomes = writer.run().await?;
    // run() starts counting at the first statement of this round.
    let found = locks.found(&outcomes, slots.len());
    let own = locks.own(&outcomes, slots.len());
    if found.iter().any(|f| f.unwrap_or(true)) && !ctx.barriers.pass().await {
        return Err(Error::Shutdown);
    }
    let relation = mapping.identity.relation;
    let now = ctx.ledger.look(relation, slots.iter().map(Slot::hash));
    let mut cases = Vec::with_capacity(slots.len());
    let mut ours = Lsn::ZERO;
    for (((slot, found), own), (now, beneath)) in slots.iter().zip(found).zip(own).zip(now) {
        let change = meets::Change {
            origin: batch.origin,
            last: batch.last(),
            version: slot.version(),
            prior: slot.prior,
        };
        let met = change.meets(now, beneath);
        let stored = met.stored;
        // What an earlier part of this transaction has decided stands.
        let open = |e: &Entry| e.undecided() && !decided.has(relation, slot.hash(), e.version);
        if stored.as_ref().is_some_and(open) {
            return Err(Error::Again("another origin is deciding the same row"));
        }
        let last = slot.folded.last;
        // It is there no more if another site's group has replaced it, whose answer may not be read yet, or
        // an earlier part of this transaction.
        let written = || {
            let (key, version) = (slot.hash(), slot.version());
            decided.lost.has(key, version) && !decided.kept.contains(&(key, version))
        };
        let beneath = beneath.filter(|e| own && !e.deleted && !written());
        let sources = stored.iter().chain(&beneath).filter_map(|e| e.source);
        for source in sources.filter(|s| s.origin == ctx.me) {
            ours = ours.max(source.lsn);
        }
        let present = found.is_some();
        let mut decision = decide(
            operation(&slot.folded.net),
            slot.version(),
            |position| batch.covers(last, position),
            |position| batch.claims(last, position),
            stored.as_ref(),
            present,
        );
        decision.apply &= met.allows();
        cases.push(Case {
            slot,
            present,
            stored,
            stands: true,
            beneath,
            decision,
            image: None,
            lost: false,
        });
    }
    let met = |case: &Case<'_>| case.decision.conflict.and(case.stored);
    let committed = committed(ctx, writer, cases.iter().filter_map(met)).await?;
    for case in &mut cases {
        // A row that was not there to be locked may be any by now.
        let here = |e: Entry| here(ctx, &e, &committed);
        case.stands = case.present && case.beneath.is_none() && case.stored.is_none_or(here);
    }
    durable(ctx, ours).await?;
    Ok(cases)
}

/// Waits until the own journal is durable up to `lsn`.
pub(super) async fn durable(ctx: &Context, lsn: Lsn) -> Result<(), Error> {
    let mut end = ctx.journal.subscribe();
    end.wait_for(|end| *end >= lsn)
        .await
        .map(|_| ())
        .map_err(|_| Error::Shutdown)
}

/// Gives every winner its whole row.
async fn complete(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    mapping: &Mapping,
    cases: &mut [Case<'_>],
) -> Result<(), Error> {
    let whole = !mapping.second_unique.is_empty();
    // What the keys of the batch met: also those that its rows have come from.
    let left_out = ctx.ledger.left_out(cases.iter().map(|c| c.slot.hash()));
    let base_of = |c: &Case<'_>| Base {
        present: c.present,
        left_out: left_out.contains(&c.slot.hash()),
        stored: c.stored,
        first: c.slot.folded.first,
    };
    let left: HashMap<KeyHash, Base> = cases
        .iter()
        .filter(|c| c.slot.image().is_none())
        .map(|c| (c.slot.hash(), base_of(c)))
        .collect();
    for case in cases.iter_mut().filter(|c| c.decision.apply) {
        let Some(image) = case.slot.image() else {
            continue;
        };
        if !image.incomplete() {
            case.image = Some(image.clone());
            continue;
        }
        let missing = image.missing();
        // The values belong to the row that the first writer of the group saw.
        let seen = |b: &Base| b.was_seen(|writer, s| batch.covers(writer, s));
        let base = match &case.slot.folded.moved_from {
            // What a row brings that was deleted, or came, in the same group belongs to no row that
            // stands here.
            None => {
                let update = matches!(case.slot.folded.net, Net::Update(_));
                update && seen(&base_of(case))
            }
            Some(from) => left.get(&from.hash).is_some_and(seen),
        };
        if base && case.slot.folded.moved_from.is_none() && !whole {
            case.image = Some(image.clone());
            continue;
        }
        let mut values = None;
        if base {
            let key = case
                .slot
                .folded
                .moved_from
                .as_ref()
                .unwrap_or(&case.slot.folded.key);
            let at = writer.read(mapping, &key.image, &missing);
            let mut outcomes = writer.run().await?;
            values = outcomes.get_mut(at).and_then(|o| o.rows.pop());
        }
        if values.is_none() {
            let position = batch.position(case.slot);
            let key = &case.slot.folded.key.image;
            values = ctx.toast.fetch(position, mapping, key, &missing).await?;
        }
        // Without values the version is no more where it was written: a later one, or a delete, is
        // on its way here too. Until then there is no row: nobody may build on half of one.
        case.image = values
            .map(|values| image.completed(values.iter().map(|v| v.as_ref().map(Bytes::as_ref))));
    }
    Ok(())
}

/// A row that goes because another has its unique value.
struct Loser {
    key: RowKey,
    version: Version,
}

/// Asks who holds the winners' unique values and decides who keeps them.
async fn second_unique(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    mapping: &Mapping,
    cases: &mut [Case<'_>],
    decided: &mut Decided,
) -> Result<Vec<Loser>, Error> {
    let relation = mapping.identity.relation;
    let asked = ask_holders(ctx, writer, mapping, cases).await?;
    let mut candidates: HashMap<KeyHash, Candidate> = HashMap::new();
    let mut holders = Vec::new();
    let mut rows: HashMap<KeyHash, RowKey> = HashMap::new();
    let mut recent = false;
    // What the batch itself overwrites goes first and holds nothing.
    let overwritten: HashSet<KeyHash> = cases
        .iter()
        .filter(|c| c.decision.apply)
        .map(|c| c.slot.hash())
        .collect();
    for answer in &asked {
        let Some(case) = cases.get(answer.case) else {
            continue;
        };
        let candidate = candidates
            .entry(case.slot.hash())
            .or_insert_with(|| Candidate {
                key: case.slot.hash(),
                version: case.slot.version(),
                values: vec![None; mapping.table.unique.len()],
            });
        if let Some(value) = candidate.values.get_mut(answer.index) {
            *value = Some(answer.value);
        }
        if let Some(holder) = answer
            .holder
            .as_ref()
            .filter(|h| !overwritten.contains(&h.hash))
        {
            recent |= answer.recent;
            rows.insert(holder.hash, holder.clone());
            holders.push((holder.hash, answer.index, answer.value));
        }
    }
    if holders.is_empty() && candidates.len() < 2 {
        return Ok(Vec::new());
    }
    if recent && !ctx.barriers.pass().await {
        return Err(Error::Shutdown);
    }
    for case in cases.iter().filter(|c| c.image.is_some()) {
        rows.insert(case.slot.hash(), case.slot.folded.key.clone());
    }
    let entries = ctx.ledger.look(relation, holders.iter().map(|h| h.0));
    let entries = entries.into_iter().filter_map(|e| e.0);
    let committed = committed(ctx, writer, entries).await?;
    let here = |e: &Entry| here(ctx, e, &committed);
    let mut outcomes = Vec::new();
    let mut entries = HashMap::new();
    let asked = holders.iter().map(|h| h.0);
    let asked = asked.chain(candidates.keys().copied()).collect::<Vec<_>>();
    let removed = ctx.ledger.lose(relation, asked.into_iter(), |index| {
        let open = |key: KeyHash, entry: Option<Entry>| {
            entry.is_some_and(|e| e.undecided() && !decided.has(relation, key, e.version))
        };
        let mut standing = Vec::with_capacity(holders.len());
        for &(key, at, value) in &holders {
            let entry = index.get(relation, key);
            if open(key, entry) {
                return None;
            }
            // What is only on its way is not the row that stands here.
            entries.insert(key, entry.filter(here));
            standing.push(Holder {
                key,
                version: index.standing(relation, key, here),
                index: at,
                value,
            });
        }
        outcomes = resolve(candidates.into_values().collect(), standing);
        let losers: Vec<_> = outcomes.iter().filter_map(loser).collect();
        // Each of two decisions about one row would take back the other's when it is undone.
        let taken = |(key, _): &(KeyHash, Version)| open(*key, index.get(relation, *key));
        (!losers.iter().any(taken)).then_some(losers)
    });
    let Some(removed) = removed else {
        return Err(Error::Again(
            "another origin is deciding a row with the same unique value",
        ));
    };
    decided.removed.extend(removed);
    let ours = entries
        .values()
        .flatten()
        .filter_map(|e| e.source)
        .filter(|s| s.origin == ctx.me)
        .map(|s| s.lsn)
        .max();
    durable(ctx, ours.unwrap_or(Lsn::ZERO)).await?;
    let mut lost = Vec::new();
    for outcome in outcomes {
        let Unique::Lost {
            key,
            version,
            winner,
        } = outcome
        else {
            continue;
        };
        let (Some(row), Some(other)) = (rows.get(&key).cloned(), rows.get(&winner)) else {
            continue;
        };
        decided.lost.push(relation, key, version);
        unique_history(
            ctx, writer, batch, mapping, &*cases, &row, other, &entries, decided,
        )?;
        if let Some(case) = cases
            .iter_mut()
            .find(|c| c.slot.hash() == key && c.image.is_some())
        {
            case.lost = true;
        }
        lost.push(Loser { key: row, version });
    }
    Ok(lost)
}

fn loser(outcome: &Unique) -> Option<(KeyHash, Version)> {
    match outcome {
        Unique::Lost { key, version, .. } => Some((*key, *version)),
        Unique::Place(_) => None,
    }
}

/// Of other origins' rows: how far each origin is committed. The index alone does not tell: a row may be
/// on its way, or a crash of the server may have taken it back. The rows are locked, so each is either the
/// write that the index names, and then that is committed, or will be replaced by it.
pub(super) async fn committed(
    ctx: &Context,
    writer: &mut Writer,
    entries: impl Iterator<Item = Entry>,
) -> Result<Vector, Error> {
    let sources = entries.filter_map(|e| e.source);
    let mut origins: Vec<NodeId> = sources
        .map(|s| s.origin)
        .filter(|origin| *origin != ctx.me)
        .collect();
    origins.sort_unstable();
    origins.dedup();
    let mut committed = Vector::new();
    if origins.is_empty() {
        return Ok(committed);
    }
    let ask = |origin: &NodeId| {
        let [first, second] = origins::names(*origin);
        writer.progress(&first, &second)
    };
    let asked: Vec<usize> = origins.iter().map(ask).collect();
    let outcomes = writer.run().await?;
    for (origin, at) in origins.into_iter().zip(asked) {
        committed.set(origin, super::wal_position::lsn_text(outcomes.get(at)));
    }
    Ok(committed)
}

/// Whether the row that is in the table is the write that the index names.
pub(super) fn here(ctx: &Context, entry: &Entry, committed: &Vector) -> bool {
    let landed = |s: Position| s.origin == ctx.me || committed.covers(s);
    !entry.deleted && entry.source.is_some_and(landed)
}

/// One answer about one unique index.
struct Answer {
    case: usize,
    index: usize,
    value: UniqueValue,
    recent: bool,
    holder: Option<RowKey>,
}

async fn ask_holders(
    ctx: &Context,
    writer: &mut Writer,
    mapping: &Mapping,
    cases: &[Case<'_>],
) -> Result<Vec<Answer>, Error> {
    let mut asks = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let Some(image) = &case.image else { continue };
        for &index in &mapping.second_unique {
            asks.push((
                n,
                index,
                writer.holders(mapping, image, index, ctx.barriers.horizon()),
            ));
        }
    }
    let outcomes = writer.run().await?;
    let mut answers = Vec::new();
    for (case, index, at) in asks {
        for row in outcomes.get(at).map_or(&[][..], |o| &o.rows) {
            let Some(Some(value)) = row.first() else {
                continue;
            };
            let recent = row
                .get(1)
                .and_then(|c| c.as_ref())
                .is_some_and(|c| c.as_ref() != [0]);
            let holder = match row.get(2..) {
                Some(key) if key.iter().all(Option::is_some) && !key.is_empty() => {
                    Some(key_row(mapping, key)?)
                }
                _ => None,
            };
            let value = UniqueValue::of(value);
            answers.push(Answer {
                case,
                index,
                value,
                recent,
                holder,
            });
        }
    }
    Ok(answers)
}

/// A row of nothing but its key, in the layout of the mapping; `key` in the order of the key cells.
pub(super) fn key_row(mapping: &Mapping, key: &[Option<Bytes>]) -> Result<RowKey, Error> {
    let mut cells = vec![Cell::Null; mapping.columns.len()];
    for (i, value) in mapping.key_cells().zip(key) {
        if let (Some(cell), Some(value)) = (cells.get_mut(i), value) {
            *cell = Cell::Binary(value);
        }
    }
    let image = Image::from_cells(cells.into_iter());
    let hash = mapping.identity.hash(&image.tuple());
    let hash = hash.map_err(|source| Error::Key {
        table: mapping.name(),
        source,
    })?;
    hash.map(|hash| RowKey { hash, image })
        .ok_or_else(|| Error::NoKey(mapping.name()))
}

#[expect(clippy::too_many_arguments, reason = "one record, said once")]
fn unique_history(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    mapping: &Mapping,
    cases: &[Case<'_>],
    lost: &RowKey,
    winner: &RowKey,
    entries: &HashMap<KeyHash, Option<Entry>>,
    decided: &mut Decided,
) -> Result<(), Error> {
    let case_of = |hash: KeyHash| {
        cases
            .iter()
            .find(|c| c.slot.hash() == hash && c.image.is_some())
    };
    // The incoming row is the lost one, or the one that took the value.
    let (case, local, applied) = match (case_of(lost.hash), case_of(winner.hash)) {
        (Some(case), _) => (case, winner, false),
        (None, Some(case)) => (case, lost, true),
        (None, None) => return Ok(()),
    };
    let kind = Kind::over_unique(operation(&case.slot.folded.net), 1);
    decided.conflicts.add(&mapping.table, kind);
    let holder = entries.get(&local.hash).copied().flatten();
    let aside = match applied || !policy::parks(ctx, mapping) {
        true => None,
        false => policy::aside(ctx, mapping, kind, true, holder.as_ref())?,
    };
    decided.aside |= aside.is_some();
    writer.history(
        mapping,
        &history::Entry {
            kind,
            outcome: history::Outcome::of(applied, aside),
            row: case.image.as_ref(),
            key: &case.slot.folded.key.image,
            local_key: &local.image,
            names_local: applied,
            local: holder,
            version: case.slot.version(),
            position: batch.position(case.slot),
            xid: batch.header(case.slot.folded.last).map_or(0, |h| h.xid),
            unlocked: None,
        },
    );
    Ok(())
}

/// Puts the conflicts of a table into the history, before its rows change.
fn record(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    mapping: &Mapping,
    cases: &[Case<'_>],
    decided: &mut Decided,
) -> Result<(), Error> {
    let mut entries = Vec::new();
    // The key of no row: for what is still on its way. Its own transaction records it.
    let nowhere = Image::nowhere(mapping.columns.len());
    let open = ctx.ledger.sets_aside(mapping.identity.relation);
    for case in cases {
        let row = case.image.as_ref().or_else(|| case.slot.image());
        let applied = case.decision.apply;
        // The transaction of what the index names would find the row no more.
        let seen = |s| batch.covers(case.slot.folded.last, s);
        let lost = |e: &Entry| case.present && applied && !e.source.is_some_and(seen);
        let own = case.beneath.filter(lost);
        let over = own.map(|_| Kind::over_row(operation(&case.slot.folded.net)));
        let Some(kind) = over.or(case.decision.conflict) else {
            continue;
        };
        decided.conflicts.add(&mapping.table, kind);
        let mut entry = met(batch, case.slot, kind, applied, row, own.or(case.stored));
        if own.is_none() && !case.stands {
            entry.local_key = &nowhere;
        }
        if open && applied && kind != Kind::UpdateMissing {
            // What lost to the row that goes has perhaps met the new one elsewhere.
            let seen = batch.seen(case.slot.folded.last);
            writer.superseded(mapping, entry.key, batch.origin, &seen);
        } else if open && !applied {
            let aside = policy::aside(ctx, mapping, kind, row.is_some(), case.stored.as_ref())?;
            entry.outcome = history::Outcome::of(applied, aside);
            decided.aside |= aside.is_some();
        }
        entries.push(entry);
    }
    let ranked = entries.iter().any(|e| e.version.is_ranked());
    policy::decides(writer, mapping, ranked);
    writer.histories(mapping, &entries);
    policy::decided(writer, ranked);
    Ok(())
}

/// Says which rows are older than a write that is left out, because what it lost to is on its way, also to the next start.
fn left_out(ctx: &Context, writer: &mut Writer, batch: &Batch, cases: &[Case<'_>]) {
    let before = ctx.ledger.applied().get(batch.origin);
    let left = |c: &Case<'_>| {
        let newer = c.stored.and_then(|e| e.source);
        let newer = newer.filter(|s| s.origin != ctx.me && !c.decision.apply && !c.stands);
        newer.filter(|_| c.present).map(|newer| LeavesOut {
            key: c.slot.hash(),
            origin: batch.origin,
            before,
            newer,
        })
    };
    let left: Vec<_> = cases.iter().filter_map(left).collect();
    if !left.is_empty() {
        ctx.ledger.leaves_out(&left);
        writer.left_out(&left);
    }
}

/// What the history says of a change that met another version of its own key.
pub(super) fn met<'a>(
    batch: &Batch,
    slot: &'a Slot,
    kind: Kind,
    applied: bool,
    row: Option<&'a Image>,
    local: Option<Entry>,
) -> history::Entry<'a> {
    let key = &slot.folded.key.image;
    history::Entry {
        kind,
        outcome: history::Outcome::of(applied, None),
        row,
        key,
        local_key: key,
        names_local: false,
        local,
        version: slot.version(),
        position: batch.position(slot),
        xid: batch.header(slot.folded.last).map_or(0, |h| h.xid),
        unlocked: None,
    }
}

/// Writes what was decided.
fn change(
    writer: &mut Writer,
    mapping: &Mapping,
    cases: &[Case<'_>],
    lost: &[Loser],
    decided: &mut Decided,
) -> Result<(), Error> {
    let as_set = !mapping.second_unique.is_empty();
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    for case in cases.iter().filter(|c| c.decision.apply) {
        match &case.image {
            None if case.present => deletes.push(&case.slot.folded.key),
            None => {}
            // As a set: what is overwritten goes first, so that values can change hands.
            Some(image) if as_set || case.lost => {
                if case.present {
                    deletes.push(&case.slot.folded.key);
                }
                if !case.lost {
                    inserts.push(image);
                }
            }
            Some(image) if case.present => updates.push(image),
            Some(image) => inserts.push(image),
        }
    }
    for l in lost.iter().filter(|l| {
        !cases
            .iter()
            .any(|c| c.slot.hash() == l.key.hash && c.image.is_some())
    }) {
        deletes.push(&l.key);
    }
    writer.write(mapping, &deletes, &updates, &inserts, Guard::Decided);
    if !lost.is_empty() {
        decided.outbox = true;
        let one = |l: &Loser| travelling::delete(mapping, &l.key.image, l.version);
        let contents: Result<Vec<Bytes>, Error> = lost.iter().map(one).collect();
        travelling::put(writer, mapping, &contents?);
    }
    Ok(())
}
