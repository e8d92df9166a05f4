//! Entries that have left memory for files.
//!
//! ```text
//!  memory:  every key that was written or asked for lately          (asked first; never older)
//!  files:   the rest, oldest file first; a newer file hides what an older one has of a key
//!  Bounds:  what all files together can hold; most askers need nothing of it
//! ```
//!
//! The index does no I/O. Whoever holds it asks first whether the files matter ([`Index::group_asks`],
//! [`Index::capture_asks`]; all others always ask), reads there what memory does not have
//! ([`Index::is_here`]), puts it back ([`Index::recall`]), and only then goes on. So everything else in
//! this crate sees the index as if nothing had ever left it.
//!
//! What keeps that exact:
//!
//! - Memory is never older than a file. Nothing is announced below what a file may hold before the key is
//!   recalled: a transaction that need not ask has a greater stamp than everything there.
//! - What is in flight, has no source yet, or has a rank stays in memory, and so do truncates and the
//!   registers of merged rows.
//! - While there are files memory forgets nothing: an older version of the key would come up again
//!   from one of them. A file goes as a whole, and only if no older one is left, when all that
//!   it holds may be forgotten.

use super::{Entry, Index, Slot};
use crate::{KeyHash, Lsn, Position, Stamp, Vector};

/// What a set of entries can hold at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The greatest source of each origin.
    sources: Vector,
    /// The greatest stamp.
    newest: Option<Stamp>,
    /// The greatest place in the local WAL where one of them was written.
    written: Lsn,
    /// How many they are.
    keys: u64,
}

impl Bounds {
    /// Takes in one more.
    pub fn add(&mut self, entry: &Entry) {
        if let Some(source) = entry.source {
            self.sources.raise(source.origin, source.lsn);
        }
        self.newest = self.newest.max(Some(entry.version.stamp));
        self.written = self.written.max(entry.local_lsn);
        self.keys += 1;
    }

    /// Takes in another set.
    pub fn merge(&mut self, other: &Bounds) {
        self.sources.merge(&other.sources);
        self.newest = self.newest.max(other.newest);
        self.written = self.written.max(other.written);
        self.keys += other.keys;
    }

    /// Whether all of it may be forgotten, as in [`Index::forget`].
    pub fn forgettable(&self, stable: &Vector, captured: Lsn) -> bool {
        self.written <= captured && stable.covers_all(&self.sources)
    }

    /// How many entries that are.
    pub fn keys(&self) -> u64 {
        self.keys
    }
}

/// The first transaction of a group that is replayed: those behind it have seen no less.
#[derive(Clone, Copy, Debug)]
pub struct First<'a> {
    /// Where it stands.
    pub position: Position,
    /// Its stamp; no version in the group is lower.
    pub stamp: Stamp,
    /// What it has surely seen of other origins.
    pub seen: &'a Vector,
}

impl Index {
    /// Whether there is anything outside of memory.
    #[inline]
    pub fn has_spilled(&self) -> bool {
        self.spilled.is_some()
    }

    /// What there is outside of memory, all in all.
    pub fn spilled(&self) -> Option<&Bounds> {
        self.spilled.as_deref()
    }

    /// From now on that is outside of memory: more than before, and what is more is still in memory
    /// ([`drop_spilled`](Self::drop_spilled)); or less, because it may be forgotten.
    pub fn set_spilled(&mut self, bounds: Option<Bounds>) {
        self.spilled = bounds.map(Box::new);
    }

    /// Whether a group has to ask the files: something there may not be seen by it, may be the group
    /// itself, come again after a crash, or may stand above it. `None`: nobody knows of what is in it.
    #[inline]
    pub fn group_asks(&self, first: Option<First<'_>>) -> bool {
        match &self.spilled {
            None => false,
            Some(bounds) => self.asks(bounds, first),
        }
    }

