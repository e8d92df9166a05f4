//! The frames of the journal: the same bytes on disk and on the link. No I/O.
//!
//! ```text
//! frame  := u32 body length | u32 crc32c(body) | body          big-endian throughout
//! body   := u8 kind | …
//!   1 SHAPE        u32 id | a pgoutput Relation message without its tag byte
//!   2 TRANSACTION  header | changes
//!   3 LARGE_BEGIN  header
//!   4 LARGE_PART   u64 position | changes
//!   5 LARGE_END    u64 position | u32 number of changes
//! header := u64 position | u64 previous | i64 stamp | i64 commit time | u32 xid
//!           | u16 n | n × (u16 node, u64 lsn, u64 seen), nodes ascending | u32 number of changes
//! changes := ( u32 length | pgoutput message with its tag byte )…
//! ```
//!
//! Capture encodes, the journal checks and stores the bytes as they are, the link sends them as
//! they are, replay decodes. Everything that is read may come from a damaged disk or a foreign
//! peer, so every access is checked; [`decode`] slices and copies no row.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use everywrite_conflict::{Lsn, NodeId, Stamp, Vector};

use super::Error;

/// The version of the frames and of the segment files; peers compare it before they exchange frames.
pub const FORMAT_VERSION: u16 = 1;

/// The largest body. One pgoutput message is at most 1 GiB in PostgreSQL, and capture puts a
/// message that does not fit beside others into a frame of its own.
pub const MAX_BODY_BYTES: usize = (1 << 30) + (1 << 20);

/// Length and checksum, before each body.
pub const PREFIX_BYTES: usize = 8;

const SHAPE: u8 = 1;
const TRANSACTION: u8 = 2;
const LARGE_BEGIN: u8 = 3;
const LARGE_PART: u8 = 4;
const LARGE_END: u8 = 5;

/// What is known of a transaction besides its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The end of its commit record at its origin.
    pub position: Lsn,
    /// The position of the origin's transaction before this one: the chain that shows gaps.
    pub previous: Lsn,
    /// What conflicts compare.
    pub stamp: Stamp,
    /// The commit timestamp as the origin's server gave it.
    pub commit_time: Stamp,
    /// The transaction's id at its origin.
    pub xid: u32,
    /// What the origin had applied of the others when the transaction was captured.
    pub vector: Vector,
    /// What of that it has surely seen: at most `vector`. The rest came in the moment in which it
    /// committed, before or after it; such writes count as concurrent.
    pub seen: Vector,
    /// How many changes follow; 0 for a large transaction, whose end says it.
    pub changes: u32,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// How the rows of a table look from here on.
    Shape {
        /// Stands in the changes where pgoutput has the relation's oid.
        id: u32,
        /// A pgoutput Relation message without its tag byte.
        relation: Bytes,
    },
    /// A whole transaction.
    Transaction {
        /// About it.
        header: Header,
        /// For [`Changes`].
        changes: Bytes,
    },
    /// A transaction too large for one frame starts.
    LargeBegin {
        /// About it.
        header: Header,
    },
    /// Some of its changes.
    LargePart {
        /// Which transaction.
        position: Lsn,
        /// For [`Changes`].
        changes: Bytes,
    },
    /// It is complete.
    LargeEnd {
        /// Which transaction.
        position: Lsn,
        /// How many changes it had.
        changes: u32,
    },
}

/// Appends a SHAPE frame. `relation` is a pgoutput Relation message without its tag byte.
pub fn encode_shape(out: &mut BytesMut, id: u32, relation: &[u8]) {
    frame(out, 5 + relation.len(), |out| {
        out.put_u8(SHAPE);
        out.put_u32(id);
        out.put_slice(relation);
    });
}

/// Appends a TRANSACTION frame. `changes` is made with [`push_change`].
///
/// A frame over [`MAX_BODY_BYTES`] is refused by whoever reads it; use the large kinds.
pub fn encode_transaction(out: &mut BytesMut, header: &Header, changes: &[u8]) {
    frame(out, 1 + header_len(header) + changes.len(), |out| {
        out.put_u8(TRANSACTION);
        encode_header(out, header);
        out.put_slice(changes);
    });
}

