use proptest::prelude::*;

use super::*;
use crate::policy::columns::{Column, Merge, Take};
use crate::policy::{Epoch, Rank};

const TABLE: RelationHash = RelationHash(7);

fn key(n: u64) -> KeyHash {
    // Spread over the shards as a real hash is.
    KeyHash(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n))
}

fn version(stamp: i64) -> Version {
    Version::new(Stamp(stamp), NodeId(1))
}

fn at(origin: u16, lsn: u64) -> Position {
    Position {
        origin: NodeId(origin),
        lsn: Lsn(lsn),
    }
}

fn entry(stamp: i64, lsn: u64) -> Entry {
    Entry {
        version: version(stamp),
        source: Some(at(1, lsn)),
        deleted: false,
        local_lsn: Lsn::ZERO,
    }
}

fn stable(lsn: u64) -> Vector {
    [(NodeId(1), Lsn(lsn))].into_iter().collect()
}

#[test]
fn an_entry_takes_48_bytes() {
    assert_eq!(size_of::<(KeyHash, Slot)>(), 48);
    let mut index = Index::new();
    for n in 0..100_000 {
        index.announce(TABLE, key(n), entry(1, n));
    }
    let each = index.memory_bytes() / 100_000;
    assert!((56..=112).contains(&each), "{each} bytes a key");
    assert_eq!(index.forget(&stable(99_999), Lsn::ZERO), 100_000);
    assert!(index.memory_bytes() < 1_000_000, "memory is given back");
}

#[test]
fn what_capture_has_not_passed_stays_and_is_not_looked_through_each_time() {
    let mut index = Index::new();
    let replayed = |n: u64| Entry {
        local_lsn: Lsn(n),
        ..entry(1, n)
    };
    for n in 1..=1000 {
        index.announce(TABLE, key(n), replayed(n));
    }
    for captured in [0, 1, 300, 300, 499, 700, 999] {
        index.forget(&stable(1000), Lsn(captured));
        let left = index.len() as u64;
        assert!(left >= 1000 - captured, "captured {captured}: {left}");
        assert!(
            captured < 501 || left == 1000 - captured,
            "captured {captured}: {left}"
        );
    }
    assert!(
        !index.sweep_is_due(&stable(1000), Lsn(999)),
        "nothing new to be seen"
    );
    assert_eq!(index.forget(&stable(1000), Lsn(1000)), 1);
    assert!(index.is_empty());
}

/// Whatever is written again and again, and however far stability is behind at times.
#[test]
fn it_holds_little_more_than_what_is_not_stable() {
    let mut index = Index::new();
    for n in 1..=60_000u64 {
        let key = if n % 3 == 0 { key(n % 500) } else { key(n) };
        index.announce(TABLE, key, entry(n as i64, n));
        let away = (20_000..30_000).contains(&n);
        let settled = if away { 19_000 } else { n.saturating_sub(1000) };
        if n % 100 == 0 {
            index.forget(&stable(settled), Lsn::ZERO);
            let unstable = |e: &Entry| e.source.is_some_and(|s| s.lsn > Lsn(settled));
            let unstable = index.iter().filter(|(_, e)| unstable(e)).count();
            invariants::bounded(index.len(), unstable, DUE_COUNT).unwrap();
        }
    }
}

#[test]
fn a_write_that_does_not_land_holds_up_no_other() {
    let mut index = Index::new();
    let in_flight = Entry {
        local_lsn: Lsn::MAX,
        ..entry(1, 1)
    };
    index.announce(TABLE, key(1), in_flight);
    for n in 2..=1000 {
        index.announce(TABLE, key(n), entry(1, n));
    }
    assert_eq!(index.forget(&stable(1000), Lsn(1000)), 999);
    index.landed(TABLE, key(1), version(1), Lsn(1));
    assert_eq!(index.forget(&stable(1000), Lsn(1000)), 1);
    assert!(index.is_empty());
}

