//! The frames on a connection: `u32 length | u8 kind | body`, big-endian, length without itself.
//!
//! ```text
//!  kind 1 CONTROL  protobuf (module message)
//!  kind 2 DATA     u32 subscription | u8 more | journal bytes, verbatim
//!  kind 3 ROW      u32 request      | u8 more | protobuf RowAnswer
//!  kind 4 PACKED   u32 subscription | u8 more | u8 method | u32 plain length | packed journal bytes
//! ```
//!
//! DATA, PACKED and ROW carry at most [`PIECE_BYTES`], so that a control frame never waits behind more.
//! `more` = 1 says that the next piece of the same number continues this one. The bytes of all
//! pieces up to one with `more` = 0 are whole journal frames (or one whole answer).

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::Error;
use super::message::{Body, Control};

/// The most bulk bytes in one frame: 2 ms of a 1 Gbit/s line, 16 TLS records.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// The largest control frame: keys and column names of one row request are the largest.
pub(super) const CONTROL_BYTES_MAX: usize = 4 << 20;
/// The most that pieces may add up to: a row of 1 GiB, PostgreSQL's limit, and its header.
pub(super) const WHOLE_BYTES_MAX: usize = (1 << 30) + (64 << 20);
/// length, kind, number, more.
const BULK_HEADER: usize = 4 + 1 + 4 + 1;
/// What PACKED has more: method, plain length.
pub(super) const PACKING_BYTES: usize = 1 + 4;
/// Room for reading: several small frames, or the start of a piece, with one system call.
const READ_BYTES: usize = 64 << 10;
/// With less room than this a read is not worth its system call.
const ROOM_BYTES_MIN: usize = 4 << 10;

const CONTROL: u8 = 1;
const DATA: u8 = 2;
const ROW: u8 = 3;
const PACKED: u8 = 4;

/// What DATA and ROW share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The subscription or the request.
    pub(super) number: u32,
    /// Whether the next piece continues this one.
    pub(super) more: bool,
    /// How `bytes` are compressed, if they are; only DATA may be.
    pub(super) packing: Option<Packing>,
    /// A part of the whole.
    pub(super) bytes: Bytes,
}

/// How a piece is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packing {
    /// The module `pack` knows which.
    pub(super) method: u8,
    /// What it unpacks to: at most [`PIECE_BYTES`].
    pub(super) plain_bytes: u32,
}

impl Piece {
    /// Its size unpacked.
    pub(super) fn plain_bytes(&self) -> usize {
        self.packing
            .map_or(self.bytes.len(), |packing| packing.plain_bytes as usize)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// `None`: a newer node's message that this one does not know.
    Control(Option<Body>),
    Data(Piece),
    Row(Piece),
}

/// A DATA or ROW frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bulk {
    Data(Piece),
    Row(Piece),
}

impl Bulk {
    /// Appends everything but the piece's bytes, and hands these out: they are not copied.
    pub(super) fn encode_header(self, out: &mut BytesMut) -> Bytes {
        let (kind, piece) = match self {
            Bulk::Data(piece) if piece.packing.is_some() => (PACKED, piece),
            Bulk::Data(piece) => (DATA, piece),
            Bulk::Row(piece) => (ROW, piece),
        };
        debug_assert!(piece.bytes.len() <= PIECE_BYTES);
        let packing = piece.packing.map_or(0, |_| PACKING_BYTES);
        out.reserve(BULK_HEADER + packing);
        out.put_u32((BULK_HEADER - 4 + packing + piece.bytes.len()) as u32);
        out.put_u8(kind);
        out.put_u32(piece.number);
        out.put_u8(u8::from(piece.more));
        if let Some(packing) = piece.packing {
            out.put_u8(packing.method);
            out.put_u32(packing.plain_bytes);
        }
        piece.bytes
    }

    /// What compression keeps off the wire.
    pub(super) fn saved_bytes(&self) -> usize {
        let (Bulk::Data(piece) | Bulk::Row(piece)) = self;
        let packing = piece.packing.map_or(0, |_| PACKING_BYTES);
        piece
            .plain_bytes()
            .saturating_sub(packing + piece.bytes.len())
    }
}

