use std::sync::Arc;

use super::super::Journals;
use super::*;

#[tokio::test]
async fn what_is_appended_is_read_now_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    assert_eq!((journal.end(), journal.first()), (Lsn::ZERO, Lsn::ZERO));
    assert_eq!(journal.last_header(), None);
    let mut maker = Maker::default();
    let mut expected = History::default();
    for n in 0..200 {
        let mut frames = BytesMut::new();
        if n % 9 == 0 {
            frames.extend_from_slice(&maker.shape());
        }
        frames.extend_from_slice(&maker.transaction(n));
        let frames = frames.freeze();
        expected.take(frames.clone());
        journal.append(frames).await.unwrap();
    }
    durable(&journal, maker.end).await;
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await, expected);
    assert!(segments(dir.path()).len() > 5);
    let last = expected
        .transactions
        .last()
        .map(|(header, _)| header.clone());
    assert_eq!(journal.last_header(), last);
    drop(journal);

    let journal = open(dir.path(), small());
    assert_eq!(journal.end(), maker.end);
    assert_eq!(journal.last_header(), last);
    let shapes: BTreeMap<_, _> = journal.shapes().into_iter().collect();
    assert_eq!(shapes, expected.shapes);
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await, expected);
    // From every position: at, before and between transactions.
    for after in (0..=maker.end.0).step_by(3) {
        let read = read_to_end_from(&journal, Lsn(after)).await;
        let rest = expected
            .transactions
            .iter()
            .filter(|(h, _)| h.position.0 > after);
        assert!(read.transactions.iter().eq(rest), "after {after}");
        if !read.transactions.is_empty() {
            assert_eq!(read.shapes, expected.shapes);
        }
    }
    let frames = maker.transaction(5);
    expected.take(frames.clone());
    journal.append(frames).await.unwrap();
    durable(&journal, maker.end).await;
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await, expected);
}

async fn read_to_end_from(journal: &Journal, after: Lsn) -> History {
    let mut reader = journal.reader(after).unwrap();
    let mut history = History::default();
    while reader.position() < journal.end() {
        history.take(next(&mut reader).await);
    }
    history
}

#[tokio::test]
async fn duplicates_are_skipped_and_gaps_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    let shape = maker.shape();
    let first = maker.transaction(10);
    let second = maker.transaction(10);
    let third = maker.transaction(10);

    let gap = journal.append(second.clone()).await.unwrap_err();
    assert!(matches!(gap, Error::Gap { end: Lsn::ZERO, .. }), "{gap}");
    // All or nothing: the first of these is not taken either.
    let both = [shape.clone(), first.clone(), third.clone()].concat();
    assert!(journal.append(both.into()).await.is_err());
    let all = [shape.clone(), first.clone(), shape.clone(), second.clone()].concat();
    journal.append(all.clone().into()).await.unwrap();
    journal.append(all.into()).await.unwrap();
    journal.append(first).await.unwrap();
    journal
        .append([second, third].concat().into())
        .await
        .unwrap();
    durable(&journal, maker.end).await;
    let history = read_to_end(&journal, Lsn::ZERO).await;
    assert_eq!(history.transactions.len(), 3);

    let mut other = BytesMut::new();
    encode_shape(&mut other, 1, b"____another one");
    let changed = journal.append(other.freeze()).await.unwrap_err();
    assert!(
        matches!(changed, Error::ShapeChanged { id: 1, .. }),
        "{changed}"
    );

    let next = maker.transaction(10);
    let torn = journal
        .append(next.slice(..next.len() - 1))
        .await
        .unwrap_err();
    assert!(matches!(torn, Error::NotWhole { .. }), "{torn}");
    let mut flipped = next.to_vec();
    flipped[20] ^= 1;
    let flipped = journal.append(flipped.into()).await.unwrap_err();
    assert!(matches!(flipped, Error::Checksum { .. }), "{flipped}");
    let orphan = maker.large(1, 10).pop().unwrap();
    let orphan = journal.append(orphan).await.unwrap_err();
    assert!(matches!(orphan, Error::Orphan { .. }), "{orphan}");
}

