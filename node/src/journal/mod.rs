//! Transactions → durable segments: one log per origin, kept by every node.
//!
//! ```text
//!  capture ─┐                 ┌─► queue ─► writer thread ─► segment files
//!  (own)    ├─► append: check ┘            one write,           │
//!  link ────┘   checksum, chain            one fdatasync        ▼
//!  (others')                                    └─► end()   Reader (several) ─► link, replay
//! ```
//!
//! | file        | role |
//! |-------------|------|
//! | [`record`]  | the frames: bytes and their meaning, no I/O |
//! | `chain`     | which frame may follow which: the invariant, pure |
//! | `segment`   | one file: its preamble, its sparse index |
//! | `walk`      | frames from a file, checked |
//! | `mark`      | a note of the durable end, to tell damage from a torn tail |
//! | `recovery`  | opening |
//! | `writer`    | the thread that writes |
//! | `journal`   | the handle: append, release |
//! | `reader`    | reading while it is written |
//! | `journals`  | all of a node's |
//!
//! The format is described in `docs/formats/journal.md`.
//!
//! Invariants:
//! - [`check_chain`]: every transaction follows the one before it (I3).
//! - Nothing is read, and no end told, before it is synced (I2).
//! - A shape that was durable stays known for ever: peers may know it, so its id must not be
//!   given to another shape.

mod chain;
pub mod columns;
mod error;
#[expect(clippy::module_inception, reason = "a journal is the main thing here")]
mod journal;
mod journals;
mod mark;
mod options;
pub mod ranks;
mod reader;
pub mod record;
mod recovery;
mod released;
mod segment;
mod shared;
mod walk;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use chain::{Broken, Chain, check_chain};
pub use error::Error;
pub use journal::Journal;
pub use journals::Journals;
pub use options::Options;
pub use reader::Reader;
