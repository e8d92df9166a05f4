use super::*;
use crate::small_disk::SmallDisk;

/// Appends until it is full, shows that nothing is hurt, makes room, and all arrives.
async fn fill_and_go_on(dir: &Path, options: Options) {
    let journal = open(dir, options);
    let mut maker = Maker::default();
    let mut expected = History::default();
    let shape = maker.shape();
    expected.take(shape.clone());
    journal.append(shape).await.unwrap();
    for _ in 0..6000 {
        let frames = maker.transaction(1000);
        expected.take(frames.clone());
        journal.append(frames).await.unwrap();
    }
    wait(|| journal.full().is_some()).await;
    println!("{}", journal.full().unwrap());
    let reached = journal.end();
    assert!(reached > Lsn::ZERO && reached < maker.end);

    // Readers read on, and what they have read can be released.
    let mut reader = journal.reader(Lsn::ZERO).unwrap();
    let mut history = History::default();
    while reader.position() < reached {
        history.take(next(&mut reader).await);
    }
    assert!(
        journal.release(reached, Stamp::MIN).unwrap() > 0,
        "segments small enough to make room"
    );
    while reader.position() < maker.end {
        history.take(next(&mut reader).await);
        journal.release(reader.position(), Stamp::MIN).unwrap();
    }
    assert_eq!(history, expected);
    // Said a moment after the last frame is shown.
    wait(|| journal.full().is_none()).await;
    drop(journal);
    assert_eq!(open(dir, options).end(), maker.end);
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let Some(disk) = SmallDisk::mount(4) else {
        return;
    };
    let options = Options {
        segment_bytes: 256 << 10,
        ..Options::default()
    };
    fill_and_go_on(&disk.path().join("7"), options).await;
}

#[tokio::test]
async fn a_quota_is_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        quota_bytes: Some(2 << 20),
        ..Options::default()
    };
    fill_and_go_on(dir.path(), options).await;
}

/// Half of a large transaction fills the disk. After a restart its space is free again.
#[tokio::test]
async fn a_restart_frees_what_half_a_large_transaction_took() {
    let Some(disk) = SmallDisk::mount(4) else {
        return;
    };
    let dir = disk.path().join("7");
    let options = Options {
        segment_bytes: 256 << 10,
        ..Options::default()
    };
    let journal = open(&dir, options);
    let mut maker = Maker::default();
    journal.append(maker.transaction(100)).await.unwrap();
    for frames in maker.large(80, 100_000) {
        journal.append(frames).await.unwrap();
    }
    wait(|| journal.full().is_some()).await;
    assert!(journal.bytes() > 3 << 20);
    drop(journal);
    let journal = open(&dir, options);
    assert_eq!(journal.end(), maker.end);
    assert!(journal.bytes() < 1 << 20);
    for frames in maker.large(20, 100_000) {
        journal.append(frames).await.unwrap();
    }
    journal.append(maker.finish(20)).await.unwrap();
    durable(&journal, maker.end).await;
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await.transactions.len(), 2);
}

/// The same without a restart: the rest of the old one is queued before what cuts it off, and a shape for which
/// there may be no room any more, wherever in a segment the disk is full.
#[tokio::test]
async fn what_cuts_a_large_transaction_off_is_not_behind_it() {
    const PAGE: usize = 4096;
    let Some(disk) = SmallDisk::mount(1) else {
        return;
    };
    for pages in 0..21 {
        std::fs::write(disk.path().join("other"), vec![1; pages * PAGE]).unwrap();
        let journal = disk.path().join("7");
        fill_and_cut_off(&journal).await;
        std::fs::remove_dir_all(journal).unwrap();
    }
}

async fn fill_and_cut_off(dir: &Path) {
    const PART: usize = 20_000;
    let options = Options {
        segment_bytes: 64 << 10,
        ..Options::default()
    };
    let journal = open(dir, options);
    let mut maker = Maker::default();
    journal.append(maker.transaction(100)).await.unwrap();
    let mut reader = journal.reader(Lsn::ZERO).unwrap();
    let mut history = History::default();
    for (n, frames) in maker.large(80, PART).into_iter().enumerate() {
        journal.append(frames).await.unwrap();
        if n == 60 {
            journal.append(maker.shape()).await.unwrap(); // queued, and must not be dropped
        }
    }
    wait(|| journal.full().is_some()).await;
    while history.unfinished.is_none() {
        history.take(next(&mut reader).await);
    }
    for frames in maker.large(20, PART) {
        journal.append(frames).await.unwrap();
    }
    journal.append(maker.finish(20)).await.unwrap();
    durable(&journal, maker.end).await;
    assert_eq!(journal.full(), None);
    while reader.position() < maker.end {
        history.take(next(&mut reader).await);
    }
    assert_eq!(history.transactions.len(), 2);
    assert_eq!(history.shapes.len(), 1);
    assert_eq!(history, read_to_end(&journal, Lsn::ZERO).await);
}

#[tokio::test]
async fn appends_wait_while_much_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        quota_bytes: Some(1 << 20),
        ..Options::default()
    };
    let journal = open(dir.path(), options);
    let mut maker = Maker::default();
    let mut queued = 0;
    let waited = loop {
        let frames = maker.transaction(1 << 20);
        queued += frames.len();
        let append = journal.append(frames);
        if tokio::time::timeout(Duration::from_millis(100), append)
            .await
            .is_err()
        {
            break queued;
        }
    };
    assert!((16 << 20..64 << 20).contains(&waited), "{waited}");
}
