//! What a transaction touches, where tables are merged by columns: updates that leave the key as it is
//! are merged, everything else is a row event.

use std::collections::HashMap;

use bytes::Bytes;
use everywrite_conflict::RelationHash;
use everywrite_conflict::policy::columns::Column;
use rustc_hash::FxHashSet;

use super::Error;
use super::assembler::Relation;
use super::touched::touch;
use crate::journal::columns::{Columns, Merges};
use crate::journal::record::Changes;
use crate::pg::pgoutput::{self, Message};
use crate::settle::{Ledger, Merged, Touched, changed};

/// What the changes of a transaction, or of a part of a large one, touch.
#[derive(Default)]
pub(super) struct Found {
    /// Row events.
    pub(super) touched: Vec<Touched>,
    /// Updates of merged rows, one for each row.
    pub(super) merged: Vec<Merged>,
    /// How they are merged: goes before the changes.
    pub(super) columns: Columns,
}

/// The tables among `relations` that are merged now.
pub(super) fn tables(
    relations: impl Iterator<Item = RelationHash>,
    ledger: &Ledger,
) -> HashMap<RelationHash, Merges> {
    let mut asked = Vec::new();
    let mut tables = HashMap::new();
    for relation in relations {
        // Few tables, and mostly the same as before: a list from its end is quicker than a set.
        if asked.iter().rev().any(|r| *r == relation) {
            continue;
        }
        asked.push(relation);
        if let Some(merges) = ledger.merges(relation) {
            tables.insert(relation, merges);
        }
    }
    tables
}

/// Looks through changes as they stand in the journal; `relation`: by the number that is in them.
pub(super) fn find<'r>(
    changes: Bytes,
    relation: impl Fn(u32) -> Option<&'r Relation>,
    tables: &'r HashMap<RelationHash, Merges>,
) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut rows = HashMap::new();
    for change in Changes::new(changes) {
        let Ok(change) = change else { continue };
        let message = pgoutput::decode(&change, false)?;
        let Some((merged, merges)) = merged(&message, &relation, tables)? else {
            touch(&message, &relation, &mut found.touched)?;
            continue;
        };
        found.columns.table(merged.relation, merges.clone());
        let at = *rows.entry(merged.key).or_insert(found.merged.len());
        match found.merged.get_mut(at) {
            None => found.merged.push(merged),
            Some(known) => {
                // The value that it has in the end counts.
                let newer: FxHashSet<Column> = merged.columns.iter().map(|c| c.column).collect();
                known.columns.retain(|c| !newer.contains(&c.column));
                known.columns.extend(merged.columns);
            }
        }
    }
    Ok(found)
}

fn merged<'t>(
    message: &Message<'_>,
    relation: impl Fn(u32) -> Option<&'t Relation>,
    tables: &'t HashMap<RelationHash, Merges>,
) -> Result<Option<(Merged, &'t Merges)>, Error> {
    let Message::Update {
        relation: id,
        key,
        old,
        new,
        ..
    } = message
    else {
        return Ok(None);
    };
    let unknown = || Error::Order("a change of a relation that was not described");
    let relation = relation(*id).ok_or_else(unknown)?;
    let Some(merges) = tables.get(&relation.identity.relation) else {
        return Ok(None);
    };
    let hash = |tuple| {
        let hash = relation.identity.hash(tuple);
        hash.map_err(|source| Error::Key {
            table: relation.owned.name.clone(),
            source,
        })
    };
    let now = hash(new)?;
    if let Some(before) = key.as_ref().or(old.as_ref())
        && hash(before)? != now
    {
        return Ok(None);
    }
    let Some(key) = now else { return Ok(None) };
    if old.is_none() {
        tracing::error!(
            table = format!("{}.{}", relation.owned.namespace, relation.owned.name),
            "a table is merged by columns and has no REPLICA IDENTITY FULL any more: nobody can tell what an update changed, and the other sites hold this stream"
        );
    }
    let columns = changed(
        &relation.owned,
        &relation.identity,
        merges,
        old.as_ref(),
        new,
    );
    let merged = Merged {
        relation: relation.identity.relation,
        key,
        epoch: merges.epoch,
        columns: columns.into_iter().map(|c| c.change).collect(),
    };
    Ok(Some((merged, merges)))
}
