//! Which rows have to be looked at again after a restart: those that a recent own write and a
//! replayed one may have passed each other at, unseen. See [`super::repair`].

use std::collections::HashMap;
use std::sync::Arc;

use everywrite_conflict::{KeyHash, Position, RelationHash, Vector, Version};

use crate::capture::{Repair, RepairRow, key_cells};
use crate::pg::pgoutput::{Message, OwnedRelation};
use crate::settle::{Ledger, Touched};

/// The last recent own write of each key, or TRUNCATE of each table.
#[derive(Default)]
pub(super) struct SecondLooks {
    recent: HashMap<(RelationHash, Option<KeyHash>), Recent>,
}

struct Recent {
    version: Version,
    seen: Vector,
    deleted: bool,
    relation: Arc<OwnedRelation>,
    row: Option<RepairRow>,
    /// An older replayed write of the key, which it had not seen, is applied here.
    met: bool,
}

impl SecondLooks {
    /// An own write that may not have been looked at again.
    pub(super) fn recent(
        &mut self,
        t: &Touched,
        version: Version,
        seen: &Vector,
        relation: Option<Arc<OwnedRelation>>,
        message: &Message<'_>,
    ) {
        let (Some(relation), None) = (relation, t.version) else {
            return;
        };
        let row = key_cells(message, t.deleted).filter(|_| t.key.is_some());
        if t.key.is_some() && row.is_none() {
            return;
        }
        let recent = Recent {
            version,
            seen: seen.clone(),
            deleted: t.deleted,
            relation,
            row,
            met: false,
        };
        self.recent.insert((t.relation, t.key), recent);
    }

    /// A replayed write that is applied here.
    pub(super) fn met(&mut self, t: &Touched, version: Version, source: Position) {
        let version = t.version.unwrap_or(version);
        for key in [t.key, None] {
            if let Some(own) = self.recent.get_mut(&(t.relation, key)) {
                own.met |= !t.deleted && version < own.version && !own.seen.covers(source);
            }
        }
    }

    /// The looks to take, once the index is whole.
    pub(super) fn asked(self, ledger: &Ledger) -> Vec<Repair> {
        let passed = |((relation, key), own): &((RelationHash, Option<KeyHash>), Recent)| {
            if own.deleted {
                return own.met;
            }
            let entry = key.and_then(|key| ledger.known(*relation, key));
            entry.is_some_and(|e| e.deleted && e.version > own.version)
        };
        let repair = |own: Recent| Repair {
            relation: own.relation,
            row: own.row,
            version: own.version,
        };
        self.recent
            .into_iter()
            .filter(passed)
            .map(|(_, own)| repair(own))
            .collect()
    }
}
