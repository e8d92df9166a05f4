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
        seen: None,
    }
}

fn coming(origin: NodeId, last: Lsn, newest: Stamp) -> Coming<'static> {
    Coming {
        origin,
        last,
        newest,
        merges: false,
        first: None,
    }
}

fn announce(ledger: &Ledger, intent: Intent<'_>) -> Option<Announcement> {
    let Version { stamp, origin, .. } = intent.entry.version;
    let last = intent.entry.source.unwrap().lsn;
    let one = std::iter::once(intent);
    ledger.announce(coming(origin, last, stamp), one, |_, _, _| false, |_| false)
}

/// Announces what the index finds nothing against.
fn announce_blindly(ledger: &Ledger, intent: Intent<'_>) -> Announcement {
    let Version { stamp, origin, .. } = intent.entry.version;
    let last = intent.entry.source.unwrap().lsn;
    let one = std::iter::once(intent);
    let announced = ledger.announce(coming(origin, last, stamp), one, |_, _, _| false, |_| true);
    announced.unwrap()
}

fn touched(key: Option<u128>, deleted: bool) -> Touched {
    Touched {
        relation: table(),
        key: key.map(KeyHash),
        deleted,
        version: None,
    }
}

fn landed(ledger: &Ledger, intent: Intent<'_>, generation: u64) -> Option<Vec<KeyHash>> {
    let group = Landed {
        generation,
        ..alone(&intent)
    };
    lands_in(ledger, &group, intent, false)
}

/// Its group, which has landed.
fn alone(intent: &Intent<'_>) -> Landed {
    Landed {
        origin: intent.entry.version.origin,
        last: intent.entry.source.unwrap().lsn,
        before: Lsn(1000),
        behind: Lsn(1000),
        after: Lsn(1001),
        generation: 0,
    }
}

