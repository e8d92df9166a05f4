//! Tests of the whole journal, on real files.

mod full;
mod handle;
mod kill;
mod large;
mod recover;
mod throughput;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use everywrite_conflict::{Lsn, NodeId, Stamp};

use super::record::{
    Changes, Frame, Header, decode, encode_large_begin, encode_large_end, encode_large_part,
    encode_shape, encode_transaction, push_change,
};
use super::{Error, Journal, Options, Reader, check_chain};

const ORIGIN: NodeId = NodeId(7);

fn small() -> Options {
    Options {
        segment_bytes: 4 << 10,
        ..Options::default()
    }
}

fn open(dir: &Path, options: Options) -> Journal {
    patiently(|| Journal::open(dir, ORIGIN, options))
}

/// A process that another test is starting has this one's files, locks too, between fork and exec.
pub(crate) fn patiently<T>(open: impl Fn() -> Result<T, Error>) -> T {
    for _ in 0..500 {
        match open() {
            Err(Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            other => return other.unwrap(),
        }
    }
    open().unwrap()
}

/// Makes an origin's frames.
#[derive(Debug, Default, Clone)]
struct Maker {
    end: Lsn,
    shapes: u32,
}

impl Maker {
    fn header(&self, changes: u32) -> Header {
        let position = Lsn(self.end.0 + 8);
        Header {
            position,
            previous: self.end,
            stamp: Stamp(position.0 as i64 * 3),
            commit_time: Stamp(position.0 as i64 * 2),
            xid: position.0 as u32,
            vector: [(NodeId(1), position), (NodeId(2), Lsn(5))]
                .into_iter()
                .collect(),
            seen: [(NodeId(1), position), (NodeId(2), Lsn(5))]
                .into_iter()
                .collect(),
            changes,
        }
    }

    fn shape(&mut self) -> Bytes {
        self.shapes += 1;
        let mut out = BytesMut::new();
        encode_shape(&mut out, self.shapes, &relation(self.shapes));
        out.freeze()
    }

    fn transaction(&mut self, size: usize) -> Bytes {
        let mut out = BytesMut::new();
        let header = self.header(1);
        encode_transaction(&mut out, &header, &change(header.position, 0, size));
        self.end = header.position;
        out.freeze()
    }

    /// LARGE_BEGIN and parts; `self` goes on only when [`Maker::finish`] is called.
    fn large(&self, parts: usize, size: usize) -> Vec<Bytes> {
        let header = self.header(0);
        let mut frames = vec![BytesMut::new()];
        encode_large_begin(&mut frames[0], &header);
        for part in 0..parts {
            let mut out = BytesMut::new();
            encode_large_part(
                &mut out,
                header.position,
                &change(header.position, part, size),
            );
            frames.push(out);
        }
        frames.into_iter().map(BytesMut::freeze).collect()
    }

    fn finish(&mut self, parts: usize) -> Bytes {
        let header = self.header(0);
        let mut out = BytesMut::new();
        encode_large_end(&mut out, header.position, parts as u32);
        self.end = header.position;
        out.freeze()
    }
}

fn relation(id: u32) -> Vec<u8> {
    format!("____relation number {id}").into_bytes()
}

fn change(position: Lsn, part: usize, size: usize) -> BytesMut {
    let mut out = BytesMut::new();
    let mut message = format!("I{position}#{part}").into_bytes();
    message.resize(message.len() + size, b'.');
    push_change(&mut out, &message);
    out
}

/// What a receiver makes of the frames that it gets.
#[derive(Debug, Default, Clone, PartialEq)]
struct History {
    shapes: BTreeMap<u32, Bytes>,
    transactions: Vec<(Header, Vec<Bytes>)>,
    unfinished: Option<(Header, Vec<Bytes>)>,
}

impl History {
    fn take(&mut self, mut chunk: Bytes) {
        while let Some(frame) = decode(&mut chunk).unwrap() {
            self.take_frame(frame);
        }
        assert!(chunk.is_empty(), "only whole frames are handed out");
    }

    fn take_frame(&mut self, frame: Frame) {
        let read = |changes| {
            Changes::new(changes)
                .collect::<Result<Vec<_>, _>>()
                .unwrap()
        };
        match frame {
            Frame::Shape { id, relation } => {
                let known = self.shapes.entry(id).or_insert_with(|| relation.clone());
                assert_eq!(*known, relation);
            }
            Frame::Transaction { header, changes } => {
                self.unfinished = None;
                self.transactions.push((header, read(changes)));
            }
            Frame::LargeBegin { header } => self.unfinished = Some((header, Vec::new())),
            Frame::LargePart { position, changes } => {
                let (header, all) = self.unfinished.as_mut().expect("a beginning");
                assert_eq!(header.position, position);
                all.extend(read(changes));
            }
            Frame::LargeEnd { position, changes } => {
                let (mut header, all) = self.unfinished.take().expect("a beginning");
                assert_eq!(header.position, position);
                assert_eq!(all.len(), changes as usize);
                header.changes = changes;
                self.transactions.push((header, all));
            }
        }
    }

    fn check(&self, after: Lsn) -> Lsn {
        check_chain(after, self.transactions.iter().map(|(header, _)| header)).unwrap()
    }

    /// Without the unfinished end, which no restart keeps.
    fn finished(&self) -> History {
        History {
            unfinished: None,
            ..self.clone()
        }
    }
}

/// Reads until the journal's end.
async fn read_to_end(journal: &Journal, after: Lsn) -> History {
    let mut reader = journal.reader(after).unwrap();
    let mut history = History::default();
    while reader.position() < journal.end() {
        history.take(next(&mut reader).await);
    }
    assert_eq!(history.check(after), journal.end());
    history
}

async fn next(reader: &mut Reader) -> Bytes {
    tokio::time::timeout(Duration::from_secs(10), reader.next())
        .await
        .expect("something to read")
        .unwrap()
}

async fn durable(journal: &Journal, at: Lsn) {
    let mut end = journal.subscribe();
    tokio::time::timeout(Duration::from_secs(20), end.wait_for(|end| *end >= at))
        .await
        .expect("durable in time")
        .unwrap();
}

async fn wait(mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not happen");
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    found.sort();
    found
}

/// How long the segments' files are together; zeros may stand behind the tail of the newest.
fn on_disk(dir: &Path) -> u64 {
    let lengths = segments(dir)
        .into_iter()
        .map(|p| p.metadata().unwrap().len());
    lengths.sum()
}
