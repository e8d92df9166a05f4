use std::fs;
use std::os::unix::fs::FileExt;

use everywrite_conflict::{Entry, KeyHash, Lsn, NodeId, Position, Stamp, Vector, Version};
use proptest::prelude::*;

use super::page::{PAGES, RECORDS};
use super::*;

fn entry(n: u64) -> Entry {
    Entry {
        version: Version::new(Stamp(n as i64 - 5), NodeId(n as u16 % 7 + 1)),
        source: Some(Position {
            origin: NodeId(n as u16 % 5 + 1),
            lsn: Lsn(n * 3),
        }),
        deleted: n.is_multiple_of(3),
        local_lsn: Lsn(n / 2),
    }
}

fn key(n: u64) -> KeyHash {
    KeyHash(
        u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64
            | u128::from(n.wrapping_mul(0xd134_2543_de82_ef95)),
    )
}

fn folder() -> (tempfile::TempDir, Folder) {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::empty(&place.path().join("spilled")).unwrap();
    (place, folder)
}

fn write(folder: &Folder, level: u32, mut entries: Vec<(KeyHash, Entry)>) -> File {
    entries.sort_by_key(|e| e.0);
    let mut writer = folder.begin(level).unwrap();
    for (key, entry) in entries {
        writer.push(key, entry).unwrap();
    }
    writer.finish().unwrap().unwrap()
}

fn names(folder: &Folder) -> usize {
    fs::read_dir(&folder.path).unwrap().count()
}

#[test]
fn what_was_written_is_found_and_nothing_else() {
    let (_place, folder) = folder();
    // One page, a full one, one more, a filter's pages, many.
    for count in [1, 84, 85, 86, PAGES * RECORDS, PAGES * RECORDS + 1, 20_000] {
        let count = count as u64;
        let file = write(&folder, 0, (0..count).map(|n| (key(n), entry(n))).collect());
        assert_eq!(file.bounds().keys(), count);
        let files = Files::default().with(file);
        let mut found = files
            .find((0..count + 5_000).rev().map(key).collect())
            .unwrap();
        found.sort_by_key(|e| e.0.0 as u64);
        let mut whole: Vec<_> = (0..count).map(|n| (key(n), entry(n))).collect();
        whole.sort_by_key(|e| e.0.0 as u64);
        assert_eq!(found, whole);
    }
    // Files are gone when nobody has them any more.
    assert_eq!(names(&folder), 0);
}

#[test]
fn keys_with_one_high_half_are_found_over_several_pages() {
    let (_place, folder) = folder();
    let key = |n: u64| KeyHash(7 << 64 | u128::from(n) << 32 | u128::from(n));
    let file = write(&folder, 0, (0..500).map(|n| (key(n), entry(n))).collect());
    let files = Files::default().with(file);
    let found = files.find((0..600).map(key).collect()).unwrap();
    assert_eq!(found.len(), 500);
    assert!(
        found
            .iter()
            .enumerate()
            .all(|(n, e)| *e == (key(n as u64), entry(n as u64)))
    );
}

#[test]
fn a_filter_keeps_most_other_keys_away() {
    let (_place, folder) = folder();
    let file = write(
        &folder,
        0,
        (0..20_000).map(|n| (key(n), entry(n))).collect(),
    );
    let mut through = 0;
    for page in 0..20_000_usize.div_ceil(RECORDS) {
        let entries: Vec<_> = file.entries().skip(page * RECORDS).take(1).collect();
        through += entries.len();
    }
    assert_eq!(through, 236, "one for each page");
    let keys: Vec<KeyHash> = (0..3230).map(key).collect();
    let filter = page::filter(keys.iter());
    let wrong = (1_000_000..1_100_000).filter(|n| page::may_have(&filter, key(*n)));
    let wrong = wrong.count();
    assert!(wrong < 2_500, "{wrong} of 100,000");
    assert!(keys.iter().all(|k| page::may_have(&filter, *k)));
}

#[test]
fn a_newer_file_hides_an_older_one_and_merging_keeps_that() {
    let (_place, folder) = folder();
    let mut files = Files::default();
    for round in 0..8 {
        let keys = (0..1_000).filter(|n| (n + round) % 3 != 0);
        let entries = keys
            .map(|n| (key(n), entry(n + 10_000 * (round + 1))))
            .collect();
        files = files.with(write(&folder, 0, entries));
    }
    let all: Vec<KeyHash> = (0..1_100).map(key).collect();
    let mut before = files.find(all.clone()).unwrap();
    before.sort_by_key(|e| e.0);
    assert_eq!(before.len(), 1_000);
    let run = files.to_merge().unwrap();
    let none = run.merge(|level| folder.begin(level), || true).unwrap();
    // Too short to be stopped.
    assert!(none.is_some());
    let merged = run
        .merge(|level| folder.begin(level), || false)
        .unwrap()
        .unwrap();
    files = files.replaced(&run, merged).unwrap();
    assert_eq!(files.sizes().0, 1);
    assert!(files.to_merge().is_none());
    let mut after = files.find(all).unwrap();
    after.sort_by_key(|e| e.0);
    assert_eq!(before, after);
    drop((run, none));
    assert_eq!(names(&folder), 1);
}