#[test]
fn the_greater_version_stays() {
    let mut index = Index::new();
    assert_eq!(
        index.announce(TABLE, key(1), entry(5, 50)),
        Announced::Newest
    );
    assert_eq!(
        index.announce(TABLE, key(1), entry(4, 40)),
        Announced::Older(entry(5, 50))
    );
    assert_eq!(
        index.announce(TABLE, key(1), entry(6, 60)),
        Announced::Newest
    );
    assert_eq!(index.get(TABLE, key(1)), Some(entry(6, 60)));
    assert_eq!(index.len(), 1);
}

#[test]
fn a_truncate_covers_what_is_below_it() {
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(4, 40));
    index.announce_truncate(TABLE, entry(5, 50));
    index.announce(TABLE, key(2), entry(5, 50));
    index.announce(TABLE, key(3), entry(6, 60));
    assert!(index.get(TABLE, key(1)).unwrap().deleted);
    assert!(index.get(TABLE, key(9)).unwrap().deleted);
    assert!(
        !index.get(TABLE, key(2)).unwrap().deleted,
        "written after it, by the same transaction"
    );
    let survives: Vec<bool> = (1..5)
        .map(|n| index.survives_truncate(key(n), version(5)))
        .collect();
    assert_eq!(survives, [false, true, true, false]);
    let behind: Vec<bool> = (1..5)
        .map(|n| index.behind_truncate(key(n), version(5)))
        .collect();
    assert_eq!(behind, [true, false, false, false]);
    // What the transaction has written before it truncated is gone; a row there was put behind it.
    let gone = Entry {
        deleted: true,
        ..entry(5, 50)
    };
    index.announce(TABLE, key(8), gone);
    assert!(index.behind_truncate(key(8), version(5)));
    assert!(matches!(
        index.announce(TABLE, key(4), entry(3, 30)),
        Announced::Older(e) if e.deleted
    ));
    assert_eq!(index.get(RelationHash(8), key(4)), None, "another table");
}

/// A group was announced, and is formed anew after its session was lost, with a later write of the key. By
/// then a truncate is known that is above both.
#[test]
fn what_a_later_write_of_its_origin_has_replaced_lands_with_it() {
    let in_flight = |entry: Entry| Entry {
        local_lsn: Lsn::MAX,
        ..entry
    };
    let rank = |entry: Entry, height: i64| {
        let (number, origin) = (1, NodeId(1));
        let epoch = Epoch { number, origin };
        let version = entry.version.ranked(Rank { epoch, height });
        Entry { version, ..entry }
    };
    for ranked in [false, true] {
        let of = |entry: Entry, height: i64| match ranked {
            true => rank(entry, height),
            false => entry,
        };
        let truncate = Entry {
            source: Some(at(2, 60)),
            local_lsn: Lsn(6),
            ..of(entry(6, 60), i64::MAX)
        };
        let (first, later) = (of(entry(4, 40), -4), of(entry(5, 50), -4));
        let mut index = Index::new();
        index.announce(TABLE, key(1), in_flight(first));
        index.announce_truncate(TABLE, truncate);
        index.announce(TABLE, key(1), in_flight(later));
        index.landed(TABLE, key(1), later.version, Lsn(7));
        assert!(!index.row(key(1)).unwrap().in_flight());
        let stable = [(NodeId(1), Lsn(50)), (NodeId(2), Lsn(60))];
        assert_eq!(index.forget(&stable.into_iter().collect(), Lsn(7)), 2);
        assert!(index.is_empty());
    }
}

/// What is still behind what has landed stays on its way.
#[test]
fn what_comes_behind_it_does_not_land_with_it() {
    let mut index = Index::new();
    let later = Entry {
        local_lsn: Lsn::MAX,
        ..entry(5, 50)
    };
    index.announce(TABLE, key(1), later);
    index.landed(TABLE, key(1), version(4), Lsn(7));
    assert!(index.row(key(1)).unwrap().in_flight());
}

