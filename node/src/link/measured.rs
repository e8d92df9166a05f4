//! What the crate `everywrite-micro` measures of the link, without a connection. Nothing else uses it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Error;
use super::frame::{Bulk, Frame, FrameReader, Whole, encode_control, pieces};
use super::message::{Body, Credit};

/// The heads of the frames that carry `journal_bytes`, and how many bytes follow them uncopied.
pub fn encode_data(subscription: u32, journal_bytes: Bytes, heads: &mut BytesMut) -> usize {
    let encode = |piece| Bulk::Data(piece).encode_header(heads).len();
    pieces(subscription, journal_bytes).map(encode).sum()
}

/// The frames that carry `journal_bytes`, whole, as a peer receives them.
pub fn encode_stream(subscription: u32, journal_bytes: Bytes, stream: &mut BytesMut) {
    for piece in pieces(subscription, journal_bytes) {
        let bytes = Bulk::Data(piece).encode_header(stream);
        stream.extend_from_slice(&bytes);
    }
}

/// A frame of control: so many bytes are stored.
pub fn encode_credit(subscription: u32, bytes: u32, out: &mut BytesMut) {
    let credit = Credit {
        subscription,
        bytes,
    };
    encode_control(Body::Credit(credit), out);
}

/// Reads frames until the stream ends: how many there were, and how many journal bytes in them.
pub async fn decode_stream(mut stream: &[u8]) -> Result<(usize, usize), Error> {
    let mut reader = FrameReader::default();
    let mut whole = Whole::default();
    let (mut frames, mut bytes) = (0, 0);
    while let Some(frame) = reader.next(&mut stream, Duration::from_secs(60)).await? {
        frames += 1;
        if let Frame::Data(piece) = frame {
            bytes += whole.push(piece)?.map_or(0, |whole| whole.len());
        }
    }
    Ok((frames, bytes))
}
