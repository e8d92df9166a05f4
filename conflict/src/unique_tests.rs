use proptest::prelude::*;

use super::*;
use crate::{NodeId, Stamp};

fn version(n: i64) -> Version {
    Version::new(Stamp(n), NodeId(1))
}

fn candidate(key: u128, at: i64, values: &[Option<u128>]) -> Candidate {
    Candidate {
        key: KeyHash(key),
        version: version(at),
        values: values.iter().map(|v| v.map(UniqueValue)).collect(),
    }
}

fn holder(key: u128, at: i64, index: usize, value: u128) -> Holder {
    Holder {
        key: KeyHash(key),
        version: version(at),
        index,
        value: UniqueValue(value),
    }
}

fn lost(key: u128, at: i64, winner: u128) -> Outcome {
    Outcome::Lost {
        key: KeyHash(key),
        version: version(at),
        winner: KeyHash(winner),
    }
}

fn place(key: u128) -> Outcome {
    Outcome::Place(KeyHash(key))
}

#[test]
fn a_swap_inside_the_set_is_no_conflict() {
    // Both rows hold the other's new value until the set overwrites them.
    let all = resolve(
        vec![candidate(1, 5, &[Some(20)]), candidate(2, 5, &[Some(10)])],
        vec![holder(1, 1, 0, 10), holder(2, 1, 0, 20)],
    );
    assert_eq!(all, [place(1), place(2)]);
}

#[test]
fn the_higher_version_keeps_the_value() {
    let lower = resolve(
        vec![candidate(1, 5, &[Some(10)])],
        vec![holder(2, 4, 0, 10)],
    );
    assert_eq!(lower, [lost(2, 5, 1), place(1)]);
    let higher = resolve(
        vec![candidate(1, 5, &[Some(10)])],
        vec![holder(2, 6, 0, 10)],
    );
    assert_eq!(higher, [lost(1, 6, 2)]);
    let old = Holder {
        version: Version::OLD,
        ..holder(2, 0, 0, 10)
    };
    assert_eq!(
        resolve(vec![candidate(1, 5, &[Some(10)])], vec![old]),
        [lost(2, 5, 1), place(1)]
    );
}

#[test]
fn several_indexes_and_nulls() {
    let all = resolve(
        vec![candidate(1, 5, &[Some(10), None, Some(30)])],
        vec![
            holder(2, 3, 0, 10),
            holder(3, 4, 2, 30),
            holder(4, 9, 1, 10),
            holder(5, 9, 0, 30),
        ],
    );
    assert_eq!(all, [lost(2, 5, 1), lost(3, 5, 1), place(1)]);
    // One above is enough to lose, and then it takes nothing from anybody.
    let all = resolve(
        vec![candidate(1, 5, &[Some(10), Some(20)])],
        vec![holder(2, 3, 0, 10), holder(3, 8, 1, 20)],
    );
    assert_eq!(all, [lost(1, 8, 3)]);
}

#[test]
fn a_later_winner_removes_an_earlier_one() {
    let all = resolve(
        vec![candidate(2, 7, &[Some(10)]), candidate(1, 5, &[Some(10)])],
        vec![holder(3, 4, 0, 10)],
    );
    assert_eq!(all, [lost(3, 5, 1), lost(1, 7, 2), place(2)]);
}

proptest! {
    /// What stands in the end has no value twice; nobody is both placed and lost; every loser's
    /// tombstone is above the loser.
    #[test]
    fn values_are_unique_in_the_end(
        rows in prop::collection::btree_map(0u128..12, (1i64..30, prop::option::of(0u128..4), prop::option::of(0u128..4)), 0..12),
        old in prop::collection::btree_map(0u128..12, (1i64..30, 0u128..4), 0..6),
    ) {
        let winners: Vec<_> = rows.iter().map(|(k, (v, a, b))| candidate(*k, *v, &[*a, *b])).collect();
        let mut taken = std::collections::BTreeSet::new();
        let holders: Vec<_> = old.iter()
            .filter(|(k, (_, value))| !rows.contains_key(k) && taken.insert(*value))
            .map(|(k, (v, value))| holder(*k, *v, 0, *value))
            .collect();
        let outcomes = resolve(winners.clone(), holders.clone());
        let mut standing: std::collections::BTreeMap<KeyHash, Vec<Option<UniqueValue>>> =
            holders.iter().map(|h| (h.key, vec![Some(h.value), None])).collect();
        let versions: std::collections::BTreeMap<KeyHash, Version> = winners.iter().map(|c| (c.key, c.version))
            .chain(holders.iter().map(|h| (h.key, h.version))).collect();
        for outcome in &outcomes {
            match outcome {
                Outcome::Lost { key, version, winner } => {
                    standing.remove(key);
                    prop_assert!(*version >= versions[key] && *version == versions[winner]);
                }
                Outcome::Place(key) => {
                    let row = winners.iter().find(|c| c.key == *key).unwrap();
                    prop_assert!(standing.insert(*key, row.values.clone()).is_none());
                }
            }
        }
        for index in 0..2 {
            let values: Vec<_> = standing.values().filter_map(|v| v[index]).collect();
            let once: std::collections::BTreeSet<_> = values.iter().collect();
            prop_assert_eq!(once.len(), values.len());
        }
        let told = outcomes.iter().map(|o| match o {
            Outcome::Place(key) | Outcome::Lost { key, .. } => *key,
        });
        let told: Vec<_> = told.collect();
        for winner in &winners {
            prop_assert_eq!(told.iter().filter(|k| **k == winner.key).count(), 1);
        }
    }
}