    #[cold]
    #[inline(never)]
    fn asks(&self, bounds: &Bounds, first: Option<First<'_>>) -> bool {
        // A row that is above a truncate may be in a file, and the truncate is not what a group
        // meets that has seen the row.
        let truncates = self.truncates.values();
        first.is_none_or(|first| {
            !bounds.seen_by(&first)
                || truncates
                    .map(|t| (t.source, t.version.stamp))
                    .any(|(source, stamp)| {
                        stamp >= first.stamp || !source.is_some_and(|s| first.has_seen(s))
                    })
        })
    }

    /// Whether a local transaction has to ask the files: something there may have been written to the
    /// row behind it, or may stand above it. It has seen all else.
    #[inline]
    pub fn capture_asks(&self, position: Lsn, stamp: Stamp) -> bool {
        match &self.spilled {
            None => false,
            Some(bounds) => {
                let over = |t: &Entry| position <= t.local_lsn || stamp <= t.version.stamp;
                position <= bounds.written
                    || Some(stamp) <= bounds.newest
                    || self.truncates.values().any(over)
            }
        }
    }

    /// Whether something outside of memory may stand above that stamp.
    #[inline]
    pub fn hides_above(&self, stamp: Stamp) -> bool {
        let newest = self.spilled.as_ref().and_then(|b| b.newest);
        newest.is_some_and(|newest| stamp <= newest)
    }

    /// Whether memory has the key; what it has is what counts.
    pub fn is_here(&self, key: KeyHash) -> bool {
        self.own(key).is_some()
    }

    /// Puts back what a file had of a key, if memory has nothing of it.
    pub fn recall(&mut self, key: KeyHash, entry: Entry) {
        if self.held(key).is_none() {
            let shard = self.shard_mut(key);
            shard.entry(key).or_insert_with(|| Slot::new(entry));
        }
    }

    /// How many entries of one part could leave memory among those that `may`.
    pub fn count_spillable(&self, part: usize, may: impl Fn(&Entry) -> bool) -> usize {
        self.leaving(part, may).count()
    }

    /// Those entries, in the order of their keys: all parts one after the other are in that order.
    pub fn spillable(&self, part: usize, may: impl Fn(&Entry) -> bool) -> Vec<(KeyHash, Entry)> {
        let mut leaving: Vec<_> = self.leaving(part, may).collect();
        leaving.sort_unstable_by_key(|(key, _)| *key);
        leaving
    }

    fn leaving(
        &self,
        part: usize,
        may: impl Fn(&Entry) -> bool,
    ) -> impl Iterator<Item = (KeyHash, Entry)> {
        let slots = self.shards.get(part).into_iter().flatten();
        let entries = slots.map(|(key, slot)| (*key, slot.entry()));
        entries.filter(move |(_, e)| e.source.is_some() && !e.in_flight() && may(e))
    }

    /// Drops what a file has by now, where it is still the same; returns how many entries that were.
    pub fn drop_spilled(&mut self, entries: impl IntoIterator<Item = (KeyHash, Entry)>) -> usize {
        debug_assert!(self.has_spilled(), "nobody would look for what is dropped");
        let mut dropped = 0;
        for (key, entry) in entries {
            let shard = self.shard_mut(key);
            if shard.get(&key).is_some_and(|slot| slot.entry() == entry) {
                shard.remove(&key);
                dropped += 1;
            }
        }
        dropped
    }

    /// Gives memory back after that.
    pub fn shrink(&mut self, part: usize) {
        if let Some(shard) = self.shards.get_mut(part)
            && shard.len() < shard.capacity() / 4
        {
            shard.shrink_to(shard.len() * 2);
        }
    }
}

impl Bounds {
    fn seen_by(&self, first: &First<'_>) -> bool {
        let sources = self.sources.iter();
        let mut sources = sources.map(|(origin, lsn)| Position { origin, lsn });
        Some(first.stamp) > self.newest && sources.all(|s| first.has_seen(s))
    }
}

impl First<'_> {
    fn has_seen(&self, source: Position) -> bool {
        match source.origin == self.position.origin {
            true => source.lsn < self.position.lsn,
            false => self.seen.covers(source),
        }
    }
}

#[cfg(test)]
#[path = "spilled_tests.rs"]
mod tests;
