//! One simulated server: rows, WAL, what replay stores beside the rows.

use std::collections::BTreeMap;

use everywrite_conflict::policy::{Epoch, Policy, Setting};
use everywrite_conflict::{Lsn, NodeId, Stamp, Vector, Version};
use everywrite_node::settle::LeavesOut;

use crate::data::{self, Key, Op, Row, TABLES, Toast};
use crate::rnd::Rnd;
use crate::world::Shape;

/// A row in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Option<u8>,
    pub(crate) plain: u64,
    pub(crate) toast: u64,
    /// Where the local transaction that wrote it committed; `None` for replay.
    pub(crate) local: Option<Lsn>,
}

/// What survives a crash of the daemon, and as of the last flush a crash of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<Key, Stored>,
    /// Of the replication origins.
    pub(crate) progress: Vector,
    pub(crate) outbox: BTreeMap<u64, (Key, Version)>,
    /// Rows of which a write was left out for a newer one that was on its way.
    pub(crate) left_out: Vec<LeavesOut>,
    /// What is set, by table.
    pub(crate) policies: BTreeMap<u8, Setting>,
    /// Where the WAL ends.
    pub(crate) insert: Lsn,
    /// For the checks: the greatest stamp replayed here, and how long the conflict history is.
    pub(crate) newest: Stamp,
    pub(crate) history: usize,
}

impl State {
    /// Takes in a change of a policy, unless a newer one is known.
    pub(crate) fn policy(&mut self, setting: &Setting) {
        let table = (0..TABLES).find(|t| data::table(*t) == setting.relation);
        let Some(table) = table else { return };
        let known = self.policies.get(&table).map(|s| s.epoch);
        if known.is_none_or(|known| known < setting.epoch) {
            self.policies.insert(table, setting.clone());
        }
    }
}

/// A commit of a session without origin.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) end: Lsn,
    pub(crate) time: Stamp,
    pub(crate) ops: Vec<Op>,
    /// The daemon's barrier of this number.
    pub(crate) barrier: Option<u64>,
    /// For the checks: what was replayed here when it was committed, and the greatest stamp of that.
    pub(crate) there: Vector,
    pub(crate) newest: Stamp,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) now: State,
    pub(crate) flushed: State,
    pub(crate) wal: Vec<Record>,
    pub(crate) next_outbox: u64,
    /// Rows that lost, by what they have beside key and value.
    history: Vec<u64>,
    /// For the checks: the value that belongs to each row written here, by what else it has.
    pub(crate) written: BTreeMap<(Key, u64), u64>,
}

impl Server {
    pub(crate) fn advance(&mut self) -> Lsn {
        self.now.insert = Lsn(self.now.insert.0 + 1);
        self.now.insert
    }

    pub(crate) fn flush(&mut self) {
        self.flushed = self.now.clone();
    }

    /// What a crash takes back: WAL that was not flushed was read by nobody, and its places are given again.
    pub(crate) fn crash(&mut self) {
        self.now = self.flushed.clone();
        self.history.truncate(self.now.history);
        let end = self.now.insert;
        self.wal.retain(|record| record.end <= end);
    }

    /// Rows lose, in the transaction that is about to commit.
    pub(crate) fn record(&mut self, rows: &[u64]) {
        self.history.extend(rows);
        self.now.history = self.history.len();
    }

