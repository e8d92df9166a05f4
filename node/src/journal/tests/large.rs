use super::super::Error;
use super::*;

/// A large transaction over several segments, with a shape inside.
async fn append_part(journal: &Journal, maker: &mut Maker, parts: usize, shape: bool) {
    let before = maker.end;
    for (n, frames) in maker.large(parts, 1000).into_iter().enumerate() {
        journal.append(frames).await.unwrap();
        if shape && n == 1 {
            journal.append(maker.shape()).await.unwrap();
        }
    }
    let mut reader = journal.reader(before).unwrap();
    let mut history = History::default();
    while history
        .unfinished
        .as_ref()
        .is_none_or(|(_, got)| got.len() < parts)
    {
        history.take(next(&mut reader).await);
    }
}

#[tokio::test]
async fn a_large_transaction_stretches_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    journal.append(maker.transaction(10)).await.unwrap();
    durable(&journal, maker.end).await;
    let before = maker.end;
    let mut reader = journal.reader(Lsn::ZERO).unwrap();
    let mut history = History::default();
    append_part(&journal, &mut maker, 20, true).await;
    let segments_inside = segments(dir.path()).len();
    assert!(segments_inside > 3);
    assert_eq!(journal.end(), before, "only finished transactions count");
    while history
        .unfinished
        .as_ref()
        .is_none_or(|(_, parts)| parts.len() < 20)
    {
        history.take(next(&mut reader).await);
    }
    assert_eq!(reader.position(), before, "handed out, but not finished");

    // It must stay whole, whatever is released.
    journal.release(Lsn::MAX, Stamp::MIN).unwrap();
    journal.append(maker.finish(20)).await.unwrap();
    durable(&journal, maker.end).await;
    journal.append(maker.transaction(10)).await.unwrap();
    durable(&journal, maker.end).await;
    assert!(segments(dir.path()).len() >= segments_inside);
    let large = Lsn(before.0 + 8);
    journal.release(Lsn(large.0 - 1), Stamp::MIN).unwrap();
    assert_eq!(journal.first(), Lsn::ZERO);
    while reader.position() < maker.end {
        history.take(next(&mut reader).await);
    }
    assert_eq!(history.check(Lsn::ZERO), maker.end);
    assert_eq!(history.transactions[1].1.len(), 20);
    for after in [Lsn::ZERO, before, Lsn(before.0 + 1), large] {
        let read = read_from(&journal, after).await;
        let rest = history
            .transactions
            .iter()
            .filter(|(h, _)| h.position > after);
        assert!(read.transactions.iter().eq(rest), "after {after}");
    }
    assert_eq!(journal.last_header().unwrap().position, maker.end);

    drop(journal);
    let journal = open(dir.path(), small());
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await, history);
    journal.release(large, Stamp::MIN).unwrap();
    assert_eq!(journal.first(), large);
    assert_eq!(read_to_end(&journal, large).await.transactions.len(), 1);
    assert!(matches!(
        journal.reader(before),
        Err(Error::Released { .. })
    ));
}

async fn read_from(journal: &Journal, after: Lsn) -> History {
    let mut reader = journal.reader(after).unwrap();
    let mut history = History::default();
    while reader.position() < journal.end() {
        history.take(next(&mut reader).await);
    }
    history
}

