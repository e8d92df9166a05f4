//! The policies of all tables, as one node knows them.

use rustc_hash::FxHashMap;

use super::rank::TRUNCATE;
use super::{Epoch, Policy, Rank};
use crate::{NodeId, RelationHash, Stamp};

/// A table's policy was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The table.
    pub relation: RelationHash,
    /// Which change.
    pub epoch: Epoch,
    /// To what.
    pub policy: Policy,
}

/// The policy that a table's next write is made under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Since which change.
    pub epoch: Epoch,
    /// The policy.
    pub policy: Policy,
}

/// What is set, by table. Tables that have never had a policy are not in it.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    tables: FxHashMap<RelationHash, Active>,
}

impl Policies {
    /// Nothing is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no table has had a policy.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Takes in a change, in any order, once or more: the greatest epoch is the one that counts.
    pub fn set(&mut self, setting: Setting) {
        let Setting {
            relation,
            epoch,
            policy,
        } = setting;
        let known = self.tables.get(&relation);
        if known.is_none_or(|known| known.epoch < epoch) {
            self.tables.insert(relation, Active { epoch, policy });
        }
    }

    /// A table's policy.
    pub fn get(&self, relation: RelationHash) -> Option<&Active> {
        self.tables.get(&relation)
    }

    /// The rank of a write that is captured now, by itself: the caller raises it to what the write
    /// replaces ([`Index::inherited`](crate::Index::inherited)).
    pub fn rank(&self, relation: RelationHash, stamp: Stamp, origin: NodeId) -> Rank {
        self.tables
            .get(&relation)
            .map_or(Rank::NONE, |active| Rank {
                epoch: active.epoch,
                height: active.policy.height(stamp, origin),
            })
    }

    /// The rank of a TRUNCATE that is captured now; `inherited`: what
    /// [`Index::inherited_by_truncate`](crate::Index::inherited_by_truncate) says.
    pub fn truncate_rank(&self, relation: RelationHash, inherited: Epoch) -> Rank {
        let active = self.tables.get(&relation).map(|active| active.epoch);
        let epoch = active.unwrap_or_default().max(inherited);
        match epoch.number {
            0 => Rank::NONE,
            _ => Rank {
                epoch,
                height: TRUNCATE,
            },
        }
    }
}