/// Appends a LARGE_BEGIN frame.
pub fn encode_large_begin(out: &mut BytesMut, header: &Header) {
    frame(out, 1 + header_len(header), |out| {
        out.put_u8(LARGE_BEGIN);
        encode_header(out, header);
    });
}

/// Appends a LARGE_PART frame; about 1 MiB of changes is a good size.
pub fn encode_large_part(out: &mut BytesMut, position: Lsn, changes: &[u8]) {
    frame(out, 9 + changes.len(), |out| {
        out.put_u8(LARGE_PART);
        out.put_u64(position.0);
        out.put_slice(changes);
    });
}

/// Appends a LARGE_END frame. `changes` is the number of changes in all parts.
pub fn encode_large_end(out: &mut BytesMut, position: Lsn, changes: u32) {
    frame(out, 13, |out| {
        out.put_u8(LARGE_END);
        out.put_u64(position.0);
        out.put_u32(changes);
    });
}

/// Appends one pgoutput message (tag byte included) to the changes of a transaction.
pub fn push_change(changes: &mut BytesMut, message: &[u8]) {
    changes.put_u32(clamp(message.len()));
    changes.put_slice(message);
}

/// Takes one whole frame off the front of `chunk`, its checksum checked; `None` while it is not
/// whole, and then nothing is taken. The frame's bytes are slices of the chunk.
pub fn decode(chunk: &mut Bytes) -> Result<Option<Frame>, Error> {
    take_body(chunk)?.map(decode_body).transpose()
}

/// A frame that is only passed on, so that nothing of it is copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// A SHAPE.
    Shape,
    /// A TRANSACTION, or the end of a large one: where it ends.
    Whole(Lsn),
    /// The beginning or a part of a large transaction.
    Within(Lsn),
}

/// Like [`decode`], for who reads to pass on.
pub(super) fn pass(chunk: &mut Bytes) -> Result<Option<Passed>, Error> {
    let Some(mut body) = take_body(chunk)? else {
        return Ok(None);
    };
    let kind = body.try_get_u8().map_err(|_| SHORT)?;
    let mut position = || body.try_get_u64().map(Lsn).map_err(|_| SHORT);
    match kind {
        SHAPE => Ok(Some(Passed::Shape)),
        TRANSACTION | LARGE_END => position().map(|at| Some(Passed::Whole(at))),
        LARGE_BEGIN | LARGE_PART => position().map(|at| Some(Passed::Within(at))),
        _ => Err(UNKNOWN),
    }
}

/// The body of the frame at the front, its checksum checked.
fn take_body(chunk: &mut Bytes) -> Result<Option<Bytes>, Error> {
    let Some(length) = frame_len(chunk)?.filter(|&n| n <= chunk.len()) else {
        return Ok(None);
    };
    let mut body = chunk.split_to(length);
    body.advance(4);
    let expected = body.try_get_u32().map_err(|_| SHORT)?;
    let found = crc32c::crc32c(&body);
    if expected != found {
        return Err(Error::Checksum { expected, found });
    }
    Ok(Some(body))
}

/// How long the frame at the front is, its prefix included; `None` while that is not known.
/// Looks at the length alone: the frame may not be whole yet, and its checksum is not checked.
pub fn frame_len(chunk: &[u8]) -> Result<Option<usize>, Error> {
    let Some(prefix) = chunk.first_chunk::<4>() else {
        return Ok(None);
    };
    let body = u32::from_be_bytes(*prefix) as usize;
    match body {
        0 => Err(Error::Malformed("an empty body")),
        1..=MAX_BODY_BYTES => Ok(Some(PREFIX_BYTES + body)),
        _ => Err(Error::TooLarge(body)),
    }
}

/// How many bytes at the front of `chunk` are whole frames, judged by their lengths alone.
pub fn whole_frames(chunk: &[u8]) -> Result<usize, Error> {
    let mut end = 0;
    while let Some(length) = chunk.get(end..).map(frame_len).transpose()?.flatten() {
        if end + length > chunk.len() {
            break;
        }
        end += length;
    }
    Ok(end)
}

/// The pgoutput messages in a frame's changes, without copying them.
#[derive(Debug, Clone)]
pub struct Changes(Bytes);

impl Changes {
    /// Over the `changes` of a TRANSACTION or LARGE_PART frame.
    pub fn new(changes: Bytes) -> Self {
        Changes(changes)
    }
}

