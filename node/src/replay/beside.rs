//! Whether a group may be written while the one before it is, in another session. Pure.
//!
//! ```text
//!  of another key than all of the group before ──► written at once, beside it
//!  of one of its keys, or of a table in which rows ──► written when that one is committed,
//!    may wait for each other's values                  with the commit of this one
//! ```
//!
//! The index tells which keys those are: it names the group before as the last to write them. It does not where a newer local write has
//! taken that place. Nothing is written wrongly then: a row is locked until its group is committed, so that the group before
//! waits, and the later one gives way (see `lanes`); and a statement of the fast path fails unless it finds what the group before it
//! leaves. So all this only keeps such meetings rare.

use std::collections::HashSet;

use everywrite_conflict::{Identity, KeyHash, RelationHash};

/// What a group writes of one table.
#[derive(Clone, Debug)]
pub struct Writes<R> {
    /// The table.
    pub table: RelationHash,
    /// Its rows may wait for each other whatever their keys are: it has second unique keys, or exclusion constraints.
    pub bound: bool,
    /// The keys, and whether the index has named the group before as the last to write each.
    pub rows: R,
    /// How many rows without a key come besides.
    pub appends: usize,
}

/// What of a group has to wait until the one before it is committed.
#[derive(Debug, Default)]
pub struct Late {
    keys: HashSet<KeyHash, Identity>,
    tables: Vec<RelationHash>,
}

impl Late {
    /// Whether a row has to wait.
    #[inline]
    pub fn has(&self, table: RelationHash, key: KeyHash) -> bool {
        self.keys.contains(&key) || self.has_all(table)
    }

    /// Whether all rows of a table have to.
    #[inline]
    pub fn has_all(&self, table: RelationHash) -> bool {
        self.tables.contains(&table)
    }

    /// Whether nothing has to.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tables.is_empty()
    }
}

/// What of a group has to wait for the one before it, which writes these tables; `None` if that is more than half of it: then
/// it is better sent behind that one as a whole.
pub fn late<R>(
    before: impl Iterator<Item = RelationHash>,
    next: impl Iterator<Item = Writes<R>>,
) -> Option<Late>
where
    R: Iterator<Item = (KeyHash, bool)>,
{
    let before: Vec<RelationHash> = before.collect();
    let mut late = Late::default();
    let (mut all, mut waiting) = (0, 0);
    for writes in next {
        let whole = writes.bound && before.contains(&writes.table);
        if whole {
            late.tables.push(writes.table);
            waiting += writes.appends;
        }
        all += writes.appends;
        for (key, shared) in writes.rows {
            all += 1;
            if whole || shared {
                waiting += 1;
            }
            if shared && !whole {
                late.keys.insert(key);
            }
        }
    }
    (2 * waiting <= all).then_some(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: RelationHash = RelationHash(1);
    const U: RelationHash = RelationHash(2);

    /// Rows with the keys from 0 on, of which the group before wrote the first `shared`.
    fn writes(
        table: RelationHash,
        bound: bool,
        shared: u128,
        rows: u128,
        appends: usize,
    ) -> Writes<impl Iterator<Item = (KeyHash, bool)>> {
        Writes {
            table,
            bound,
            rows: (0..rows).map(move |n| (KeyHash(n), n < shared)),
            appends,
        }
    }

    fn of<R: Iterator<Item = (KeyHash, bool)>, const N: usize>(
        before: &[RelationHash],
        next: [Writes<R>; N],
    ) -> Option<Late> {
        late(before.iter().copied(), next.into_iter())
    }

    #[test]
    fn groups_without_a_common_key_are_written_at_once() {
        let late = of(&[T, U], [writes(T, false, 0, 3, 3)]).unwrap();
        assert!(late.is_empty());
        assert!(!late.has(T, KeyHash(0)) && !late.has_all(T));
    }

    #[test]
    fn a_key_of_both_waits() {
        let next = [writes(T, false, 1, 2, 0), writes(U, false, 0, 1, 0)];
        let late = of(&[T], next).unwrap();
        assert!(late.has(T, KeyHash(0)) && !late.has(T, KeyHash(1)));
        assert!(!late.has_all(T) && !late.has_all(U) && !late.is_empty());
    }

    #[test]
    fn a_table_waits_whose_rows_may_wait_for_each_other() {
        let next = [writes(T, false, 0, 3, 0), writes(U, true, 1, 2, 1)];
        let late = of(&[U], next).unwrap();
        assert!(late.has_all(U) && late.has(U, KeyHash(2)));
        assert!(!late.has(T, KeyHash(2)));
        // Only if both write it.
        let late = of(&[T], [writes(U, true, 0, 2, 0)]).unwrap();
        assert!(late.is_empty());
    }

    #[test]
    fn what_is_mostly_of_the_group_before_goes_behind_it() {
        let beside = |shared, rows| of(&[T], [writes(T, false, shared, rows, 0)]).is_some();
        assert!(beside(2, 4) && !beside(2, 3));
        let bound = |appends| {
            let next = [writes(T, true, 0, 2, appends), writes(U, false, 0, 2, 0)];
            of(&[T], next).is_some()
        };
        assert!(bound(0) && !bound(1));
    }
}