/// One transaction, an unfinished large one that several readers have seen to various extents,
/// then what cuts it off.
async fn cut(parts: usize, shape: bool, by_large: bool) {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), small());
    let mut maker = Maker::default();
    let mut readers = Vec::new();
    readers.push((journal.reader(Lsn::ZERO).unwrap(), History::default()));
    journal.append(maker.transaction(10)).await.unwrap();
    durable(&journal, maker.end).await;
    let mut early = (journal.reader(Lsn::ZERO).unwrap(), History::default());
    early.1.take(next(&mut early.0).await);
    readers.push(early);
    append_part(&journal, &mut maker, parts, shape).await;
    for chunks in 1..5 {
        let mut reader = (journal.reader(Lsn::ZERO).unwrap(), History::default());
        for _ in 0..chunks {
            let got = tokio::time::timeout(Duration::from_millis(50), reader.0.next()).await;
            if let Ok(chunk) = got {
                reader.1.take(chunk.unwrap());
            }
        }
        readers.push(reader);
    }
    let with_part = journal.bytes();

    if by_large {
        for frames in maker.large(2, 100) {
            journal.append(frames).await.unwrap();
        }
        journal.append(maker.finish(2)).await.unwrap();
    } else {
        journal.append(maker.transaction(100)).await.unwrap();
    }
    durable(&journal, maker.end).await;
    assert!(journal.bytes() < with_part, "the space is given back");
    let zeros = on_disk(dir.path()) - journal.bytes();
    assert!(zeros <= small().segment_size(), "{zeros}");
    let expected = read_to_end(&journal, Lsn::ZERO).await;
    assert_eq!(expected.transactions.len(), 2);
    assert_eq!(
        expected.shapes.len(),
        usize::from(shape),
        "shapes outlive the cut"
    );
    for (mut reader, mut history) in readers {
        while reader.position() < journal.end() {
            history.take(next(&mut reader).await);
        }
        assert_eq!(history, expected);
    }
    drop(journal);
    let journal = open(dir.path(), small());
    assert_eq!(read_to_end(&journal, Lsn::ZERO).await, expected);
}

#[tokio::test]
async fn an_unfinished_large_transaction_is_cut_off_by_the_next() {
    for shape in [false, true] {
        for by_large in [false, true] {
            cut(2, shape, by_large).await; // inside one segment
            cut(20, shape, by_large).await;
        }
    }
}

#[tokio::test]
async fn an_unfinished_large_transaction_is_cut_off_by_a_restart() {
    for (parts, shape) in [(2, false), (2, true), (20, false), (20, true)] {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), small());
        let mut maker = Maker::default();
        journal.append(maker.transaction(10)).await.unwrap();
        append_part(&journal, &mut maker, parts, shape).await;
        let before = journal.bytes();
        drop(journal);
        let journal = open(dir.path(), small());
        assert_eq!(journal.end(), maker.end);
        assert!(journal.bytes() < before);
        assert_eq!(journal.shapes().len(), usize::from(shape));
        let part = maker.large(1, 1).pop().unwrap();
        let orphan = journal.append(part).await.unwrap_err();
        assert!(matches!(orphan, Error::Orphan { .. }), "{orphan}");
        for frames in maker.large(20, 1000) {
            journal.append(frames).await.unwrap();
        }
        journal.append(maker.finish(20)).await.unwrap();
        durable(&journal, maker.end).await;
        let history = read_to_end(&journal, Lsn::ZERO).await;
        assert_eq!(history.transactions.len(), 2);
        assert_eq!(journal.last_header().unwrap().changes, 20);
        drop(journal);
        let journal = open(dir.path(), small());
        assert_eq!(read_to_end(&journal, Lsn::ZERO).await, history);
        assert_eq!(journal.last_header().unwrap().changes, 20);
    }
}

/// A crash may come before what was cut off is deleted.
#[tokio::test]
async fn what_was_cut_off_stays_cut_off() {
    for (parts, shape) in [(2, true), (20, true)] {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), small());
        let mut maker = Maker::default();
        journal.append(maker.transaction(10)).await.unwrap();
        append_part(&journal, &mut maker, parts, shape).await;
        let old: Vec<_> = segments(dir.path())
            .into_iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        journal.append(maker.transaction(10)).await.unwrap();
        durable(&journal, maker.end).await;
        let expected = read_to_end(&journal, Lsn::ZERO).await;
        let bytes = journal.bytes();
        drop(journal);
        for (path, content) in old {
            std::fs::write(path, content).unwrap();
        }
        let journal = open(dir.path(), small());
        assert_eq!(read_to_end(&journal, Lsn::ZERO).await, expected);
        assert_eq!(journal.bytes(), bytes);
    }
}
