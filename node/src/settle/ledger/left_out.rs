//! Rows of which a write was left out, because a newer one was on its way.
//!
//! ```text
//!   row of the table:   older ────────────────────────────► newer
//!   this site:               write left out      newer one lands
//!   a local write here:              └── has seen the older row, although what was left out is applied
//! ```
//!
//! The row that stands until the newer write lands is older than both. So:
//!
//! - What the stream omits of a write that is made from one of the two is not in it. Usually the newer one has not seen
//!   the one that was left out, but a crash of the server may take back both, and when the first one comes again it
//!   loses to the second, which has.
//! - A local write meanwhile has not seen what was left out. Its transaction must not say that it surely has: elsewhere
//!   that write stands, and would be taken for what the local one was made from.
//!
//! Both also when this process ends before the newer one has landed: the next one knows of the older write, which is
//! applied, and not of what it lost to. So replay also writes this into `everywrite.left_out`, in the transaction
//! that leaves the write out (`replay/careful.rs`), and a start takes it from there.

use std::collections::{HashMap, HashSet};

use everywrite_conflict::{Identity, KeyHash, Lsn, NodeId, Position, Vector};

use super::Ledger;

/// A write of a row is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeavesOut {
    /// Of which row.
    pub key: KeyHash,
    /// Whose.
    pub origin: NodeId,
    /// What was applied of that node before.
    pub before: Lsn,
    /// Where the newer one stands that is on its way.
    pub newer: Position,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    keys: HashSet<KeyHash, Identity>,
    /// By whose write was left out and where the newer one stands.
    holds: HashMap<(NodeId, Position), Hold>,
}

/// Local transactions have not surely seen what is behind.
#[derive(Debug)]
struct Hold {
    before: Lsn,
    /// Those that end up to here in the local WAL; all, if the newer one has not landed.
    until: Option<Lsn>,
}

impl Ledger {
    /// Writes are about to be left out because newer ones are on their way. Until those have landed no local transaction
    /// has surely seen them.
    pub fn leaves_out(&self, left: &[LeavesOut]) {
        let mut inner = self.inner.lock();
        let (applied, reached) = (self.applied.borrow(), inner.reached);
        for one in left {
            // It may have landed since the server was asked.
            let landed = applied.covers(one.newer).then_some(reached);
            inner.left_out.leaves(one, landed);
        }
    }

    /// A run before has left these writes out, and the newer ones are not here yet (at start).
    pub fn has_left_out(&self, left: &[LeavesOut]) {
        let mut inner = self.inner.lock();
        left.iter().for_each(|left| inner.left_out.restore(left));
    }

    /// Those of the keys of which a write was left out here because a newer one is on its way: the row that stands is
    /// none that the newer one may take anything from.
    pub fn left_out(&self, keys: impl Iterator<Item = KeyHash>) -> HashSet<KeyHash, Identity> {
        self.inner.lock().left_out.of(keys)
    }
}

impl LeftOut {
    /// It is about to be left out; `landed`: before which place the newer one has, if it has.
    pub(super) fn leaves(&mut self, left: &LeavesOut, landed: Option<Lsn>) {
        let hold = self.holds.entry((left.origin, left.newer));
        let hold = hold.or_insert(Hold {
            before: left.before,
            until: None,
        });
        hold.before = hold.before.min(left.before);
        hold.until = landed;
    }

    /// An earlier run has left it out.
    pub(super) fn restore(&mut self, left: &LeavesOut) {
        self.leaves(left, None);
        self.keys.insert(left.key);
    }

    /// A write of the key has landed: written, or left out under what is on its way.
    #[inline]
    pub(super) fn landed(&mut self, key: KeyHash, left_out: bool) {
        if left_out {
            self.keys.insert(key);
        } else if !self.keys.is_empty() {
            self.keys.remove(&key);
        }
    }

    /// What `origin` wrote up to `last` has landed, before `place`.
    #[inline]
    pub(super) fn group_landed(&mut self, origin: NodeId, last: Lsn, place: Lsn) {
        if !self.holds.is_empty() {
            let newer = |at: &Position| at.origin == origin && at.lsn <= last;
            let holds = self.holds.iter_mut().filter(|((_, at), _)| newer(at));
            holds.for_each(|(_, hold)| {
                hold.until.get_or_insert(place);
            });
        }
    }

    /// The local WAL ends at `here`: what has landed and still stands did so before.
    pub(super) fn begins_at(&mut self, here: Lsn) {
        let until = self.holds.values_mut().filter_map(|h| h.until.as_mut());
        until.for_each(|until| *until = here.min(*until));
    }

