use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{NodeId, Stamp};

/// Two cells, the second of which may be omitted.
type Cells = (u32, Option<u32>);

impl Image for Cells {
    fn fill_from(&mut self, older: &Self) {
        self.1 = self.1.or(older.1);
    }

    fn complete(&self) -> bool {
        self.1.is_some()
    }
}

fn writer(n: u32) -> Writer {
    Writer {
        version: Version::new(Stamp(i64::from(n) + 1), NodeId(1)),
        transaction: n,
    }
}

fn folded(changes: Vec<(u8, Change<Cells>)>) -> Vec<(u8, Net<Cells>)> {
    let mut fold = Fold::new();
    for (n, (key, change)) in (0..).zip(changes) {
        fold.push(key, change, writer(n));
    }
    fold.finish().into_iter().map(|f| (f.key, f.net)).collect()
}

const FULL: Cells = (1, Some(10));
const PART: Cells = (2, None);

#[test]
fn net_changes() {
    use Change::*;
    for (changes, net) in [
        (vec![Insert(FULL), Update(PART)], Net::Insert((2, Some(10)))),
        (vec![Insert(FULL), Delete], Net::Nothing),
        (vec![Insert(FULL), Delete, Insert(FULL)], Net::Insert(FULL)),
        (vec![Update(FULL), Update(PART)], Net::Update((2, Some(10)))),
        (vec![Update(PART), Update(PART)], Net::Update(PART)),
        (vec![Update(FULL), Delete], Net::Delete),
        (vec![Delete, Insert(FULL)], Net::Replace(FULL)),
        (
            vec![Delete, Insert(FULL), Update(PART)],
            Net::Replace((2, Some(10))),
        ),
        (vec![Delete, Insert(FULL), Delete], Net::Delete),
        (
            vec![Insert(FULL), Insert((3, Some(4)))],
            Net::Insert((3, Some(4))),
        ),
        (
            vec![Update(FULL), Insert((3, Some(4)))],
            Net::Replace((3, Some(4))),
        ),
    ] {
        let all = changes.iter().map(|c| (1, *c)).collect();
        assert_eq!(folded(all), [(1, net)], "{changes:?}");
    }
}

#[test]
fn keys_stay_in_the_order_of_their_first_change() {
    let all = [3, 1, 2, 3, 1].map(|k| (k, Change::Update(FULL)));
    let keys: Vec<u8> = folded(all.to_vec()).into_iter().map(|f| f.0).collect();
    assert_eq!(keys, [3, 1, 2]);
}

#[test]
fn a_moved_row_takes_its_values_along() {
    // What the group has seen whole is whole under the new key.
    let mut fold = Fold::new();
    fold.push(1, Change::Insert(FULL), writer(0));
    fold.push_move((1, writer(1)), (2, writer(1)), PART);
    let all = fold.finish();
    assert_eq!(all[0].net, Net::Nothing);
    assert_eq!(
        (&all[1].net, all[1].moved_from),
        (&Net::Insert((2, Some(10))), None)
    );
    // What it has not is in the row of before, under the first key of a chain.
    let mut fold = Fold::new();
    fold.push_move((1, writer(0)), (2, writer(0)), PART);
    fold.push(2, Change::Update((5, None)), writer(1));
    fold.push_move((2, writer(2)), (3, writer(2)), PART);
    let all = fold.finish();
    let nets: Vec<_> = all.iter().map(|f| (f.key, f.net, f.moved_from)).collect();
    let expected = [
        (1, Net::Delete, None),
        (2, Net::Nothing, None),
        (3, Net::Insert(PART), Some(1)),
    ];
    assert_eq!(nets, expected);
    assert_eq!((all[1].first, all[1].last), (writer(0), writer(2)));
}

#[test]
fn a_truncate_starts_anew() {
    let mut fold = Fold::new();
    fold.push(1, Change::Update(FULL), writer(0));
    fold.push(2, Change::Delete, writer(0));
    fold.push(11, Change::Delete, writer(0));
    fold.truncate(|key| *key < 10);
    fold.push(1, Change::Insert(FULL), writer(1));
    let nets: Vec<_> = fold
        .finish()
        .into_iter()
        .map(|f| (f.key, f.net, f.first))
        .collect();
    assert_eq!(
        nets,
        [
            (11, Net::Delete, writer(0)),
            (1, Net::Insert(FULL), writer(1))
        ]
    );
}

#[test]
fn an_older_version_changes_nothing() {
    let mut fold: Fold<u8, Cells> = Fold::new();
    fold.push(1, Change::Update(FULL), writer(5));
    fold.push(1, Change::Delete, writer(3));
    let all = fold.finish();
    assert_eq!((all[0].net, all[0].last), (Net::Update(FULL), writer(5)));
    assert!(!all[0].spans(writer(9).version));
}

/// One local history on a table, as changes that obey it.
fn history() -> impl Strategy<Value = Vec<(u8, u8, u32, Option<u32>, u8)>> {
    let step = (0u8..5, 0u8..5, any::<u32>(), any::<Option<u32>>(), 0u8..5);
    prop::collection::vec(step, 0..60)
}

type Table = BTreeMap<u8, (u32, u32)>;

proptest! {
    /// Folding a group equals replaying it one by one, whatever its parts.
    #[test]
    fn folding_equals_one_by_one(before: BTreeMap<u8, (u32, u32)>, steps in history()) {
        let before: Table = before.into_iter().map(|(k, r)| (k % 5, r)).collect();
        let mut one_by_one = before.clone();
        let mut fold: Fold<u8, Cells> = Fold::new();
        for (n, (key, other, plain, long, what)) in (0..).zip(steps) {
            match (what, one_by_one.get(&key).copied()) {
                (0 | 1, None) => {
                    let long = long.unwrap_or(n);
                    one_by_one.insert(key, (plain, long));
                    fold.push(key, Change::Insert((plain, Some(long))), writer(n));
                }
                (0 | 1, Some(old)) => {
                    one_by_one.insert(key, (plain, long.unwrap_or(old.1)));
                    fold.push(key, Change::Update((plain, long)), writer(n));
                }
                (2, Some(_)) => {
                    one_by_one.remove(&key);
                    fold.push(key, Change::Delete, writer(n));
                }
                (3, Some(old)) if !one_by_one.contains_key(&other) => {
                    one_by_one.remove(&key);
                    one_by_one.insert(other, (plain, long.unwrap_or(old.1)));
                    fold.push_move((key, writer(n)), (other, writer(n)), (plain, long));
                }
                _ => {}
            }
        }
        let mut table = before.clone();
        for Folded { key, net, moved_from, .. } in fold.finish() {
            let there = before.contains_key(&key);
            match net {
                Net::Insert(_) | Net::Nothing => prop_assert!(!there),
                Net::Update(_) | Net::Replace(_) | Net::Delete => prop_assert!(there),
            }
            match net.row() {
                None => table.remove(&key),
                Some(row) => {
                    let base = moved_from.unwrap_or(key);
                    let long = row.1.or_else(|| before.get(&base).map(|r| r.1));
                    prop_assert!(long.is_some());
                    table.insert(key, (row.0, long.unwrap_or(0)))
                }
            };
        }
        prop_assert_eq!(table, one_by_one);
    }
}