#[test]
fn a_decided_delete_waits_for_its_source() {
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(4, 40));
    let _ = index.lose(TABLE, key(1), version(9));
    assert!(index.get(TABLE, key(1)).unwrap().undecided());
    assert_eq!(index.landed(TABLE, key(1), version(9), Lsn(7)), None);
    assert_eq!(index.forget(&stable(1000), Lsn(1000)), 0, "it has not left");
    assert!(index.travels(TABLE, key(1), version(9)));
    let sent = Entry {
        deleted: true,
        ..entry(9, 90)
    };
    index.announce(TABLE, key(1), sent);
    assert!(!index.travels(TABLE, key(1), version(9)), "it has left");
    assert_eq!(
        index.get(TABLE, key(1)),
        Some(Entry {
            local_lsn: Lsn(7),
            ..sent
        })
    );
    assert_eq!(
        index.forget(&stable(1000), Lsn(6)),
        0,
        "capture is not past it"
    );
    assert_eq!(index.forget(&stable(1000), Lsn(7)), 1);
    assert!(index.is_empty());
}

#[test]
fn a_decided_delete_stays_until_it_has_left() {
    let mut index = Index::new();
    let _ = index.lose(TABLE, key(1), version(9));
    index.landed(TABLE, key(1), version(9), Lsn(5));
    index.announce(TABLE, key(2), entry(8, 80));
    assert_eq!(index.forget(&stable(200), Lsn(200)), 1);
    assert!(index.travels(TABLE, key(1), version(9)));
    let left = Entry {
        deleted: true,
        ..entry(9, 90)
    };
    index.announce(TABLE, key(1), left);
    assert_eq!(index.forget(&stable(200), Lsn(200)), 1);
    assert!(index.is_empty());
}

#[test]
fn a_decided_delete_that_is_overtaken_does_not_travel() {
    let mut index = Index::new();
    let _ = index.lose(TABLE, key(1), version(9));
    index.announce(TABLE, key(1), entry(10, 100));
    assert!(!index.travels(TABLE, key(1), version(9)));
    assert_eq!(index.forget(&stable(100), Lsn::ZERO), 1);
    assert!(
        !index.travels(TABLE, key(1), version(9)),
        "not when it is forgotten either"
    );
    // A truncate overtakes it, too, and takes it along when it is forgotten.
    let _ = index.lose(TABLE, key(2), version(9));
    index.landed(TABLE, key(2), version(9), Lsn(1));
    index.announce_truncate(TABLE, entry(11, 110));
    assert!(!index.travels(TABLE, key(2), version(9)));
    assert_eq!(index.forget(&stable(110), Lsn(1)), 2);
    assert!(index.is_empty());
    // It stays until then, however stable it is.
    let _ = index.lose(TABLE, key(3), version(9));
    index.landed(TABLE, key(3), version(9), Lsn(1));
    index.announce_truncate(TABLE, entry(11, 110));
    assert_eq!(index.forget(&stable(110), Lsn(1)), 0);
    assert!(!index.travels(TABLE, key(3), version(9)));
    assert_eq!(index.forget(&stable(110), Lsn(1)), 2);
    assert!(index.is_empty());
}

#[test]
fn what_is_rolled_back_is_as_before() {
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(4, 40));
    let known = index.lose(TABLE, key(1), version(9));
    let unknown = index.lose(TABLE, key(2), version(9));
    index.undo(unknown);
    index.undo(known);
    assert_eq!(index.get(TABLE, key(1)), Some(entry(4, 40)));
    assert_eq!(index.get(TABLE, key(2)), None);
    assert_eq!(
        index.forget(&stable(40), Lsn::ZERO),
        1,
        "and is still forgotten"
    );
    // Overtaken in between: nothing to take back.
    let undo = index.lose(TABLE, key(3), version(9));
    index.announce(TABLE, key(3), entry(10, 100));
    index.undo(undo);
    assert_eq!(index.get(TABLE, key(3)), Some(entry(10, 100)));
}