/// Cuts `whole` into pieces of at most [`PIECE_BYTES`] without copying.
pub(super) fn pieces(number: u32, mut whole: Bytes) -> impl Iterator<Item = Piece> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let bytes = whole.split_to(whole.len().min(PIECE_BYTES));
        ended = whole.is_empty();
        Some(Piece {
            number,
            more: !ended,
            packing: None,
            bytes,
        })
    })
}

/// Appends a CONTROL frame.
pub(super) fn encode_control(body: Body, out: &mut BytesMut) {
    let control = Control { body: Some(body) };
    let length = control.encoded_len();
    out.reserve(5 + length);
    out.put_u32((1 + length) as u32);
    out.put_u8(CONTROL);
    // Fails only without room, and `BytesMut` grows.
    let _ = control.encode(out);
}

/// Takes one frame off the front; `Err(n)` wants `n` bytes in the buffer first.
fn decode(buffer: &mut BytesMut) -> Result<Result<Frame, usize>, Error> {
    let Some(head) = buffer.first_chunk::<5>() else {
        return Ok(Err(5));
    };
    let [a, b, c, d, kind] = *head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let (least, most) = match kind {
        CONTROL => (1, CONTROL_BYTES_MAX),
        DATA | ROW => (BULK_HEADER - 4, BULK_HEADER - 4 + PIECE_BYTES),
        PACKED => {
            let header = BULK_HEADER - 4 + PACKING_BYTES;
            (header, header + PIECE_BYTES)
        }
        _ => return Err(malformed(format!("unknown kind {kind}"))),
    };
    if length < least || length > most {
        return Err(malformed(format!(
            "a frame of kind {kind} and {length} bytes"
        )));
    }
    if buffer.len() < 4 + length {
        return Ok(Err(4 + length));
    }
    let mut body = buffer.split_to(4 + length).freeze();
    body.advance(5);
    if kind == CONTROL {
        let control =
            Control::decode(body).map_err(|err| malformed(format!("control message: {err}")))?;
        return Ok(Ok(Frame::Control(control.body)));
    }
    let number = body.get_u32();
    let more = match body.get_u8() {
        0 => false,
        1 => true,
        other => return Err(malformed(format!("continuation mark {other}"))),
    };
    let packing = (kind == PACKED).then(|| Packing {
        method: body.get_u8(),
        plain_bytes: body.get_u32(),
    });
    if let Some(Packing { plain_bytes, .. }) = packing
        && plain_bytes as usize > PIECE_BYTES
    {
        return Err(malformed(format!(
            "a piece of {plain_bytes} bytes unpacked"
        )));
    }
    let piece = Piece {
        number,
        more,
        packing,
        bytes: body,
    };
    Ok(Ok(if kind == ROW {
        Frame::Row(piece)
    } else {
        Frame::Data(piece)
    }))
}

pub(super) fn malformed(what: String) -> Error {
    Error::Malformed(what)
}

/// Collects what was received until a frame is whole.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
    /// All bytes taken from the socket, for the status.
    pub(super) received_bytes: u64,
}

impl FrameReader {
    /// The next frame; `None` when the other side has closed between two frames. Any byte breaks
    /// the silence, so a large frame on a slow line is not taken for a dead one.
    /// Cancellation-safe: what was read stays in the buffer.
    pub(super) async fn next(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        silence: Duration,
    ) -> Result<Option<Frame>, Error> {
        loop {
            let wanted = match decode(&mut self.buffer)? {
                Ok(frame) => return Ok(Some(frame)),
                Err(wanted) => wanted,
            };
            let missing = wanted.saturating_sub(self.buffer.len());
            // What was handed out shares the buffer: a new one for each small frame would be waste.
            if self.buffer.capacity() - self.buffer.len() < missing.max(ROOM_BYTES_MIN) {
                self.buffer.reserve(missing.max(READ_BYTES));
            }
            let read = tokio::time::timeout(silence, io.read_buf(&mut self.buffer))
                .await
                .map_err(|_| Error::Silent(silence))?
                .map_err(|source| Error::Broken {
                    operation: "reading",
                    source,
                })?;
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::Closed)
                };
            }
            self.received_bytes += read as u64;
        }
    }
}

