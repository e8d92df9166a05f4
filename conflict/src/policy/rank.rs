//! What is compared before the stamp.

use serde::{Deserialize, Serialize};

use super::columns::Merge;
use crate::{Kind, NodeId, Stamp};

/// A change of a table's policy: the number grows with each change, the origin tells apart two that
/// were made at once. Number 0: the table has never had a policy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch {
    /// One more than that of the change that its site knew.
    pub number: u32,
    /// Where it was made.
    pub origin: NodeId,
}

/// What a version has before its stamp; compared in this order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Rank {
    /// Under which policy the write was made.
    pub epoch: Epoch,
    /// How high that policy puts it.
    pub height: i64,
}

impl Rank {
    /// Of every write of a table that has never had a policy.
    pub const NONE: Rank = Rank {
        epoch: Epoch {
            number: 0,
            origin: NodeId(0),
        },
        height: 0,
    };
}

/// How a table's conflicts are decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The greatest stamp stays.
    #[default]
    LastUpdateWins,
    /// Of writes that nobody had seen of each other the one with the least stamp stays.
    FirstUpdateWins,
    /// The write of the site that stands first in the list stays; sites that are not in it
    /// come last. Writes of one site, and of two that are not listed: last update wins.
    NodePriority(Vec<NodeId>),
    /// A conflict of such a kind, or of any kind, is not decided: the stream that brings it is held until
    /// a person has chosen. What is no conflict goes on, and versions are those of last update wins.
    Stop(Option<Kind>),
    /// Last update wins; then the site whose write stands merges what lost into it, by a function of the
    /// user's ([`merging`](super::merging)). For one kind of conflict, or all where both sides have a row.
    Function(Option<Kind>),
    /// Last update wins; what lost is kept aside at the site whose write stands, until a person has chosen.
    Park(Option<Kind>),
    /// Rows are merged column by column ([`columns`](super::columns)); those that are named in their
    /// own way, all others by last update wins. Row events are versions of last update wins.
    ColumnWise {
        /// How columns are merged that are not merged by last update wins.
        merges: Vec<(String, Merge)>,
        /// Below which value of a delta column a person is told.
        floors: Vec<(String, String)>,
    },
}

/// What becomes of a write that lost, beside its entry in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// It is merged into what stands.
    Merge,
    /// A person decides.
    Park,
}

impl Policy {
    /// How high a write stands by itself.
    pub fn height(&self, stamp: Stamp, origin: NodeId) -> i64 {
        match self {
            Policy::LastUpdateWins
            | Policy::Stop(_)
            | Policy::Function(_)
            | Policy::Park(_)
            | Policy::ColumnWise { .. } => 0,
            Policy::FirstUpdateWins => stamp.0.checked_neg().unwrap_or(i64::MAX),
            Policy::NodePriority(order) => {
                let place = order.iter().position(|node| *node == origin);
                let behind = place.map_or(0, |place| order.len() - place);
                i64::try_from(behind).unwrap_or(i64::MAX)
            }
        }
    }

    /// The name in SQL.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Policy::LastUpdateWins => "last_update_wins",
            Policy::FirstUpdateWins => "first_update_wins",
            Policy::NodePriority(_) => "node_priority",
            Policy::Stop(_) => "stop",
            Policy::Function(_) => "function",
            Policy::Park(_) => "park",
            Policy::ColumnWise { .. } => "column_wise",
        }
    }

    /// Whether something becomes of writes that lose.
    pub const fn sets_aside(&self) -> bool {
        matches!(self, Policy::Function(_) | Policy::Park(_))
    }

    /// What becomes of a write that lost a conflict of that kind.
    pub fn aside(&self, kind: Kind) -> Option<Aside> {
        let is = |which: &Option<Kind>| which.is_none_or(|k| k == kind);
        match self {
            // Where one side has no row there is nothing to merge.
            Policy::Function(which)
                if matches!(kind, Kind::InsertExists | Kind::UpdateOriginDiffers) =>
            {
                is(which).then_some(Aside::Merge)
            }
            Policy::Park(which) => is(which).then_some(Aside::Park),
            _ => None,
        }
    }

    /// Whether a conflict of that kind waits for a person.
    pub fn stops(&self, kind: Kind) -> bool {
        matches!(self, Policy::Stop(which) if which.is_none_or(|k| k == kind))
    }
}

/// A TRUNCATE stands above every write of its epoch that it has not seen: it has replaced rows of any
/// height.
pub(crate) const TRUNCATE: i64 = i64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_merges_where_both_sides_have_a_row() {
        let all = Policy::Function(None);
        let merged: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|k| all.aside(*k) == Some(Aside::Merge))
            .collect();
        assert_eq!(merged, [Kind::InsertExists, Kind::UpdateOriginDiffers]);
        let one = Policy::Function(Some(Kind::InsertExists));
        assert_eq!(one.aside(Kind::UpdateOriginDiffers), None);
        let parked = Policy::Park(Some(Kind::UpdateDeleted));
        assert_eq!(parked.aside(Kind::UpdateDeleted), Some(Aside::Park));
        assert_eq!(parked.aside(Kind::InsertExists), None);
        assert_eq!(Policy::Stop(None).aside(Kind::InsertExists), None);
    }
}
