//! What the pgoutput plugin says, protocol 1 to 4. Bytes in, borrowed messages out, no I/O.
//!
//! ```text
//!  CopyData 'w' payload ──► decode ──► Message<'a> ──► Tuple<'a> ──► Cell<'a>
//! ```
//!
//! Capture reads the stream with it, replay reads the journal with it (there the messages of
//! streamed transactions have lost their xid, so `streaming` is always false).
//!
//! Invariants: nothing is copied; every access is checked, no input can panic; a message is whole
//! or an [`Error`], so iterating over tuples and columns of a decoded message cannot fail.
//!
//! Traps:
//! - Only the caller knows whether a message stands inside a stream block (`StreamStart` to
//!   `StreamStop`); there a transaction id follows the tag of `R Y I U D T M`.
//! - `Begin.final_lsn` is the START of the commit record. A transaction's position is
//!   `Commit.end_lsn`.
//! - In binary mode a type without a send function still comes as text.
//! - Inside a stream block a change names the subtransaction that made it, but `Message` always the
//!   top-level one: after the abort of a subtransaction nothing tells which messages went with it.
//! - `StreamAbort` has position and time only under `streaming 'parallel'`.
//! - Prepared transactions (`b P K r p`) come only when `two_phase` was asked for, which the
//!   replication module never does; they are unknown messages here.
//!
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

mod cursor;
mod error;
mod message;
mod relation;
mod tuple;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use message::{Message, Oids, decode};
pub use relation::{Column, Columns, OwnedColumn, OwnedRelation, Relation};
pub use tuple::{Cell, Cells, Tuple};
