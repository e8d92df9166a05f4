//! Updates of one transaction to rows that are merged by columns, one for each row.

use everywrite_conflict::policy::Rank;
use everywrite_conflict::policy::columns::{Column, Merge};
use everywrite_conflict::{ColumnChange, KeyHash, Version, Writer};
use rustc_hash::FxHashMap;

use super::Error;
use super::batch::RowKey;
use super::image::Image;
use super::mapping::Mapping;
use crate::journal::columns::{Columns, Merges};
use crate::pg::pgoutput::{Cell, Tuple};
use crate::settle::changed;

/// What a transaction does to the columns of a row.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    /// The row.
    pub key: RowKey,
    /// The row as the transaction found it.
    pub old: Image,
    /// The row as it left it, whole.
    pub new: Image,
    /// What changed, in no order.
    pub columns: Vec<ColumnChange>,
    /// For each of these where it is.
    pub parts: Vec<Part>,
    /// Its version, under the epoch of its policy, and its transaction.
    pub writer: Writer,
}

/// What one change of an update is about.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Its cell.
    pub cell: usize,
    /// Of a column that is a set, the element.
    pub element: Option<Box<[u8]>>,
}

/// The updates of one table.
#[derive(Debug, Default)]
pub(super) struct Updates {
    rows: Vec<Merged>,
    at: FxHashMap<KeyHash, usize>,
}

/// How an update is merged.
pub(super) struct How<'a> {
    pub mapping: &'a Mapping,
    pub columns: &'a Columns,
    pub merges: &'a Merges,
    pub plain: Version,
    pub transaction: u32,
}

impl Updates {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// All of them, in the order in which the transaction first touched the rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Merged> + Clone {
        let stands = |(n, row): &(usize, &Merged)| self.at.get(&row.key.hash) == Some(n);
        self.rows
            .iter()
            .enumerate()
            .filter(stands)
            .map(|(_, row)| row)
    }

    /// A row event of the same transaction has taken the place of what it did to the row before.
    pub(super) fn remove(&mut self, key: KeyHash) {
        if !self.at.is_empty() {
            self.at.remove(&key);
        }
    }

    /// An update that left the key as it was.
    pub(super) fn push(
        &mut self,
        how: &How<'_>,
        key: RowKey,
        old: Option<(&Tuple<'_>, Image)>,
        new: &Tuple<'_>,
        image: Image,
    ) -> Result<(), Error> {
        let mapping = how.mapping;
        let Some((old, old_image)) = old else {
            return Err(Error::Schema {
                table: mapping.name(),
                what: "it is merged by columns, and at the origin it has no REPLICA IDENTITY FULL: nobody can tell \
                       which columns this update changed. For what comes after: alter table ... replica identity full, at the origin"
                    .to_owned(),
            });
        };
        let (relation, identity) = (&mapping.relation, &mapping.identity);
        let mut found = changed(relation, identity, how.merges, Some(old), new);
        for c in &mut found {
            match c.change.merge {
                Merge::Greatest | Merge::Least => {
                    c.change.height = how.columns.height(key.hash, c.change.column);
                }
                Merge::Delta => {
                    let null = |t: &Tuple<'_>| t.iter().nth(c.cell) == Some(Cell::Null);
                    if null(old) || null(new) {
                        let name = relation.columns.get(c.cell).map_or("", |c| &c.name);
                        return Err(Error::Schema {
                            table: mapping.name(),
                            what: format!(
                                "the column \"{name}\" is a delta and was NULL: it must be NOT NULL at every site"
                            ),
                        });
                    }
                }
                Merge::Union if c.element.is_none() => {
                    let name = relation.columns.get(c.cell).map_or("", |c| &c.name);
                    return Err(Error::Schema {
                        table: mapping.name(),
                        what: format!(
                            "the column \"{name}\" is merged as a set and held something else at the origin, where the CHECK \
                             constraint everywrite.is_set is missing. For what comes after: set last_update_wins there, \
                             write such rows with everywrite.as_set, and add the constraint again"
                        ),
                    });
                }
                Merge::LastUpdateWins | Merge::Union => {}
            }
        }
        let next = self.rows.len();
        let at = *self.at.entry(key.hash).or_insert(next);
        if at == next {
            let rank = Rank {
                epoch: how.merges.epoch,
                height: 0,
            };
            self.rows.push(Merged {
                key,
                old: old_image,
                new: image,
                columns: Vec::new(),
                parts: Vec::new(),
                writer: Writer {
                    version: how.plain.ranked(rank),
                    transaction: how.transaction,
                },
            });
        } else if let Some(row) = self.rows.get_mut(at) {
            row.new = image;
        }
        let Some(row) = self.rows.get_mut(at) else {
            return Ok(());
        };
        let known = row.columns.iter().enumerate();
        let known: FxHashMap<Column, usize> = known.map(|(n, c)| (c.column, n)).collect();
        for c in found {
            let known = known.get(&c.change.column);
            match known.and_then(|n| row.columns.get_mut(*n)) {
                Some(known) => *known = c.change,
                None => {
                    row.columns.push(c.change);
                    row.parts.push(Part {
                        cell: c.cell,
                        element: c.element.map(Box::from),
                    });
                }
            }
        }
        Ok(())
    }
}
