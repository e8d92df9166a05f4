//! The registers of a row, as an index of their own.

use everywrite_conflict::policy::columns::{Column, Merge, Register, Registers, Take};
use everywrite_conflict::{Lsn, NodeId, Position, Stamp, Version};

/// A set that changes in many elements at once is looked up, not searched through; it says the same.
#[test]
fn many_elements_are_known_like_few() {
    let origin = NodeId(1);
    let set = Column::named("tags");
    let element = |n: u64| set.element(&n.to_be_bytes());
    let change = |lsn: u64| Register {
        version: Version::new(Stamp(lsn as i64), origin),
        source: Position {
            origin,
            lsn: Lsn(lsn),
        },
    };
    let mut known = Registers::default();
    for n in 0..200 {
        let take = known.update(element(n), Merge::Union, change(n + 1), |_| false);
        assert_eq!(take, Take::Value);
    }
    for n in 0..200 {
        let earlier = known.update(element(n), Merge::Union, change(n), |_| false);
        assert_eq!(earlier, Take::Nothing);
    }
    assert_eq!(known.len(), 200);
    for left in [100, 10, 0] {
        known.forget(|source| source.lsn <= Lsn(200 - left));
        for n in 0..200 {
            let found = known.known(element(n)).map(|k| k.register);
            assert_eq!(found, (n >= 200 - left).then(|| change(n + 1)));
        }
    }
    assert!(known.is_empty());
}
