//! Bytes of a replication stream → decoded, stamped, announced, as journal frames.

use std::hint::black_box;

use crate::inputs::{Capture, Load, ROWS, streams};
use crate::{Path, Work};

/// Decoder, assembler and ledger, for each load.
pub fn paths() -> Vec<Path> {
    let path = |name, load| Path::new(name, "row", ROWS, move |rounds| capture(load, rounds));
    vec![
        path("capture/insert-1000", Load::Insert),
        path("capture/insert-1", Load::InsertSingle),
        path("capture/tpc-b", Load::TpcB),
        path("capture/update-1", Load::Update),
        path("capture/delete-1", Load::Delete),
        path("capture/replayed", Load::Replayed),
        path("capture/streamed", Load::Streamed),
    ]
}

fn capture(load: Load, rounds: usize) -> Work {
    let streams = streams(load, rounds);
    let mut capture = Capture::new();
    Box::new(move |round| {
        black_box(capture.frames(streams[round].clone()));
    })
}
