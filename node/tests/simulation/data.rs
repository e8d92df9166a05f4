//! What the simulated databases hold and what their streams carry.

use std::sync::Arc;

use everywrite_conflict::policy::{Epoch, Setting};
use everywrite_conflict::{
    Change, Fold, Image, KeyHash, KeyHasher, Lsn, NodeId, RelationHash, Vector, Version, Writer,
};
use everywrite_node::journal::ranks::Ranks;
use everywrite_node::journal::record::Header;
use everywrite_node::settle::Touched;

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

/// Which table that is.
pub(crate) fn number(relation: RelationHash) -> u8 {
    (relation.0 - 1) as u8
}

pub(crate) fn key_of(hash: KeyHash) -> Option<Key> {
    (0..KEYS).find(|key| self::hash(*key) == hash)
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
    /// It has taken what it omits from an earlier image of the same group.
    pub(crate) filled: bool,
}

impl Row {
    pub(crate) fn new(value: Option<u8>, plain: u64, toast: Toast) -> Self {
        Row {
            value,
            plain,
            toast,
            filled: false,
        }
    }
}

impl Image for Row {
    fn fill_from(&mut self, older: &Self) {
        if !self.complete() {
            self.toast = older.toast;
            self.filled = true;
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

/// A transaction in its origin's journal.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) origin: NodeId,
    /// As the journal has it.
    pub(crate) header: Header,
    /// The header's.
    pub(crate) vector: Arc<Vector>,
    /// Of its changes.
    pub(crate) ranks: Ranks,
    pub(crate) ops: Vec<Op>,
    /// For the checks: the policies that were set where it was captured.
    pub(crate) epochs: [Epoch; TABLES as usize],
}

impl Transaction {
    pub(crate) fn position(&self) -> Lsn {
        self.header.position
    }

    /// Of what has no rank.
    pub(crate) fn plain(&self) -> Version {
        Version::new(self.header.stamp, self.origin)
    }

    pub(crate) fn truncates(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Truncate(_)))
    }

    /// Whether it has to stay alone and is decided with care: what travels, and policies.
    pub(crate) fn alone(&self) -> bool {
        let alone = |op: &Op| matches!(op, Op::Lost(..) | Op::Policy(_));
        self.ops.iter().any(alone)
    }

    /// The version of its write of a row that stays.
    pub(crate) fn row_version(&self, key: Key) -> Version {
        self.ranks
            .greatest(relation(key), Some(hash(key)), self.plain())
    }

    pub(crate) fn truncate_version(&self, number: u8) -> Version {
        self.ranks.greatest(table(number), None, self.plain())
    }
}

/// What an operation touches, as capture tells the ledger.
pub(crate) fn touched(op: &Op, touched: &mut Vec<(Touched, Option<Key>)>) {
    let put = |touched: &mut Vec<_>, key: Key, deleted, version| {
        let t = Touched {
            relation: relation(key),
            key: Some(hash(key)),
            deleted,
            version,
        };
        touched.push((t, Some(key)));
    };
    match op {
        Op::Insert(key, _) | Op::Update(key, _) => put(touched, *key, false, None),
        Op::Delete(key) => put(touched, *key, true, None),
        Op::Move(old, new, _) => {
            put(touched, *old, true, None);
            put(touched, *new, false, None);
        }
        Op::Lost(key, version) => put(touched, *key, true, Some(*version)),
        Op::Truncate(number) => {
            // What was written before goes with the table.
            let before = touched.iter_mut().map(|t| &mut t.0);
            let before = before.filter(|t| t.relation == table(*number));
            before.for_each(|t| t.deleted = true);
            let t = Touched {
                relation: table(*number),
                key: None,
                deleted: true,
                version: None,
            };
            touched.push((t, None));
        }
        Op::Policy(_) => {}
    }
}

/// Folds an operation of the group's transaction `number`; `version` is that of a row. TRUNCATE is not for here.
pub(crate) fn fold(
    op: &Op,
    fold: &mut Fold<Key, Row>,
    number: u32,
    version: impl Fn(Key) -> Version,
) {
    let writer = |key: Key| Writer {
        version: version(key),
        transaction: number,
    };
    match op {
        Op::Insert(key, row) => fold.push(*key, Change::Insert(*row), writer(*key)),
        Op::Update(key, row) => fold.push(*key, Change::Update(*row), writer(*key)),
        Op::Delete(key) => fold.push(*key, Change::Delete, writer(*key)),
        Op::Move(old, new, row) => {
            fold.push_move((*old, writer(*old)), (*new, writer(*new)), *row);
        }
        Op::Lost(key, version) => {
            let writer = Writer {
                version: *version,
                ..writer(*key)
            };
            fold.push(*key, Change::Delete, writer);
        }
        Op::Truncate(_) | Op::Policy(_) => {}
    }
}
