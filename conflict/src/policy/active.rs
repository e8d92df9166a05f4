//! The policies of all tables, as one node knows them.

use rustc_hash::{FxHashMap, FxHashSet};

use super::columns::Merge;
use super::rank::TRUNCATE;
use super::{Epoch, Policy, Rank};
use crate::{Lsn, NodeId, RelationHash, Stamp, Vector};

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
    /// For column-wise policies.
    begins: Begins,
}

/// When a column-wise policy begins to merge here. Until then updates of the table are row events.
///
/// Two writes must never be merged by different rules, and a change of the policy has no place that all sites agree on. So
/// nobody merges before the change is stable: every site has taken it in, and what was written
/// before that, by whatever rule, has arrived. So it is never concurrent with what is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Once what stands up to here is stable.
    Stable(Vector),
    /// Once capture has durably passed this place of the local WAL, at which the change stood.
    Captured(Lsn),
    /// It has begun.
    Begun,
}

/// What is set, by table. Tables that have never had a policy are not in it.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    tables: FxHashMap<RelationHash, Active>,
    /// Tables that have ever had a column-wise policy here.
    merging: FxHashSet<RelationHash>,
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

    /// Takes in a change, in any order, once or more: the greatest epoch is the one that counts. A
    /// column-wise policy begins as `begins` says.
    pub fn set(&mut self, setting: Setting, begins: Begins) {
        let Setting {
            relation,
            epoch,
            policy,
        } = setting;
        if matches!(policy, Policy::ColumnWise { .. }) {
            self.merging.insert(relation);
        }
        let known = self.tables.get(&relation);
        if known.is_none_or(|known| known.epoch < epoch) {
            let active = Active {
                epoch,
                policy,
                begins,
            };
            self.tables.insert(relation, active);
        }
    }

    /// What is stable, how far capture has durably passed the local WAL, and a place that it has
    /// reached: says which column-wise policies begin by that.
    pub fn settle(
        &mut self,
        stable: &Vector,
        captured: Lsn,
        reached: Lsn,
    ) -> Vec<(RelationHash, Epoch)> {
        let mut begun = Vec::new();
        let merging = self.merging.iter();
        for relation in merging {
            let Some(active) = self.tables.get_mut(relation) else {
                continue;
            };
            if !matches!(active.policy, Policy::ColumnWise { .. }) {
                continue;
            }
            match &active.begins {
                Begins::Stable(since) if stable.covers_all(since) => {
                    active.begins = Begins::Captured(reached);
                }
                Begins::Captured(place) if *place <= captured => {
                    active.begins = Begins::Begun;
                    begun.push((*relation, active.epoch));
                }
                _ => {}
            }
        }
        begun
    }

    /// How the columns of a table are merged, if they are by now.
    pub fn merges(&self, relation: RelationHash) -> Option<(Epoch, &[(String, Merge)])> {
        let active = self.tables.get(&relation)?;
        match &active.policy {
            Policy::ColumnWise { merges, .. } if active.begins == Begins::Begun => {
                Some((active.epoch, merges))
            }
            _ => None,
        }
    }

    /// Whether a table has ever had a column-wise policy here.
    pub fn merging(&self, relation: RelationHash) -> bool {
        !self.merging.is_empty() && self.merging.contains(&relation)
    }

    /// Whether any table has.
    pub fn any_merging(&self) -> bool {
        !self.merging.is_empty()
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