#[test]
fn landing_tells_what_has_overtaken() {
    let mut index = Index::new();
    let flight = Entry {
        local_lsn: Lsn::MAX,
        ..entry(4, 40)
    };
    index.announce(TABLE, key(1), flight);
    assert_eq!(
        index.forget(&stable(40), Lsn(Lsn::MAX.0 - 1)),
        0,
        "in flight"
    );
    let newer = Entry {
        deleted: true,
        ..entry(5, 50)
    };
    index.announce(TABLE, key(1), newer);
    assert_eq!(index.landed(TABLE, key(1), version(4), Lsn(3)), Some(newer));
    assert_eq!(index.landed(TABLE, key(1), version(5), Lsn(4)), None);
    assert_eq!(index.get(TABLE, key(1)).unwrap().local_lsn, Lsn(4));
}

#[test]
fn an_entry_announced_again_keeps_the_later_place() {
    let mut index = Index::new();
    let at_place = |lsn| Entry {
        local_lsn: Lsn(lsn),
        ..entry(4, 40)
    };
    for lsn in [7, 9, 8] {
        index.announce(TABLE, key(1), at_place(lsn));
    }
    assert_eq!(index.get(TABLE, key(1)), Some(at_place(9)));
}

#[test]
fn a_row_stands_with_its_own_version_only() {
    let mut index = Index::new();
    assert_eq!(index.standing(TABLE, key(1), |_| true), Version::OLD);
    index.announce(TABLE, key(1), entry(4, 40));
    assert_eq!(index.standing(TABLE, key(1), |_| true), version(4));
    assert_eq!(index.standing(TABLE, key(1), |_| false), Version::OLD);
}

proptest! {
    /// Any order of announcing gives the same entries, and only what is stable is forgotten.
    #[test]
    fn order_does_not_matter(
        writes in prop::collection::vec((0u64..6, 1u16..4, 1i64..40, any::<bool>()), 1..60),
        shuffle in any::<u64>(),
        stable in prop::collection::vec(0u64..40, 3),
    ) {
        // A version is written once for each key; position and stamp of an origin grow together.
        let announce = |index: &mut Index, &(k, origin, stamp, deleted): &(u64, u16, i64, bool)| {
            let version = Version::new(Stamp(stamp), NodeId(origin));
            let deleted = deleted ^ (stamp % 2 == 0);
            let source = Some(at(origin, stamp as u64));
            index.announce(TABLE, key(k), Entry { version, source, deleted, local_lsn: Lsn::ZERO });
        };
        let mut writes = writes;
        let mut seen = std::collections::HashSet::new();
        writes.retain(|w| seen.insert((w.0, w.1, w.2)));
        let mut first = Index::new();
        writes.iter().for_each(|w| announce(&mut first, w));
        let greatest = |k: u64| writes.iter().filter(|w| w.0 == k).map(|w| (w.2, w.1)).max();
        let mut order = writes.clone();
        order.sort_by_key(|w| (w.0 ^ shuffle).wrapping_mul(w.2 as u64 | 1).rotate_left(w.1.into()));
        let mut second = Index::new();
        order.iter().for_each(|w| announce(&mut second, w));
        for k in 0..6 {
            prop_assert_eq!(first.get(TABLE, key(k)), second.get(TABLE, key(k)));
            let now = first.get(TABLE, key(k)).map(|e| (e.version.stamp.0, e.version.origin.0));
            prop_assert_eq!(now, greatest(k));
        }
        let vector: Vector = stable.iter().zip(1u16..).map(|(l, o)| (NodeId(o), Lsn(*l))).collect();
        let forgotten = first.forget(&vector, Lsn::ZERO);
        for k in 0..6 {
            let kept = greatest(k).filter(|(s, o)| !vector.covers(at(*o, *s as u64)));
            let now = first.get(TABLE, key(k)).map(|e| (e.version.stamp.0, e.version.origin.0));
            // A batch may stay a while; what must stay, stays.
            if kept.is_some() {
                prop_assert_eq!(now, kept);
            }
        }
        prop_assert_eq!(first.len() + forgotten, second.len());
        let all: Vector = (1..4).map(|o| (NodeId(o), Lsn(100))).collect();
        first.forget(&all, Lsn::ZERO);
        prop_assert!(first.is_empty());
    }
}

