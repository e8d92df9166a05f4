//! Rows of which a write was left out, because a newer one was on its way.
//!
//! Usually that one has not seen the other, and the row that stands is the one that it was made from. But a crash of
//! the server may take back both a write and what was on its way over it, which is announced and known all the same.
//! When the first one comes again it loses to the second, which has seen it. So the row that stands then is older than
//! both, and what the stream omits of the second is not in it.
//!
//! The same when this process ends before the newer one has landed: the next one knows of the older write, which is
//! applied, and not of what it lost to. So replay also writes these keys into `everywrite.left_out`, in the transaction
//! that leaves the write out (`replay/careful.rs`), and a start takes them from there.

use std::collections::HashSet;

use everywrite_conflict::{Identity, KeyHash};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    keys: HashSet<KeyHash, Identity>,
}

impl LeftOut {
    /// A write of the key has landed: written, or left out under what is on its way.
    #[inline]
    pub(super) fn landed(&mut self, key: KeyHash, left_out: bool) {
        if left_out {
            self.keys.insert(key);
        } else if !self.keys.is_empty() {
            self.keys.remove(&key);
        }
    }

    /// Whether it is none of these keys.
    #[inline]
    pub(super) fn none(&self, mut keys: impl Iterator<Item = KeyHash>) -> bool {
        self.keys.is_empty() || !keys.any(|key| self.keys.contains(&key))
    }

    pub(super) fn of(&self, keys: impl Iterator<Item = KeyHash>) -> HashSet<KeyHash, Identity> {
        match self.keys.is_empty() {
            true => HashSet::default(),
            false => keys.filter(|key| self.keys.contains(key)).collect(),
        }
    }
}
