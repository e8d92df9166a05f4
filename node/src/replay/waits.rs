//! What a transaction waits for before it may be applied. Pure.

use std::time::Duration;

use everywrite_conflict::{Lsn, NodeId, Position, Stamp, Vector};

/// What is here of the origins that a vector names.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// This node.
    pub me: NodeId,
    /// Its own journal is durable up to here.
    pub own: Lsn,
    /// What is committed here of the others.
    pub applied: &'a Vector,
}

impl Here<'_> {
    /// The first that a transaction with this vector has seen and that is not here (I4), and how far it is.
    #[inline]
    pub fn misses(&self, vector: &Vector) -> Option<(Position, Lsn)> {
        vector.iter().find_map(|(origin, lsn)| {
            let reached = if origin == self.me {
                self.own
            } else {
                self.applied.get(origin)
            };
            (reached < lsn).then_some((Position { origin, lsn }, reached))
        })
    }
}

/// By how many microseconds a stamp lies too far ahead of `now`, counted from `now` (I6).
pub fn ahead(stamp: Stamp, now: Stamp, most: Duration) -> Option<i64> {
    let ahead = stamp.0.saturating_sub(now.0);
    let most = i64::try_from(most.as_micros()).unwrap_or(i64::MAX);
    (ahead > most).then_some(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn vector(named: &[(NodeId, u64)]) -> Vector {
        named.iter().map(|(node, lsn)| (*node, Lsn(*lsn))).collect()
    }

    #[test]
    fn what_a_transaction_has_seen_must_be_here() {
        let applied = vector(&[(B, 7)]);
        let own = Lsn(3);
        let here = Here {
            me: ME,
            own,
            applied: &applied,
        };
        assert_eq!(here.misses(&vector(&[(ME, 3), (B, 7)])), None);
        let position = |origin, lsn| Position {
            origin,
            lsn: Lsn(lsn),
        };
        let missed = here.misses(&vector(&[(ME, 3), (B, 8)]));
        assert_eq!(missed, Some((position(B, 8), Lsn(7))));
        // Also of what this node wrote itself: its journal may have lost its tail.
        let missed = here.misses(&vector(&[(ME, 4), (B, 7)]));
        assert_eq!(missed, Some((position(ME, 4), Lsn(3))));
    }

    #[test]
    fn a_stamp_may_lie_a_little_ahead() {
        let most = Duration::from_micros(10);
        assert_eq!(ahead(Stamp(110), Stamp(100), most), None);
        assert_eq!(ahead(Stamp(111), Stamp(100), most), Some(11));
        assert_eq!(ahead(Stamp(5), Stamp(100), most), None);
    }
}
