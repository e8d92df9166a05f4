//! What a change that is decided with care meets, by what the ledger says of its key. Pure.
//!
//! The change was announced before, so the index may hold the change itself, a later one of its own origin, or what
//! has come from elsewhere since. What it meets is what it met then, unless that is no longer all.

use everywrite_conflict::{Entry, Lsn, NodeId, Position, Version, Writer};

/// A change of a group that is decided; its row is locked, and capture is behind all that was written to it.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Whose.
    pub origin: NodeId,
    /// The end of the group.
    pub last: Lsn,
    /// Its version.
    pub version: Version,
    /// What the index held before it was announced.
    pub prior: Option<Entry>,
}

/// What it meets.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    /// What it is compared with.
    pub stored: Option<Entry>,
    /// What the index names now, if that is neither the change nor a later one of its origin.
    other: Option<Entry>,
}

impl Change {
    /// `now`: what the index holds; `beneath`: an own row under it.
    pub fn meets(&self, now: Option<Entry>, beneath: Option<Entry>) -> Met {
        // What the index held before this change was announced is what it meets, unless
        // something newer has come.
        // A later group of the same origin may have been announced already: that is no opponent.
        let later = |e: &Entry| {
            e.source
                .is_some_and(|s| s.origin == self.origin && s.lsn > self.last)
        };
        let before = self.prior.filter(|p| p.version != self.version);
        let before = beneath.into_iter().chain(before).max_by_key(|e| e.version);
        let other = now.filter(|e| !later(e) && e.version != self.version);
        let stored = match now {
            Some(_) if other.is_none() => before,
            Some(entry) => Some(entry),
            None => self.prior,
        };
        Met { stored, other }
    }
}

impl Met {
    /// Whether the change may be applied at all. The index knows of the other one what it claims to have seen. That
    /// goes before ranks, which it may not have inherited: a restart keeps the claims and not what was on its way.
    pub fn allows(&self) -> bool {
        self.other.is_none_or(|e| !e.version.is_ranked())
    }
}

/// The row of a key before a group, from which a row that the group leaves may take what the stream omits of it.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// There is a row.
    pub present: bool,
    /// A write of the key was left out here, because a newer one was on its way: the row may be older than what that
    /// one saw.
    pub left_out: bool,
    /// What the group's change of the key has met.
    pub stored: Option<Entry>,
    /// Who of the group has written the key first. Not who moved the row to another key: that one may have seen what
    /// had lost to an earlier write of the group, and stands here.
    pub first: Writer,
}

impl Base {
    /// Whether it is the row that the group's first writer of the key saw; `covers`: what a writer had surely seen.
    pub fn was_seen(&self, covers: impl Fn(Writer, Position) -> bool) -> bool {
        let seen = |e: Entry| e.source.is_some_and(|s| covers(self.first, s));
        self.present && !self.left_out && self.stored.is_none_or(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::super::blindly::tests::entry;
    use super::*;

    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    #[test]
    fn a_change_meets_what_it_met_or_what_has_come_since() {
        let prior = Some(entry(C, 4, 60));
        let change = Change {
            origin: B,
            last: Lsn(50),
            version: entry(B, 50, 90).version,
            prior,
        };
        let stored = |now, beneath| change.meets(now, beneath).stored;
        let itself = Some(entry(B, 50, 90));
        assert_eq!(stored(itself, None), prior);
        // A later one of its origin.
        assert_eq!(stored(Some(entry(B, 70, 95)), None), prior);
        // Something from elsewhere.
        let newer = Some(entry(C, 8, 92));
        assert_eq!(stored(newer, None), newer);
        // An own row that the index does not name.
        let own = Some(entry(NodeId(1), 3, 70));
        assert_eq!(stored(itself, own), own);
        // All is forgotten: stable.
        assert_eq!(stored(None, None), prior);
    }

    #[test]
    fn what_a_row_omits_is_in_the_row_that_its_first_writer_saw() {
        let writer = |transaction| Writer {
            version: entry(B, 50, 90).version,
            transaction,
        };
        // The group's second transaction has seen C's write, which had lost to the first one at B.
        let covers = |writer: Writer, s: Position| writer.transaction == 1 && s.origin == C;
        let base = |first| Base {
            present: true,
            left_out: false,
            stored: Some(entry(C, 4, 60)),
            first: writer(first),
        };
        assert!(!base(0).was_seen(covers));
        assert!(base(1).was_seen(covers));
        let present = false;
        assert!(!Base { present, ..base(1) }.was_seen(covers));
        let left_out = true;
        assert!(
            !Base {
                left_out,
                ..base(1)
            }
            .was_seen(covers)
        );
        let stored = None;
        assert!(Base { stored, ..base(0) }.was_seen(covers));
    }
}