/// `kept`: it was decided against.
fn lands_in(
    ledger: &Ledger,
    group: &Landed,
    intent: Intent<'_>,
    kept: bool,
) -> Option<Vec<KeyHash>> {
    let key = (intent.relation, intent.key, intent.entry.version);
    ledger.landed(group, [key].into_iter(), &[], |_, _| kept)
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

/// The third one's row would be taken for one that the blind group's writer knew.
#[test]
fn a_group_on_its_way_is_not_passed_behind_a_local_write() {
    for write in [touched(Some(7), false), touched(None, true)] {
        let ledger = Ledger::new(ME);
        assert!(announce_blindly(&ledger, intent(7, version(10, B), 100, false)).fast);
        ledger.capture(Lsn(50), Stamp(20), &[write], &[], &[]);
        let other_row = intent(8, version(29, B), 190, false);
        assert!(
            announce_blindly(&ledger, other_row).fast,
            "of the same origin"
        );
        let newer = announce_blindly(&ledger, intent(7, version(30, C), 200, false));
        let prior = newer.priors[0].unwrap();
        assert_eq!(prior.version.origin, ME, "what the index names");
        assert!(!newer.fast);
        assert_eq!(newer.blind_before.get(B), Lsn(190), "what it waits for");
        ledger.sighted(B, Lsn(190));
        let later = intent(7, version(31, C), 210, false);
        assert!(announce_blindly(&ledger, later).fast);
    }
}

#[test]
fn a_group_on_its_way_is_not_passed_behind_a_decided_delete() {
    let ledger = Ledger::new(ME);
    let group = intent(7, version(10, B), 100, false);
    assert!(announce_blindly(&ledger, group).fast);
    let decide = |_: &mut Index| Some(vec![(KeyHash(7), version(20, B))]);
    let lost = ledger.lose(table(), std::iter::empty(), decide).unwrap();
    ledger.lost(&lost);
    ledger.with_index(|index| index.landed(table(), KeyHash(7), version(20, B), Lsn(40)));
    let newer = intent(7, version(30, C), 200, false);
    assert!(!announce_blindly(&ledger, newer).fast);
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
    let lost = ledger.lose(table(), std::iter::empty(), decide).unwrap();
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
    let lost = ledger.lose(table(), std::iter::empty(), decide).unwrap();
    let touched = touched(Some(7), false);
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
    ledger.flushed_is(&applied, Lsn(0));
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
    let touched = |key: u128| touched(Some(key), false);
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

/// The transaction that sets the policy comes behind writes that have its rank already. What is written over
/// such a row stands above it.
#[test]
fn a_rank_is_inherited_before_its_policy_has_come() {
    use everywrite_conflict::policy::{Epoch, Rank};

    let epoch = Epoch {
        number: 1,
        origin: B,
    };
    let rank = Rank { epoch, height: -4 };
    let ledger = Ledger::new(ME);
    let vector = Arc::new(Vector::new());
    let group = Intent {
        vector: Some(&vector),
        ..intent(7, version(4, B).ranked(rank), 100, false)
    };
    announce(&ledger, group).unwrap();
    assert_eq!(landed(&ledger, group, 0), Some(vec![]));
    let touched = [touched(Some(7), false), touched(Some(8), false)];
    let stamped = ledger.capture(Lsn(1100), Stamp(50), &touched, &[], &[]);
    let ranks = stamped.ranks.as_ref().unwrap();
    let plain = Version::new(stamped.stamp, ME);
    assert_eq!(ranks.version(table(), KeyHash(7), plain).rank(), rank);
    assert_eq!(ranks.version(table(), KeyHash(8), plain), plain);
    let entry = ledger.with_index(|index| index.get(table(), KeyHash(7)));
    assert_eq!(entry.map(|e| e.version), Some(plain.ranked(rank)));
}

fn after_b(asked: &Ledger, progress: u64) -> bool {
    let asked_now = asked.asks();
    asked.reconcile(&asked_now, &[(B, Lsn(progress))].into_iter().collect())
}

/// The server was killed and has forgotten a group of B. It is applied again and a local transaction sees
/// it, before somebody reads an answer that the server gave when the group was not back yet.
#[test]
fn an_answer_from_before_a_group_came_back_takes_nothing_from_it() {
    let ledger = Ledger::new(ME);
    let group = intent(7, version(10, B), 100, false);
    announce(&ledger, group).unwrap();
    assert_eq!(landed(&ledger, group, 0), Some(vec![]));
    let early = ledger.asks();
    assert!(after_b(&ledger, 50), "the stream of B notices first");
    ledger.begins_at(Lsn(900));
    ledger.applied_is(B, Lsn(50));
    announce(&ledger, group).unwrap();
    assert_eq!(landed(&ledger, group, 1), Some(vec![]));
    let progress = [(B, Lsn(50))].into_iter().collect();
    assert!(!ledger.reconcile(&early, &progress), "too old");
    assert_eq!(ledger.applied().get(B), Lsn(100));
    let stamped = ledger.capture(Lsn(1100), Stamp(500), &[], &[], &[]);
    assert_eq!(stamped.vector.get(B), Lsn(100));
    assert_eq!(stamped.seen.get(B), Lsn(100));
}

/// The same where only the stream of B has noticed: what the group had left behind before the crash says
/// nothing of its second time.
#[test]
fn a_group_that_comes_again_is_not_seen_before_it_is_back() {
    let ledger = Ledger::new(ME);
    let group = intent(7, version(10, B), 100, false);
    announce(&ledger, group).unwrap();
    assert_eq!(landed(&ledger, group, 0), Some(vec![]));
    ledger.begins_at(Lsn(900));
    ledger.applied_is(B, Lsn(50));
    announce(&ledger, group).unwrap();
    let stamped = ledger.capture(Lsn(1100), Stamp(500), &[], &[], &[]);
    assert_eq!(stamped.seen.get(B), Lsn::ZERO);
    // What a session of before the crash had read of the WAL is no place any more.
    ledger.broke(0);
    ledger.commits_after(B, Lsn(100), Lsn(5000), 0);
    assert_eq!(ledger.reached(), Lsn(1001).min(Lsn(900)));
}

fn lands(ledger: &Ledger, intent: Intent<'_>, behind: u64, (before, after): (u64, u64)) {
    let group = Landed {
        before: Lsn(before),
        behind: Lsn(behind),
        after: Lsn(after),
        ..alone(&intent)
    };
    assert!(lands_in(ledger, &group, intent, false).is_some());
}

/// Capture is behind: it meets a transaction that came between two groups when both have landed.
#[test]
fn a_group_that_has_landed_is_not_put_off_by_the_next_one() {
    let ledger = Ledger::new(ME);
    let first = intent(7, version(10, B), 100, false);
    announce(&ledger, first).unwrap();
    lands(&ledger, first, 1000, (1000, 1010));
    let second = intent(8, version(20, B), 200, false);
    announce(&ledger, second).unwrap();
    ledger.commits_after(B, Lsn(200), Lsn(2000), 0);
    lands(&ledger, second, 2010, (2010, 2020));
    let between = ledger.capture(Lsn(1500), Stamp(5), &[], &[], &[]);
    assert_eq!(between.vector.get(B), Lsn(100));
    assert_eq!(between.seen.get(B), Lsn(100));
    assert!(between.stamp > Stamp(10) && between.stamp < Stamp(20));
}

/// The answer to a group is lost with its session, and a new one finds it committed: perhaps a while ago.
#[test]
fn a_group_whose_answer_is_lost_may_have_been_seen_since() {
    let ledger = Ledger::new(ME);
    ledger.reaches(Lsn(900));
    let group = intent(7, version(10, B), 100, false);
    announce(&ledger, group).unwrap();
    ledger.begins_at(Lsn(2000));
    lands(&ledger, group, 0, (2000, 2000));
    let since = ledger.capture(Lsn(1500), Stamp(5), &[], &[], &[]);
    assert_eq!(since.vector.get(B), Lsn(100));
    assert!(since.stamp > Stamp(10));
}

/// Where rows are merged, what is captured waits for the answer to a commit that is out, and for nothing else.
#[tokio::test]
async fn capture_knows_what_came_before() {
    use futures_util::FutureExt as _;

    let ledger = Ledger::new(ME);
    let group = intent(7, version(10, B), 100, false);
    let coming = Coming {
        merges: true,
        ..coming(B, Lsn(100), Stamp(10))
    };
    let one = std::iter::once(group);
    ledger
        .announce(coming, one, |_, _, _| false, |_| false)
        .unwrap();
    // It comes behind what is captured by now.
    assert!(ledger.knows_before(Lsn(500)));
    assert_eq!(ledger.unanswered(), None);
    ledger.commits(B, Lsn(100));
    assert!(ledger.knows_before(Lsn(500)));
    assert!(ledger.know_before(Lsn(600)).now_or_never().is_none());
    let (origin, lsn) = (B, Lsn(100));
    assert_eq!(ledger.unanswered(), Some(Position { origin, lsn }));
    // It was refused, and is sent again.
    ledger.commits_not(B, Lsn(100));
    ledger.know_before(Lsn(600)).await;
    ledger.commits(B, Lsn(100));
    assert!(!ledger.knows_before(Lsn(700)));
    lands(&ledger, group, 650, (650, 660));
    ledger.know_before(Lsn(700)).await;
    assert_eq!(ledger.unanswered(), None);
    let earlier = ledger.capture(Lsn(600), Stamp(5), &[], &[], &[]);
    assert_eq!(earlier.vector.get(B), Lsn::ZERO);
    let later = ledger.capture(Lsn(700), Stamp(5), &[], &[], &[]);
    assert_eq!(later.vector.get(B), Lsn(100));
}

/// The server says how far capture is while a commit is out: that names nothing that may still fail.
#[test]
fn how_far_capture_is_names_no_commit_without_an_answer() {
    let ledger = Ledger::new(ME);
    let group = intent(7, version(10, B), 100, true);
    let coming = Coming {
        merges: true,
        ..coming(B, Lsn(100), Stamp(10))
    };
    let one = std::iter::once(group);
    ledger
        .announce(coming, one, |_, _, _| false, |_| false)
        .unwrap();
    ledger.commits(B, Lsn(100));
    ledger.captured(Lsn(500));
    // The session is lost, and the commit with it; then the row is updated here, and the group comes again.
    ledger.commits_not(B, Lsn(100));
    assert!(ledger.knows_before(Lsn(600)));
    let update = Merged {
        relation: table(),
        key: KeyHash(7),
        epoch: Epoch::default(),
        columns: Vec::new(),
    };
    let update = ledger.capture(Lsn(600), Stamp(5), &[], &[], &[update]);
    assert_eq!(update.vector.get(B), Lsn::ZERO, "it had not seen the group");
    ledger.commits(B, Lsn(100));
    lands(&ledger, group, 650, (650, 660));
    ledger.captured(Lsn(700));
    let later = ledger.capture(Lsn(800), Stamp(5), &[], &[], &[]);
    assert_eq!(later.vector.get(B), Lsn(100));
}

/// A second look has locked a row and waits for capture; a group that was sent without a look waits for the row.
#[test]
fn what_was_sent_before_a_policy_is_not_waited_for() {
    use everywrite_conflict::policy::{Policy, Setting};

    let ledger = Ledger::new(ME);
    announce_blindly(&ledger, intent(7, version(10, B), 100, false));
    ledger.commits(B, Lsn(100));
    let setting = Setting {
        relation: table(),
        epoch: Epoch {
            number: 1,
            origin: C,
        },
        policy: Policy::ColumnWise {
            merges: Vec::new(),
            floors: Vec::new(),
        },
    };
    ledger.set_policy(setting, Some([(C, Lsn(50))].into_iter().collect()));
    assert!(ledger.any_merging() && ledger.knows_before(Lsn(500)));
}

fn merge_columns(ledger: &Ledger) -> Epoch {
    use everywrite_conflict::policy::{Policy, Setting};

    let epoch = Epoch {
        number: 1,
        origin: C,
    };
    let setting = Setting {
        relation: table(),
        epoch,
        policy: Policy::ColumnWise {
            merges: Vec::new(),
            floors: Vec::new(),
        },
    };
    ledger.set_policy(setting, None);
    epoch
}

/// A second look takes such a row away if nothing newer stands, and the other sites would bring it back.
#[test]
fn an_update_of_a_row_that_came_back_behind_its_delete_is_a_row_event() {
    let ledger = Ledger::new(ME);
    let epoch = merge_columns(&ledger);
    let update = [Merged {
        relation: table(),
        key: KeyHash(7),
        epoch,
        columns: Vec::new(),
    }];
    let (written, deleted) = (touched(Some(7), false), touched(Some(7), true));
    let older = intent(7, version(10, B), 100, false);
    announce(&ledger, older).unwrap();
    ledger.capture(Lsn(500), Stamp(20), &[written], &[], &[]);
    assert!(!ledger.brings_back(Lsn(505), &[], &update));
    ledger.capture(Lsn(510), Stamp(21), &[deleted], &[], &[]);
    landed(&ledger, older, 0);
    assert!(ledger.brings_back(Lsn(1500), &[], &update));
    assert!(
        !ledger.brings_back(Lsn(1500), &[written], &update),
        "of a new row"
    );
    ledger.capture(Lsn(1500), Stamp(22), &[written], &[], &[]);
    let entry = ledger.known(table(), KeyHash(7));
    assert!(entry.is_some_and(|e| !e.deleted), "it stays");
    assert!(!ledger.brings_back(Lsn(1600), &[], &update));
    // A delete that the update has not seen wins as ever.
    ledger.reaches(Lsn(1700));
    announce(&ledger, intent(7, version(50, C), 200, true)).unwrap();
    assert!(!ledger.brings_back(Lsn(1650), &[], &update));
}

/// Capture meets an insert and a delete that came before a replayed row which is older than both: the insert's
/// entry takes the place of the replayed one's.
#[test]
fn a_row_that_landed_behind_an_insert_and_its_delete_is_looked_at_again() {
    use everywrite_conflict::policy::Rank;

    let vector = Arc::new(Vector::new());
    let (written, deleted) = (touched(Some(7), false), touched(Some(7), true));
    for ranked in [false, true] {
        let ledger = || {
            let ledger = Ledger::new(ME);
            let epoch = ranked.then(|| merge_columns(&ledger));
            let rank = epoch.map_or(Rank::NONE, |epoch| Rank { epoch, height: 0 });
            let mut older = intent(7, version(10, B).ranked(rank), 100, false);
            older.vector = ranked.then_some(&vector);
            (ledger, older)
        };
        let looks = |ledger: &Ledger, lsn| {
            let stamped = ledger.capture(Lsn(lsn), Stamp(21), &[deleted], &[], &[]);
            stamped.repairs.len()
        };
        // All of it is captured when the row has landed, or the answer comes in between.
        for captured in [true, false] {
            for (delete, expected) in [(510, 1), (1500, 0)] {
                let (ledger, older) = ledger();
                announce(&ledger, older).unwrap();
                let insert = || ledger.capture(Lsn(500), Stamp(20), &[written], &[], &[]);
                if !captured {
                    insert();
                }
                assert_eq!(landed(&ledger, older, 0), Some(vec![]));
                if captured {
                    insert();
                }
                assert_eq!(looks(&ledger, delete), expected, "{ranked} {captured}");
            }
        }
        // Or the daemon has started in between.
        let (ledger, older) = ledger();
        let entry = |version, origin, lsn, local_lsn| {
            let lsn = Lsn(lsn);
            let entry = Entry {
                version,
                source: Some(Position { origin, lsn }),
                deleted: false,
                local_lsn: Lsn(local_lsn),
            };
            [(written, entry)]
        };
        let rank = older.entry.version.rank();
        let own = entry(version(20, ME).ranked(rank), ME, 500, 1000);
        ledger.rebuild(Stamp(20), &vector, own);
        let theirs = entry(older.entry.version, B, 100, 1000);
        ledger.rebuild(Stamp(20), &vector, theirs);
        assert_eq!(looks(&ledger, 510), 1, "{ranked}, at start");
    }

    // A TRUNCATE stands between the two in the index, with the insert captured or folded into the delete.
    for inserted in [true, false] {
        for late in [true, false] {
            let ledger = Ledger::new(ME);
            let older = intent(7, version(10, B), 100, false);
            announce(&ledger, older).unwrap();
            let lands = || assert!(landed(&ledger, older, 0).is_some());
            if !late {
                lands();
            }
            ledger.capture(Lsn(500), Stamp(20), &[touched(None, true)], &[], &[]);
            if late {
                lands();
            }
            if inserted {
                ledger.capture(Lsn(505), Stamp(21), &[written], &[], &[]);
            }
            let stamped = ledger.capture(Lsn(510), Stamp(22), &[deleted], &[], &[]);
            assert_eq!(stamped.repairs.len(), 1, "{inserted} {late}");
        }
    }
}

#[test]
fn where_older_rows_have_landed_is_forgotten_when_capture_has_passed() {
    let ledger = Ledger::new(ME);
    let older = intent(7, version(10, B), 100, false);
    announce(&ledger, older).unwrap();
    ledger.capture(Lsn(500), Stamp(20), &[touched(Some(7), false)], &[], &[]);
    landed(&ledger, older, 0).unwrap();
    let kept = || ledger.inner.lock().overtaken.len();
    ledger.captured(Lsn(999));
    assert_eq!(kept(), 1);
    ledger.captured(Lsn(1000));
    assert_eq!(kept(), 0);
    // Not even kept if capture is there before the answer.
    let older = intent(8, version(11, B), 200, false);
    announce(&ledger, older).unwrap();
    ledger.capture(Lsn(990), Stamp(20), &[touched(Some(8), false)], &[], &[]);
    landed(&ledger, older, 0).unwrap();
    assert_eq!(kept(), 0);
}

#[test]
fn what_has_landed_behind_a_local_truncate_is_known_after_a_restart() {
    let entry = |version, origin, lsn, deleted| {
        let lsn = Lsn(lsn);
        Entry {
            version,
            source: Some(Position { origin, lsn }),
            deleted,
            local_lsn: Lsn(1000),
        }
    };
    let (ledger, vector) = (Ledger::new(ME), Arc::default());
    let truncate = entry(version(20, ME), ME, 500, true);
    ledger.rebuild(Stamp(20), &vector, [(touched(None, true), truncate)]);
    let behind = || ledger.with_index(|i| i.behind_truncate(KeyHash(7), truncate.version));
    assert!(!behind());
    let row = entry(version(10, B), B, 100, false);
    ledger.rebuild(Stamp(10), &vector, [(touched(Some(7), false), row)]);
    assert!(behind());
    assert_eq!(ledger.known(table(), KeyHash(7)), Some(truncate));
}

#[test]
fn a_row_is_none_to_take_from_while_a_write_of_it_is_left_out() {
    let ledger = Ledger::new(ME);
    let older = intent(7, version(10, B), 100, false);
    let newer = intent(7, version(20, C), 200, false);
    announce(&ledger, newer).unwrap();
    announce(&ledger, older).unwrap();
    let lands = |intent: Intent<'_>, kept: bool| {
        lands_in(&ledger, &alone(&intent), intent, kept).unwrap();
        ledger.left_out([KeyHash(7)].into_iter()).len()
    };
    assert_eq!(lands(older, true), 1);
    assert_eq!(lands(newer, false), 0);
}

/// Capture, a group that lands and a barrier that is met, each in a thread of its own, as they meet on a machine with
/// three processors.
#[test]
fn three_threads_do_not_wait_for_each_other() {
    const TIMES: u64 = 50_000;
    let ledger = &Ledger::new(ME);
    let row = intent(7, version(10, B), 100, false);
    let delete = intent(7, version(20, C), 200, true);
    announce(ledger, row).unwrap();
    announce(ledger, delete).unwrap();
    landed(ledger, delete, 0).unwrap();
    let capture = || {
        for n in 0..TIMES {
            ledger.captured(Lsn(n));
            ledger.barrier(n);
        }
    };
    let group = || {
        for _ in 0..TIMES {
            landed(ledger, row, 0).unwrap();
        }
    };
    let barrier = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let mut captured = ledger.watch_captured();
            for n in 0..TIMES {
                assert!(crate::settle::barriers::meets(&mut captured, 0).await);
                ledger.flushed_is(&Vector::new(), Lsn(n));
            }
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(capture);
        scope.spawn(group);
        scope.spawn(barrier);
    });
}

