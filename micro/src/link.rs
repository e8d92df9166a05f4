//! Journal bytes ↔ frames of a connection, without TLS and sockets.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use everywrite_node::link::measured;
use tokio::runtime::Builder;

use crate::inputs::{Load, ROWS, frames};
use crate::{Path, Work};

/// Each journal frame of a round goes alone, as in a stream of small commits; or a whole chunk at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Both directions.
pub fn paths() -> Vec<Path> {
    let small = || frames(Load::InsertSingle, 1).remove(0);
    vec![
        Path::new("link/encode-small", "frame", ROWS, move |_| {
            encode(split(small()))
        }),
        Path::new("link/decode-small", "frame", ROWS, move |_| {
            decode(split(small()))
        }),
        Path::new("link/encode-chunk", "frame", ROWS, |_| {
            encode(vec![chunk(); ROWS])
        }),
        Path::new("link/decode-chunk", "frame", 16, |_| {
            decode(vec![chunk(); 16])
        }),
        Path::new("link/credit", "frame", ROWS, |_| credit()),
    ]
}

fn chunk() -> Bytes {
    Bytes::from(vec![7; CHUNK_BYTES])
}

/// The frames of a journal's bytes one by one.
fn split(mut bytes: Bytes) -> Vec<Bytes> {
    use everywrite_node::journal::record::frame_len;
    let mut frames = Vec::new();
    while let Some(length) = frame_len(&bytes).expect("a frame") {
        frames.push(bytes.split_to(length));
    }
    // Without the descriptions of the tables that stand first.
    frames.split_off(frames.len() - ROWS)
}

fn encode(chunks: Vec<Bytes>) -> Work {
    Box::new(move |_| {
        let mut heads = BytesMut::new();
        for chunk in &chunks {
            heads.clear();
            black_box(measured::encode_data(1, chunk.clone(), &mut heads));
        }
    })
}

fn decode(chunks: Vec<Bytes>) -> Work {
    let mut stream = BytesMut::new();
    for chunk in chunks {
        measured::encode_stream(1, chunk, &mut stream);
    }
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    Box::new(move |_| {
        let decoded = runtime.block_on(measured::decode_stream(&stream));
        black_box(decoded.expect("decoded"));
    })
}

fn credit() -> Work {
    Box::new(move |_| {
        let mut out = BytesMut::new();
        for n in 0..ROWS as u32 {
            out.clear();
            measured::encode_credit(1, 1000 + n, &mut out);
        }
        black_box(out);
    })
}
