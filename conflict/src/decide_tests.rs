use super::*;
use crate::{Lsn, NodeId, Stamp};

fn version(n: i64) -> Version {
    Version::new(Stamp(n), NodeId(1))
}

fn entry(n: i64, deleted: bool) -> Entry {
    let source = Some(Position {
        origin: NodeId(2),
        lsn: Lsn(9),
    });
    Entry {
        version: version(n),
        source,
        deleted,
        local_lsn: Lsn::ZERO,
    }
}

#[test]
fn the_greater_version_is_applied_and_concurrent_writes_are_named() {
    use Operation::*;
    for (operation, deleted, kind) in [
        (Insert, false, Some(Kind::InsertExists)),
        (Insert, true, Some(Kind::InsertDeleted)),
        (Update, false, Some(Kind::UpdateOriginDiffers)),
        (Update, true, Some(Kind::UpdateDeleted)),
        (Delete, false, Some(Kind::DeleteOriginDiffers)),
        (Delete, true, Some(Kind::DeleteMissing)),
        (Truncate, false, Some(Kind::TruncateOriginDiffers)),
        (Truncate, true, None),
    ] {
        for (ours, apply) in [(6, true), (4, false)] {
            let decision = decide(
                operation,
                version(ours),
                |_| false,
                |_| false,
                Some(&entry(5, deleted)),
                !deleted,
            );
            assert_eq!(
                decision,
                Decision {
                    apply,
                    conflict: kind
                },
                "{operation:?} {deleted}"
            );
        }
    }
}

#[test]
fn what_was_seen_is_no_conflict() {
    for deleted in [false, true] {
        let decision = decide(
            Operation::Insert,
            version(6),
            |_| true,
            |_| false,
            Some(&entry(5, deleted)),
            !deleted,
        );
        assert_eq!(
            decision,
            Decision {
                apply: true,
                conflict: None
            }
        );
    }
    // A delete that has not left yet cannot have been seen.
    let waiting = Entry {
        source: None,
        ..entry(5, true)
    };
    let decision = decide(
        Operation::Insert,
        version(6),
        |_| true,
        |_| false,
        Some(&waiting),
        false,
    );
    assert_eq!(decision.conflict, Some(Kind::InsertDeleted));
}

#[test]
fn an_equal_version_is_the_change_itself() {
    let decision = decide(
        Operation::Update,
        version(5),
        |_| false,
        |_| false,
        Some(&entry(5, false)),
        true,
    );
    assert_eq!(
        decision,
        Decision {
            apply: true,
            conflict: None
        }
    );
}

#[test]
fn unknown_keys_are_simply_written() {
    for (operation, present, conflict) in [
        (Operation::Insert, false, None),
        (Operation::Update, true, None),
        (Operation::Update, false, Some(Kind::UpdateMissing)),
        (Operation::Delete, false, None),
    ] {
        let decision = decide(operation, version(1), |_| false, |_| false, None, present);
        assert_eq!(
            decision,
            Decision {
                apply: true,
                conflict
            }
        );
    }
}

#[test]
#[should_panic(expected = "I6")]
#[cfg(debug_assertions)]
fn what_was_seen_must_be_older() {
    decide(
        Operation::Update,
        version(4),
        |_| true,
        |_| false,
        Some(&entry(5, false)),
        true,
    );
}

#[test]
fn kinds_have_postgresql_s_names() {
    let names: Vec<_> = Kind::ALL.iter().map(|k| k.as_str()).collect();
    assert!(
        names
            .iter()
            .all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    );
    assert!(names.contains(&"multiple_unique_conflicts"));
    assert_eq!(Kind::over_unique(Operation::Insert, 1), Kind::InsertExists);
    assert_eq!(Kind::over_unique(Operation::Update, 1), Kind::UpdateExists);
    assert_eq!(
        Kind::over_unique(Operation::Update, 2),
        Kind::MultipleUniqueConflicts
    );
}