/// An update of a row that was inserted behind a TRUNCATE, when the insert is forgotten and the TRUNCATE is not.
#[test]
fn an_update_that_has_seen_a_truncate_is_of_a_row_behind_it() {
    let mut index = Index::new();
    let (truncate, insert) = (entry(5, 50), entry(6, 60));
    index.announce_truncate(TABLE, truncate);
    index.announce(TABLE, key(1), insert);
    index.forget(&stable(60), Lsn::ZERO);
    index.announce_truncate(TABLE, truncate);
    assert!(index.get(TABLE, key(1)).unwrap().deleted);
    let columns = [ColumnChange {
        column: Column(1),
        merge: Merge::LastUpdateWins,
        height: 0,
    }];
    let update = |lsn, stamp, present| Update {
        relation: TABLE,
        key: key(1),
        version: Version::new(Stamp(stamp), NodeId(2)),
        source: at(2, lsn),
        columns: &columns,
        present,
    };
    let has_seen = |p: Position| p.lsn <= Lsn(60);
    let merging = index.merge(&update(7, 7, true), has_seen);
    assert!(merging.belongs && merging.takes == [Take::Value]);
    let unseen = |_: Position| false;
    assert!(!index.merge(&update(8, 8, false), unseen).belongs);
    // It has not seen the TRUNCATE, but the row stands: its insert did so above the TRUNCATE, and is forgotten.
    assert!(index.merge(&update(9, 9, true), unseen).belongs);
    // Unless what is known of the row itself is below the TRUNCATE.
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(4, 40));
    index.announce_truncate(TABLE, truncate);
    assert!(!index.merge(&update(10, 10, true), unseen).belongs);
}

/// A row whose insert came behind a later TRUNCATE stands above an earlier one that arrives late, and so does what
/// is known of its columns.
#[test]
fn a_truncate_leaves_what_is_known_of_rows_above_it() {
    let mut index = Index::new();
    let epoch = Epoch {
        number: 1,
        origin: NodeId(1),
    };
    let ranked = |height, stamp, lsn| Entry {
        version: Version::new(Stamp(stamp), NodeId(1)).ranked(Rank { epoch, height }),
        ..entry(stamp, lsn)
    };
    // Inherited from the TRUNCATE that it has seen.
    let insert = ranked(i64::MAX, 9, 90);
    index.announce_ranked(TABLE, key(1), insert, &Arc::default());
    let columns = [ColumnChange {
        column: Column(1),
        merge: Merge::LastUpdateWins,
        height: 0,
    }];
    let update = |key, origin: u16, stamp| Update {
        relation: TABLE,
        key,
        version: Version::new(Stamp(stamp), NodeId(origin)).ranked(Rank { epoch, height: 0 }),
        source: at(origin, stamp.unsigned_abs()),
        columns: &columns,
        present: true,
    };
    let has_seen_the_insert = |p: Position| p == at(1, 90);
    index.merge(&update(key(1), 2, 12), has_seen_the_insert);
    index.merge(&update(key(2), 2, 13), has_seen_the_insert);
    index.announce_truncate(TABLE, ranked(i64::MAX, 8, 80));
    let earlier = index.merge(&update(key(1), 3, 11), has_seen_the_insert);
    assert!(earlier.belongs);
    assert_eq!(earlier.takes, [Take::Nothing]);
    assert!(!index.has_registers(key(2)));
}
