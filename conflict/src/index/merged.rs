//! The columns of rows that are merged: see [`policy::columns`](crate::policy::columns).
//!
//! Row events of such a table are entries like those of any other. An update is none: it leaves a
//! register for each column that it changed, here, as long as that is not stable. A new row event
//! takes the registers away, because what has not seen it is lost.

use super::{Entry, Index, forgettable};
use crate::policy::columns::{Column, Merge, Register, Registers, Take};
use crate::{KeyHash, Position, RelationHash, Vector, Version};

/// The registers of one row.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    relation: RelationHash,
    registers: Registers,
}

/// One column that an update changed, or one element of a column that is a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnChange {
    /// Which.
    pub column: Column,
    /// How it is decided.
    pub merge: Merge,
    /// Its height, see [`Merge::height`].
    pub height: i64,
}

/// An update of a row that is merged.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// Its table.
    pub relation: RelationHash,
    /// Its row.
    pub key: KeyHash,
    /// Its transaction's version, with the epoch of its policy; heights come from the columns.
    pub version: Version,
    /// Which transaction made it.
    pub source: Position,
    /// What it changed.
    pub columns: &'a [ColumnChange],
    /// Whether the row is there.
    pub present: bool,
}

/// What becomes of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merging {
    /// Whether it is one of the row that stands; otherwise all of it is lost.
    pub belongs: bool,
    /// The row event that stands, as far as it matters.
    pub event: Option<Entry>,
    /// For each of its columns what becomes of it.
    pub takes: Vec<Take>,
    /// The changes of the row that it has not seen.
    pub unseen: Vec<(Column, Merge, Register)>,
}

impl Index {
    /// Takes in an update of a merged row and says what becomes of it. `claims`: what its transaction
    /// claims to have seen.
    pub fn merge(&mut self, update: &Update<'_>, claims: impl Fn(Position) -> bool) -> Merging {
        let event = self.get(update.relation, update.key);
        let seen = |e: &Entry| e.source.is_some_and(&claims);
        // A delete that it has seen: the row was inserted again behind it, and that is forgotten before a
        // TRUNCATE, or both are swept at different times. A TRUNCATE that it has not seen, and a row that is there
        // all the same: the row's insert stands above it and is forgotten as stable, so whatever comes has seen it.
        let above = |e: &Entry| e.deleted && update.present && self.own(update.key).is_none();
        let belongs = event.as_ref().is_none_or(|e| seen(e) || above(e));
        let mut merging = Merging {
            belongs,
            event,
            ..Merging::default()
        };
        if let Some(known) = self.merged.get(&update.key) {
            merging.unseen = known.registers.unseen(update.source, &claims).collect();
        }
        if !belongs || update.columns.is_empty() {
            return merging;
        }
        let merged = self.merged.entry(update.key).or_insert_with(|| Merged {
            relation: update.relation,
            registers: Registers::default(),
        });
        let epoch = update.version.rank();
        let mut new = 0;
        for change in update.columns {
            let rank = crate::policy::Rank {
                height: change.height,
                ..epoch
            };
            let register = Register {
                version: update.version.ranked(rank),
                source: update.source,
            };
            let before = merged
                .registers
                .known(change.column)
                .map(|k| k.register.source);
            let take = merged
                .registers
                .update(change.column, change.merge, register, &claims);
            let now = merged
                .registers
                .known(change.column)
                .map(|k| k.register.source);
            new += usize::from(before != now);
            merging.takes.push(take);
        }
        if new > 0 {
            self.announced(update.source, new);
        }
        merging
    }

    /// Whether a row that a local transaction has updated is gone by the index, by a delete that the update has seen
    /// (`claims`): what was updated was put there behind the delete, unseen, and is to be looked at again. Not if
    /// the delete may be forgotten: then nothing is to be looked at, and the row was inserted again.
    pub fn is_gone(
        &self,
        relation: RelationHash,
        key: KeyHash,
        claims: impl Fn(Position) -> bool,
    ) -> bool {
        let (stable, captured) = &self.settled;
        let event = self.own(key).and_then(|_| self.get(relation, key));
        event.is_some_and(|e| {
            e.deleted && e.source.is_some_and(claims) && !forgettable(&e, stable, *captured)
        })
    }