    pub(crate) fn recorded(&self) -> impl Iterator<Item = u64> + '_ {
        self.history.iter().copied()
    }

    /// Commits replayed rows; returns the insert position read before the commit, and one read behind it.
    pub(crate) fn commit_replayed(&mut self) -> (Lsn, Lsn) {
        let before = self.advance();
        self.advance();
        (before, self.now.insert)
    }

    /// Commits a transaction of a session without origin.
    pub(crate) fn commit_local(&mut self, time: Stamp, ops: Vec<Op>, barrier: Option<u64>) -> Lsn {
        let end = self.advance();
        tell!("  local commit {end}: {ops:?} {barrier:?}");
        self.wal.push(Record {
            end,
            time,
            ops,
            barrier,
            there: self.now.progress.clone(),
            newest: self.now.newest,
        });
        end
    }

    /// `set_policy` at this site.
    pub(crate) fn set_policy(&mut self, time: Stamp, me: NodeId, rnd: &mut Rnd, sites: usize) {
        let table = rnd.below(usize::from(TABLES)) as u8;
        let known = self.now.policies.get(&table).map_or(0, |s| s.epoch.number);
        let policy = match rnd.below(5) {
            0 => Policy::LastUpdateWins,
            1 | 2 => Policy::FirstUpdateWins,
            _ => {
                let mut order: Vec<NodeId> = (1..=sites as u16).map(NodeId).collect();
                for place in 0..sites {
                    order.swap(place, rnd.below(sites));
                }
                order.truncate(1 + rnd.below(sites));
                Policy::NodePriority(order)
            }
        };
        let epoch = Epoch {
            number: known + 1,
            origin: me,
        };
        let relation = data::table(table);
        let setting = Setting {
            relation,
            epoch,
            policy,
        };
        self.now.policy(&setting);
        self.commit_local(time, vec![Op::Policy(setting)], None);
        self.flush();
    }

    fn free(rows: &BTreeMap<Key, Stored>, key: Key, value: Option<u8>) -> bool {
        let same =
            |k: &Key, r: &Stored| *k != key && k % TABLES == key % TABLES && r.value == value;
        value.is_none() || !rows.iter().any(|(k, r)| same(k, r))
    }

    /// A local transaction of a few changes that respects the constraints.
    pub(crate) fn write_something(&mut self, time: Stamp, rnd: &mut Rnd, shape: Shape) {
        let Shape { keys, values, .. } = shape;
        let mut rows = self.now.rows.clone();
        let mut ops = Vec::new();
        for _ in 0..rnd.between(1, 3) {
            let key = rnd.below(keys) as Key;
            let value = rnd.chance(90).then(|| rnd.below(values) as u8);
            let (plain, long) = (rnd.next(), rnd.next());
            let stored = Stored {
                value,
                plain,
                toast: long,
                local: None,
            };
            let dice = rnd.below(100);
            let there = rows.get(&key).copied();
            let free = Self::free(&rows, key, value);
            match (dice, there) {
                (0..25, None) if free => {
                    rows.insert(key, stored);
                    let toast = Toast::Value(long);
                    ops.push(Op::Insert(key, Row::new(value, plain, toast)));
                }
                (25..65, Some(old)) => {
                    let value = if free && rnd.chance(60) {
                        value
                    } else {
                        old.value
                    };
                    let keep = rnd.chance(60);
                    let kept = if keep { old.toast } else { long };
                    rows.insert(
                        key,
                        Stored {
                            value,
                            toast: kept,
                            ..stored
                        },
                    );
                    let toast = if keep {
                        Toast::Unchanged
                    } else {
                        Toast::Value(long)
                    };
                    ops.push(Op::Update(key, Row::new(value, plain, toast)));
                }
                (65..80, Some(_)) => {
                    rows.remove(&key);
                    ops.push(Op::Delete(key));
                }
                (80..90, Some(old)) => {
                    let other = rnd.below(keys) as Key;
                    if other % TABLES == key % TABLES && !rows.contains_key(&other) {
                        rows.remove(&key);
                        rows.insert(other, Stored { plain, ..old });
                        let row = Row::new(old.value, plain, Toast::Unchanged);
                        ops.push(Op::Move(key, other, row));
                    }
                }
                // Two rows swap their unique values.
                (90..98, Some(a)) => {
                    let other = rnd.below(keys) as Key;
                    if let Some(b) = rows.get(&other).copied()
                        && other % TABLES == key % TABLES
                        && other != key
                    {
                        rows.insert(
                            key,
                            Stored {
                                value: b.value,
                                plain,
                                ..a
                            },
                        );
                        rows.insert(
                            other,
                            Stored {
                                value: a.value,
                                plain,
                                ..b
                            },
                        );
                        let toast = Toast::Unchanged;
                        ops.push(Op::Update(key, Row::new(b.value, plain, toast)));
                        ops.push(Op::Update(other, Row::new(a.value, plain, toast)));
                    }
                }
                (98.., _) if rnd.chance(30) => {
                    let table = key % TABLES;
                    rows.retain(|k, _| k % TABLES != table);
                    ops.push(Op::Truncate(table));
                }
                _ => {}
            }
        }
        if ops.is_empty() {
            return;
        }
        if shape.whole {
            ops.iter_mut().for_each(|op| whole(op, &rows));
        }
        let end = self.commit_local(time, ops, None);
        for (key, row) in &mut rows {
            let same =
                self.now.rows.get(key).is_some_and(|o| {
                    (o.value, o.plain, o.toast) == (row.value, row.plain, row.toast)
                });
            if !same {
                self.written.insert((*key, row.plain), row.toast);
                row.local = Some(end);
            }
        }
        self.now.rows = rows;
        // The others have `synchronous_commit = off`.
        let unflushed = if shape.unflushed > 0 {
            shape.unflushed
        } else {
            10
        };
        if rnd.chance(100 - unflushed) {
            self.flush();
        }
    }
}

/// An operation that omits nothing of its row.
fn whole(op: &mut Op, rows: &BTreeMap<Key, Stored>) {
    if let Op::Insert(key, row) | Op::Update(key, row) | Op::Move(_, key, row) = op
        && row.toast == Toast::Unchanged
    {
        let value = rows.get(key).map_or(0, |r| r.toast);
        row.toast = Toast::Value(value);
    }
}
