//! The order of an origin's transactions, as a pure state machine.
//!
//! The same rules decide what an append accepts, what the writer believes after each write and
//! what recovery believes of a file, so the three can never disagree.

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId};

use super::Error;
use super::record::{Frame, Header};

/// Two transactions that do not follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("transaction {position} follows {previous}, but {end} comes before it")]
pub struct Broken {
    /// Where the chain ended.
    pub end: Lsn,
    /// What the next transaction says it follows.
    pub previous: Lsn,
    /// The next transaction.
    pub position: Lsn,
}

/// The invariant of a journal: each transaction names the one before it and lies behind it (I3:
/// what is read of an origin is a prefix of its commits, nothing missing inside). Returns where
/// the chain that starts behind `after` ends.
pub fn check_chain<'a>(
    after: Lsn,
    headers: impl IntoIterator<Item = &'a Header>,
) -> Result<Lsn, Broken> {
    headers.into_iter().try_fold(after, |end, header| {
        if header.previous == end && header.position > end {
            Ok(header.position)
        } else {
            Err(Broken {
                end,
                previous: header.previous,
                position: header.position,
            })
        }
    })
}

/// What the writer must know of a frame; its changes it only copies.
#[derive(Debug, Clone)]
pub(super) enum Note {
    /// No frame: the first transaction will follow this position.
    Start(Lsn),
    Shape {
        id: u32,
        relation: Bytes,
    },
    Whole(Header),
    Begin(Header),
    Part,
    End {
        changes: u32,
    },
}

impl Note {
    /// Whether an unfinished large transaction is over when this comes.
    pub(super) fn cuts(&self) -> bool {
        matches!(self, Note::Whole(_) | Note::Begin(_))
    }
}

impl From<Frame> for Note {
    fn from(frame: Frame) -> Self {
        match frame {
            // Copied: a slice would keep the whole chunk that it came in for ever.
            Frame::Shape { id, relation } => Note::Shape {
                id,
                relation: Bytes::copy_from_slice(&relation),
            },
            Frame::Transaction { header, .. } => Note::Whole(header),
            Frame::LargeBegin { header } => Note::Begin(header),
            Frame::LargePart { .. } => Note::Part,
            Frame::LargeEnd { changes, .. } => Note::End { changes },
        }
    }
}

/// How far an origin's transactions go.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// The last whole transaction, or where the journal begins.
    pub(super) end: Lsn,
    /// Its header; `None` while there is none.
    pub(super) last: Option<Header>,
    /// A large transaction whose end has not come yet.
    pub(super) large: Option<Header>,
}

impl Chain {
    /// Whether `frame` is new (true) or here already (false); an error if it cannot come now.
    pub fn admits(&self, origin: NodeId, frame: &Frame) -> Result<bool, Error> {
        match frame {
            Frame::Shape { .. } => Ok(true),
            Frame::Transaction { header, .. } | Frame::LargeBegin { header } => {
                if header.position <= self.end {
                    Ok(false)
                } else if header.previous == self.end {
                    Ok(true)
                } else {
                    Err(Error::Gap {
                        origin,
                        end: self.end,
                        previous: header.previous,
                    })
                }
            }
            &Frame::LargePart { position, .. } | &Frame::LargeEnd { position, .. } => {
                if position <= self.end {
                    Ok(false)
                } else if self.large.as_ref().is_some_and(|l| l.position == position) {
                    Ok(true)
                } else {
                    Err(Error::Orphan { origin, position })
                }
            }
        }
    }

    /// One that goes on behind a transaction.
    pub fn behind(last: Option<Header>) -> Self {
        Chain {
            end: last.as_ref().map_or(Lsn::ZERO, |header| header.position),
            last,
            large: None,
        }
    }

    /// Goes on by a frame that was admitted.
    pub fn take(&mut self, frame: Frame) {
        self.apply(&Note::from(frame));
    }

    /// Goes on by one frame that was admitted.
    pub(super) fn apply(&mut self, note: &Note) {
        match note {
            Note::Start(at) => self.end = *at,
            Note::Shape { .. } | Note::Part => {}
            Note::Whole(header) => {
                self.large = None;
                self.finish(header.clone());
            }
            Note::Begin(header) => self.large = Some(header.clone()),
            Note::End { changes } => {
                if let Some(mut header) = self.large.take() {
                    header.changes = *changes;
                    self.finish(header);
                }
            }
        }
    }

    fn finish(&mut self, header: Header) {
        debug_assert_eq!(check_chain(self.end, [&header]), Ok(header.position));
        self.end = header.position;
        self.last = Some(header);
    }
}
