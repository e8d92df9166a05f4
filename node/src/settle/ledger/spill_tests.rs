use std::sync::atomic::AtomicI64;
use std::thread;

use everywrite_conflict::{Announced, NodeId, Position, Version};

use super::super::{Coming, Intent, Landed};
use super::*;
use crate::small_disk::SmallDisk;

const ME: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
/// So few keys that every write lets some leave.
const MEMORY: u64 = 10 * KEY_BYTES;

fn table() -> RelationHash {
    RelationHash::new("public", "items")
}

fn key(n: u64) -> KeyHash {
    KeyHash(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n))
}

fn ledger() -> (tempfile::TempDir, Ledger) {
    let place = tempfile::tempdir().unwrap();
    let ledger = ledger_at(place.path());
    (place, ledger)
}

fn ledger_at(place: &Path) -> Ledger {
    let ledger = Ledger::new(ME);
    ledger.spilling(&place.join("spilled"), MEMORY).unwrap()
}

fn files_at(place: &Path) -> usize {
    std::fs::read_dir(place.join("spilled")).unwrap().count()
}

fn spill(ledger: &Ledger) {
    *ledger.spilling.as_ref().unwrap().turn.lock() = None;
    ledger.spill(&[None], Lsn::ZERO, Instant::now());
}

fn version(stamp: u64, origin: NodeId) -> Version {
    Version::new(Stamp(stamp as i64), origin)
}

/// A group of one transaction, whose place and stamp are one number, is announced; what its keys met.
fn announce(
    ledger: &Ledger,
    origin: NodeId,
    at: u64,
    seen: &Vector,
    keys: &[u64],
) -> Vec<Option<Entry>> {
    let position = Position {
        origin,
        lsn: Lsn(at),
    };
    let version = version(at, origin);
    let entry = Entry {
        version,
        source: Some(position),
        deleted: false,
        local_lsn: Lsn::MAX,
    };
    let intents = keys.iter().map(|n| Intent {
        relation: table(),
        key: key(*n),
        entry,
        vector: None,
        seen: Some(seen),
    });
    let coming = Coming {
        origin,
        last: Lsn(at),
        newest: version.stamp,
        merges: false,
        first: Some(First {
            position,
            stamp: version.stamp,
            seen,
        }),
    };
    let announced = ledger.announce(coming, intents, |_, _, _| false, |_| true);
    announced.unwrap().priors
}

fn lands(ledger: &Ledger, origin: NodeId, at: u64, keys: &[u64]) -> Vec<KeyHash> {
    let group = Landed {
        origin,
        last: Lsn(at),
        before: Lsn(at),
        behind: Lsn(at),
        after: Lsn(at),
        generation: 0,
    };
    let keys = keys.iter().map(|n| (table(), key(*n), version(at, origin)));
    ledger.landed(&group, keys, &[], |_, _| false).unwrap()
}

fn write(n: u64, deleted: bool) -> Touched {
    Touched {
        relation: table(),
        key: Some(key(n)),
        deleted,
        version: None,
    }
}

fn vector(all: &[(NodeId, u64)]) -> Vector {
    all.iter().map(|&(n, l)| (n, Lsn(l))).collect()
}

#[test]
fn who_has_not_seen_it_finds_it_and_nobody_else_asks() {
    let (_place, ledger) = ledger();
    let nothing = Vector::new();
    let keys: Vec<u64> = (0..100).collect();
    announce(&ledger, B, 10, &nothing, &keys);
    spill(&ledger);
    assert_eq!(ledger.outside().keys, 0, "what is on its way stays");
    lands(&ledger, B, 10, &keys);
    ledger.captured(Lsn(20));
    spill(&ledger);
    assert_eq!((ledger.outside().keys, ledger.sizes().0), (100, 0));
    // Later ones of its own origin, of one that has seen it, and local ones.
    let met = announce(&ledger, B, 30, &nothing, &[1]);
    assert_eq!(met, [None]);
    lands(&ledger, B, 30, &[1]);
    let met = announce(&ledger, C, 40, &vector(&[(B, 10)]), &[2]);
    assert_eq!(met, [None]);
    lands(&ledger, C, 40, &[2]);
    ledger.capture(Lsn(50), Stamp(50), &[write(3, false)], &[], &[]);
    assert_eq!(ledger.outside().asked, 0);
    // One that has not.
    let met = announce(&ledger, C, 60, &vector(&[(B, 9)]), &[4, 200]);
    assert_eq!(met[0].unwrap().version, version(10, B));
    assert_eq!(met[1], None);
    assert_eq!((ledger.outside().asked, ledger.outside().found), (2, 1));
    assert_eq!(
        ledger.known(table(), key(5)).unwrap().version,
        version(10, B)
    );
    assert_eq!(
        ledger.known(table(), key(4)).unwrap().version,
        version(60, C)
    );
}

