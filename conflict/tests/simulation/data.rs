//! What the simulated databases hold and what their streams carry.

use std::collections::BTreeMap;
use std::sync::Arc;

use everywrite_conflict::policy::{Epoch, Rank, Setting};
use everywrite_conflict::{
    Change, Fold, Image, KeyHash, KeyHasher, Lsn, RelationHash, Stamp, Vector, Version, Writer,
};

/// A primary key; odd and even ones belong to two tables.
pub(crate) type Key = u8;
pub(crate) const TABLES: u8 = 2;
/// More than any shape has.
pub(crate) const KEYS: Key = 32;

pub(crate) fn relation(key: Key) -> RelationHash {
    table(key % TABLES)
}

pub(crate) fn table(number: u8) -> RelationHash {
    RelationHash(u64::from(number) + 1)
}

pub(crate) fn hash(key: Key) -> KeyHash {
    KeyHasher::new(relation(key))
        .cell(20, Some(&[key]), true)
        .finish()
}

/// The value that the stream may omit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toast {
    Value(u64),
    /// Unchanged: what the row of before has.
    Unchanged,
}

/// A row's image in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The second unique key; NULL does not conflict.
    pub(crate) value: Option<u8>,
    pub(crate) plain: u64,
    pub(crate) toast: Toast,
}

impl Image for Row {
    fn fill_from(&mut self, older: &Self) {
        if !self.complete() {
            self.toast = older.toast;
        }
    }

    fn complete(&self) -> bool {
        matches!(self.toast, Toast::Value(_))
    }
}

/// One message of the stream.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Insert(Key, Row),
    Update(Key, Row),
    Delete(Key),
    Move(Key, Key, Row),
    Truncate(u8),
    /// A decided delete that travels, with the winner's version.
    Lost(Key, Version),
    /// A table's policy is set.
    Policy(Setting),
}

/// What stands before the stamp in the versions of a transaction's changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    pub(crate) rows: BTreeMap<Key, Rank>,
    /// Of its TRUNCATEs, and of what it writes behind them.
    pub(crate) truncates: BTreeMap<u8, Rank>,
    /// For the checks: the policies that were set where it was captured.
    pub(crate) epochs: BTreeMap<u8, Epoch>,
}

/// A transaction in its origin's journal.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) position: Lsn,
    pub(crate) previous: Lsn,
    pub(crate) stamp: Stamp,
    /// Of what has no rank.
    pub(crate) version: Version,
    pub(crate) ranks: Ranks,
    /// What its site had begun to replay.
    pub(crate) vector: Arc<Vector>,
    /// What of that it has surely seen: committed, and before it in the local WAL.
    pub(crate) seen: Vector,
    pub(crate) ops: Vec<Op>,
}

impl Transaction {
    pub(crate) fn truncates(&self) -> impl Iterator<Item = u8> + '_ {
        self.ops.iter().filter_map(|op| match op {
            Op::Truncate(table) => Some(*table),
            _ => None,
        })
    }

    /// The version of its write of a row that stays.
    pub(crate) fn row_version(&self, key: Key) -> Version {
        let truncated = self.ranks.truncates.get(&(key % TABLES));
        let rank = truncated.or_else(|| self.ranks.rows.get(&key));
        self.version.ranked(rank.copied().unwrap_or(Rank::NONE))
    }

    pub(crate) fn truncate_version(&self, table: u8) -> Version {
        let rank = self.ranks.truncates.get(&table);
        self.version.ranked(rank.copied().unwrap_or(Rank::NONE))
    }

    pub(crate) fn settings(&self) -> impl Iterator<Item = &Setting> + '_ {
        self.ops.iter().filter_map(|op| match op {
            Op::Policy(setting) => Some(setting),
            _ => None,
        })
    }

    /// Folds its changes into `fold`, as the group's transaction `number`.
    pub(crate) fn fold_into(&self, fold: &mut Fold<Key, Row>, number: u32) {
        let writer = |key: Key| Writer {
            version: self.row_version(key),
            transaction: number,
        };
        for op in &self.ops {
            match op {
                Op::Insert(key, row) => fold.push(*key, Change::Insert(*row), writer(*key)),
                Op::Update(key, row) => fold.push(*key, Change::Update(*row), writer(*key)),
                Op::Delete(key) => fold.push(*key, Change::Delete, writer(*key)),
                Op::Move(old, new, row) => {
                    fold.push_move((*old, writer(*old)), (*new, writer(*new)), *row);
                }
                Op::Policy(_) => {}
                Op::Truncate(table) => fold.truncate(|k| k % TABLES == *table),
                Op::Lost(key, version) => {
                    let writer = Writer {
                        version: *version,
                        ..writer(*key)
                    };
                    fold.push(*key, Change::Delete, writer);
                }
            }
        }
    }
}
