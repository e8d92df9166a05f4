//! Where in an origin's history.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, NodeId};

/// One transaction of the cluster: its origin and the end of its commit record in the origin's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The node where the transaction was first committed.
    pub origin: NodeId,
    /// The end of its commit record there.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.lsn)
    }
}
