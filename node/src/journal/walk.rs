//! Reading frames from a segment file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::Error;
use super::record::{Frame, decode, frame_len};

/// Read at once by a walk over a file.
const STRIDE_BYTES: u64 = 1 << 20;

/// Reads about `want` bytes at `from`, at least one whole frame if there is one before `to`.
/// The bytes may end inside a frame. An end of file before `to` is an error.
pub(super) fn read(file: &File, from: u64, to: u64, want: u64) -> io::Result<Bytes> {
    let bytes = read_exactly(file, from, want.min(to.saturating_sub(from)))?;
    match frame_len(&bytes) {
        // The length may be damaged, but what is read is bounded by the file.
        Ok(Some(length)) if length > bytes.len() && length as u64 <= to - from => {
            read_exactly(file, from, length as u64)
        }
        _ => Ok(bytes),
    }
}

fn read_exactly(file: &File, from: u64, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.into())
}

/// Where a walk ended and why.
pub(super) struct Stop {
    /// Behind the last good frame.
    pub(super) offset: u64,
    /// Why the next one is not good; `None` at the end of the range.
    pub(super) reason: Option<Error>,
}

/// Calls `visit` with each frame between `from` and `to`, where it starts and where it ends;
/// stops at the first that is not whole and sound.
pub(super) fn walk(
    file: &File,
    from: u64,
    to: u64,
    mut visit: impl FnMut(Frame, u64, u64) -> Result<(), Error>,
) -> Result<Stop, WalkError> {
    let mut offset = from;
    while offset < to {
        let mut chunk = read(file, offset, to, STRIDE_BYTES).map_err(WalkError::Io)?;
        let start = offset;
        loop {
            let before = chunk.len() as u64;
            match decode(&mut chunk) {
                Ok(Some(frame)) => {
                    let next = offset + before - chunk.len() as u64;
                    visit(frame, offset, next).map_err(WalkError::Visit)?;
                    offset = next;
                }
                Ok(None) => break,
                Err(reason) => {
                    return Ok(Stop {
                        offset,
                        reason: Some(reason),
                    });
                }
            }
        }
        if offset == start {
            let reason = Some(Error::Malformed("it ends too early"));
            return Ok(Stop { offset, reason });
        }
    }
    Ok(Stop {
        offset,
        reason: None,
    })
}

/// A walk that could not go on.
pub(super) enum WalkError {
    /// The file could not be read.
    Io(io::Error),
    /// The visitor did not want to.
    Visit(Error),
}
