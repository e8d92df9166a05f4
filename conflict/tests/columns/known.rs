//! The index of a site with files beside it, which are asked where the node asks them.
//!
//! What has a rank never leaves memory, nor do truncates and registers: in files is what was written before the
//! table had a policy, and may still be asked for when its columns are merged.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use everywrite_conflict::{
    Bounds, Entry, First, Index, KeyHash, Lsn, PARTS, Position, Stamp, Vector,
};

#[derive(Default)]
pub(crate) struct Known {
    index: Index,
    /// Oldest first.
    files: Vec<BTreeMap<KeyHash, Entry>>,
    pub(crate) spilled: usize,
    pub(crate) recalled: usize,
}

impl Deref for Known {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

impl DerefMut for Known {
    fn deref_mut(&mut self) -> &mut Index {
        &mut self.index
    }
}

impl Known {
    /// What may, and can, leaves memory.
    pub(crate) fn spill(&mut self, may: impl Fn(&Entry) -> bool) {
        let parts = (0..PARTS).map(|part| self.index.spillable(part, &may));
        let leaving: Vec<_> = parts.flatten().collect();
        if leaving.is_empty() {
            return;
        }
        self.files.push(leaving.iter().copied().collect());
        self.bound();
        self.spilled += self.index.drop_spilled(leaving);
    }

    /// Puts a key back.
    pub(crate) fn recall(&mut self, key: KeyHash) {
        if self.index.is_here(key) {
            return;
        }
        let found = self.files.iter().rev().find_map(|file| file.get(&key));
        if let Some(entry) = found.copied() {
            self.recalled += 1;
            self.index.recall(key, entry);
        }
    }

    /// Puts it back if a group that begins so has to know it.
    pub(crate) fn recall_for(
        &mut self,
        key: KeyHash,
        position: Position,
        stamp: Stamp,
        seen: &Vector,
    ) {
        let first = First {
            position,
            stamp,
            seen,
        };
        if self.index.group_asks(Some(first)) {
            self.recall(key);
        }
    }

    /// The same for a local transaction.
    pub(crate) fn recall_to_capture(&mut self, key: KeyHash, position: Lsn, stamp: Stamp) {
        if self.index.capture_asks(position, stamp) {
            self.recall(key);
        }
    }

    /// Puts it back if what a file has of it may be above that stamp: journals are read one after the other.
    pub(crate) fn recall_below(&mut self, key: KeyHash, stamp: Stamp) {
        if self.index.hides_above(stamp) {
            self.recall(key);
        }
    }

    /// Files go, oldest first, and then what is in memory.
    pub(crate) fn forget(&mut self, stable: &Vector, captured: Lsn) -> usize {
        let stays = |file: &BTreeMap<_, _>| !bounds(file).forgettable(stable, captured);
        let gone = self.files.iter().position(stays);
        let gone = gone.unwrap_or(self.files.len());
        let dropped: usize = self.files.drain(..gone).map(|file| file.len()).sum();
        self.bound();
        dropped + self.index.forget(stable, captured)
    }

    fn bound(&mut self) {
        let mut all = Bounds::default();
        self.files.iter().for_each(|file| all.merge(&bounds(file)));
        self.index
            .set_spilled((!self.files.is_empty()).then_some(all));
    }
}

fn bounds(file: &BTreeMap<KeyHash, Entry>) -> Bounds {
    let mut bounds = Bounds::default();
    file.values().for_each(|entry| bounds.add(entry));
    bounds
}
