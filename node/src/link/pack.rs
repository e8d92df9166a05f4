//! Pieces of journal bytes, compressed: one piece in, one piece out, and back.
//!
//! A piece is sent packed only if that is smaller. zstd keeps its context from piece to piece of one
//! subscription, so that even a transaction of one row finds its likes; a piece that is sent plain
//! ends the context on both sides, and the next packed one begins another. lz4 packs
//! each piece by itself.
//!
//! What a peer claims is not believed: a piece unpacks to at most [`PIECE_BYTES`], into room of
//! exactly the size that it names, or it is an error.

use std::io;

use bytes::{Bytes, BytesMut};
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use super::error::Error;
use super::frame::{PACKING_BYTES, PIECE_BYTES, Packing, Piece, malformed};
use super::options::Compression;

/// A block that stands alone.
const LZ4: u8 = 1;
/// The first part of a zstd stream.
const ZSTD: u8 = 2;
/// The next part of it.
const ZSTD_NEXT: u8 = 3;

/// As numbers in a hello: what this release can unpack.
pub(super) const UNDERSTOOD: [u32; 2] = [LZ4 as u32, ZSTD as u32];

/// The fastest level: a link is faster than the others.
const LEVEL: i32 = 1;
/// zstd looks back 512 KiB, and no peer makes this node keep more.
const WINDOW_LOG: u32 = 19;
/// Less than this gains nothing: by lz4, which knows nothing of what was before; and by zstd.
const LZ4_FROM: usize = 128;
const ZSTD_FROM: usize = 32;

impl Compression {
    /// What to send with, to a peer that understands this.
    pub(super) fn agreed(self, understood: &[u32]) -> Compression {
        let number = match self {
            Compression::None => return self,
            Compression::Lz4 => LZ4,
            Compression::Zstd => ZSTD,
        };
        if understood.contains(&u32::from(number)) {
            self
        } else {
            Compression::None
        }
    }
}

/// The sending side of one subscription.
pub(super) struct Packer {
    with: With,
    scratch: Vec<u8>,
}

enum With {
    Nothing,
    Lz4,
    Zstd {
        encoder: Encoder<'static>,
        begun: bool,
    },
}