#[test]
fn neighbours_of_one_level_are_merged_and_no_others() {
    let (_place, folder) = folder();
    let mut files = Files::default();
    for level in [2, 1, 1, 0, 0, 0, 0, 0, 0, 0] {
        files = files.with(write(&folder, level, vec![(key(1), entry(9))]));
        assert!(files.to_merge().is_none());
    }
    files = files.with(write(&folder, 0, vec![(key(1), entry(9))]));
    let run = files.to_merge().unwrap();
    assert_eq!(run.sizes().0, 8);
    let merged = run
        .merge(|level| folder.begin(level), || false)
        .unwrap()
        .unwrap();
    assert_eq!(merged.level(), 1);
    // Had one of them been forgotten meanwhile, the merged one would be put nowhere.
    let stable: Vector = (1..8).map(|n| (NodeId(n), Lsn::MAX)).collect();
    let forgotten = files.without_stable(&stable, Lsn::MAX).unwrap();
    assert_eq!(forgotten.sizes().0, 0);
    assert!(forgotten.bounds().is_none());
    let other = write(&folder, 1, vec![(key(1), entry(9))]);
    assert!(forgotten.replaced(&run, other).is_none());
    assert_eq!(files.replaced(&run, merged).unwrap().sizes().0, 4);
}

#[test]
fn files_are_forgotten_oldest_first() {
    let (_place, folder) = folder();
    let late = Entry {
        local_lsn: Lsn(1_000),
        ..entry(3)
    };
    let files = Files::default()
        .with(write(&folder, 0, vec![(key(1), late)]))
        .with(write(&folder, 0, vec![(key(1), entry(5))]));
    let stable: Vector = (1..8).map(|n| (NodeId(n), Lsn(100))).collect();
    assert!(
        files.without_stable(&stable, Lsn(999)).is_none(),
        "the first one hides behind the second"
    );
    assert_eq!(
        files.without_stable(&stable, Lsn(1_000)).unwrap().sizes().0,
        0
    );
}

#[test]
fn a_damaged_page_is_noticed() {
    let (_place, folder) = folder();
    let file = write(&folder, 0, (0..1_000).map(|n| (key(n), entry(n))).collect());
    let path = fs::read_dir(&folder.path)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let files = Files::default().with(file);
    let damage = fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(path)
        .unwrap();
    for at in [4096 + 7, 2 * 4096 + 100] {
        let mut byte = [0];
        damage.read_exact_at(&mut byte, at).unwrap();
        damage.write_all_at(&[byte[0] ^ 4], at).unwrap();
        assert!(files.find((0..1_000).map(key).collect()).is_err());
        let failed = files.merge(|level| folder.begin(level), || false);
        // A filter is not read where all is.
        assert_eq!(matches!(failed, Err(Failed::Read(_))), at > 8192);
        drop(failed);
        damage.write_all_at(&byte, at).unwrap();
        assert!(files.find((0..1_000).map(key).collect()).is_ok());
    }
    // Cut short.
    damage.set_len(3 * 4096).unwrap();
    assert!(files.find((0..1_000).map(key).collect()).is_err());
}

#[test]
fn what_a_run_has_left_is_removed() {
    let (place, folder) = folder();
    let path = place.path().join("spilled");
    let mut writer = folder.begin(0).unwrap();
    writer.push(key(1), entry(1)).unwrap();
    std::mem::forget(writer);
    assert_eq!(names(&folder), 1);
    let folder = Folder::empty(&path).unwrap();
    assert_eq!(names(&folder), 0);
    // One that is given up leaves nothing.
    let mut writer = folder.begin(0).unwrap();
    writer.push(key(1), entry(1)).unwrap();
    drop(writer);
    assert_eq!(names(&folder), 0);
    assert!(folder.begin(0).unwrap().finish().unwrap().is_none());
    assert_eq!(names(&folder), 0);
}

proptest! {
    #[test]
    fn records_come_back(stamp in any::<i64>(), origin in 1..=u16::MAX, source in any::<Option<(u16, u64)>>(), deleted: bool, local: u64, key: u128) {
        let entry = Entry {
            version: Version::new(Stamp(stamp), NodeId(origin)),
            source: source.filter(|s| s.0 != 0).map(|(origin, lsn)| Position { origin: NodeId(origin), lsn: Lsn(lsn) }),
            deleted,
            local_lsn: Lsn(local),
        };
        let page = page::records(&[(KeyHash(key), entry)]);
        prop_assert_eq!(page::entries(&page).collect::<Vec<_>>(), vec![(KeyHash(key), entry)]);
        prop_assert_eq!(page::find(&page, KeyHash(key)), Some(entry));
        prop_assert_eq!(page::find(&page, KeyHash(key ^ 1)), None);
    }
}
