//! What sessions may believe of each other.

use super::*;

const ME: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn table() -> RelationHash {
    RelationHash::new("public", "items")
}

fn version(stamp: i64, origin: NodeId) -> Version {
    Version::new(Stamp(stamp), origin)
}

fn intent(key: u128, version: Version, lsn: u64, deleted: bool) -> Intent<'static> {
    let source = Some(Position {
        origin: version.origin,
        lsn: Lsn(lsn),
    });
    Intent {
        relation: table(),
        key: KeyHash(key),
        entry: Entry {
            version,
            source,
            deleted,
            local_lsn: Lsn::MAX,
        },
        vector: None,
    }
}

fn announce(ledger: &Ledger, intent: Intent<'_>) -> Option<Announcement> {
    let Version { stamp, origin, .. } = intent.entry.version;
    let last = intent.entry.source.unwrap().lsn;
    let one = std::iter::once(intent);
    ledger.announce(origin, last, stamp, false, one, |_, _, _| false, |_| false)
}

fn landed(ledger: &Ledger, intent: Intent<'_>, generation: u64) -> Option<Vec<KeyHash>> {
    let version = intent.entry.version;
    let group = Landed {
        origin: version.origin,
        last: intent.entry.source.unwrap().lsn,
        before: Lsn(1000),
        after: Lsn(1001),
        generation,
    };
    ledger.landed(&group, [(intent.relation, intent.key, version)], &[])
}

#[test]
fn an_older_row_that_lands_behind_another_streams_delete_is_looked_at_again() {
    let ledger = Ledger::new(ME);
    let row = intent(7, version(10, B), 100, false);
    let delete = intent(7, version(20, C), 200, true);
    announce(&ledger, row).unwrap();
    announce(&ledger, delete).unwrap();
    // The delete has found nothing, because the row was not committed yet.
    assert_eq!(landed(&ledger, delete, 0), Some(vec![]));
    assert_eq!(landed(&ledger, row, 0), Some(vec![KeyHash(7)]));
}

#[test]
fn an_answer_from_before_a_crash_is_not_believed() {
    let ledger = Ledger::new(ME);
    let row = intent(7, version(10, B), 100, false);
    announce(&ledger, row).unwrap();
    ledger.broke(0);
    assert_eq!(landed(&ledger, row, 0), None);
    assert_eq!(ledger.applied().get(B), Lsn::ZERO);
    // The same break, told by another session, is no other one.
    ledger.broke(0);
    assert_eq!(landed(&ledger, row, 1), Some(vec![]));
    assert_eq!(ledger.applied().get(B), Lsn(100));
}

#[test]
fn nobody_announces_over_a_decision_that_may_be_taken_back() {
    let ledger = Ledger::new(ME);
    let key = KeyHash(7);
    let decide = |_: &mut Index| Some(vec![(key, version(10, B))]);
    let lost = ledger.lose(table(), decide).unwrap();
    let newer = intent(7, version(20, C), 200, false);
    assert!(announce(&ledger, newer).is_none());
    ledger.keep(lost);
    let announcement = announce(&ledger, newer).unwrap();
    assert_eq!(announcement.priors, vec![None]);
}

#[test]
fn a_local_write_that_lost_to_a_decision_taken_back_is_known_again() {
    let ledger = Ledger::new(ME);
    let key = KeyHash(7);
    let decide = |_: &mut Index| Some(vec![(key, version(1_000, B))]);
    let lost = ledger.lose(table(), decide).unwrap();
    let touched = Touched {
        relation: table(),
        key: Some(key),
        deleted: false,
        version: None,
    };
    let stamped = ledger.capture(Lsn(50), Stamp(500), &[touched], &[], &[]);
    ledger.keep(lost);
    let entry = ledger.with_index(|index| index.get(table(), key));
    assert_eq!(entry.map(|e| e.version), Some(version(stamped.stamp.0, ME)));
}

#[test]
fn a_restart_promises_nothing_before_the_first_barrier() {
    let ledger = Ledger::new(ME);
    let applied: Vector = [(B, Lsn(100))].into_iter().collect();
    ledger.restore(None, &applied);
    assert_eq!(ledger.promise().0, Vector::new());
    ledger.flushed_is(&applied);
    assert_eq!(ledger.promise().0, applied);
}

/// First update wins: what a local transaction has not seen it takes no height from, although the index
/// names it already.
#[test]
fn a_write_is_ranked_by_what_it_replaced() {
    use everywrite_conflict::policy::{Epoch, Policy, Rank, Setting};

    let ledger = Ledger::new(ME);
    let epoch = Epoch {
        number: 1,
        origin: C,
    };
    ledger.set_policy(
        Setting {
            relation: table(),
            epoch,
            policy: Policy::FirstUpdateWins,
        },
        None,
    );
    let touched = |key: u128| Touched {
        relation: table(),
        key: Some(KeyHash(key)),
        deleted: false,
        version: None,
    };
    let ranked = |stamped: &Stamped, key: u128| {
        let plain = Version::new(stamped.stamp, ME);
        let ranks = stamped.ranks.as_ref().unwrap();
        let version = ranks.version(table(), KeyHash(key), plain);
        (version.rank().epoch, version.rank().height)
    };
    let first = ledger.capture(Lsn(10), Stamp(5), &[touched(7)], &[], &[]);
    assert_eq!(ranked(&first, 7), (epoch, -5));
    // The local WAL is at 30 when a group of B comes: what ends before has not seen it.
    ledger.reaches(Lsn(30));
    let rank = Rank { epoch, height: -4 };
    let vector = Arc::new(Vector::new());
    let group = Intent {
        vector: Some(&vector),
        ..intent(7, version(4, B).ranked(rank), 100, false)
    };
    assert!(announce(&ledger, group).is_some());
    let unseen = ledger.capture(Lsn(20), Stamp(6), &[touched(7)], &[], &[]);
    assert_eq!(ranked(&unseen, 7), (epoch, -5), "of what it replaced");
    let seen = ledger.capture(Lsn(40), Stamp(7), &[touched(7), touched(8)], &[], &[]);
    assert_eq!(ranked(&seen, 7), (epoch, -4));
    assert_eq!(ranked(&seen, 8), (epoch, -seen.stamp.0));
    let entry = ledger.with_index(|index| index.get(table(), KeyHash(7)));
    assert_eq!(entry.map(|e| e.version.stamp), Some(seen.stamp));
}
