//! Journal frames: encoded, read, appended, recovered.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use everywrite_node::journal::record::{self, Changes, Frame, Header};
use everywrite_node::journal::{Journal, Options};
use tokio::runtime::{Builder, Runtime};

use crate::inputs::{Load, ME, ROWS, folder, frames};
use crate::{Path, Work};

/// Bytes that a round takes the checksum of.
const CHECKED_KIB: usize = 1024;

/// Records by themselves, then through a journal on disk.
pub fn paths() -> Vec<Path> {
    let path = |name, load, start: fn(Load, usize) -> Work| {
        Path::new(name, "row", ROWS, move |rounds| start(load, rounds))
    };
    vec![
        path("journal/encode-1000", Load::Insert, encode),
        path("journal/encode-1", Load::InsertSingle, encode),
        path("journal/scan-1000", Load::Insert, scan),
        path("journal/scan-1", Load::InsertSingle, scan),
        Path::new("journal/append-1000", "row", 10 * ROWS, |rounds| {
            append(Load::Insert, 10, rounds)
        }),
        Path::new("journal/append-1", "row", ROWS, |rounds| {
            append(Load::InsertSingle, 1, rounds)
        }),
        path("journal/recover-1", Load::InsertSingle, recover),
        Path::new("journal/crc", "KiB", CHECKED_KIB, |_| crc()),
    ]
}

fn encode(load: Load, rounds: usize) -> Work {
    let rounds: Vec<_> = frames(load, rounds).into_iter().map(transactions).collect();
    Box::new(move |round| {
        let mut out = BytesMut::new();
        for (header, changes) in &rounds[round] {
            record::encode_transaction(&mut out, header, changes);
        }
        black_box(out);
    })
}

fn transactions(mut frames: Bytes) -> Vec<(Header, Bytes)> {
    let mut transactions = Vec::new();
    while let Some(frame) = record::decode(&mut frames).expect("a frame") {
        if let Frame::Transaction { header, changes } = frame {
            transactions.push((header, changes));
        }
    }
    transactions
}

fn scan(load: Load, rounds: usize) -> Work {
    let rounds = frames(load, rounds);
    Box::new(move |round| {
        let mut frames = rounds[round].clone();
        while let Some(frame) = record::decode(&mut frames).expect("a frame") {
            if let Frame::Transaction { changes, .. } = frame {
                black_box(Changes::new(changes).flatten().count());
            }
        }
    })
}

/// A round is what capture hands over at once; the next one begins when it is durable. What the two
/// threads take to wake each other is not the same each time: a round is long enough to hide it.
fn append(load: Load, many: usize, rounds: usize) -> Work {
    let rounds: Vec<Bytes> = frames(load, rounds * many)
        .chunks(many)
        .map(|frames| frames.concat().into())
        .collect();
    let dir = folder();
    let journal = Journal::open(dir.path(), ME, Options::default()).expect("a journal");
    let runtime = runtime();
    Box::new(move |round| {
        let _kept = &dir;
        let mut end = journal.subscribe();
        runtime.block_on(async {
            let before = *end.borrow_and_update();
            let appended = journal.append(rounds[round].clone()).await;
            appended.expect("appended");
            let durable = end.wait_for(|end| *end > before).await;
            durable.expect("the journal is open");
        });
    })
}

/// Each round opens a journal that the process before has closed.
fn recover(load: Load, _: usize) -> Work {
    let dir = folder();
    let runtime = runtime();
    let journal = Journal::open(dir.path(), ME, Options::default()).expect("a journal");
    runtime.block_on(async {
        let mut end = journal.subscribe();
        let appended = journal.append(frames(load, 1).remove(0)).await;
        appended.expect("appended");
        end.changed().await.expect("the journal is open");
    });
    drop(journal);
    Box::new(move |_| {
        let journal = Journal::open(dir.path(), ME, Options::default()).expect("a journal");
        black_box(journal.end());
    })
}

fn crc() -> Work {
    let bytes: Vec<u8> = (0..CHECKED_KIB << 10).map(|i| (i * 31) as u8).collect();
    Box::new(move |_| {
        black_box(crc32c::crc32c(black_box(&bytes)));
    })
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
}
