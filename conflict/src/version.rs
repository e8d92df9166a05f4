//! The total order that decides every conflict.

use serde::{Deserialize, Serialize};

use crate::{NodeId, Stamp};

/// (stamp, origin): compared in this order, so that two nodes never disagree (I5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The transaction's stamp.
    pub stamp: Stamp,
    /// The node where it was first committed; breaks ties.
    pub origin: NodeId,
}

impl Version {
    /// Below every version that can still arrive: what a stable row counts as.
    pub const OLD: Version = Version {
        stamp: Stamp::MIN,
        origin: NodeId(0),
    };
}
