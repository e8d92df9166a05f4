use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn vector(all: &[(NodeId, u64)]) -> Vector {
    all.iter().map(|&(n, l)| (n, Lsn(l))).collect()
}

#[test]
fn a_node_alone_waits_for_nobody() {
    let mut settled = Settled::new(A, [A]);
    assert_eq!(settled.stable(&vector(&[(A, 7)])), vector(&[(A, 7)]));
}

#[test]
fn stable_is_what_every_other_member_had_before_what_is_still_to_come() {
    let mut settled = Settled::new(A, [A, B, C]);
    let applied = vector(&[(A, 10), (B, 20), (C, 30)]);
    assert_eq!(settled.stable(&applied), vector(&[(A, 0), (B, 0), (C, 0)]));
    settled.replayed(B, &vector(&[(A, 5), (C, 25)]));
    settled.replayed(C, &vector(&[(A, 4), (B, 18)]));
    assert_eq!(
        settled.stable(&applied),
        vector(&[(A, 4), (B, 18), (C, 25)])
    );
    // A node's own position counts as far as it is applied here, and no further.
    let behind = vector(&[(A, 10), (B, 6), (C, 7)]);
    assert_eq!(settled.stable(&behind), vector(&[(A, 4), (B, 6), (C, 7)]));
}

#[test]
fn a_beat_counts_when_its_journal_is_applied_here() {
    let mut settled = Settled::new(A, [A, B]);
    settled.beat(B, Lsn(50), vector(&[(A, 9)]));
    assert_eq!(
        settled.stable(&vector(&[(A, 10), (B, 49)])),
        vector(&[(A, 0), (B, 49)])
    );
    assert_eq!(
        settled.stable(&vector(&[(A, 10), (B, 50)])),
        vector(&[(A, 9), (B, 50)])
    );
}

#[test]
fn journals_go_by_beats_alone() {
    let mut settled = Settled::new(A, [A, B]);
    let applied = vector(&[(A, 10), (B, 50)]);
    settled.replayed(B, &vector(&[(A, 9)]));
    assert_eq!(settled.released(&applied), vector(&[(A, 0), (B, 50)]));
    settled.beat(B, Lsn(50), vector(&[(A, 8)]));
    assert_eq!(settled.released(&applied), vector(&[(A, 8), (B, 50)]));
    assert_eq!(settled.stable(&applied), vector(&[(A, 9), (B, 50)]));
}

#[test]
fn waiting_beats_are_thinned_and_still_count() {
    let mut settled = Settled::new(A, [A, B]);
    for n in 1..=10_000 {
        settled.beat(B, Lsn(n), vector(&[(A, n)]));
    }
    let waiting = &settled.members[&B].waiting;
    assert!(waiting.len() <= WAITING_BEATS);
    assert_eq!(waiting.back().unwrap().0, Lsn(10_000), "the newest stays");
    let half = settled.stable(&vector(&[(A, 10_000), (B, 5_000)])).get(A);
    assert!(half <= Lsn(5_000) && half > Lsn(3_000), "{half}");
    assert_eq!(
        settled.stable(&vector(&[(A, 10_000), (B, 10_000)])).get(A),
        Lsn(10_000)
    );
}

#[test]
fn old_beats_are_void_and_members_change() {
    let mut settled = Settled::new(A, [A, B]);
    settled.beat(B, Lsn(5), vector(&[(A, 5)]));
    settled.beat(B, Lsn(4), vector(&[(A, 9)]));
    settled.beat(C, Lsn(1), vector(&[(A, 9)]));
    let applied = vector(&[(A, 10), (B, 5), (C, 5)]);
    assert_eq!(settled.stable(&applied), vector(&[(A, 5), (B, 5)]));
    settled.set_members([A, B, C]);
    assert_eq!(settled.stable(&applied), vector(&[(A, 0), (B, 0), (C, 0)]));
    settled.set_members([A, B]);
    assert_eq!(settled.stable(&applied).get(A), Lsn(5));
}

#[test]
fn who_is_away_can_be_left_out() {
    let mut settled = Settled::new(A, [A, B, C]);
    let applied = vector(&[(A, 10), (B, 20), (C, 30)]);
    settled.replayed(B, &vector(&[(A, 9), (C, 25)]));
    settled.replayed(C, &vector(&[(A, 2), (B, 18)]));
    let nearly = |settled: &mut Settled, away| settled.stable_without(&applied, away);
    assert_eq!(nearly(&mut settled, 0), settled.stable(&applied));
    assert_eq!(nearly(&mut settled, 1), vector(&[(A, 9), (B, 20), (C, 30)]));
    assert_eq!(nearly(&mut settled, 2), applied);
}
