//! What a transaction left behind for a row that is merged, and how one statement follows another in it.

use std::collections::{BTreeMap, BTreeSet};

use super::{COLUMNS, Merge};

/// What is in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The tag of the write that made it.
    Tag(String),
    /// A number; in an update of a column that is summed up, the difference.
    Number(i64),
    /// The elements of a set; in an update those that it has touched.
    Set(Elements),
}

/// Elements of a set: their values, which are empty in an array; none for one that is not there.
pub type Elements = BTreeMap<String, Option<String>>;

/// Columns and what is in them.
pub type Image = BTreeMap<&'static str, Cell>;

/// What a transaction left behind for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A row event: the row, whole.
    Row(Image),
    /// A row event: no row.
    Gone,
    /// An update.
    Update {
        /// The columns that it changed.
        changes: Image,
        /// The row behind it, whole: a row event, if it is not merged.
        whole: Image,
    },
    /// Things that were added to a set, or taken out of it knowingly.
    Things {
        /// They are in the row that it left.
        added: BTreeSet<String>,
        /// They were in the row that it found, and are not in the one that it left.
        removed: BTreeSet<String>,
        /// It has deleted the row, whether or not it put another one there.
        deleted: bool,
    },
}

/// One row of one table, as a transaction left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table.
    pub table: &'static str,
    /// The key; none means all of them (TRUNCATE).
    pub key: Option<i64>,
    /// What it left.
    pub effect: Effect,
}

/// What a transaction has written so far.
pub(crate) type Pending = BTreeMap<(&'static str, Option<i64>), Effect>;

/// How a column is merged.
pub(super) fn merge_of(column: &str) -> Merge {
    let found = COLUMNS.iter().find(|(name, _)| *name == column);
    found.map_or(Merge::Tag, |(_, merge)| *merge)
}

/// Adds what a later statement of the same transaction did.
pub(crate) fn note(pending: &mut Pending, table: &'static str, key: i64, later: Effect) {
    let now = match pending.remove(&(table, Some(key))) {
        Some(before) => before.then(later),
        None => later,
    };
    pending.insert((table, Some(key)), now);
}

/// A TRUNCATE: what was written before is gone.
pub(crate) fn note_truncate(pending: &mut Pending, table: &'static str) {
    pending.retain(|(name, _), _| *name != table);
    pending.insert((table, None), Effect::Gone);
}

impl Effect {
    /// Both together: a row event takes the place of what was before, what comes behind it is part of it.
    fn then(self, later: Effect) -> Effect {
        match (self, later) {
            (Effect::Row(row), Effect::Update { changes, .. }) => {
                Effect::Row(changed(row, changes))
            }
            (Effect::Update { changes: first, .. }, Effect::Update { changes, whole }) => {
                let changes = changed(first, changes);
                Effect::Update { changes, whole }
            }
            (
                Effect::Things {
                    added,
                    removed,
                    deleted,
                },
                Effect::Things {
                    added: more,
                    removed: less,
                    deleted: also,
                },
            ) => Effect::Things {
                removed: &removed | &(&less - &added),
                added: &(&added - &less) | &more,
                deleted: deleted || also,
            },
            (_, later) => later,
        }
    }
}

fn changed(mut image: Image, update: Image) -> Image {
    for (column, cell) in update {
        let now = match (image.remove(column), cell) {
            (Some(Cell::Number(was)), Cell::Number(more)) if merge_of(column) == Merge::Sum => {
                Cell::Number(was + more)
            }
            (Some(Cell::Set(mut was)), Cell::Set(more)) => {
                was.extend(more);
                Cell::Set(was)
            }
            (_, cell) => cell,
        };
        image.insert(column, now);
    }
    image
}
