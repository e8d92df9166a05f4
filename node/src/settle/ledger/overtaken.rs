//! Local writes of a row behind which an older replayed one has landed.
//!
//! ```text
//!   local WAL:  insert ─── delete ─── (older row of another site, decided before: it finds nothing and stands)
//!   capture:            insert: takes the older row's place in the index ─── delete: has to know where that landed
//! ```
//!
//! A row that is there is guarded: what is replayed meets it. But if the local site has deleted it again the
//! replayed one stands although two newer writes are known of, and when capture comes to the delete the index
//! names only the insert. So the place is kept here until capture has passed it: every delete that ended before
//! it asks for a second look.

use std::collections::HashMap;

use everywrite_conflict::{Entry, Identity, KeyHash, Lsn};

/// So many keys are not worth looking for those that capture has passed.
const FEW: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Overtaken {
    /// Where in the local WAL, at the latest, an older write than the index names has landed.
    keys: HashMap<KeyHash, Lsn, Identity>,
    /// The greatest of these places.
    last: Lsn,
    /// From so many keys on those are dropped that capture has passed.
    many: usize,
}

impl Default for Overtaken {
    fn default() -> Self {
        Overtaken {
            keys: HashMap::default(),
            last: Lsn::ZERO,
            many: FEW,
        }
    }
}

impl Overtaken {
    /// A replayed write has landed at `place` under a newer one.
    #[cold]
    pub(super) fn landed(&mut self, key: KeyHash, place: Lsn) {
        let known = self.keys.entry(key).or_insert(place);
        *known = place.max(*known);
        self.last = self.last.max(place);
    }

    /// A local transaction that ends at `position` has written the key, of which that was `known`: whether a
    /// replayed write of it has landed behind that place, or may.
    #[inline]
    pub(super) fn captured(
        &mut self,
        key: KeyHash,
        position: Lsn,
        known: impl Iterator<Item = Entry>,
    ) -> bool {
        let mut overtaken =
            !self.keys.is_empty() && self.keys.get(&key).is_some_and(|place| *place >= position);
        for entry in known.filter(|e| e.local_lsn >= position) {
            overtaken = true;
            // What is in flight comes here when it has landed.
            if !entry.in_flight() {
                self.landed(key, entry.local_lsn);
            }
        }
        overtaken
    }

    /// All local transactions that end up to `captured` are captured.
    pub(super) fn passed(&mut self, captured: Lsn) {
        if self.last <= captured {
            self.keys = HashMap::default();
            self.many = FEW;
        } else if self.keys.len() > self.many {
            self.keys.retain(|_, place| *place > captured);
            self.many = FEW.max(2 * self.keys.len());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}
