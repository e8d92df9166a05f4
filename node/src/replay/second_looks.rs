//! Which rows have to be looked at again after a restart: those that a recent own write and a
//! replayed one may have passed each other at, unseen. See [`super::repair`].

use everywrite_conflict::{KeyHash, Position, RelationHash, Vector, Version};
use rustc_hash::FxHashMap;

use crate::settle::{Ledger, Touched};

/// The last recent own write of each key, or TRUNCATE of each table. `L` is what a look needs to be taken.
pub struct SecondLooks<L> {
    recent: FxHashMap<(RelationHash, Option<KeyHash>), Recent<L>>,
}

struct Recent<L> {
    version: Version,
    seen: Vector,
    deleted: bool,
    look: L,
    /// An older replayed write of the key, which it had not seen, is applied here.
    met: bool,
}

impl<L> Default for SecondLooks<L> {
    fn default() -> Self {
        SecondLooks {
            recent: FxHashMap::default(),
        }
    }
}

impl<L> SecondLooks<L> {
    /// An own write that may not have been looked at again. The own journal is read first.
    pub fn recent(&mut self, t: &Touched, version: Version, seen: &Vector, look: L) {
        if t.version.is_some() {
            return;
        }
        let recent = Recent {
            version,
            seen: seen.clone(),
            deleted: t.deleted,
            look,
            met: false,
        };
        self.recent.insert((t.relation, t.key), recent);
    }

    /// A replayed write that is applied here.
    pub fn met(&mut self, t: &Touched, version: Version, source: Position) {
        let version = t.version.unwrap_or(version);
        for key in [t.key, None] {
            if let Some(own) = self.recent.get_mut(&(t.relation, key)) {
                own.met |= !t.deleted && version < own.version && !own.seen.covers(source);
            }
        }
    }

    /// The looks to take, once the index is whole, each with the version of the own write.
    pub fn asked(self, ledger: &Ledger) -> Vec<(L, Version)> {
        let passed = |((relation, key), own): &((RelationHash, Option<KeyHash>), Recent<L>)| {
            if own.deleted {
                return own.met;
            }
            let entry = key.and_then(|key| ledger.known(*relation, key));
            entry.is_some_and(|e| e.deleted && e.version > own.version)
        };
        self.recent
            .into_iter()
            .filter(passed)
            .map(|(_, own)| (own.look, own.version))
            .collect()
    }
}
