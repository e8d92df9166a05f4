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
//! - A delta is added when its transaction is applied, which happens once (I1). Its register decides
//!   nothing; it tells that the row was written.
//! - [`Merge::Greatest`] and [`Merge::Least`]: the column's height is its value, and it is
//!   inherited like the height of a [`Rank`](super::Rank): who lowers a value knowingly lowers it.
//!
//! Trap: a merged row was written by nobody. It has no version as a whole, so it cannot be compared with
//! the holder of a second unique value: tables that have a second unique key cannot be merged.

use serde::{Deserialize, Serialize};

use crate::{Position, Version};

/// How a column of a merged row is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// The change with the greatest version.
    #[default]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column(pub u64);

impl Column {
    /// The column of that name: the same number at every site.
    pub fn named(name: &str) -> Self {
        Column(twox_hash::XxHash3_128::oneshot(name.as_bytes()) as u64)
    }
}

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

/// What is known of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The change that stands.
    pub register: Register,
    /// How it was made.
    pub merge: Merge,
    /// The greatest height of what else was known of the column: a local change that is captured
    /// after the one that stands was known, and had not seen it, inherits from what was there before.
    under: i64,
    /// The change that it won against unseen, to be named again if the transaction comes again.
    over: Option<Register>,
}

/// What is unstable of the columns of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    // A row has few columns that change at a time: a list is smaller and quicker than a map.
    columns: Vec<(Column, Known)>,
}

impl Registers {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// How many columns are remembered.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// One column that an update changed. `covers`: what its transaction claims to have seen.
    pub fn update(
        &mut self,
        column: Column,
        merge: Merge,
        change: Register,
        covers: impl Fn(Position) -> bool,
    ) -> Take {
        let height = change.version.rank().height;
        let take = match merge {
            Merge::Delta => Take::Difference,
            _ => Take::Value,
        };
        let Some((_, known)) = self.columns.iter_mut().find(|(c, _)| *c == column) else {
            let known = Known {
                register: change,
                merge,
                under: i64::MIN,
                over: None,
            };
            self.columns.push((column, known));
            return take;
        };
        let stands = known.register;
        if stands.source == change.source && stands.version == change.version {
            return take;
        }
        let seen = covers(stands.source);
        if !seen && stands.version > change.version {
            known.under = known.under.max(height);
            return match merge {
                Merge::Delta => take,
                _ => Take::Nothing,
            };
        }
        *known = Known {
            register: change,
            merge,
            under: known.under.max(stands.version.rank().height),
            over: match stands.source == change.source {
                true => known.over,
                false => (!seen).then_some(stands),
            },
        };
        take
    }

    /// The height that a local change of a column has at least, because of what it replaces.
    pub fn inherited(&self, column: Column, covers: impl Fn(Position) -> bool) -> i64 {
        match self.known(column) {
            Some(known) if covers(known.register.source) => known.register.version.rank().height,
            Some(known) => known.under,
            None => i64::MIN,
        }
    }

    /// The changes that a transaction at `source` has not seen, also those that it has replaced here.
    pub fn unseen(
        &self,
        source: Position,
        covers: impl Fn(Position) -> bool,
    ) -> impl Iterator<Item = (Column, Merge, Register)> {
        self.columns.iter().filter_map(move |(column, known)| {
            let change = match known.register.source == source {
                true => known.over?,
                false => known.register,
            };
            (!covers(change.source)).then_some((*column, known.merge, change))
        })
    }

    /// What is known of a column.
    pub fn known(&self, column: Column) -> Option<&Known> {
        let found = self.columns.iter().find(|(c, _)| *c == column);
        found.map(|(_, known)| known)
    }

    /// Every column's change.
    pub fn iter(&self) -> impl Iterator<Item = (Column, Register)> {
        self.columns.iter().map(|(c, known)| (*c, known.register))
    }

    /// Forgets what is stable.
    pub fn forget(&mut self, stable: impl Fn(Position) -> bool) {
        self.columns
            .retain(|(_, known)| !stable(known.register.source));
    }
}

/// What is unstable of one row: nothing, if it is as everybody has it.
///
/// The index keeps the same in two places: the row event as it keeps those of any table, and the
/// [`Registers`] beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The row event that stands, and whether it is a delete.
    event: Option<(Register, bool)>,
    columns: Registers,
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
        self.columns = Registers::default();
        Event::Stands
    }

    /// Whether an update whose transaction claims what `covers` says is one of the row that stands.
    pub fn belongs(&self, covers: impl Fn(Position) -> bool) -> bool {
        match self.event {
            None => true,
            // Of a delete that it has seen: the insert behind it is forgotten already.
            Some((event, _)) => covers(event.source),
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
        self.columns.update(column, merge, change, covers)
    }

    /// The height that a local change of a column has at least, because of what it replaces.
    pub fn inherited(&self, column: Column, covers: impl Fn(Position) -> bool) -> i64 {
        self.columns.inherited(column, covers)
    }

    /// Forgets what is stable.
    pub fn forget(&mut self, stable: impl Fn(Position) -> bool) {
        self.event = self.event.filter(|(event, _)| !stable(event.source));
        self.columns.forget(stable);
    }
}