impl Packer {
    /// Fails only without memory.
    pub(super) fn new(compression: Compression) -> io::Result<Packer> {
        let with = match compression {
            Compression::None => With::Nothing,
            Compression::Lz4 => With::Lz4,
            Compression::Zstd => {
                let mut encoder = Encoder::new(LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
                With::Zstd {
                    encoder,
                    begun: false,
                }
            }
        };
        let scratch = Vec::new();
        Ok(Packer { with, scratch })
    }

    /// The piece, packed if that is smaller.
    pub(super) fn pack(&mut self, mut piece: Piece) -> Piece {
        if let Some((method, bytes)) = self.packed(&piece.bytes) {
            piece.packing = Some(Packing {
                method,
                // At most PIECE_BYTES: fits.
                plain_bytes: piece.bytes.len() as u32,
            });
            piece.bytes = bytes;
        }
        piece
    }

    fn packed(&mut self, plain: &[u8]) -> Option<(u8, Bytes)> {
        // More than this would be no gain.
        let limit = plain.len().saturating_sub(PACKING_BYTES + 1);
        let scratch = &mut self.scratch;
        match &mut self.with {
            With::Lz4 if plain.len() >= LZ4_FROM => {
                let room = lz4_flex::block::get_maximum_output_size(plain.len());
                scratch.resize(room.max(scratch.len()), 0);
                let length = lz4_flex::block::compress_into(plain, scratch).ok()?;
                (length <= limit).then(|| (LZ4, Bytes::copy_from_slice(&scratch[..length])))
            }
            With::Zstd { encoder, begun } if plain.len() >= ZSTD_FROM => {
                scratch.resize(limit.max(scratch.len()), 0);
                if let Some(length) = deflate(encoder, plain, &mut scratch[..limit]) {
                    let method = if *begun { ZSTD_NEXT } else { ZSTD };
                    *begun = true;
                    Some((method, Bytes::copy_from_slice(&scratch[..length])))
                } else {
                    *begun = false;
                    if encoder.reinit().is_err() {
                        self.with = With::Nothing;
                    }
                    None
                }
            }
            With::Zstd { encoder, begun } => {
                // It is sent plain, which ends the stream on the other side, too.
                if std::mem::take(begun) && encoder.reinit().is_err() {
                    self.with = With::Nothing;
                }
                None
            }
            With::Nothing | With::Lz4 => None,
        }
    }
}

/// `None` when `out` is too small for it.
fn deflate(encoder: &mut Encoder<'static>, plain: &[u8], out: &mut [u8]) -> Option<usize> {
    let room = out.len();
    let mut input = InBuffer::around(plain);
    let mut output = OutBuffer::around(out);
    while input.pos() < plain.len() {
        if output.pos() == room {
            return None;
        }
        encoder.run(&mut input, &mut output).ok()?;
    }
    while encoder.flush(&mut output).ok()? > 0 {
        if output.pos() == room {
            return None;
        }
    }
    Some(output.pos())
}

/// The receiving side of one subscription.
#[derive(Default)]
pub(super) struct Unpacker {
    decoder: Option<Decoder<'static>>,
    begun: bool,
}

impl Unpacker {
    /// The pieces of one chunk, put together. A chunk of one plain piece is not copied.
    pub(super) fn whole(&mut self, mut pieces: Vec<Piece>) -> Result<Bytes, Error> {
        if pieces.len() == 1
            && let Some(piece) = pieces.pop_if(|piece| piece.packing.is_none())
        {
            self.begun = false;
            return Ok(piece.bytes);
        }
        // Each is at most PIECE_BYTES, and who queues them bounds their sum.
        let mut whole = BytesMut::with_capacity(pieces.iter().map(Piece::plain_bytes).sum());
        for piece in pieces {
            match piece.packing {
                None => {
                    self.begun = false;
                    whole.extend_from_slice(&piece.bytes);
                }
                Some(packing) => self.unpack(packing, &piece.bytes, &mut whole)?,
            }
        }
        Ok(whole.freeze())
    }

    fn unpack(
        &mut self,
        packing: Packing,
        packed: &[u8],
        whole: &mut BytesMut,
    ) -> Result<(), Error> {
        let plain = packing.plain_bytes as usize;
        if plain > PIECE_BYTES {
            return Err(malformed(format!("a piece of {plain} bytes unpacked")));
        }
        let start = whole.len();
        let unpacked = match packing.method {
            LZ4 => {
                whole.resize(start + plain, 0);
                lz4_flex::block::decompress_into(packed, &mut whole[start..])
                    .map_err(|err| malformed(format!("lz4 cannot be unpacked: {err}")))?
            }
            ZSTD | ZSTD_NEXT => {
                // One byte more, to see a stream that says more than its size.
                whole.resize(start + plain + 1, 0);
                let next = packing.method == ZSTD_NEXT;
                let unpacked = self
                    .inflate(next, packed, &mut whole[start..])
                    .map_err(|err| malformed(format!("zstd cannot be unpacked: {err}")))?;
                whole.truncate(start + plain);
                unpacked
            }
            other => return Err(malformed(format!("unknown compression {other}"))),
        };
        if unpacked != plain {
            return Err(malformed(format!(
                "a piece said to unpack to {plain} bytes, and does not"
            )));
        }
        Ok(())
    }

    fn inflate(&mut self, next: bool, packed: &[u8], out: &mut [u8]) -> io::Result<usize> {
        if next && !self.begun {
            return Err(io::Error::other("it continues what was not begun"));
        }
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            empty => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
                empty.insert(decoder)
            }
        };
        if !next {
            decoder.reinit()?;
        }
        self.begun = true;
        let room = out.len();
        let mut input = InBuffer::around(packed);
        let mut output = OutBuffer::around(out);
        loop {
            let before = (input.pos(), output.pos());
            decoder.run(&mut input, &mut output)?;
            // With room left, all that is known has been handed out.
            if output.pos() == room || input.pos() == packed.len() {
                return Ok(output.pos());
            }
            if before == (input.pos(), output.pos()) {
                return Err(io::Error::other("it does not go on"));
            }
        }
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