/// Appends so many frames: transactions, and a shape between them.
async fn fill(journal: &Journal, frames: usize) -> (Maker, History) {
    let mut maker = Maker::default();
    let mut expected = History::default();
    for n in 0..frames {
        let frames = if n == 3 {
            maker.shape()
        } else {
            maker.transaction(200)
        };
        expected.take(frames.clone());
        journal.append(frames).await.unwrap();
        durable(journal, maker.end).await;
    }
    (maker, expected)
}

#[tokio::test]
async fn release_deletes_whole_segments_and_readers_survive_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let (maker, expected) = fill(&journal, 100).await;
    let mut inside = journal.reader(Lsn::ZERO).unwrap();
    let first = next(&mut inside).await;
    let before = journal.bytes();
    let middle = expected.transactions[50].0.position;
    let freed = journal.release(middle, Stamp::MIN).unwrap();
    assert!(freed > 4 << 10);
    assert_eq!(journal.bytes(), before - freed);
    assert_eq!(journal.release(middle, Stamp::MIN).unwrap(), 0);
    assert!(journal.first() <= middle && journal.first() > Lsn::ZERO);
    let zeros = on_disk(dir.path()) - journal.bytes();
    assert!(zeros <= small().segment_size(), "{zeros}");

    let gone = journal.reader(Lsn(journal.first().0 - 1)).unwrap_err();
    assert!(matches!(gone, Error::Released { .. }), "{gone}");
    let kept = read_to_end(&journal, journal.first()).await;
    assert_eq!(kept.shapes, expected.shapes, "known to all segments");
    // The reader that is inside of a deleted segment finishes that one, and is told.
    let mut history = History::default();
    history.take(first);
    let lost = loop {
        match inside.next().await {
            Ok(chunk) => history.take(chunk),
            Err(err) => break err,
        }
    };
    assert!(matches!(lost, Error::Released { .. }), "{lost}");
    assert!(history.transactions.len() > 10);
    assert_eq!(
        history.transactions,
        expected.transactions[..history.transactions.len()]
    );

    journal.release(Lsn::MAX, Stamp::MIN).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    drop(journal);
    let journal = open(dir.path(), small());
    assert_eq!(journal.end(), maker.end);
    assert!(journal.last_header().is_some());
    assert_eq!(journal.shapes().len(), 1);
}

#[tokio::test]
async fn what_is_released_is_known_at_the_next_start_although_its_segment_stays() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), Options::default());
    let (maker, expected) = fill(&journal, 20).await;
    let nothing = (Lsn::ZERO, Stamp::MIN);
    assert_eq!(journal.released(), nothing);
    let middle = expected.transactions[9].0.position;
    assert_eq!(
        journal.release(middle, Stamp(70)).unwrap(),
        0,
        "all is in one segment"
    );
    journal.release(Lsn(8), Stamp(80)).unwrap();
    let known = (middle, Stamp(70));
    assert_eq!(journal.released(), known, "it does not go back");
    drop(journal);
    let journal = open(dir.path(), Options::default());
    assert_eq!(journal.released(), known);
    let left = read_to_end(&journal, middle).await;
    assert_eq!(left.transactions, expected.transactions[10..]);
    assert_eq!(left.shapes, expected.shapes);
    let whole = read_to_end(&journal, journal.first()).await;
    assert_eq!(
        whole.transactions, expected.transactions,
        "for peers it is all there"
    );

    journal.release(Lsn::MAX, Stamp(60)).unwrap();
    let all = (maker.end, Stamp(70));
    assert_eq!(
        journal.released(),
        all,
        "never more than there is, nor a lower stamp"
    );
    drop(journal);
    // A note that was torn says nothing.
    let note = dir.path().join("released");
    std::fs::write(&note, &std::fs::read(&note).unwrap()[..19]).unwrap();
    let journal = open(dir.path(), Options::default());
    assert_eq!(journal.released(), (journal.first(), Stamp::MIN));
}

