//! The invariants as plain functions, for tests, simulation and `debug_assert!`.
//!
//! Each returns what is broken, with the values that show it.

use std::fmt::Debug;

use crate::{Entry, Lsn, NodeId, Position, Stamp, Vector, Version};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// I3: a reader saw something other than a prefix of an origin's commits.
    #[error(
        "origin order: {next} of node {origin} was applied after {previous}, but follows {expected}"
    )]
    OriginOrder {
        /// The origin.
        origin: NodeId,
        /// What is applied here.
        previous: Lsn,
        /// What the transaction says comes before it.
        expected: Lsn,
        /// The transaction.
        next: Lsn,
    },
    /// I4: a transaction was applied where what it had seen is not.
    #[error(
        "causality: a transaction of node {origin} has seen {missing}, which is not applied here"
    )]
    Causality {
        /// The origin.
        origin: NodeId,
        /// What it names and this node does not have.
        missing: Position,
    },
    /// I5: two sites ended with different rows.
    #[error("convergence: site {site} differs from site 0: {difference}")]
    Convergence {
        /// Which site, counted from 0.
        site: usize,
        /// Both states.
        difference: String,
    },
    /// I6: a stamp that is not above everything before it.
    #[error("clocks: stamp {stamp:?} is not above {above:?}")]
    Clocks {
        /// The stamp given.
        stamp: Stamp,
        /// What it had to be above.
        above: Stamp,
    },
    /// The index dropped a version that still matters.
    #[error("the index forgot {entry:?}, with {stable:?} stable and {captured} captured")]
    Forgot {
        /// What it dropped.
        entry: Box<Entry>,
        /// What was stable.
        stable: Vector,
        /// What was captured.
        captured: Lsn,
    },
}

/// I3: the transaction `next` of `origin`, which says that `expected` comes before it, is applied
/// right after `previous`.
pub fn origin_order(origin: NodeId, previous: Lsn, expected: Lsn, next: Lsn) -> Result<(), Broken> {
    if previous == expected && next > previous {
        return Ok(());
    }
    Err(Broken::OriginOrder {
        origin,
        previous,
        expected,
        next,
    })
}

/// I4: everything that a transaction of `origin` names is applied at node `me`. For `me` itself
/// its own journal has to have passed that point; `origin`'s own order is I3.
pub fn causality(
    origin: NodeId,
    vector: &Vector,
    me: NodeId,
    applied: &Vector,
    own_journal: Lsn,
) -> Result<(), Broken> {
    let here = |node| {
        if node == me {
            own_journal
        } else {
            applied.get(node)
        }
    };
    match vector
        .iter()
        .find(|&(node, lsn)| node != origin && here(node) < lsn)
    {
        None => Ok(()),
        Some((node, lsn)) => Err(Broken::Causality {
            origin,
            missing: Position { origin: node, lsn },
        }),
    }
}

/// I5: all sites have the same state.
pub fn convergence<S: PartialEq + Debug>(sites: &[S]) -> Result<(), Broken> {
    let Some(first) = sites.first() else {
        return Ok(());
    };
    match sites.iter().position(|s| s != first) {
        None => Ok(()),
        Some(site) => Err(Broken::Convergence {
            site,
            difference: format!("{:?} and {first:?}", sites.get(site)),
        }),
    }
}

/// I5 for one key: the state is the write with the highest version.
pub fn highest(writes: impl IntoIterator<Item = Version>, state: Version) -> bool {
    writes
        .into_iter()
        .max()
        .is_none_or(|highest| highest == state)
}

/// I6: a local transaction's stamp is above the origin's last one and above every replayed one.
pub fn clocks(stamp: Stamp, last: Stamp, seen: Stamp) -> Result<(), Broken> {
    let above = last.max(seen);
    if stamp > above {
        return Ok(());
    }
    Err(Broken::Clocks { stamp, above })
}

/// The index forgets only what is stable: its source is covered, nothing of it is in flight, and
/// capture is past the place where it landed.
pub fn forgets_only_stable(entry: &Entry, stable: &Vector, captured: Lsn) -> Result<(), Broken> {
    let covered = entry.source.is_some_and(|source| stable.covers(source));
    if covered && entry.local_lsn <= captured {
        return Ok(());
    }
    Err(Broken::Forgot {
        entry: Box::new(*entry),
        stable: stable.clone(),
        captured,
    })
}
