//! Updates of rows that are merged by columns ([ADR 15](../../../docs/adr/0015-merged-columns.md)).
//!
//! ```text
//!  lock the rows ──► missing, or written by something local that capture may not have passed? barrier
//!  each: does it belong to the row event that stands?
//!          ├─ no ──► lost; history
//!          └─ yes ─► each column, and element: take the value, add the difference, or leave it; history
//!  one UPDATE of the columns taken
//! ```
//!
//! It happens inside a careful transaction, behind the row events of the same table. Nothing is announced
//! before: the row is locked, and whoever else writes it comes before the decision or behind the commit.

use std::collections::BTreeMap;

use everywrite_conflict::policy::Policy;
use everywrite_conflict::policy::columns::{Column, Merge, Take};
use everywrite_conflict::{Entry, Kind, Lsn, Merging, Position, Update};

use rustc_hash::FxHashSet;

use super::Error;
use super::batch::{Batch, TableBatch};
use super::careful::{self, Context, Decided};
use super::history;
use super::image::Image;
use super::mapping::Mapping;
use super::policy;
use super::updates::Merged;
use super::writer::{Floor, Guard, Taken, TakenSet, Writer};
use crate::pg::oid;
use crate::pg::pgoutput::Cell;
use crate::pg::pipeline::Array;
use crate::settle::{Elements, object_of};

/// An update on its way through the decision.
struct Case<'a> {
    update: &'a Merged,
    present: bool,
    merging: Merging,
}

/// What the history says became of an update.
struct Met {
    kind: Kind,
    outcome: history::Outcome,
    local: Option<Entry>,
}

/// Decides and writes the merged updates of one table.
pub(super) async fn write(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    table: &TableBatch,
    decided: &mut Decided,
) -> Result<(), Error> {
    let mapping = &*table.mapping;
    if table.updates.is_empty() {
        return Ok(());
    }
    if !mapping.second_unique.is_empty() {
        return Err(Error::Schema {
            table: mapping.name(),
            what: "it is merged by columns and has a second unique index here: a merged row has no version \
                   that could decide who keeps a unique value. Drop the index"
                .to_owned(),
        });
    }
    let cases = decide(ctx, writer, batch, table).await?;
    // The key of no row: for what is still on its way.
    let nowhere = Image::nowhere(mapping.columns.len());
    let entries = record(ctx, writer, batch, &cases, &nowhere).await?;
    policy::decides(writer, mapping, !entries.is_empty());
    for entry in &entries {
        decided.conflicts.add(&mapping.table, entry.kind);
    }
    writer.histories(mapping, &entries);
    policy::decided(writer, !entries.is_empty());
    drop(entries);
    let floors = floors(ctx, mapping);
    for case in &cases {
        change(writer, batch, mapping, case, &floors)?;
    }
    match writer.run().await {
        Err(Error::Guard) => Err(Error::Again("a row came in between")),
        other => other.map(|_| ()),
    }
}

async fn decide<'a>(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    table: &'a TableBatch,
) -> Result<Vec<Case<'a>>, Error> {
    let mapping = &*table.mapping;
    let updates: Vec<&Merged> = table.updates.iter().collect();
    let keys: Vec<&Image> = updates.iter().map(|u| &u.key.image).collect();
    let locks = writer.lock(mapping, &keys, ctx.barriers.horizon());
    let outcomes = writer.run().await?;
    let found = locks.found(&outcomes, updates.len());
    if found.iter().any(|f| f.unwrap_or(true)) && !ctx.barriers.pass().await {
        return Err(Error::Shutdown);
    }
    let mut cases = Vec::with_capacity(updates.len());
    for (update, found) in updates.into_iter().zip(found) {
        let source = Position {
            origin: batch.origin,
            lsn: batch
                .header(update.writer)
                .map_or(Lsn::ZERO, |h| h.position),
        };
        let asked = Update {
            relation: mapping.identity.relation,
            key: update.key.hash,
            version: update.writer.version,
            source,
            columns: &update.columns,
            present: found.is_some(),
        };
        let claims = |position| batch.claims(update.writer, position);
        let Some(merging) = ctx.ledger.merge(&asked, claims) else {
            return Err(Error::Again("another origin is deciding the same row"));
        };
        cases.push(Case {
            update,
            present: found.is_some(),
            merging,
        });
    }
    Ok(cases)
}

