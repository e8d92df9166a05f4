//! Reading a journal while it is written.
//!
//! A reader takes whole frames as they lie in the files, by pread, and only durable ones.
//! Who has everything but the last small round gets that from memory. What was written a moment ago is in
//! the page cache, and a pread of it costs less than handing it to another thread: the two newest
//! segments are read in place. Older ones may have to come from the disk, so they are read on the
//! blocking pool.
//!
//! A large transaction is handed out as it comes, before its end is there. If it is cut off, the
//! reader goes on behind its last whole transaction, and whoever got the first part takes the
//! next TRANSACTION or LARGE_BEGIN as the sign to drop it.

use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use everywrite_conflict::Lsn;
use tokio::sync::watch;

use super::Error;
use super::record::{Passed, encode_shape, pass};
use super::segment::{Place, Segment};
use super::shared::{Shared, State};
use super::walk::read;

/// About what a chunk has.
const CHUNK_BYTES: u64 = 256 << 10;

/// Hands out an origin's transactions in order, from a position on; made by
/// [`super::Journal::reader`].
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    written: watch::Receiver<u64>,
    /// The last whole transaction handed out: everything up to it is skipped.
    position: Lsn,
    at: Option<At>,
    /// Inside a large transaction.
    inside: bool,
    /// The `cuts` that were seen.
    cuts: u64,
    /// The next chunk starts with all shapes.
    shapes_due: bool,
}

/// Where the next chunk begins.
#[derive(Debug, Clone)]
struct At {
    segment: Arc<Segment>,
    file: Arc<File>,
    /// `None`: near `position`, to be found with the segment's index.
    offset: Option<u64>,
}

/// A piece of a segment that can be read now.
#[derive(Debug)]
struct Piece {
    at: At,
    after: Lsn,
    durable: u64,
    in_cache: bool,
    /// Its bytes, if the writer still has them.
    bytes: Option<Bytes>,
}

impl Piece {
    /// Where the bytes begin, and the bytes.
    fn read(&self) -> Result<(u64, Bytes), Error> {
        let from = match self.at.offset {
            Some(offset) => offset,
            None => self.at.segment.seek(&self.at.file, self.after)?,
        };
        if let Some(bytes) = &self.bytes {
            return Ok((from, bytes.clone()));
        }
        let bytes = read(&self.at.file, from, self.durable, CHUNK_BYTES)
            .map_err(Error::io("read", &self.at.segment.path))?;
        Ok((from, bytes))
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, after: Lsn) -> Self {
        let written = shared.written.subscribe();
        let cuts = shared.state.lock().cuts;
        Reader {
            shared,
            written,
            position: after,
            at: None,
            inside: false,
            cuts,
            shapes_due: true,
        }
    }