    /// The server has forgotten what of an origin is behind a place.
    pub(super) fn forgotten_by_server(&mut self, origin: NodeId, lsn: Lsn) {
        let gone = |at: &Position| at.origin == origin && at.lsn > lsn;
        let holds = self.holds.iter_mut().filter(|((_, at), _)| gone(at));
        holds.for_each(|(_, hold)| hold.until = None);
    }

    /// What is captured from now on ends behind `position`.
    #[inline]
    pub(super) fn passed(&mut self, position: Lsn) {
        if !self.holds.is_empty() {
            let holds = |hold: &Hold| hold.until.is_none_or(|until| until > position);
            self.holds.retain(|_, hold| holds(hold));
        }
    }

    /// How far local transactions have surely seen an origin of which they may have seen all up to `lsn`.
    #[inline]
    pub(super) fn surely(&self, origin: NodeId, lsn: Lsn) -> Lsn {
        if self.holds.is_empty() {
            return lsn;
        }
        let holds = self.holds.iter().filter(|((of, _), _)| *of == origin);
        holds.fold(lsn, |lsn, (_, hold)| lsn.min(hold.before))
    }

    /// The same of a vector.
    pub(super) fn all_surely(&self, vector: &Vector) -> Vector {
        let surely = |(origin, lsn)| (origin, self.surely(origin, lsn));
        vector.iter().map(surely).collect()
    }

    /// Whether it is none of these keys.
    #[inline]
    pub(super) fn none(&self, mut keys: impl Iterator<Item = KeyHash>) -> bool {
        self.keys.is_empty() || !keys.any(|key| self.keys.contains(&key))
    }

    pub(super) fn of(&self, keys: impl Iterator<Item = KeyHash>) -> HashSet<KeyHash, Identity> {
        match self.keys.is_empty() {
            true => HashSet::default(),
            false => keys.filter(|key| self.keys.contains(key)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const KEY: KeyHash = KeyHash(7);

    /// B's write behind 20 is left out for C's at 9.
    fn left_out() -> LeftOut {
        let mut left_out = LeftOut::default();
        left_out.restore(&LeavesOut {
            key: KEY,
            origin: B,
            before: Lsn(20),
            newer: Position {
                origin: C,
                lsn: Lsn(9),
            },
        });
        left_out
    }

    #[test]
    fn local_writes_have_not_surely_seen_it_until_they_come_behind_the_newer_one() {
        let mut left_out = left_out();
        assert_eq!(left_out.surely(B, Lsn(30)), Lsn(20));
        assert_eq!(left_out.surely(B, Lsn(15)), Lsn(15));
        assert_eq!(left_out.surely(C, Lsn(30)), Lsn(30));
        left_out.passed(Lsn(500));
        left_out.group_landed(C, Lsn(8), Lsn(600));
        left_out.passed(Lsn(700));
        assert_eq!(left_out.surely(B, Lsn(30)), Lsn(20), "not landed");
        left_out.group_landed(C, Lsn(11), Lsn(800));
        left_out.passed(Lsn(799));
        assert_eq!(left_out.surely(B, Lsn(30)), Lsn(20), "before it");
        left_out.passed(Lsn(800));
        assert_eq!(left_out.surely(B, Lsn(30)), Lsn(30));
    }

    #[test]
    fn a_crash_takes_the_newer_one_back() {
        let mut left_out = left_out();
        left_out.group_landed(C, Lsn(11), Lsn(800));
        left_out.begins_at(Lsn(790));
        left_out.forgotten_by_server(C, Lsn(8));
        left_out.passed(Lsn(900));
        assert_eq!(left_out.surely(B, Lsn(30)), Lsn(20));
        left_out.group_landed(C, Lsn(11), Lsn(950));
        // In another crash it stays, but the WAL behind it is given a second time.
        left_out.begins_at(Lsn(940));
        left_out.passed(Lsn(940));
        assert_eq!(left_out.surely(B, Lsn(30)), Lsn(30));
    }

    #[test]
    fn the_row_is_older_until_something_is_written_to_it() {
        let mut left_out = left_out();
        let all = [KEY, KeyHash(8)].into_iter();
        assert!(!left_out.none(all.clone()));
        assert_eq!(left_out.of(all.clone()).len(), 1);
        left_out.landed(KEY, true);
        assert!(!left_out.none(all.clone()));
        left_out.landed(KEY, false);
        assert!(left_out.none(all));
    }
}