/// What goes into the history.
async fn record<'a>(
    ctx: &Context,
    writer: &mut Writer,
    batch: &Batch,
    cases: &'a [Case<'_>],
    nowhere: &'a Image,
) -> Result<Vec<history::Entry<'a>>, Error> {
    let met: Vec<(&Case<'_>, Met)> = cases.iter().filter_map(|c| Some((c, met(c)?))).collect();
    let events = met.iter().filter_map(|(_, met)| met.local);
    let committed = careful::committed(ctx, writer, events).await?;
    let mut entries = Vec::new();
    for (case, met) in met {
        let update = case.update;
        let header = batch.header(update.writer);
        // The event that it loses to may still be on its way: then the row is another.
        let stands = case.present
            && met
                .local
                .is_none_or(|e| e.deleted || careful::here(ctx, &e, &committed));
        entries.push(history::Entry {
            kind: met.kind,
            outcome: met.outcome,
            row: Some(&update.new),
            key: &update.key.image,
            local_key: match stands {
                true => &update.key.image,
                false => nowhere,
            },
            names_local: false,
            local: met.local,
            version: update.writer.version,
            position: Position {
                origin: batch.origin,
                lsn: header.map_or(Lsn::ZERO, |h| h.position),
            },
            xid: header.map_or(0, |h| h.xid),
            unlocked: None,
        });
    }
    Ok(entries)
}

/// What an update met, if that is worth an entry: other changes of the row that it has not seen, unless
/// all there is to do is to add up.
fn met(case: &Case<'_>) -> Option<Met> {
    let Case {
        update,
        present,
        merging,
    } = case;
    if !merging.belongs {
        let deleted = merging.event.is_some_and(|e| e.deleted);
        return Some(Met {
            kind: match deleted {
                true => Kind::UpdateDeleted,
                false => Kind::UpdateOriginDiffers,
            },
            outcome: history::Outcome::KeptLocal,
            local: merging.event,
        });
    }
    if !present {
        return Some(Met {
            kind: Kind::UpdateMissing,
            outcome: history::Outcome::Applied,
            local: None,
        });
    }
    if update.columns.is_empty() {
        return None;
    }
    let adds = |merge: Merge| merge == Merge::Delta;
    let others = merging.unseen.iter();
    let greatest = others
        .clone()
        .map(|(_, _, r)| r)
        .max_by_key(|r| r.version)?;
    if others.clone().all(|(_, merge, _)| adds(*merge))
        && update.columns.iter().all(|c| adds(c.merge))
    {
        return None;
    }
    let mine = update.columns.iter().zip(&merging.takes);
    let mine = mine.filter(|(_, take)| **take == Take::Value);
    let taken: FxHashSet<Column> = mine.map(|(c, _)| c.column).collect();
    let outcome = if merging.takes.iter().all(|t| *t == Take::Nothing) {
        history::Outcome::KeptLocal
    } else if merging.takes.iter().all(|t| *t == Take::Value)
        && others.clone().all(|(column, _, _)| taken.contains(column))
    {
        history::Outcome::Applied
    } else {
        history::Outcome::Merged
    };
    Some(Met {
        kind: Kind::UpdateOriginDiffers,
        outcome,
        local: Some(Entry {
            version: greatest.version,
            source: Some(greatest.source),
            deleted: false,
            local_lsn: Lsn::ZERO,
        }),
    })
}

