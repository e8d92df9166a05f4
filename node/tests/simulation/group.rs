//! Transactions of one origin that are replayed together, folded into one net change a key.

use std::collections::BTreeSet;
use std::sync::Arc;

use everywrite_conflict::{
    Entry, First, Fold, Folded, KeyHash, Lsn, Net, NodeId, Position, Stamp, Vector, Version, Writer,
};
use everywrite_node::replay::blindly::{self, Coming};
use everywrite_node::replay::priors::Change;
use everywrite_node::settle::{Intent, LeavesOut, Lost};

use crate::data::{self, Key, Op, Row, Transaction};

/// One net change of one key, and what the ledger said of the key before it was announced.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) folded: Folded<Key, Row>,
    pub(crate) prior: Option<Entry>,
}

impl Slot {
    pub(crate) fn key(&self) -> Key {
        self.folded.key
    }

    pub(crate) fn hash(&self) -> KeyHash {
        data::hash(self.folded.key)
    }

    pub(crate) fn version(&self) -> Version {
        self.folded.last.version
    }

    pub(crate) fn image(&self) -> Option<&Row> {
        self.folded.net.row()
    }
}

/// What has become of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The server has not begun with it.
    Sent,
    /// It is committed: where the WAL was before the commit, and behind it. Nobody has read that yet.
    Committed(Lsn, Lsn),
    /// A guard has failed, or that of a group before it.
    Failed,
}

/// What was decided about a group with care; to be undone if it is rolled back.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Rows that go because others have their unique values.
    pub(crate) removed: Vec<Lost>,
    /// Whose entries land with the transaction.
    pub(crate) lost: Vec<(Key, Version)>,
    /// Changes that are not written, because something newer is known.
    pub(crate) kept: BTreeSet<(KeyHash, Version)>,
    /// Rows that are older than writes that were left out.
    pub(crate) left_out: Vec<LeavesOut>,
    /// Of truncates whose entries land with the transaction.
    pub(crate) truncated: Vec<(u8, Version)>,
    /// The rows that go into the conflict history.
    pub(crate) history: Vec<u64>,
    /// Deletes that travel.
    pub(crate) outbox: Vec<(Key, Version)>,
    pub(crate) conflicts: usize,
}

impl Decided {
    /// Whether it has decided that the row goes, with this version.
    pub(crate) fn has(&self, key: Key, version: Version) -> bool {
        let row = (data::relation(key), data::hash(key));
        self.removed.iter().any(|l| l.is(row.0, row.1, version))
    }

    /// Whether rows of others lost by it: it is flushed then.
    pub(crate) fn binds(&self) -> bool {
        self.conflicts > 0 || !self.outbox.is_empty()
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) origin: NodeId,
    pub(crate) transactions: Vec<Arc<Transaction>>,
    pub(crate) slots: Vec<Slot>,
    /// Must be decided row by row.
    pub(crate) careful: bool,
    /// Some of its changes meet versions that their writers had not seen, and the index alone decides.
    pub(crate) conflicts: bool,
    pub(crate) blind_before: Vector,
    pub(crate) fast: bool,
    /// The next one can be chained to it.
    pub(crate) named: bool,
    /// What the guard of the fast path counts as captured: fixed when the group is announced.
    pub(crate) guard: Lsn,
    pub(crate) decided: Decided,
    pub(crate) state: State,
}

impl Group {
    pub(crate) fn new(origin: NodeId, transactions: Vec<Arc<Transaction>>) -> Self {
        Group {
            careful: transactions.iter().any(|t| t.alone()),
            origin,
            transactions,
            slots: Vec::new(),
            conflicts: false,
            blind_before: Vector::new(),
            fast: false,
            named: false,
            guard: Lsn::ZERO,
            decided: Decided::default(),
            state: State::Sent,
        }
    }

    /// Folds all its changes.
    pub(crate) fn fold(&mut self) {
        let mut fold = Fold::new();
        for (number, transaction) in self.transactions.iter().enumerate() {
            for op in &transaction.ops {
                let version = |key| transaction.row_version(key);
                data::fold(op, &mut fold, number as u32, version);
            }
        }
        self.close(fold);
    }

    pub(crate) fn close(&mut self, fold: Fold<Key, Row>) {
        let slot = |folded| Slot {
            folded,
            prior: None,
        };
        self.slots = fold.into_changes().map(slot).collect();
    }

    pub(crate) fn last(&self) -> Lsn {
        self.transactions.last().map_or(Lsn::ZERO, |t| t.position())
    }

    pub(crate) fn newest(&self) -> Stamp {
        let stamps = self.transactions.iter().map(|t| t.header.stamp);
        stamps.max().unwrap_or(Stamp::MIN)
    }

    /// What tells whether the index has to ask its files.
    pub(crate) fn first(&self) -> Option<First<'_>> {
        // A delete that travelled has another version than its transaction; it is careful.
        let first = self.transactions.first().filter(|_| !self.careful)?;
        Some(First {
            position: Position {
                origin: self.origin,
                lsn: first.position(),
            },
            stamp: first.header.stamp,
            seen: &first.header.seen,
        })
    }

    fn of(&self, writer: Writer) -> &Transaction {
        &self.transactions[writer.transaction as usize]
    }

    pub(crate) fn position(&self, slot: &Slot) -> Position {
        Position {
            origin: self.origin,
            lsn: self.of(slot.folded.last).position(),
        }
    }

    /// What is remembered of a net change.
    pub(crate) fn change(&self, slot: &Slot) -> Change {
        Change {
            key: slot.hash(),
            version: slot.version(),
            position: self.position(slot),
            deleted: slot.image().is_none(),
        }
    }

    /// Whether that transaction had surely seen what stands at `position`.
    pub(crate) fn covers(&self, writer: Writer, position: Position) -> bool {
        let transaction = self.of(writer);
        match position.origin == self.origin {
            true => transaction.position() >= position.lsn,
            false => transaction.header.seen.covers(position),
        }
    }

    /// Whether it claims to have seen it.
    pub(crate) fn claims(&self, writer: Writer, position: Position) -> bool {
        self.covers(writer, position) || self.of(writer).vector.covers(position)
    }

    pub(crate) fn coming(&self, before: Lsn) -> Coming<impl Fn(Writer, Position) -> bool + '_> {
        Coming {
            origin: self.origin,
            before,
            covers: |writer, position| self.covers(writer, position),
        }
    }

    pub(crate) fn intents(&self) -> impl Iterator<Item = Intent<'_>> + Clone + '_ {
        self.slots.iter().map(|s| Intent {
            relation: data::relation(s.key()),
            key: s.hash(),
            entry: Entry {
                version: s.version(),
                source: Some(self.position(s)),
                deleted: matches!(s.folded.net, Net::Delete | Net::Nothing),
                local_lsn: Lsn::MAX,
            },
            vector: match s.version().is_ranked() {
                true => Some(&self.of(s.folded.last).vector),
                false => None,
            },
            seen: Some(&self.of(s.folded.last).header.seen),
        })
    }

    /// Whether another origin's write of some key falls between the group's writes of it.
    pub(crate) fn spans(&self) -> bool {
        self.slots.iter().any(|s| {
            let filled = s.image().is_some_and(|i| i.filled);
            blindly::spans(&s.folded, filled, s.prior.as_ref())
        })
    }

    pub(crate) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.transactions.iter().flat_map(|t| &t.ops)
    }
}