/// A server that has lost commits gets them again, and what was read in a file is on its way again.
#[test]
fn what_comes_again_after_a_crash_is_on_its_way_again() {
    let (_place, ledger) = ledger();
    let keys: Vec<u64> = (0..20).collect();
    announce(&ledger, B, 10, &Vector::new(), &keys);
    lands(&ledger, B, 10, &keys);
    spill(&ledger);
    assert_eq!(ledger.sizes().0, 0);
    announce(&ledger, B, 10, &Vector::new(), &keys);
    assert!(ledger.known(table(), key(3)).unwrap().in_flight());
}

/// The local delete came before the row, and is captured behind it.
#[test]
fn a_local_delete_before_a_row_that_is_in_a_file_asks_for_a_second_look() {
    let (_place, ledger) = ledger();
    let keys: Vec<u64> = (0..20).collect();
    announce(&ledger, B, 100, &Vector::new(), &keys);
    lands(&ledger, B, 100, &keys);
    spill(&ledger);
    let stamped = ledger.capture(Lsn(90), Stamp(90), &[write(3, true)], &[], &[]);
    assert_eq!(stamped.repairs.len(), 1);
}

/// Something newer came over a group on its way, and has left memory before that has landed.
#[test]
fn a_group_that_lands_finds_a_delete_that_is_in_a_file() {
    let (_place, ledger) = ledger();
    let keys: Vec<u64> = (0..20).collect();
    announce(&ledger, B, 10, &Vector::new(), &[3]);
    announce(&ledger, C, 20, &vector(&[(B, 10)]), &keys);
    ledger.with_index(|index| {
        let entry = index.row(key(3)).unwrap();
        let entry = Entry {
            deleted: true,
            ..entry
        };
        let said = index.announce(table(), key(3), entry);
        assert_eq!(said, Announced::Newest);
    });
    lands(&ledger, C, 20, &keys);
    spill(&ledger);
    assert_eq!(ledger.sizes().0, 0);
    assert_eq!(lands(&ledger, B, 10, &[3]), [key(3)]);
}

#[test]
fn journals_may_be_read_one_after_the_other() {
    let (_place, ledger) = ledger();
    let put = |origin, at: u64, n| {
        let entry = Entry {
            version: version(at, origin),
            source: Some(Position {
                origin,
                lsn: Lsn(at),
            }),
            deleted: false,
            local_lsn: Lsn(500),
        };
        let one = [(write(n, false), entry)];
        ledger.rebuild(Stamp(at as i64), &Arc::default(), one);
        spill(&ledger);
    };
    (0..100).for_each(|n| put(ME, 100 + n, n));
    (0..100).for_each(|n| put(B, 51 + 2 * n, n));
    assert!(ledger.outside().files > 2);
    ledger.merge_files(|| false);
    for n in 0..100 {
        let newest = version(100 + n, ME).max(version(51 + 2 * n, B));
        assert_eq!(ledger.known(table(), key(n)).unwrap().version, newest);
    }
}

#[test]
fn files_go_when_all_is_stable_and_then_the_rest() {
    let (place, ledger) = ledger();
    let keys: Vec<u64> = (0..100).collect();
    announce(&ledger, B, 10, &Vector::new(), &keys);
    lands(&ledger, B, 10, &keys);
    spill(&ledger);
    announce(&ledger, B, 20, &Vector::new(), &keys);
    lands(&ledger, B, 20, &keys);
    assert_eq!(ledger.forget(&vector(&[(B, 9)]), Lsn(100)), 0);
    assert_eq!(ledger.forget(&vector(&[(B, 20)]), Lsn(9)), 0, "capture");
    ledger.repair_begins();
    assert_eq!(
        ledger.forget(&vector(&[(B, 20)]), Lsn(100)),
        0,
        "a look is due"
    );
    ledger.repaired(1);
    assert_eq!(ledger.forget(&vector(&[(B, 20)]), Lsn(100)), 200);
    assert_eq!((ledger.outside().files, ledger.sizes().0), (0, 0));
    assert_eq!(files_at(place.path()), 0);
}

#[test]
fn a_decision_that_is_taken_back_puts_back_what_was_in_a_file() {
    let (_place, ledger) = ledger();
    let keys: Vec<u64> = (0..20).collect();
    announce(&ledger, B, 10, &Vector::new(), &keys);
    lands(&ledger, B, 10, &keys);
    spill(&ledger);
    let loses = |index: &mut Index| {
        assert!(index.is_here(key(3)));
        Some(vec![(key(3), version(30, C))])
    };
    let lost = ledger.lose(table(), [key(3)].into_iter(), loses).unwrap();
    assert!(ledger.known(table(), key(3)).unwrap().undecided());
    ledger.keep(lost);
    assert_eq!(
        ledger.known(table(), key(3)).unwrap().version,
        version(10, B)
    );
}

/// All keys up to `count` as one group of b wrote them.
fn all_known(ledger: &Ledger, count: u64, at: u64) {
    for n in 0..count {
        let known = ledger.known(table(), key(n)).unwrap();
        assert_eq!(known.version, version(at, B), "{n}");
    }
}

