//! The total order that decides every conflict.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::policy::{Epoch, Rank};
use crate::{NodeId, Stamp};

/// (rank, stamp, origin): compared in this order, so that two nodes never disagree (I5).
///
/// The rank is [`Rank::NONE`] for all tables but those that have had a policy: see
/// [`policy`](crate::policy).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The transaction's stamp.
    pub stamp: Stamp,
    /// The node where it was first committed; breaks ties.
    pub origin: NodeId,
    // The parts of the rank, laid out so that a version takes 24 bytes.
    policy_origin: NodeId,
    policy_number: u32,
    height: i64,
}

impl Version {
    /// Below every version that can still arrive: what a stable row counts as.
    pub const OLD: Version = Version::new(Stamp::MIN, NodeId(0));

    /// Below every version.
    pub const LEAST: Version = Version {
        stamp: Stamp(i64::MIN),
        origin: NodeId(0),
        policy_origin: NodeId(0),
        policy_number: 0,
        height: i64::MIN,
    };

    /// Above every version.
    pub const GREATEST: Version = Version {
        stamp: Stamp(i64::MAX),
        origin: NodeId(u16::MAX),
        policy_origin: NodeId(u16::MAX),
        policy_number: u32::MAX,
        height: i64::MAX,
    };

    /// Of a table that has no policy.
    #[inline]
    pub const fn new(stamp: Stamp, origin: NodeId) -> Self {
        Version {
            stamp,
            origin,
            policy_origin: NodeId(0),
            policy_number: 0,
            height: 0,
        }
    }

    /// The same stamp and origin under a rank.
    #[inline]
    pub const fn ranked(self, rank: Rank) -> Self {
        Version {
            policy_origin: rank.epoch.origin,
            policy_number: rank.epoch.number,
            height: rank.height,
            ..self
        }
    }

    /// What is compared before the stamp.
    #[inline]
    pub const fn rank(&self) -> Rank {
        Rank {
            epoch: Epoch {
                number: self.policy_number,
                origin: self.policy_origin,
            },
            height: self.height,
        }
    }

    /// Whether its table has had a policy when it was written.
    #[inline]
    pub const fn is_ranked(&self) -> bool {
        self.policy_number != 0
    }

    #[inline]
    const fn or_ranked(&self, other: &Self) -> bool {
        self.policy_number | other.policy_number != 0
    }

    #[cold]
    fn by_rank(&self, other: &Self) -> Ordering {
        let key = |v: &Self| (v.rank(), v.stamp, v.origin);
        key(self).cmp(&key(other))
    }
}

impl PartialEq for Version {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        (self.stamp, self.origin) == (other.stamp, other.origin)
            && (!self.or_ranked(other) || self.rank() == other.rank())
    }
}

impl Eq for Version {}

impl Ord for Version {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        if self.or_ranked(other) {
            return self.by_rank(other);
        }
        (self.stamp, self.origin).cmp(&(other.stamp, other.origin))
    }
}

impl PartialOrd for Version {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.stamp, self.origin).hash(state);
    }
}
