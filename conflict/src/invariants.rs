//! The invariants as plain functions, for tests, simulation and `debug_assert!`.
//!
//! Each returns what is broken, with the values that show it.

use std::fmt::Debug;

use crate::{Entry, Lsn, NodeId, Position, Stamp, Vector, Version};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// I1: a transaction was applied a second time.
    #[error("exactly once: {position} of node {origin} was applied again, {progress} was there")]
    Twice {
        /// The origin.
        origin: NodeId,
        /// What was applied before.
        progress: Lsn,
        /// The transaction.
        position: Lsn,
    },
    /// I2: what may be gone after a crash was given away.
    #[error("durable first: {given} of node {origin} was given away, {durable} is durable")]
    NotDurable {
        /// The origin.
        origin: NodeId,
        /// What was shipped, confirmed or called durable.
        given: Lsn,
        /// What is synced.
        durable: Lsn,
    },
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
    /// I4: a transaction does not name what its origin had applied before it.
    #[error(
        "causality: a transaction of node {origin} had {missing} before it and does not say so"
    )]
    Unnamed {
        /// The origin.
        origin: NodeId,
        /// What was there.
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
    /// I7: a row lost and no site has it in its history.
    #[error("nothing hidden: no history has {row}")]
    Hidden {
        /// The row.
        row: String,
    },
    /// The index dropped a version, and what has not seen it can still come.
    #[error("the index forgot {entry:?}, and {coming:?} is still to come, which has not seen it")]
    StillComes {
        /// What it dropped.
        entry: Box<Entry>,
        /// Which transaction.
        coming: Position,
    },
    /// The index holds more than what matters.
    #[error("the index holds {held} keys, of which {unstable} are not stable")]
    Unbounded {
        /// How many keys it holds.
        held: usize,
        /// How many of them matter.
        unstable: usize,
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

/// I1: what is applied of `origin` is `progress`, and now comes the transaction at `position`.
pub fn exactly_once(origin: NodeId, progress: Lsn, position: Lsn) -> Result<(), Broken> {
    if position > progress {
        return Ok(());
    }
    Err(Broken::Twice {
        origin,
        progress,
        position,
    })
}

/// I2: of the journal of `origin`, synced up to `durable`, everything up to `given` is shipped, confirmed, or
/// called durable.
pub fn durable_first(origin: NodeId, given: Lsn, durable: Lsn) -> Result<(), Broken> {
    if given <= durable {
        return Ok(());
    }
    Err(Broken::NotDurable {
        origin,
        given,
        durable,
    })
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

/// I4, its first half: a transaction of `origin` carries everything that was applied there when it
/// committed.
pub fn names_what_was_there(origin: NodeId, vector: &Vector, there: &Vector) -> Result<(), Broken> {
    match there.iter().find(|&(node, lsn)| vector.get(node) < lsn) {
        None => Ok(()),
        Some((node, lsn)) => Err(Broken::Unnamed {
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

/// I7: every one of the rows that `lost` without having been replaced knowingly is `recorded`.
pub fn nothing_hidden<R: Debug>(
    lost: impl IntoIterator<Item = R>,
    recorded: impl Fn(&R) -> bool,
) -> Result<(), Broken> {
    match lost.into_iter().find(|row| !recorded(row)) {
        None => Ok(()),
        Some(row) => Err(Broken::Hidden {
            row: format!("{row:?}"),
        }),
    }
}

/// Of what the index has forgotten nothing may come that has not seen it: `coming` is a transaction that is
/// still to be applied here, and `vector` what it has seen.
pub fn forgotten_is_seen(entry: &Entry, coming: Position, vector: &Vector) -> Result<(), Broken> {
    let later = |s: Position| s.origin == coming.origin && s.lsn <= coming.lsn;
    if entry.source.is_some_and(|s| later(s) || vector.covers(s)) {
        return Ok(());
    }
    Err(Broken::StillComes {
        entry: Box::new(*entry),
        coming,
    })
}

/// The index is bounded by what matters: of the keys it holds at most a third more than the `unstable`
/// ones, and those few that it counts together.
pub fn bounded(held: usize, unstable: usize, together: usize) -> Result<(), Broken> {
    if held
        <= unstable
            .saturating_add(unstable / 3)
            .saturating_add(together)
    {
        return Ok(());
    }
    Err(Broken::Unbounded { held, unstable })
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