impl Iterator for Changes {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut rest = std::mem::take(&mut self.0); // stays empty after an error: no endless loop
        let Ok(length) = rest.try_get_u32() else {
            return Some(Err(SHORT));
        };
        let length = length as usize;
        if length == 0 || length > rest.len() {
            return Some(Err(Error::Malformed("a change's length is wrong")));
        }
        let message = rest.split_to(length);
        self.0 = rest;
        Some(Ok(message))
    }
}

const SHORT: Error = Error::Malformed("it ends too early");
const UNKNOWN: Error = Error::Malformed("a kind that this version does not know");

/// Lengths over u32 cannot be said; the frame then says a length that every reader refuses.
fn clamp(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn frame(out: &mut BytesMut, body_len: usize, body: impl FnOnce(&mut BytesMut)) {
    out.reserve(PREFIX_BYTES + body_len);
    out.put_u32(clamp(body_len));
    let crc_at = out.len();
    out.put_u32(0);
    let start = out.len();
    body(out);
    debug_assert_eq!(out.len() - start, body_len, "the length was computed right");
    let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
    if let Some(place) = out.get_mut(crc_at..start) {
        place.copy_from_slice(&crc.to_be_bytes());
    }
}

fn header_len(header: &Header) -> usize {
    8 + 8 + 8 + 8 + 4 + 2 + header.vector.iter().len() * 18 + 4
}

/// The header as it stands in frames and in the segments' own headers.
pub(super) fn encode_header(out: &mut BytesMut, header: &Header) {
    out.put_u64(header.position.0);
    out.put_u64(header.previous.0);
    out.put_i64(header.stamp.0);
    out.put_i64(header.commit_time.0);
    out.put_u32(header.xid);
    // Node ids are u16 and 0 is nobody, so the count fits.
    out.put_u16(u16::try_from(header.vector.iter().len()).unwrap_or(u16::MAX));
    for (node, lsn) in header.vector.iter() {
        out.put_u16(node.0);
        out.put_u64(lsn.0);
        out.put_u64(header.seen.get(node).0);
    }
    out.put_u32(header.changes);
}

/// Takes a header off the front of `buf`.
pub(super) fn decode_header(buf: &mut Bytes) -> Result<Header, Error> {
    let mut read = || -> Result<Header, bytes::TryGetError> {
        let position = Lsn(buf.try_get_u64()?);
        let previous = Lsn(buf.try_get_u64()?);
        let stamp = Stamp(buf.try_get_i64()?);
        let commit_time = Stamp(buf.try_get_i64()?);
        let xid = buf.try_get_u32()?;
        let (mut vector, mut seen) = (Vector::new(), Vector::new());
        for _ in 0..buf.try_get_u16()? {
            let node = NodeId(buf.try_get_u16()?);
            vector.set(node, Lsn(buf.try_get_u64()?));
            seen.set(node, Lsn(buf.try_get_u64()?));
        }
        Ok(Header {
            position,
            previous,
            stamp,
            commit_time,
            xid,
            vector,
            seen,
            changes: buf.try_get_u32()?,
        })
    };
    read().map_err(|_| SHORT)
}

fn decode_body(mut body: Bytes) -> Result<Frame, Error> {
    let kind = body.try_get_u8().map_err(|_| SHORT)?;
    match kind {
        SHAPE => Ok(Frame::Shape {
            id: body.try_get_u32().map_err(|_| SHORT)?,
            relation: body,
        }),
        TRANSACTION => Ok(Frame::Transaction {
            header: decode_header(&mut body)?,
            changes: body,
        }),
        LARGE_BEGIN => {
            let header = decode_header(&mut body)?;
            nothing_left(&body).map(|()| Frame::LargeBegin { header })
        }
        LARGE_PART => Ok(Frame::LargePart {
            position: Lsn(body.try_get_u64().map_err(|_| SHORT)?),
            changes: body,
        }),
        LARGE_END => {
            let position = Lsn(body.try_get_u64().map_err(|_| SHORT)?);
            let changes = body.try_get_u32().map_err(|_| SHORT)?;
            nothing_left(&body).map(|()| Frame::LargeEnd { position, changes })
        }
        _ => Err(UNKNOWN),
    }
}

fn nothing_left(body: &Bytes) -> Result<(), Error> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(Error::Malformed("it is longer than its kind"))
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
