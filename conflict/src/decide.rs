//! One change against what the index says of its key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Entry, Position, Version};

/// What happened to two concurrent writes; PostgreSQL 18's name where it has one.
///
/// <https://www.postgresql.org/docs/18/logical-replication-conflicts.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An insert met a row with its key, or with one of its unique values.
    InsertExists,
    /// An update met a row that another origin wrote meanwhile.
    UpdateOriginDiffers,
    /// An update met another row with one of its new unique values.
    UpdateExists,
    /// An update found no row, and nothing is known of a delete.
    UpdateMissing,
    /// An update met a concurrent delete.
    UpdateDeleted,
    /// A delete met a row that another origin wrote meanwhile.
    DeleteOriginDiffers,
    /// A delete found no row, or met a concurrent delete.
    DeleteMissing,
    /// An insert met a concurrent delete of the same key.
    InsertDeleted,
    /// An insert or update met several rows with its unique values.
    MultipleUniqueConflicts,
    /// A truncate met a row that another origin wrote meanwhile.
    TruncateOriginDiffers,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 10] = [
        Kind::InsertExists,
        Kind::UpdateOriginDiffers,
        Kind::UpdateExists,
        Kind::UpdateMissing,
        Kind::UpdateDeleted,
        Kind::DeleteOriginDiffers,
        Kind::DeleteMissing,
        Kind::InsertDeleted,
        Kind::MultipleUniqueConflicts,
        Kind::TruncateOriginDiffers,
    ];

    /// The name in the conflict history, in metrics and settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::InsertExists => "insert_exists",
            Kind::UpdateOriginDiffers => "update_origin_differs",
            Kind::UpdateExists => "update_exists",
            Kind::UpdateMissing => "update_missing",
            Kind::UpdateDeleted => "update_deleted",
            Kind::DeleteOriginDiffers => "delete_origin_differs",
            Kind::DeleteMissing => "delete_missing",
            Kind::InsertDeleted => "insert_deleted",
            Kind::MultipleUniqueConflicts => "multiple_unique_conflicts",
            Kind::TruncateOriginDiffers => "truncate_origin_differs",
        }
    }

    /// The kind of a conflict with a row of the change's own key.
    pub const fn over_row(operation: Operation) -> Kind {
        match operation {
            Operation::Insert => Kind::InsertExists,
            Operation::Update => Kind::UpdateOriginDiffers,
            Operation::Delete => Kind::DeleteOriginDiffers,
            Operation::Truncate => Kind::TruncateOriginDiffers,
        }
    }

    /// The kind of a conflict over second unique keys, with `rows` other rows.
    pub const fn over_unique(operation: Operation, rows: usize) -> Kind {
        match (operation, rows) {
            (Operation::Insert, 0 | 1) => Kind::InsertExists,
            (_, 0 | 1) => Kind::UpdateExists,
            _ => Kind::MultipleUniqueConflicts,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a change does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A new row.
    Insert,
    /// Another image of a row.
    Update,
    /// The row is gone.
    Delete,
    /// All rows of a table are gone; decided row by row.
    Truncate,
}

/// What to do with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is applied; otherwise what is stored stays.
    pub apply: bool,
    /// What goes to the conflict history.
    pub conflict: Option<Kind>,
}

/// Decides one change of one key.
///
/// - `stored` is what the index said of the key before the change itself was announced, asked
///   again when capture is durably past what was local (the caller keeps the earlier answer if
///   the index now names the change itself). It must not be [`Entry::undecided`].
/// - `covers` says whether the change's transaction had seen a position: its vector covers it, or
///   it is an earlier position of its own origin. What it had seen is no conflict.
/// - `claims` says the same of what the transaction's vector claims to have seen: under a policy that is
///   what it replaces.
/// - `row_present`: whether the row is in the table.
///
/// The greater version stays, and an equal one is the change itself, come again. Under a policy
/// what the change claims to have seen is replaced whatever its version: see [`policy`](crate::policy).
pub fn decide(
    operation: Operation,
    version: Version,
    covers: impl Fn(Position) -> bool,
    claims: impl Fn(Position) -> bool,
    stored: Option<&Entry>,
    row_present: bool,
) -> Decision {
    let Some(stored) = stored else {
        let missing = operation == Operation::Update && !row_present;
        return Decision {
            apply: true,
            conflict: missing.then_some(Kind::UpdateMissing),
        };
    };
    let seen = stored.source.is_some_and(covers);
    let ranked = version.is_ranked();
    debug_assert!(
        !seen || version >= stored.version || ranked,
        "I6: {version:?} has seen {stored:?}"
    );
    // What stands higher than a write that claims it was stable where that was written.
    let apply =
        version >= stored.version || (ranked && (seen || stored.source.is_some_and(claims)));
    let conflict = if version == stored.version {
        None
    } else if seen {
        let missing = operation == Operation::Update && !row_present;
        missing.then_some(Kind::UpdateMissing)
    } else {
        Some(match (operation, stored.deleted) {
            (operation, false) => Kind::over_row(operation),
            (Operation::Insert, true) => Kind::InsertDeleted,
            (Operation::Update, true) => Kind::UpdateDeleted,
            (Operation::Delete, true) => Kind::DeleteMissing,
            (Operation::Truncate, true) => {
                return Decision {
                    apply,
                    conflict: None,
                };
            }
        })
    };
    Decision { apply, conflict }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