    /// The last whole transaction that was handed out, or where the reader began.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The next whole frames, verbatim, at most about 256 KiB, or one larger frame; waits until
    /// there are some. The first chunk starts with every shape that its transactions may use.
    ///
    /// May be dropped while it waits; nothing is lost then.
    pub async fn next(&mut self) -> Result<Bytes, Error> {
        loop {
            self.written.borrow_and_update();
            let Some(piece) = self.find()? else {
                let changed = self.written.changed().await;
                changed.map_err(|_| self.closed())?;
                continue;
            };
            let (piece, read) = if piece.in_cache {
                let read = piece.read();
                (piece, read)
            } else {
                let work = move || {
                    let read = piece.read();
                    (piece, read)
                };
                let done = tokio::task::spawn_blocking(work).await;
                done.map_err(|_| self.closed())?
            };
            match read {
                // The index knew a place that was not durable yet when the piece was cut out.
                Ok((from, bytes)) if bytes.is_empty() => {
                    self.at = Some(At {
                        offset: Some(from),
                        ..piece.at
                    });
                }
                Ok((from, bytes)) => {
                    match self.take(piece.at, from, bytes) {
                        Ok(Some(chunk)) => return Ok(chunk),
                        Ok(None) => {}
                        // What was read was cut off meanwhile, and something else stands there.
                        Err(_) if self.shared.state.lock().cuts != self.cuts => {}
                        Err(err) => return Err(err),
                    }
                }
                // The bytes were taken away while they were read.
                Err(_) if self.shared.state.lock().cuts != self.cuts => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// What can be read now; `None` at the end.
    fn find(&mut self) -> Result<Option<Piece>, Error> {
        let state = self.shared.state.lock();
        if state.cuts != self.cuts {
            self.cuts = state.cuts;
            // Shapes from the part that was cut off stand elsewhere now.
            self.shapes_due = true;
            if self.inside {
                self.inside = false;
                self.at = None;
            }
        }
        loop {
            let at = match self.at.take() {
                Some(at) => at,
                None => match locate(&self.shared, &state, self.position)? {
                    Some(at) => {
                        self.inside = at.segment.preamble.large.is_some();
                        at
                    }
                    None => break,
                },
            };
            let durable = at.segment.durable();
            if at.offset.is_none_or(|offset| offset < durable) {
                self.at = Some(at.clone());
                let newest = state.segments.back();
                let sequence = newest.map_or(0, |newest| newest.preamble.sequence);
                let indexed = at.offset.is_some() || at.segment.indexed();
                let place = at.offset.map(|offset| Place {
                    sequence: at.segment.preamble.sequence,
                    offset,
                });
                let recent = state.recent.as_ref().filter(|r| Some(r.from) == place);
                return Ok(Some(Piece {
                    bytes: recent.map(|r| r.bytes.clone()),
                    after: self.position,
                    durable,
                    in_cache: indexed && at.segment.preamble.sequence + 1 >= sequence,
                    at,
                }));
            }
            let sequence = at.segment.preamble.sequence;
            let behind = state
                .segments
                .partition_point(|s| s.preamble.sequence <= sequence);
            let Some(next) = state.segments.get(behind) else {
                self.at = Some(at);
                break;
            };
            if next.preamble.follows.map(|place| place.sequence) != Some(sequence) {
                return Err(released(&self.shared, &state, self.position));
            }
            self.at = Some(open(next, Some(next.frames))?);
        }
        if state.closing {
            return Err(self.closed());
        }
        Ok(None)
    }

    /// Goes on behind the whole frames in `bytes`; what of them is new, if anything is.
    fn take(&mut self, at: At, from: u64, bytes: Bytes) -> Result<Option<Bytes>, Error> {
        let mut rest = bytes.clone();
        let mut start = None;
        let mut end = 0;
        loop {
            let frame = match pass(&mut rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(err) => return Err(at.segment.damaged(from + end as u64, err.to_string())),
            };
            let (position, inside) = match frame {
                Passed::Shape => {
                    // While shapes are due they all come first, this one too.
                    if !self.shapes_due {
                        start.get_or_insert(end);
                    }
                    (Lsn::ZERO, self.inside)
                }
                Passed::Whole(position) => (position, false),
                Passed::Within(position) => (position, true),
            };
            self.inside = inside;
            if position > self.position {
                start.get_or_insert(end);
                if !inside {
                    self.position = position;
                }
            }
            end = bytes.len() - rest.len();
        }
        if end == 0 {
            let what = "a durable frame is not whole".to_owned();
            return Err(at.segment.damaged(from, what));
        }
        self.at = Some(At {
            offset: Some(from + end as u64),
            ..at
        });
        let Some(start) = start else {
            return Ok(None);
        };
        let chunk = bytes.slice(start..end);
        if !std::mem::take(&mut self.shapes_due) {
            return Ok(Some(chunk));
        }
        let mut out = BytesMut::new();
        for (id, relation) in &self.shared.state.lock().shapes {
            encode_shape(&mut out, *id, relation);
        }
        if out.is_empty() {
            return Ok(Some(chunk));
        }
        out.extend_from_slice(&chunk);
        Ok(Some(out.freeze()))
    }

    fn closed(&self) -> Error {
        Error::Closed {
            origin: self.shared.origin,
        }
    }
}

/// The segment where the first transaction behind `after` begins, or will begin.
fn locate(shared: &Shared, state: &State, after: Lsn) -> Result<Option<At>, Error> {
    if state.segments.is_empty() {
        return Ok(None);
    }
    let behind = state
        .segments
        .partition_point(|segment| segment.preamble.previous <= after);
    // A segment may begin inside the transaction that is looked for.
    let found = state
        .segments
        .range(..behind)
        .rev()
        .find(|segment| segment.preamble.first() <= after);
    match found {
        Some(segment) => open(segment, None).map(Some),
        None => Err(released(shared, state, after)),
    }
}

/// Under the journal's lock: as long as the segment is listed its file is there.
fn open(segment: &Arc<Segment>, offset: Option<u64>) -> Result<At, Error> {
    let file = File::open(&segment.path).map_err(Error::io("open", &segment.path))?;
    Ok(At {
        segment: Arc::clone(segment),
        file: Arc::new(file),
        offset,
    })
}

fn released(shared: &Shared, state: &State, after: Lsn) -> Error {
    Error::Released {
        origin: shared.origin,
        after,
        first: state.first(),
    }
}
