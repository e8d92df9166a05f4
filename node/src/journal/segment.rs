//! One file of the journal: a preamble that says where in the journal it stands, then frames.
//!
//! A segment is made under another name, synced and then renamed, so a file with a segment's
//! name always has a whole preamble and the shapes known when it was made. The preamble carries
//! the state that recovery needs, so that opening a journal reads the newest segment only.
//!
//! The preamble names the segment before it *and how much of that one counts*. Making a segment
//! is therefore also how a large transaction is cut off: bytes and segments that the chain of
//! preambles leaves out do not exist any more, whether or not they were deleted in time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use everywrite_conflict::{Lsn, NodeId};
use parking_lot::Mutex;

use super::Error;
use super::record::{FORMAT_VERSION, Frame, Header, decode_header, encode_header};
use super::walk::{WalkError, walk};

const MAGIC: &[u8; 8] = b"EWRITE\r\n";
/// Magic, version, length.
const FIXED_BYTES: usize = 8 + 2 + 4;
/// Two headers with a full vector each; more than any preamble has.
const MAX_PREAMBLE_BYTES: usize = 2 << 20;
/// How far apart the places are that the index knows.
const INDEX_STEP_BYTES: u64 = 256 << 10;

/// A byte in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which segment.
    pub(super) sequence: u64,
    /// Which byte of its file.
    pub(super) offset: u64,
}

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) origin: NodeId,
    /// Counts the segments of a journal from 1, never reused.
    pub(super) sequence: u64,
    /// The segment before this one and where it ends; `None` for the very first.
    pub(super) follows: Option<Place>,
    /// The end of the journal when this segment was made.
    pub(super) previous: Lsn,
    /// The header of the last whole transaction before this segment.
    pub(super) last: Option<Header>,
    /// The large transaction that goes on in this segment, and where it began.
    pub(super) large: Option<(Place, Header)>,
}

impl Preamble {
    /// Transactions behind this have all their bytes in this segment or a later one.
    pub(super) fn first(&self) -> Lsn {
        self.large
            .as_ref()
            .map_or(self.previous, |(_, header)| header.position)
    }

    /// Sorts as the segments follow each other; the position is for people.
    pub(super) fn file_name(&self) -> String {
        format!("{:016X}-{:08X}.seg", self.previous.0, self.sequence)
    }

    pub(super) fn encode(&self) -> BytesMut {
        let mut rest = BytesMut::new();
        rest.put_u16(self.origin.0);
        rest.put_u64(self.sequence);
        put_place(&mut rest, self.follows);
        rest.put_u64(self.previous.0);
        put_place(&mut rest, self.large.as_ref().map(|(place, _)| *place));
        rest.put_u8(u8::from(self.last.is_some()));
        if let Some(header) = &self.last {
            encode_header(&mut rest, header);
        }
        if let Some((_, header)) = &self.large {
            encode_header(&mut rest, header);
        }
        let length = FIXED_BYTES + rest.len() + 4;
        let mut out = BytesMut::with_capacity(length);
        out.put_slice(MAGIC);
        out.put_u16(FORMAT_VERSION);
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        out.put_slice(&rest);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out
    }

    /// Reads the preamble of the file at `path`, and how long it is.
    pub(super) fn read(file: &File, path: &Path) -> Result<(Preamble, u64), Error> {
        let damaged = |what: &str| Error::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: what.to_owned(),
        };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged("the preamble is not whole"),
            _ => Error::io("read", path)(source),
        };
        let mut fixed = [0; FIXED_BYTES];
        file.read_exact_at(&mut fixed, 0).map_err(io)?;
        let Some(mut rest) = fixed.strip_prefix(MAGIC) else {
            return Err(damaged("it does not begin like a journal segment"));
        };
        let version = rest
            .try_get_u16()
            .map_err(|_| damaged("the preamble is not whole"))?;
        if version != FORMAT_VERSION {
            return Err(Error::Version {
                path: path.to_owned(),
                found: version,
            });
        }
        let length = rest.try_get_u32().map_or(0, |n| n as usize);
        if !(FIXED_BYTES + 4..=MAX_PREAMBLE_BYTES).contains(&length) {
            return Err(damaged("the preamble's length is wrong"));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        let mut bytes = Bytes::from(bytes);
        let crc = bytes.split_off(length - 4).try_get_u32().ok();
        if crc != Some(crc32c::crc32c(&bytes)) {
            return Err(damaged("the preamble's checksum is wrong"));
        }
        bytes.advance(FIXED_BYTES);
        match Self::decode(bytes) {
            Ok(Some(preamble)) => Ok((preamble, length as u64)),
            _ => Err(damaged("the preamble is malformed")),
        }
    }

    fn decode(mut bytes: Bytes) -> Result<Option<Preamble>, bytes::TryGetError> {
        let origin = NodeId(bytes.try_get_u16()?);
        let sequence = bytes.try_get_u64()?;
        let follows = get_place(&mut bytes)?;
        let previous = Lsn(bytes.try_get_u64()?);
        let large_at = get_place(&mut bytes)?;
        let has_last = bytes.try_get_u8()? != 0;
        let mut header = || decode_header(&mut bytes).ok();
        let last = if has_last { header() } else { None };
        let large = large_at.and_then(|place| Some((place, header()?)));
        let sound = last.is_some() == has_last
            && large.is_some() == large_at.is_some()
            && sequence > 0
            && bytes.is_empty();
        Ok(sound.then_some(Preamble {
            origin,
            sequence,
            follows,
            previous,
            last,
            large,
        }))
    }
}

