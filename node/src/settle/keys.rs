//! Which columns identify a row, and the hash of a row's key.

use everywrite_conflict::{KeyHash, KeyHasher, RelationHash};

use crate::pg::pgoutput::{Cell, OwnedColumn, OwnedRelation, Tuple};

/// The identity of one relation as a stream describes it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The table, by name: equal at every site.
    pub relation: RelationHash,
    /// (position in the tuple, type) of each key column, in the order of their names, so that sites
    /// whose columns stand in another order agree; empty: rows have no key.
    pub columns: Vec<(usize, u32)>,
}

/// A row whose key is not in the stream.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key column is missing from the tuple.
    #[error("a key column of the row is not in the stream")]
    Missing,
}

/// More key columns than this are refused: no index of PostgreSQL has more.
const MAX_COLUMNS: usize = 32;

impl Identity {
    /// The identity of `relation`. With REPLICA IDENTITY FULL every column is marked as key, so
    /// the primary key's columns, by name, are taken instead.
    pub fn of(relation: &OwnedRelation, primary_key: Option<&[String]>) -> Self {
        let full = relation.replica_identity == b'f';
        let is_key = |c: &OwnedColumn| {
            if full {
                primary_key.is_some_and(|pk| pk.contains(&c.name))
            } else {
                c.key
            }
        };
        let mut columns: Vec<(&str, usize, u32)> = relation
            .columns
            .iter()
            .enumerate()
            .filter(|(_, c)| is_key(c))
            .map(|(i, c)| (c.name.as_str(), i, c.type_oid))
            .collect();
        columns.sort_unstable();
        columns.truncate(MAX_COLUMNS);
        let columns = columns.into_iter().map(|(_, i, t)| (i, t)).collect();
        Identity {
            relation: RelationHash::new(&relation.namespace, &relation.name),
            columns,
        }
    }

    /// The hash of the row's key; `None` if its rows have no key.
    pub fn hash(&self, tuple: &Tuple<'_>) -> Result<Option<KeyHash>, KeyError> {
        if self.columns.is_empty() {
            return Ok(None);
        }
        let mut hasher = KeyHasher::new(self.relation);
        if let [(column, type_oid)] = *self.columns {
            let cell = tuple.iter().nth(column).unwrap_or(Cell::Unchanged);
            add(&mut hasher, type_oid, &cell)?;
            return Ok(Some(hasher.finish()));
        }
        let mut found = [Cell::Unchanged; MAX_COLUMNS];
        let mut missing = self.columns.len();
        for (i, cell) in tuple.iter().enumerate() {
            for (slot, (column, _)) in found.iter_mut().zip(&self.columns) {
                if *column == i {
                    *slot = cell;
                    missing -= 1;
                }
            }
            if missing == 0 {
                break;
            }
        }
        for (cell, (_, type_oid)) in found.iter().zip(&self.columns) {
            add(&mut hasher, *type_oid, cell)?;
        }
        Ok(Some(hasher.finish()))
    }
}

fn add(hasher: &mut KeyHasher, type_oid: u32, cell: &Cell<'_>) -> Result<(), KeyError> {
    match cell {
        Cell::Null => hasher.cell(type_oid, None, true),
        Cell::Binary(bytes) => hasher.cell(type_oid, Some(bytes), true),
        Cell::Text(bytes) => hasher.cell(type_oid, Some(bytes), false),
        Cell::Unchanged => return Err(KeyError::Missing),
    };
    Ok(())
}
