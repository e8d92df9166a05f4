//! Which groups a local transaction may have seen, and which it has surely seen: by where their commits stand
//! in the local WAL.

use everywrite_conflict::{Lsn, NodeId, Stamp};

use super::{Inner, Landed};

/// A group that is on its way or has landed, and that no local transaction was stamped above yet.
pub(super) struct Mark {
    pub(super) origin: NodeId,
    pub(super) last: Lsn,
    pub(super) newest: Stamp,
    /// Its commit stands in the local WAL behind this place: a local transaction that ends before
    /// it cannot have seen the group.
    pub(super) after: Lsn,
    /// Once it has landed: its commit stands before this place.
    pub(super) before: Option<Lsn>,
    /// Its tables may be merged by columns.
    pub(super) merges: bool,
    /// Its commit is on the way to the server, and nobody knows whether it stands.
    pub(super) committing: bool,
}

impl Inner {
    pub(super) fn commits_after(&mut self, origin: NodeId, last: Lsn, reached: Lsn) {
        self.reached = self.reached.max(reached);
        // Those that have landed did so before.
        let on_way = |m: &&mut Mark| m.origin == origin && m.last <= last && m.before.is_none();
        for mark in self.marks.iter_mut().filter(on_way) {
            mark.after = mark.after.max(reached);
        }
    }

    pub(super) fn committed(&mut self, group: &Landed) {
        self.commits_after(group.origin, group.last, group.behind);
        self.reached = self.reached.max(group.after);
        let marks = self.marks.iter_mut();
        for mark in marks.filter(|m| m.origin == group.origin && m.last <= group.last) {
            mark.before.get_or_insert(group.after);
        }
    }

    /// Takes in the groups that a local transaction which ends at `position` may have seen, and
    /// tells those that it has surely seen.
    pub(super) fn see_before(&mut self, position: Lsn) {
        let Inner {
            marks,
            clock,
            dispatched,
            seen,
            left_out,
            ..
        } = self;
        left_out.passed(position);
        marks.retain_mut(|mark| {
            if mark.merges && !mark.committing && mark.before.is_none() {
                // What is captured is committed; what is not even sent to be committed comes behind it.
                mark.after = mark.after.max(position);
            }
            if mark.after >= position {
                return true;
            }
            clock.saw(mark.newest);
            dispatched.raise(mark.origin, mark.last);
            let surely = mark.before.is_some_and(|before| before <= position);
            if surely {
                seen.raise(mark.origin, left_out.surely(mark.origin, mark.last));
            }
            !surely
        });
    }
}