    /// The height that a local change of a column has at least, because of what it replaces.
    pub fn inherited_height(
        &self,
        key: KeyHash,
        column: Column,
        covers: impl Fn(Position) -> bool,
    ) -> i64 {
        let known = self.merged.get(&key);
        known.map_or(i64::MIN, |m| m.registers.inherited(column, covers))
    }

    /// Whether anything is known of the columns of a row.
    #[inline]
    pub fn has_registers(&self, key: KeyHash) -> bool {
        !self.merged.is_empty() && self.merged.contains_key(&key)
    }

    /// For a row event that comes: the greatest change of the row's columns that `claims` does not
    /// cover, as something that is lower than the event whatever their versions, for an event wins
    /// against every update that has not seen it.
    pub fn below(
        &self,
        key: KeyHash,
        event: Version,
        source: Option<Position>,
        claims: impl Fn(Position) -> bool,
    ) -> Option<Entry> {
        let known = self.merged.get(&key)?;
        let unseen = known
            .registers
            .iter()
            .map(|(_, register)| register)
            .filter(|r| Some(r.source) != source && !claims(r.source));
        let change = unseen.max_by_key(|r| r.version)?;
        Some(change.below(event))
    }

    /// The rows of a table that have changes which `claims` does not cover, each as [`below`](Self::below).
    pub fn all_below(
        &self,
        relation: RelationHash,
        event: Version,
        claims: impl Fn(Position) -> bool,
    ) -> Vec<(KeyHash, Entry)> {
        let of = self.merged.iter().filter(|(_, m)| m.relation == relation);
        of.filter_map(|(key, _)| Some((*key, self.below(*key, event, None, &claims)?)))
            .collect()
    }

    /// A row event of that version stands: what had not seen it is lost.
    #[inline]
    pub(super) fn drop_registers(&mut self, key: KeyHash) {
        if !self.merged.is_empty() {
            self.merged.remove(&key);
        }
    }

    /// The same for all rows of a table that the truncate takes: what is known of the others still counts.
    pub(super) fn drop_all_registers(&mut self, relation: RelationHash, truncate: &Entry) {
        let of = self.merged.iter().filter(|(_, m)| m.relation == relation);
        let gone = of.filter(|(key, _)| !self.is_above(**key, truncate));
        let gone: Vec<KeyHash> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.merged.remove(&key);
        }
    }

    /// Whether a row's own write stands above a truncate.
    fn is_above(&self, key: KeyHash, truncate: &Entry) -> bool {
        match self.held(key) {
            Some(held) => held.is_above(truncate),
            None => self
                .plain(key)
                .is_some_and(|e| e.version >= truncate.version),
        }
    }

    pub(super) fn sweep_merged(&mut self, stable: &Vector) -> usize {
        let before = self.merged.len();
        let unstable = &mut self.unstable;
        self.merged.retain(|_, m| {
            m.registers.forget(|source| stable.covers(source));
            *unstable += m.registers.len();
            !m.registers.is_empty()
        });
        before - self.merged.len()
    }

    pub(super) fn merged_bytes(&self) -> usize {
        let columns: usize = self.merged.values().map(|m| m.registers.bytes()).sum();
        self.merged.capacity() * 8 / 7 * (size_of::<(KeyHash, Merged)>() + 1) + columns
    }
}

impl Register {
    /// This change as an entry that is lower than `event`.
    pub fn below(&self, event: Version) -> Entry {
        let stamp = crate::Stamp(event.stamp.0.saturating_sub(1));
        Entry {
            version: Version::new(self.version.stamp.min(stamp), self.version.origin),
            source: Some(self.source),
            deleted: false,
            local_lsn: crate::Lsn::ZERO,
        }
    }
}