/// Sequence 0 stands for none.
fn put_place(out: &mut BytesMut, place: Option<Place>) {
    out.put_u64(place.map_or(0, |p| p.sequence));
    out.put_u64(place.map_or(0, |p| p.offset));
}

fn get_place(bytes: &mut Bytes) -> Result<Option<Place>, bytes::TryGetError> {
    let sequence = bytes.try_get_u64()?;
    let offset = bytes.try_get_u64()?;
    Ok((sequence > 0).then_some(Place { sequence, offset }))
}

/// A segment that is part of the journal, shared by the writer and the readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) preamble: Preamble,
    pub(super) path: PathBuf,
    /// Where its frames begin.
    pub(super) body: u64,
    /// Where those begin that a reader which comes from the segment before has not had.
    pub(super) frames: u64,
    durable: AtomicU64,
    index: Mutex<Index>,
}

/// Some places where a transaction starts, with the end of the one before it, about every
/// [`INDEX_STEP_BYTES`]. `None` until a reader needs it, for segments of an earlier run.
#[derive(Debug)]
struct Index(Option<Vec<(Lsn, u64)>>);

impl Segment {
    /// A segment that was just made: a preamble of `body` bytes, and shapes up to `durable`.
    pub(super) fn made(preamble: Preamble, path: PathBuf, body: u64, durable: u64) -> Self {
        Segment {
            preamble,
            path,
            body,
            frames: durable,
            durable: AtomicU64::new(durable),
            index: Mutex::new(Index(Some(Vec::new()))),
        }
    }

    /// A segment that was there. `indexed`: the caller will [`Segment::note`] all of its
    /// transactions from the first on.
    pub(super) fn found(
        preamble: Preamble,
        path: PathBuf,
        body: u64,
        durable: u64,
        indexed: bool,
    ) -> Self {
        Segment {
            preamble,
            path,
            body,
            frames: body,
            durable: AtomicU64::new(durable),
            index: Mutex::new(Index(indexed.then(Vec::new))),
        }
    }

    /// How many of its bytes may be read.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Changes how many of its bytes may be read; under the journal's lock.
    pub(super) fn set_durable(&self, bytes: u64) {
        self.durable.store(bytes, Ordering::Release);
    }

    /// Tells the index that the transaction at `offset` follows `previous`.
    pub(super) fn note(&self, previous: Lsn, offset: u64) {
        if let Some(places) = &mut self.index.lock().0 {
            note(places, previous, offset);
        }
    }

    /// Whether [`Segment::seek`] needs no reading.
    pub(super) fn indexed(&self) -> bool {
        self.index.lock().0.is_some()
    }

    /// A place from which all transactions behind `after` lie, near the first of them. Reads the
    /// segment if no reader has needed the index before.
    pub(super) fn seek(&self, file: &File, after: Lsn) -> Result<u64, Error> {
        let mut index = self.index.lock();
        let places = match &mut index.0 {
            Some(places) => places,
            none => none.insert(self.make_index(file)?),
        };
        let behind = places.partition_point(|(previous, _)| *previous <= after);
        Ok(behind
            .checked_sub(1)
            .and_then(|i| places.get(i))
            .map_or(self.body, |(_, offset)| *offset))
    }

    fn make_index(&self, file: &File) -> Result<Vec<(Lsn, u64)>, Error> {
        let mut places = Vec::new();
        let walked = walk(file, self.body, self.durable(), |frame, start, _| {
            if let Frame::Transaction { header, .. } | Frame::LargeBegin { header } = frame {
                note(&mut places, header.previous, start);
            }
            Ok(())
        });
        let stop = match walked {
            Ok(stop) => stop,
            Err(WalkError::Io(source)) => return Err(Error::io("read", &self.path)(source)),
            Err(WalkError::Visit(err)) => return Err(err),
        };
        match stop.reason {
            None => Ok(places),
            Some(reason) => Err(self.damaged(stop.offset, reason.to_string())),
        }
    }

    /// An error that names this file.
    pub(super) fn damaged(&self, offset: u64, what: String) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            offset,
            what,
        }
    }
}

fn note(places: &mut Vec<(Lsn, u64)>, previous: Lsn, offset: u64) {
    if places
        .last()
        .is_none_or(|(_, last)| offset >= last + INDEX_STEP_BYTES)
    {
        places.push((previous, offset));
    }
}

/// Makes the folder's entries durable: a file that was made, renamed or deleted stays so.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync the folder", dir))
}