/// The floors that the table's policy has here, by column.
fn floors(ctx: &Context, mapping: &Mapping) -> Vec<(usize, String)> {
    let Some(Policy::ColumnWise { floors, .. }) = ctx.ledger.policy(mapping.identity.relation)
    else {
        return Vec::new();
    };
    let cell = |name: &str| mapping.columns.iter().position(|c| c.name == name);
    floors
        .into_iter()
        .filter_map(|(name, floor)| Some((cell(&name)?, floor)))
        .collect()
}

fn change(
    writer: &mut Writer,
    batch: &Batch,
    mapping: &Mapping,
    case: &Case<'_>,
    floors: &[(usize, String)],
) -> Result<(), Error> {
    let update = case.update;
    if !case.merging.belongs {
        return Ok(());
    }
    if !case.present {
        // Somebody took it away outside of replication: it comes back whole.
        writer.write(mapping, &[], &[], &[&update.new], Guard::Decided);
        return Ok(());
    }
    let taken = taken(mapping, case)?;
    if taken.values.is_empty() && taken.differences.is_empty() && taken.sets.is_empty() {
        return Ok(());
    }
    writer.merge(mapping, &update.old, &update.new, &taken);
    let crossed = |(cell, _): &&(usize, String)| taken.differences.contains(cell);
    for (cell, floor) in floors.iter().filter(crossed) {
        let header = batch.header(update.writer);
        writer.floor(
            mapping,
            &update.old,
            &update.new,
            &Floor {
                cell: *cell,
                floor,
                version: update.writer.version,
                position: Position {
                    origin: batch.origin,
                    lsn: header.map_or(Lsn::ZERO, |h| h.position),
                },
                xid: header.map_or(0, |h| h.xid),
            },
        );
    }
    Ok(())
}

/// What of an update is written.
fn taken(mapping: &Mapping, case: &Case<'_>) -> Result<Taken, Error> {
    let mut taken = Taken::default();
    let mut sets: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
    let takes = case.update.parts.iter().zip(&case.merging.takes);
    for (part, take) in takes {
        match (take, &part.element) {
            (Take::Value, Some(element)) => sets.entry(part.cell).or_default().push(element),
            (Take::Value, None) => taken.values.push(part.cell),
            (Take::Difference, _) => taken.differences.push(part.cell),
            (Take::Nothing, _) => {}
        }
    }
    taken.values.sort_unstable();
    taken.differences.sort_unstable();
    for (cell, elements) in sets {
        taken
            .sets
            .push(taken_set(mapping, case.update, cell, &elements)?);
    }
    Ok(taken)
}

/// What becomes of a column that is a set: of the elements that are taken those stay, or come, that are in
/// the row as its transaction left it.
fn taken_set(
    mapping: &Mapping,
    update: &Merged,
    cell: usize,
    elements: &[&[u8]],
) -> Result<TakenSet, Error> {
    let type_oid = mapping.relation.columns.get(cell).map_or(0, |c| c.type_oid);
    let value = update.new.tuple().iter().nth(cell).unwrap_or(Cell::Null);
    let Some(now) = Elements::of(type_oid, value) else {
        return Err(Error::Schema {
            table: mapping.name(),
            what: format!("the column {} is no set", mapping.column(cell)),
        });
    };
    let (comes, goes): (Vec<&[u8]>, Vec<&[u8]>) =
        elements.iter().partition(|e| now.get(e).is_some());
    let (goes, comes) = if type_oid == oid::JSONB {
        let goes = goes.into_iter().map(|key| (key, &b"null"[..]));
        let comes = comes
            .into_iter()
            .filter_map(|key| Some((key, now.get(key)?)));
        (object_of(goes).into(), object_of(comes).into())
    } else {
        let element_oid = mapping.columns.get(cell).map_or(0, |c| c.element_oid);
        let array = |elements: Vec<&[u8]>| Array::of(element_oid, elements.into_iter()).finish();
        (array(goes), array(comes))
    };
    Ok(TakenSet { cell, goes, comes })
}
