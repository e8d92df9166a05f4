//! What the simulated databases hold and what their streams carry.

use everywrite_conflict::{
    Change, Fold, Image, KeyHash, KeyHasher, Lsn, RelationHash, Stamp, Vector, Version, Writer,
};

/// A primary key; odd and even ones belong to two tables.
pub(crate) type Key = u8;
pub(crate) const TABLES: u8 = 2;

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
}

/// A transaction in its origin's journal.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) position: Lsn,
    pub(crate) previous: Lsn,
    pub(crate) stamp: Stamp,
    pub(crate) version: Version,
    /// What its site had begun to replay.
    pub(crate) vector: Vector,
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

    /// Folds its changes into `fold`, as the group's transaction `number`.
    pub(crate) fn fold_into(&self, fold: &mut Fold<Key, Row>, number: u32) {
        let writer = Writer {
            version: self.version,
            transaction: number,
        };
        for op in &self.ops {
            match op {
                Op::Insert(key, row) => fold.push(*key, Change::Insert(*row), writer),
                Op::Update(key, row) => fold.push(*key, Change::Update(*row), writer),
                Op::Delete(key) => fold.push(*key, Change::Delete, writer),
                Op::Move(old, new, row) => fold.push_move(*old, *new, *row, writer),
                Op::Truncate(table) => fold.truncate(|k| k % TABLES == *table),
                Op::Lost(key, version) => {
                    let writer = Writer {
                        version: *version,
                        ..writer
                    };
                    fold.push(*key, Change::Delete, writer);
                }
            }
        }
    }
}
