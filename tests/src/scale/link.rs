//! The link's own encodings, compiled from the daemon's source files, so that what is counted here is what
//! a daemon sends.

#![allow(dead_code)] // Counting needs a part of what a link does.

use bytes::{Bytes, BytesMut};

use crate::settle::Beat;

/// What the frames' code says went wrong; never made here.
#[allow(missing_docs)]
mod error {
    #[derive(Debug)]
    pub(super) enum Error {
        Malformed(String),
        Silent(std::time::Duration),
        Broken {
            operation: &'static str,
            source: std::io::Error,
        },
        Closed,
    }
}
#[path = "../../../node/src/link/frame.rs"]
mod frame;
#[path = "../../../node/src/link/message.rs"]
mod message;

/// One CONTROL frame with these beats, of a node that is connected with so many.
pub(crate) fn beats(beats: &[Beat], direct: usize) -> Bytes {
    let list = message::BeatList {
        beats: beats.iter().map(message::WireBeat::from).collect(),
        direct: (1..).take(direct).collect(),
    };
    let mut out = BytesMut::new();
    frame::encode_control(message::Body::Beats(list), &mut out);
    out.freeze()
}

/// What a node does with a CONTROL frame with beats; how many there were.
pub(crate) fn read_beats(frame: &Bytes) -> usize {
    use prost::Message as _;
    match message::Control::decode(frame.slice(5..)).map(|control| control.body) {
        Ok(Some(message::Body::Beats(list))) => {
            let decoded = list.beats.iter().filter_map(message::WireBeat::decode_beat);
            decoded.count()
        }
        _ => 0,
    }
}

/// The DATA frames that carry journal bytes.
pub(crate) fn data(subscription: u32, chunk: Bytes) -> BytesMut {
    let mut out = BytesMut::new();
    for piece in frame::pieces(subscription, chunk) {
        let bytes = frame::Bulk::Data(piece).encode_header(&mut out);
        out.extend_from_slice(&bytes);
    }
    out
}

/// A ping and its answer.
pub(crate) fn ping_and_pong(number: u64, clock_unix_us: i64) -> usize {
    let mut out = BytesMut::new();
    frame::encode_control(message::Body::Ping(message::Ping { number }), &mut out);
    let pong = message::Pong {
        number,
        clock_unix_us,
    };
    frame::encode_control(message::Body::Pong(pong), &mut out);
    out.len()
}