/// Puts pieces together again.
#[derive(Debug, Default)]
pub(super) struct Whole {
    begun: BytesMut,
}

impl Whole {
    /// Adds a piece; hands out the whole with its last one. A whole of one piece is not copied.
    pub(super) fn push(&mut self, piece: Piece) -> Result<Option<Bytes>, Error> {
        if self.begun.is_empty() && !piece.more {
            return Ok(Some(piece.bytes));
        }
        if self.begun.len() + piece.bytes.len() > WHOLE_BYTES_MAX {
            return Err(malformed(format!(
                "pieces of more than {WHOLE_BYTES_MAX} bytes together"
            )));
        }
        self.begun.extend_from_slice(&piece.bytes);
        Ok((!piece.more).then(|| std::mem::take(&mut self.begun).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::message::Credit;

    fn piece(number: u32, bytes: Vec<u8>) -> impl Iterator<Item = Piece> {
        pieces(number, Bytes::from(bytes))
    }

    fn decode_all(buffer: &mut BytesMut) -> Result<Vec<Frame>, Error> {
        let mut frames = Vec::new();
        while let Ok(frame) = decode(buffer)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn pieces_are_bounded_and_become_whole_again() {
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let whole: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut again = Whole::default();
            let mut last = None;
            for p in piece(7, whole.clone()) {
                assert!(p.bytes.len() <= PIECE_BYTES && last.is_none());
                last = again.push(p).unwrap();
            }
            assert_eq!(last.as_deref(), Some(whole.as_slice()), "{length}");
        }
    }

    #[test]
    fn lengths_beyond_the_limits_are_refused_before_they_are_read() {
        for (kind, length) in [
            (CONTROL, CONTROL_BYTES_MAX + 1),
            (DATA, BULK_HEADER + PIECE_BYTES),
            (DATA, 2),
            (PACKED, BULK_HEADER + PACKING_BYTES + PIECE_BYTES),
            (PACKED, BULK_HEADER - 4),
            (CONTROL, 0),
            (9, 10),
        ] {
            let mut buffer = BytesMut::new();
            buffer.put_u32(length as u32);
            buffer.put_u8(kind);
            assert!(decode(&mut buffer).is_err(), "{kind} {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode_all(&mut BytesMut::from(bytes.as_slice()));
        }

        /// Plausible heads reach deeper than random bytes do.
        #[test]
        fn any_body_behind_a_valid_head_never_panics(
            kind in 0u8..6,
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut buffer = BytesMut::new();
            buffer.put_u32(1 + body.len() as u32);
            buffer.put_u8(kind);
            buffer.put_slice(&body);
            let _ = decode_all(&mut buffer);
        }

        #[test]
        fn frames_survive_any_fragmentation(
            cuts in proptest::collection::vec(1usize..40, 1..50),
            sizes in proptest::collection::vec(0usize..200, 1..10),
        ) {
            let mut stream = BytesMut::new();
            let mut sent = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                let credit = Body::Credit(Credit { subscription: i as u32, bytes: *size as u32 });
                encode_control(credit.clone(), &mut stream);
                sent.push(Frame::Control(Some(credit)));
                for mut p in piece(i as u32, vec![i as u8; *size]) {
                    p.packing = (i % 4 == 2).then_some(Packing { method: 1, plain_bytes: 5 });
                    let bulk = if i % 2 == 0 { Bulk::Data(p.clone()) } else { Bulk::Row(p.clone()) };
                    let bytes = bulk.encode_header(&mut stream);
                    stream.put_slice(&bytes);
                    sent.push(if i % 2 == 0 { Frame::Data(p) } else { Frame::Row(p) });
                }
            }
            let mut buffer = BytesMut::new();
            let mut received = Vec::new();
            for cut in cuts.iter().cycle() {
                if stream.is_empty() { break; }
                let part = stream.split_to((*cut).min(stream.len()));
                buffer.extend_from_slice(&part);
                received.extend(decode_all(&mut buffer).unwrap());
            }
            prop_assert_eq!(received, sent);
        }
    }
}