#[tokio::test]
async fn a_journal_can_begin_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    journal.begin(Lsn(1000)).await.unwrap();
    assert_eq!((journal.first(), journal.end()), (Lsn(1000), Lsn(1000)));
    assert!(journal.begin(Lsn(2000)).await.is_err());
    drop(journal);
    let journal = open(dir.path(), small());
    assert_eq!((journal.first(), journal.end()), (Lsn(1000), Lsn(1000)));
    assert!(matches!(
        journal.reader(Lsn(999)),
        Err(Error::Released { .. })
    ));
    let mut maker = Maker {
        end: Lsn(1000),
        ..Maker::default()
    };
    journal.append(maker.transaction(1)).await.unwrap();
    durable(&journal, maker.end).await;
    assert_eq!(read_to_end(&journal, Lsn(1000)).await.transactions.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_follow_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    let mut all = Vec::new();
    let mut expected = History::default();
    for n in 0..3000 {
        let frames = if n % 100 == 0 {
            maker.shape()
        } else {
            maker.transaction(n % 300)
        };
        expected.take(frames.clone());
        all.push(frames);
    }
    let end = maker.end;
    let expected = Arc::new(expected);
    let (seen, mut slowest) = tokio::sync::watch::channel([Lsn::ZERO; 3]);
    let mut tasks = Vec::new();
    for n in 0..3 {
        let (journal, expected, seen) = (journal.clone(), Arc::clone(&expected), seen.clone());
        tasks.push(tokio::spawn(async move {
            let mut reader = journal.reader(Lsn::ZERO).unwrap();
            let mut history = History::default();
            while reader.position() < end {
                history.take(next(&mut reader).await);
                assert!(reader.position() <= journal.end(), "only what is durable");
                seen.send_modify(|seen| seen[n] = reader.position());
            }
            assert_eq!(history, *expected);
        }));
    }
    let releaser = {
        let journal = journal.clone();
        tokio::spawn(async move {
            let mut freed = 0;
            while slowest.changed().await.is_ok() {
                let up_to = *slowest.borrow_and_update().iter().min().unwrap();
                freed += journal.release(up_to, Stamp::MIN).unwrap();
            }
            freed
        })
    };
    drop(seen);
    for (n, frames) in all.into_iter().enumerate() {
        journal.append(frames).await.unwrap();
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(releaser.await.unwrap() > 0);
}

#[tokio::test]
async fn a_reader_learns_that_the_journal_closes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    let mut reader = journal.reader(Lsn::ZERO).unwrap();
    journal.append(maker.transaction(10)).await.unwrap();
    drop(journal);
    // What was queued has been written, and is still handed out.
    next(&mut reader).await;
    assert_eq!(reader.position(), maker.end);
    assert!(matches!(reader.next().await, Err(Error::Closed { .. })));
    assert_eq!(open(dir.path(), small()).end(), maker.end);
}

#[tokio::test]
async fn one_process_has_a_journal_open() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let twice = Journal::open(dir.path(), ORIGIN, small()).unwrap_err();
    assert!(matches!(twice, Error::Locked { .. }), "{twice}");
    drop(journal);
    open(dir.path(), small());
}

#[tokio::test]
async fn a_node_has_a_journal_for_each_origin() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made").join("here");
    let journals = Journals::open(&dir, small()).unwrap();
    assert!(journals.get(ORIGIN).is_none());
    let journal = journals.get_or_open(ORIGIN).unwrap();
    journals.get_or_open(NodeId(9)).unwrap();
    let mut maker = Maker::default();
    journal.append(maker.transaction(1)).await.unwrap();
    durable(&journal, maker.end).await;
    drop(journal);
    drop(journals);
    let journals = patiently(|| Journals::open(&dir, small()));
    assert_eq!(journals.get(ORIGIN).unwrap().end(), maker.end);
    assert_eq!(journals.holds().get(ORIGIN), maker.end);
    let origins: Vec<_> = journals.all().iter().map(Journal::origin).collect();
    assert_eq!(origins, [ORIGIN, NodeId(9)]);
}

