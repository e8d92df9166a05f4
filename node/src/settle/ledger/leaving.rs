//! Decided deletes that have not left yet: they travel with a local transaction that takes them out of the outbox.
//!
//! What has overtaken one is known by the index, and after a restart by the journals. So these are not cut while a delete
//! that was decided before is still to be captured, durably: a start would find the delete and nothing newer, and it
//! would leave although it must not.

use std::collections::HashMap;

use everywrite_conflict::{KeyHash, Lsn, Version};

use super::Ledger;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// How many were ever decided.
    decided: u64,
    open: HashMap<(KeyHash, Version), Open>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    /// Where the transaction ends with which it has left, or was found to be overtaken.
    captured: Option<Lsn>,
}

impl Ledger {
    /// The number of the last delete that was decided, to be compared with what [`left`](Self::left) says later.
    pub fn decided(&self) -> u64 {
        // What is still to be captured when this process begins counts as one.
        self.inner.lock().leaving.last() + 1
    }

    /// Up to which number all decided deletes have left, or were found to be overtaken; `captured`: how far capture is,
    /// durably.
    pub fn left(&self, captured: Lsn) -> u64 {
        let mut inner = self.inner.lock();
        match captured < inner.restored_to {
            true => 0,
            false => inner.leaving.left(captured) + 1,
        }
    }

    /// A delete that was decided before this process began is in the outbox.
    pub fn is_to_leave(&self, key: KeyHash, version: Version) {
        self.inner.lock().leaving.decided(key, version);
    }
}

impl Leaving {
    /// One is decided, or was before this process began.
    pub(super) fn decided(&mut self, key: KeyHash, version: Version) {
        self.decided += 1;
        let (number, captured) = (self.decided, None);
        self.open.insert((key, version), Open { number, captured });
    }

    /// It was rolled back.
    pub(super) fn undone(&mut self, key: KeyHash, version: Version) {
        self.open.remove(&(key, version));
    }

    /// Capture has met it in a transaction that ends at `position`.
    pub(super) fn captured(&mut self, key: KeyHash, version: Version, position: Lsn) {
        if let Some(open) = self.open.get_mut(&(key, version)) {
            open.captured = Some(position);
        }
    }

    /// The number of the last one that was decided.
    pub(super) fn last(&self) -> u64 {
        self.decided
    }

    /// Up to which number all have been captured; `captured`: how far capture is, durably.
    pub(super) fn left(&mut self, captured: Lsn) -> u64 {
        let waits = |open: &Open| open.captured.is_none_or(|at| at > captured);
        self.open.retain(|_, open| waits(open));
        let first = self.open.values().map(|open| open.number).min();
        first.map_or(self.decided, |first| first - 1)
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::{NodeId, Stamp};

    use super::*;

    #[test]
    fn those_have_left_that_capture_has_passed_durably() {
        let version = Version::new(Stamp(5), NodeId(2));
        let mut leaving = Leaving::default();
        assert_eq!((leaving.last(), leaving.left(Lsn(9))), (0, 0));
        for key in [7, 8, 9] {
            leaving.decided(KeyHash(key), version);
        }
        leaving.captured(KeyHash(7), version, Lsn(20));
        leaving.captured(KeyHash(9), version, Lsn(10));
        assert_eq!((leaving.last(), leaving.left(Lsn(10))), (3, 0));
        assert_eq!(leaving.left(Lsn(20)), 1);
        leaving.undone(KeyHash(8), version);
        assert_eq!(leaving.left(Lsn(20)), 3);
    }
}
