//! Updates of rows that are merged by columns ([ADR 15](../../../docs/adr/0015-merged-columns.md)).
//!
//! ```text
//!  lock the rows ──► missing, or written by something local that capture may not have passed? barrier
//!  each: does it belong to the row event that stands?
//!          ├─ no ──► lost; history
//!          └─ yes ─► each column: take the value, add the difference, or leave it; history
//!  one UPDATE of the columns taken
//! ```
//!
//! It happens inside a careful transaction, behind the row events of the same table. Nothing is announced
//! before: the row is locked, and whoever else writes it comes before the decision or behind the commit.

use everywrite_conflict::policy::Policy;
use everywrite_conflict::policy::columns::{Merge, Take};
use everywrite_conflict::{Entry, Kind, Lsn, Merging, Position, Update};

use super::Error;
use super::batch::{Batch, TableBatch};
use super::careful::{self, Context, Decided};
use super::history;
use super::image::Image;
use super::mapping::Mapping;
use super::policy;
use super::updates::Merged;
use super::writer::{Floor, Guard, Writer};

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
        change(writer, batch, mapping, case, &floors);
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
    let taken = |column| {
        let mut mine = update.columns.iter().zip(&merging.takes);
        mine.any(|(c, take)| c.column == column && *take == Take::Value)
    };
    let outcome = if merging.takes.iter().all(|t| *t == Take::Nothing) {
        history::Outcome::KeptLocal
    } else if merging.takes.iter().all(|t| *t == Take::Value)
        && others.clone().all(|(column, _, _)| taken(*column))
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
) {
    let update = case.update;
    if !case.merging.belongs {
        return;
    }
    if !case.present {
        // Somebody took it away outside of replication: it comes back whole.
        writer.write(mapping, &[], &[], &[&update.new], Guard::Decided);
        return;
    }
    let of = |wanted: Take| {
        let takes = update.cells.iter().zip(&case.merging.takes);
        let mut cells: Vec<usize> = takes
            .filter(|(_, take)| **take == wanted)
            .map(|(cell, _)| *cell)
            .collect();
        cells.sort_unstable();
        cells
    };
    let (values, differences) = (of(Take::Value), of(Take::Difference));
    if values.is_empty() && differences.is_empty() {
        return;
    }
    writer.merge(mapping, &update.old, &update.new, &values, &differences);
    for (cell, floor) in floors.iter().filter(|(cell, _)| differences.contains(cell)) {
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
}
