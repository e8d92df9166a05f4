use std::time::Instant;

use super::*;

/// `cargo test --release -p everywrite-node --lib -- --ignored --nocapture journal::tests::throughput`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; it prints figures and checks nothing"]
async fn figures() {
    for (name, size, total, waiters) in [
        ("1 at a time, 300 B", 300, 2_000, 1),
        ("16 at a time, 300 B", 300, 30_000, 16),
        ("256 at a time, 300 B", 300, 200_000, 256),
        ("unbounded, 300 B", 300, 1_000_000, usize::MAX),
        ("unbounded, 8 KiB", 8 << 10, 100_000, usize::MAX),
        ("unbounded, 256 KiB", 256 << 10, 4_000, usize::MAX),
    ] {
        let dir = tempfile::tempdir_in(
            std::env::var("EVERYWRITE_TEST_DISK").unwrap_or_else(|_| "/var/tmp".into()),
        )
        .unwrap();
        let journal = open(dir.path(), Options::default());
        let mut maker = Maker::default();
        let frames: Vec<Bytes> = (0..total).map(|_| maker.transaction(size)).collect();
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        let mut end = journal.subscribe();
        let syncs = {
            let mut end = journal.subscribe();
            tokio::spawn(async move {
                let mut syncs = 0;
                while end.changed().await.is_ok() {
                    syncs += 1;
                }
                syncs
            })
        };
        let started = Instant::now();
        for (n, frame) in frames.into_iter().enumerate() {
            journal.append(frame).await.unwrap();
            if let Some(needed) = (n + 1).checked_sub(waiters) {
                end.wait_for(|end| end.0 >= needed as u64 * 8)
                    .await
                    .unwrap();
            }
        }
        durable(&journal, maker.end).await;
        let took = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let mut reader = journal.reader(Lsn::ZERO).unwrap();
        while reader.position() < maker.end {
            reader.next().await.unwrap();
        }
        let read = started.elapsed().as_secs_f64();
        drop((journal, reader, end));
        let started = Instant::now();
        let journal = open(dir.path(), Options::default());
        let opened = started.elapsed();
        drop(journal);
        println!(
            "{name:22} {:9.0} commits/s {:7.1} MB/s  at least {} syncs; read {:7.0} MB/s; opened in {opened:?}",
            f64::from(total) / took,
            bytes as f64 / took / 1e6,
            syncs.await.unwrap(),
            bytes as f64 / read / 1e6,
        );
    }
}
