//! Conflicts that the index alone decides (ADR 14).
//!
//! A change that meets a version which its writer had not seen wins or loses by the two versions. If
//! that other version is committed here, nothing has to be locked or read for it:
//!
//! ```text
//!  older than what stands ──► not written; history
//!  newer ──► history, then written like a change that meets nothing, behind the same guard:
//!            an update or delete must hit its row, an insert must find none, and none may hit a
//!            row that a local transaction wrote which capture has not passed
//! ```
//!
//! So such a group stays on the fast path, with those before and behind it, and costs no round
//! trip. What is not that plain goes the careful way: [`Site::decides`] says which. A guard that
//! fails takes the history back too, and the group is decided with care.

use std::collections::BTreeMap;

use everywrite_conflict::{Decision, Entry, KeyHash, Kind, Net, decide};

use super::batch::{Batch, RowKey, Slot, TableBatch};
use super::beside::Late;
use super::blindly::Site;
use super::careful::{self, Context, Decided};
use super::image::Image;
use super::writer::{Guard, Writer};

/// What is known of this site now.
pub(super) fn site(context: &Context) -> Site {
    Site {
        me: context.me,
        durable: context.journal.end(),
        horizon: context.barriers.horizon_place(),
        applied: context.ledger.applied(),
    }
}

fn decision(batch: &Batch, slot: &Slot) -> Option<(Decision, Entry)> {
    let group = batch.coming(batch.last());
    let prior = slot.prior.filter(|p| group.unseen(&slot.folded, p))?;
    let decision = decide(
        careful::operation(&slot.folded.net),
        slot.version(),
        |position| batch.covers(slot.folded.last, position),
        |position| batch.claims(slot.folded.last, position),
        Some(&prior),
        !prior.deleted,
    );
    Some((decision, prior))
}

/// What of a group is written at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// All of it.
    Whole,
    /// All but what waits for the group before it.
    Early(&'a Late),
    /// The rest.
    Late(&'a Late),
}

/// Writes a group whose conflicts, if there are any, the index decides.
pub(super) fn write(
    writer: &mut Writer,
    batch: &Batch,
    part: Part<'_>,
    horizon: u32,
    decided: &mut Decided,
) {
    for table in &batch.tables {
        let of = table.mapping.identity.relation;
        match part {
            Part::Whole => write_table(writer, batch, table, |_| true, true, horizon, decided),
            // By far the most tables have nothing that waits.
            Part::Early(late) if late.is_empty() => {
                write_table(writer, batch, table, |_| true, true, horizon, decided);
            }
            Part::Late(late) if late.is_empty() => {}
            Part::Early(late) => {
                let early = |key| !late.has(of, key);
                let appends = !late.has_all(of);
                write_table(writer, batch, table, early, appends, horizon, decided);
            }
            Part::Late(late) => {
                let late_one = |key| late.has(of, key);
                let appends = late.has_all(of);
                write_table(writer, batch, table, late_one, appends, horizon, decided);
            }
        }
    }
}

fn write_table(
    writer: &mut Writer,
    batch: &Batch,
    table: &TableBatch,
    wanted: impl Fn(KeyHash) -> bool,
    appends: bool,
    horizon: u32,
    decided: &mut Decided,
) {
    if batch.conflicts {
        decide_and_write(writer, batch, table, wanted, appends, horizon, decided);
    } else {
        writer.write_fast(table, horizon, wanted, appends);
    }
}

fn decide_and_write(
    writer: &mut Writer,
    batch: &Batch,
    table: &TableBatch,
    wanted: impl Fn(KeyHash) -> bool,
    appends: bool,
    horizon: u32,
    decided: &mut Decided,
) {
    let nowhere = Image::nowhere(table.mapping.columns.len());
    let (mut entries, mut kinds) = (Vec::new(), BTreeMap::<Kind, u64>::new());
    let (mut deletes, mut updates, mut inserts) = (
        Vec::<&RowKey>::new(),
        Vec::<&Image>::new(),
        Vec::<&Image>::new(),
    );
    let mut removes = Vec::<&RowKey>::new();
    let may_lose = !table.mapping.second_unique.is_empty();
    for slot in table.slots.iter().filter(|s| wanted(s.hash())) {
        let met = decision(batch, slot);
        if let Some((Decision { apply, conflict }, prior)) = met {
            if let Some(kind) = conflict {
                *kinds.entry(kind).or_default() += 1;
                let local = Some(prior);
                let mut entry = careful::met(batch, slot, kind, apply, slot.image(), local);
                entry.unlocked = Some(horizon);
                if prior.deleted {
                    // No row stands there, or one that the index does not know of yet.
                    entry.local_key = &nowhere;
                }
                entries.push(entry);
            }
            if !apply {
                decided.kept.insert((slot.hash(), slot.version()));
                continue;
            }
        }
        let gone = met.map(|(_, prior)| prior.deleted);
        match (&slot.folded.net, gone) {
            (Net::Nothing, _) if may_lose => removes.push(&slot.folded.key),
            (Net::Nothing, _) => {}
            (Net::Delete, _) => deletes.push(&slot.folded.key),
            (Net::Insert(image), None) => inserts.push(image),
            (Net::Insert(image) | Net::Update(image) | Net::Replace(image), Some(true)) => {
                inserts.push(image);
            }
            (Net::Insert(image) | Net::Update(image) | Net::Replace(image), _) => {
                updates.push(image);
            }
        }
    }
    if appends {
        inserts.extend(&table.appends);
    }
    decided.conflicts.add_all(&table.mapping.table, kinds);
    writer.histories(&table.mapping, &entries);
    let guard = Guard::Horizon(horizon);
    writer.remove(&table.mapping, &removes, guard);
    writer.write(&table.mapping, &deletes, &updates, &inserts, guard);
}
