//! Groups on their way that the index does not name any more.
//!
//! A blind group is written without a look at the rows, so who comes with the same key behind it has to
//! wait for it (ADR 6). The index says so: it names the group as in flight. But a local write that is
//! captured meanwhile, or a row that a session decides to remove, may stand above the group and be
//! what the index names then. Both are in the table and wait for nobody. The group's guard knows a local
//! row, but not one that a third group has put over it: it would write the older row over the newer.

use std::collections::HashMap;

use everywrite_conflict::{Identity, KeyHash, NodeId, RelationHash, Vector};

/// Which blind groups there were when something else became a key's entry.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    keys: HashMap<KeyHash, Vector, Identity>,
    tables: HashMap<RelationHash, Vector>,
}

impl Hidden {
    /// What these groups may be about to write of a key is not what the index names.
    pub(super) fn key(&mut self, key: KeyHash, under_way: Vector) {
        if under_way.iter().len() > 0 {
            self.keys.entry(key).or_default().merge(&under_way);
        }
    }

    /// The same of all rows of a table.
    pub(super) fn table(&mut self, relation: RelationHash, under_way: Vector) {
        if under_way.iter().len() > 0 {
            self.tables.entry(relation).or_default().merge(&under_way);
        }
    }

    /// Drops what is not on its way any more; true if nothing is left.
    pub(super) fn sighted(&mut self, sighted: &Vector) -> bool {
        if self.keys.is_empty() && self.tables.is_empty() {
            return true;
        }
        let under_way = |groups: &Vector| !sighted.covers_all(groups);
        self.keys.retain(|_, groups| under_way(groups));
        self.tables.retain(|_, groups| under_way(groups));
        self.keys.is_empty() && self.tables.is_empty()
    }

    /// Whether a group of another node than `origin` may be about to write that row.
    pub(super) fn covers(
        &self,
        relation: RelationHash,
        key: KeyHash,
        origin: NodeId,
        sighted: &Vector,
    ) -> bool {
        // Those of the same origin are written in its order.
        let other = |groups: &Vector| {
            let mut groups = groups.iter();
            groups.any(|(node, last)| node != origin && sighted.get(node) < last)
        };
        self.keys.get(&key).is_some_and(other) || self.tables.get(&relation).is_some_and(other)
    }
}