#[tokio::test]
async fn zeros_ahead_of_the_tail_are_no_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 20,
        quota_bytes: None,
    };
    let journal = open(dir.path(), options);
    let mut maker = Maker::default();
    let mut expected = History::default();
    for n in 0..100 {
        let frames = maker.transaction(n);
        expected.take(frames.clone());
        journal.append(frames).await.unwrap();
        durable(&journal, maker.end).await;
    }
    assert!(on_disk(dir.path()) > journal.bytes(), "zeros are there");
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await, expected);

    // What a crash leaves has them; opening it takes them away.
    let left = tempfile::tempdir().unwrap();
    for path in std::fs::read_dir(dir.path()).unwrap() {
        let path = path.unwrap().path();
        std::fs::copy(&path, left.path().join(path.file_name().unwrap())).unwrap();
    }
    let again = open(left.path(), options);
    assert_eq!(again.end(), journal.end());
    assert_eq!(on_disk(left.path()), journal.bytes());
    let frames = maker.transaction(1);
    expected.take(frames.clone());
    again.append(frames).await.unwrap();
    durable(&again, maker.end).await;
    assert_eq!(read_to_end(&again, Lsn::ZERO).await, expected);

    // So does closing it.
    let bytes = journal.bytes();
    drop(journal);
    assert_eq!(on_disk(dir.path()), bytes);
}

/// What comes one by one is written by whoever brings it; what is much, or comes while somebody writes, by the
/// thread. A reader sees one history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_rounds_and_large_ones_make_one_history() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 256 << 10,
        ..Options::default()
    };
    let journal = open(dir.path(), options);
    let mut maker = Maker::default();
    let mut expected = History::default();
    let mut all = Vec::new();
    for n in 0..600 {
        let size = if n % 7 == 3 { 50_000 } else { 200 };
        all.push((n % 11 != 0, maker.transaction(size)));
        if n % 50 == 49 {
            let parts = maker.large(3, 20_000);
            all.extend(parts.into_iter().map(|part| (true, part)));
            all.push((false, maker.finish(3)));
        }
        if n % 60 == 59 {
            all.extend(maker.large(2, 1_000).into_iter().map(|part| (true, part)));
        }
    }
    for (_, frames) in &all {
        expected.take(frames.clone());
    }
    let end = maker.end;
    let reading = journal.clone();
    let reader = tokio::spawn(async move {
        let mut reader = reading.reader(Lsn::ZERO).unwrap();
        let mut history = History::default();
        while reader.position() < end {
            history.take(next(&mut reader).await);
        }
        history
    });
    let mut at_once = 0;
    for (n, (alone, frames)) in all.into_iter().enumerate() {
        if n % 5 == 0 && n % 100 < 50 {
            // Nothing is queued, and nobody writes.
            let shared = journal.shared();
            let idle = || shared.state.lock().queue.is_empty();
            wait(|| idle() && journal.handle.writer.try_lock().is_some()).await;
        }
        let before = journal.end();
        if alone {
            journal.append(frames).await.unwrap();
        } else {
            journal.append_with_more(frames).await.unwrap();
        }
        at_once += usize::from(journal.end() > before);
    }
    durable(&journal, end).await;
    assert!(at_once > 0);
    assert_eq!(reader.await.unwrap().transactions, expected.transactions);
    drop(journal);
    let journal = open(dir.path(), options);
    assert_eq!(
        read_to_end(&journal, Lsn::ZERO).await.transactions,
        expected.transactions
    );
}