#[test]
fn what_a_full_disk_does_not_take_stays_in_memory_until_there_is_room() {
    const KEYS: u64 = 5_000;
    let Some(disk) = SmallDisk::mount(1) else {
        return;
    };
    let ledger = ledger_at(disk.path());
    let keys: Vec<u64> = (0..KEYS).collect();
    announce(&ledger, B, 10, &Vector::new(), &keys);
    lands(&ledger, B, 10, &keys);
    // No room at all; and room for the begin of a file, in which then the last pages are missing, or those
    // that are written at its end.
    for room in [0, 5, 58] {
        let filler = disk.fill();
        let filled = std::fs::metadata(&filler).unwrap().len();
        let filling = std::fs::OpenOptions::new().write(true).open(&filler);
        filling.unwrap().set_len(filled - room * 4096).unwrap();
        for _ in 0..3 {
            spill(&ledger);
            assert_eq!((ledger.outside().keys, ledger.sizes().0), (0, KEYS));
            assert_eq!(files_at(disk.path()), 0, "what was begun is removed");
        }
        assert!(!ledger.spilling.as_ref().unwrap().writes.due(Instant::now()));
        std::fs::remove_file(filler).unwrap();
        spill(&ledger);
        assert_eq!(ledger.outside().keys, 0, "it is not tried all the time");
        ledger.spilling.as_ref().unwrap().writes.hurry();
    }
    all_known(&ledger, KEYS, 10);
    spill(&ledger);
    assert_eq!((ledger.outside().keys, ledger.sizes().0), (KEYS, 0));
    all_known(&ledger, KEYS, 10);
    // One that begins on a full disk, with an earlier one's files.
    let left = disk.path().join("spilled/00000077.index");
    std::fs::write(left, "left by an earlier run").unwrap();
    drop(ledger);
    disk.fill();
    assert_eq!(ledger_at(disk.path()).outside(), Outside::default());
    assert_eq!(files_at(disk.path()), 0);
}

#[test]
fn files_that_a_full_disk_lets_nobody_merge_are_asked_as_they_are() {
    const KEYS: u64 = 1_000;
    let Some(disk) = SmallDisk::mount(1) else {
        return;
    };
    let ledger = ledger_at(disk.path());
    let keys: Vec<u64> = (0..KEYS).collect();
    for at in 1..=8 {
        announce(&ledger, B, at, &Vector::new(), &keys);
        lands(&ledger, B, at, &keys);
        spill(&ledger);
    }
    let filler = disk.fill();
    assert!(ledger.may_merge());
    ledger.merge_files(|| false);
    // Not again at once: an attempt reads and writes all of them.
    assert!(!ledger.may_merge());
    assert_eq!((ledger.outside().files, files_at(disk.path())), (8, 8));
    all_known(&ledger, KEYS, 8);
    std::fs::remove_file(filler).unwrap();
    ledger.merge_files(|| false);
    assert_eq!(ledger.outside().files, 8);
    ledger.spilling.as_ref().unwrap().merges.hurry();
    ledger.merge_files(|| false);
    assert_eq!((ledger.outside().files, files_at(disk.path())), (1, 1));
    assert_eq!(ledger.outside().keys, KEYS);
    all_known(&ledger, KEYS, 8);
}

/// Nobody ever finds less than there was, whatever leaves memory or is merged meanwhile.
#[test]
fn versions_never_go_back() {
    const KEYS: u64 = 300;
    const ROUNDS: u64 = 400;
    let (_place, ledger) = ledger();
    let stamp = AtomicI64::new(1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stream = |origin: NodeId| {
            let (ledger, stamp) = (&ledger, &stamp);
            move || {
                // As long as it takes until something was let go and asked for, however busy the machine is.
                let found = || ledger.outside().found > 0;
                for round in (0_u64..).take_while(|round| *round < ROUNDS || !found()) {
                    // One number is place and stamp, so groups come in the order of their stamps
                    // or a little late, as on two streams.
                    let at = stamp.fetch_add(1, Ordering::Relaxed) as u64;
                    let keys: Vec<u64> = (0..5).map(|n| (round * 7 + n * 61) % KEYS).collect();
                    let met = announce(ledger, origin, at, &Vector::new(), &keys);
                    for (n, met) in keys.iter().zip(met) {
                        let now = ledger.known(table(), key(*n)).unwrap();
                        assert!(now.version >= version(at, origin));
                        assert!(met.is_none_or(|met| met.version <= now.version));
                    }
                    lands(ledger, origin, at, &keys);
                }
            }
        };
        let streams = [B, C].map(|origin| scope.spawn(stream(origin)));
        let (ledger, done) = (&ledger, &done);
        let spills = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                spill(ledger);
                ledger.merge_files(|| false);
            }
        });
        let looks = scope.spawn(move || {
            let mut newest = vec![None; KEYS as usize];
            while !done.load(Ordering::Relaxed) {
                for n in 0..KEYS {
                    let now = ledger.known(table(), key(n)).map(|e| e.version);
                    let before = std::mem::replace(&mut newest[n as usize], now);
                    assert!(now >= before, "{n}: {now:?} after {before:?}");
                }
            }
        });
        streams.into_iter().for_each(|s| s.join().unwrap());
        done.store(true, Ordering::Relaxed);
        spills.join().unwrap();
        looks.join().unwrap();
    });
    assert!(ledger.outside().found > 0 && ledger.outside().files > 0);
}
