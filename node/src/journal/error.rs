//! What can go wrong with a journal, said so that an operator knows what to do.

use std::io;
use std::path::{Path, PathBuf};

use everywrite_conflict::{Lsn, NodeId};

/// A journal operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame does not have the form that the format asks for.
    #[error("decode a journal frame: {0}")]
    Malformed(&'static str),
    /// A frame's bytes are not the ones that were written.
    #[error(
        "decode a journal frame: the checksum is {found:08x}, the frame says {expected:08x}; \
         it was damaged on its way or on disk"
    )]
    Checksum {
        /// What the frame says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A frame is larger than any that can be written.
    #[error("decode a journal frame: a body of {0} bytes is larger than the format allows")]
    TooLarge(usize),
    /// A transaction does not follow the last one that is here.
    #[error(
        "append to the journal of node {origin}: a transaction follows {previous}, but the journal \
         ends at {end}; what lies between is missing and must be fetched first"
    )]
    Gap {
        /// Whose journal.
        origin: NodeId,
        /// Where the journal ends.
        end: Lsn,
        /// The position that the refused transaction follows.
        previous: Lsn,
    },
    /// A part or the end of a large transaction came without its beginning.
    #[error(
        "append to the journal of node {origin}: a part of the large transaction {position} came \
         without its beginning"
    )]
    Orphan {
        /// Whose journal.
        origin: NodeId,
        /// The transaction that the part names.
        position: Lsn,
    },
    /// A shape id was given to two shapes.
    #[error(
        "append to the journal of node {origin}: shape {id} is already another one; the sender's \
         journal is not a continuation of this one"
    )]
    ShapeChanged {
        /// Whose journal.
        origin: NodeId,
        /// The id that was used twice.
        id: u32,
    },
    /// The bytes to append do not end where a frame ends.
    #[error("append to the journal of node {origin}: the last frame is not whole")]
    NotWhole {
        /// Whose journal.
        origin: NodeId,
    },
    /// A reader wants what has been deleted.
    #[error(
        "read the journal of node {origin} after {after}: only what lies behind {first} is still \
         here; ask another node, or join this one anew"
    )]
    Released {
        /// Whose journal.
        origin: NodeId,
        /// Where the reader wants to go on.
        after: Lsn,
        /// Transactions behind this are still here.
        first: Lsn,
    },
    /// A journal that already has a beginning was given one.
    #[error("begin the journal of node {origin} at {at}: it already holds all up to {end}")]
    NotEmpty {
        /// Whose journal.
        origin: NodeId,
        /// Where it was to begin.
        at: Lsn,
        /// Where it ends.
        end: Lsn,
    },
    /// The file system refused something.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Bytes that were durable have changed or are gone.
    #[error(
        "read {path} at byte {offset}: {what}. What was durable is damaged: restore the file from \
         the disk's redundancy or a backup; if this is another node's journal, its folder can be moved away \
         and is fetched again", path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by another version of this program, or is not a segment.
    #[error(
        "open {path}: journal format version {found}, this program reads {known}; run the version \
         that wrote it", path = .path.display(), known = super::record::FORMAT_VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it says.
        found: u16,
    },
    /// Another process has the folder open.
    #[error("open {dir}: another everywrite process uses this journal; stop it first", dir = .dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The journal was closed; it happens at shutdown.
    #[error("the journal of node {origin} is closed")]
    Closed {
        /// Whose journal.
        origin: NodeId,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was tried and on what.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