/// A row of this site that a group on its way has removed stands there again when a crash takes that group back: it has to be
/// found once more, and recorded.
#[test]
fn a_row_that_a_crash_puts_back_is_beneath_again() {
    for flushed in [false, true] {
        let ledger = Ledger::new(ME);
        let row = intent(7, version(1_000_000, C), 200, false);
        ledger.reaches(Lsn(950));
        announce(&ledger, row).unwrap();
        let written = [touched(Some(7), false)];
        ledger.capture(Lsn(900), Stamp(10), &written, &[], &[]);
        ledger.captured(Lsn(900));
        let beneath = |ledger: &Ledger| ledger.beneath(table()).contains_key(&KeyHash(7));
        assert!(beneath(&ledger));
        landed(&ledger, row, 0).unwrap();
        assert!(!beneath(&ledger));
        if flushed {
            ledger.flushed_is(&[(C, Lsn(200))].into_iter().collect(), Lsn(1_002));
        }
        let asked = ledger.asks();
        assert!(ledger.reconcile(&asked, &Vector::new()));
        assert_eq!(beneath(&ledger), !flushed);
        if !flushed {
            assert!(!announce_blindly(&ledger, row).fast);
            landed(&ledger, row, 1).unwrap();
            assert!(!beneath(&ledger));
        }
    }
}
