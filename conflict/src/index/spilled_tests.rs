use super::super::*;
use super::*;

const TABLE: RelationHash = RelationHash(7);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn key(n: u64) -> KeyHash {
    KeyHash(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n))
}

fn at(origin: NodeId, lsn: u64) -> Position {
    let lsn = Lsn(lsn);
    Position { origin, lsn }
}

/// A write of A.
fn entry(stamp: i64) -> Entry {
    Entry {
        version: Version::new(Stamp(stamp), A),
        source: Some(at(A, stamp as u64)),
        deleted: false,
        local_lsn: Lsn(5),
    }
}

/// All that may leaves; what a file would have.
fn spill(index: &mut Index) -> Vec<(KeyHash, Entry)> {
    let parts = 0..PARTS;
    let leaving: Vec<_> = parts
        .flat_map(|part| index.spillable(part, |_| true))
        .collect();
    let mut bounds = index.spilled().cloned().unwrap_or_default();
    leaving.iter().for_each(|(_, entry)| bounds.add(entry));
    index.set_spilled(Some(bounds));
    index.drop_spilled(leaving.iter().copied());
    leaving
}

fn first(lsn: u64, stamp: i64, seen: &Vector) -> Option<First<'_>> {
    let (position, stamp) = (at(B, lsn), Stamp(stamp));
    Some(First {
        position,
        stamp,
        seen,
    })
}

#[test]
fn all_parts_leave_in_the_order_of_keys_and_come_back() {
    let mut index = Index::new();
    (1..=1000).for_each(|n| {
        index.announce(TABLE, key(n), entry(n as i64));
    });
    let file = spill(&mut index);
    assert!(file.is_sorted_by_key(|(key, _)| *key));
    assert_eq!((file.len(), index.len()), (1000, 0));
    for (key, entry) in file {
        assert!(!index.is_here(key));
        index.recall(key, entry);
        assert_eq!(index.row(key), Some(entry));
    }
}

#[test]
fn what_is_under_way_decided_or_ranked_stays() {
    let mut index = Index::new();
    let flight = Entry {
        local_lsn: Lsn::MAX,
        ..entry(1)
    };
    index.announce(TABLE, key(1), flight);
    let _ = index.lose(TABLE, key(2), entry(2).version);
    let epoch = crate::policy::Epoch {
        number: 1,
        origin: A,
    };
    let rank = crate::policy::Rank { epoch, height: 0 };
    let ranked = Entry {
        version: entry(3).version.ranked(rank),
        ..entry(3)
    };
    index.announce_ranked(TABLE, key(3), ranked, &Arc::default());
    index.announce(TABLE, key(4), entry(4));
    let left: Vec<_> = spill(&mut index).into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [key(4)]);
    assert_eq!(index.len(), 3);
}

#[test]
fn what_memory_has_is_newer_than_a_file() {
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(1));
    let parts = 0..PARTS;
    let old: Vec<_> = parts
        .flat_map(|part| index.spillable(part, |_| true))
        .collect();
    let mut bounds = Bounds::default();
    old.iter().for_each(|(_, entry)| bounds.add(entry));
    index.set_spilled(Some(bounds));
    // Written again while the file was being made.
    index.announce(TABLE, key(1), entry(2));
    assert_eq!(index.drop_spilled(old.clone()), 0);
    index.recall(old[0].0, old[0].1);
    assert_eq!(index.row(key(1)), Some(entry(2)));
}

#[test]
fn only_who_has_not_seen_all_of_it_asks() {
    let mut index = Index::new();
    let nothing = Vector::new();
    assert!(!index.group_asks(None) && !index.group_asks(first(1, 1, &nothing)));
    index.announce(TABLE, key(1), entry(8));
    let of_b = Entry {
        version: Version::new(Stamp(9), B),
        source: Some(at(B, 30)),
        ..entry(9)
    };
    index.announce(TABLE, key(2), of_b);
    spill(&mut index);
    let seen: Vector = [(A, Lsn(8))].into_iter().collect();
    let less: Vector = [(A, Lsn(7))].into_iter().collect();
    assert!(!index.group_asks(first(31, 10, &seen)));
    assert!(index.group_asks(first(31, 10, &less)), "unseen");
    assert!(index.group_asks(first(30, 10, &seen)), "come again");
    assert!(index.group_asks(first(31, 9, &seen)), "stands above");
    assert!(index.group_asks(None));
    // The rows were written at 5 in the local WAL.
    assert!(!index.capture_asks(Lsn(6), Stamp(10)));
    assert!(index.capture_asks(Lsn(5), Stamp(10)), "came behind it");
    assert!(index.capture_asks(Lsn(6), Stamp(9)), "stands above");
    assert!(index.hides_above(Stamp(9)) && !index.hides_above(Stamp(10)));
}

#[test]
fn nothing_is_forgotten_while_a_file_may_have_an_older_version() {
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(1));
    spill(&mut index);
    index.announce(TABLE, key(1), entry(2));
    let stable: Vector = [(A, Lsn(9))].into_iter().collect();
    assert_eq!(index.forget(&stable, Lsn(9)), 0);
    let bounds = index.spilled().unwrap();
    assert!(!bounds.forgettable(&stable, Lsn(4)), "capture is behind");
    assert!(!bounds.forgettable(&Vector::new(), Lsn(9)));
    assert!(bounds.forgettable(&stable, Lsn(9)));
    index.set_spilled(None);
    assert_eq!(index.forget(&stable, Lsn(9)), 1);
    assert_eq!(index.len(), 0);
}

#[test]
fn a_truncate_that_is_not_seen_may_hide_what_is() {
    let mut index = Index::new();
    index.announce(TABLE, key(1), entry(8));
    spill(&mut index);
    let truncate = Entry {
        version: Version::new(Stamp(4), NodeId(3)),
        source: Some(at(NodeId(3), 1)),
        deleted: true,
        local_lsn: Lsn(7),
    };
    index.announce_truncate(TABLE, truncate);
    let mut seen: Vector = [(A, Lsn(8))].into_iter().collect();
    assert!(index.group_asks(first(31, 10, &seen)));
    seen.set(NodeId(3), Lsn(1));
    assert!(!index.group_asks(first(31, 10, &seen)));
    assert!(index.capture_asks(Lsn(7), Stamp(10)));
    assert!(!index.capture_asks(Lsn(8), Stamp(10)));
}
