//! Columns that are merged: what two sites change in different columns of a row both stays.
//!
//! A row is not one register but several. Its **row events** (insert, delete) are ordered as whole
//! rows are: the greater version stays, and a write replaces what it has seen. An **update** belongs to
//! the row event that its writer had, and touches only the columns that it changed:
//!
//! ```text
//!   event   ── i ────────────── d ────────── i' ──►       the greatest of them stands
//!   updates     └ u1(a) u2(b)    (u3 is lost)  └ u4(a)    those that have seen the event that stands
//!   column a:   u1, then u4      b: u2                    the greatest version among those that changed it
//!   delta:      the sum of all differences since the event
//! ```
//!
//! - An update that has not seen the event that stands is lost: it is one of another row. So a delete
//!   wins over the updates that it has not seen, and they over nothing.
//! - A register is kept only while it is unstable. What comes later has seen it, and wins by that.
//! - A delta is added when its transaction is applied, which happens once (I1).
//! - [`Merge::Greatest`] and [`Merge::Least`]: the column's height is its value, and it is
//!   inherited like the height of a [`Rank`](super::Rank): who lowers a value knowingly lowers it.
//!
//! Trap: a merged row was written by nobody. It has no version as a whole, so it cannot be compared with
//! the holder of a second unique value: tables that have a second unique key cannot be merged.

use std::collections::BTreeMap;

use crate::{Position, Version};

/// How a column of a merged row is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The change with the greatest version.
    LastUpdateWins,
    /// The differences are added up.
    Delta,
    /// Of changes that have not seen each other the one with the greatest value.
    Greatest,
    /// Of changes that have not seen each other the one with the least value.
    Least,
}

impl Merge {
    /// How high a change to `value` stands by itself, for a column of numbers.
    pub const fn height(self, value: i64) -> i64 {
        match self {
            Merge::LastUpdateWins | Merge::Delta => 0,
            Merge::Greatest => value,
            Merge::Least => value.saturating_neg(),
        }
    }
}

/// A column, by the hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column(pub u64);

/// The last change that is known of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Of a column its height comes first in it: [`Version::ranked`].
    pub version: Version,
    /// Which transaction made it.
    pub source: Position,
}

/// A row event that came, against the one that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It stands now; all registers of the columns are forgotten.
    Stands,
    /// It is lost.
    Lost,
}

/// What becomes of one column of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The column gets the new value.
    Value,
    /// The difference is added to what is there.
    Difference,
    /// The column stays as it is.
    Nothing,
}

/// What is unstable of one row: nothing, if it is as everybody has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The row event that stands, and whether it is a delete.
    event: Option<(Register, bool)>,
    columns: BTreeMap<Column, Register>,
}

impl Columns {
    /// Everybody has the row.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.event.is_none() && self.columns.is_empty()
    }

    /// An insert or a delete. `covers`: what its transaction claims to have seen.
    pub fn event(
        &mut self,
        event: Register,
        delete: bool,
        covers: impl Fn(Position) -> bool,
    ) -> Event {
        if let Some((stands, _)) = self.event
            && !covers(stands.source)
            && stands.version > event.version
        {
            return Event::Lost;
        }
        self.event = Some((event, delete));
        self.columns.clear();
        Event::Stands
    }

    /// Whether an update whose transaction claims what `covers` says is one of the row that stands.
    pub fn belongs(&self, covers: impl Fn(Position) -> bool) -> bool {
        match self.event {
            None => true,
            Some((event, delete)) => !delete && covers(event.source),
        }
    }

    /// One column that an update changed, if the update [belongs](Self::belongs) to the row.
    pub fn update(
        &mut self,
        column: Column,
        merge: Merge,
        change: Register,
        covers: impl Fn(Position) -> bool,
    ) -> Take {
        if merge == Merge::Delta {
            return Take::Difference;
        }
        if let Some(known) = self.columns.get(&column)
            && !covers(known.source)
            && known.version > change.version
        {
            return Take::Nothing;
        }
        self.columns.insert(column, change);
        Take::Value
    }

    /// The height that a local change of a column has at least, because of what it replaces.
    pub fn inherited(&self, column: Column) -> i64 {
        let known = self.columns.get(&column);
        known.map_or(i64::MIN, |known| known.version.rank().height)
    }

    /// Forgets what is stable.
    pub fn forget(&mut self, stable: impl Fn(Position) -> bool) {
        self.event = self.event.filter(|(event, _)| !stable(event.source));
        self.columns.retain(|_, known| !stable(known.source));
    }
}
