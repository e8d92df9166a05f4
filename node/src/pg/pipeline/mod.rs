//! Many statements, one write, one Sync: the hot path of replay.
//!
//! ```text
//!  Batch: Parse Bind Execute … CopyData … Sync ──► Session ──► server
//!                         Vec<Outcome> per Sync ◄── Session ◄── server
//! ```
//!
//! A [`Batch`] is a buffer of protocol messages; nothing is sent while it is built. A [`Session`]
//! sends batches and gives the outcomes of each Sync, in order. Several batches may be on their way
//! at once.
//!
//! Invariants:
//! - Reading goes on while writing, so both sides' full socket buffers cannot block each other.
//! - `send` and `receive` may be cancelled; the next call goes on where they were.
//! - After an error the server skips everything up to the Sync. The session is usable again once
//!   [`Session::receive`] has returned that error. In an explicit transaction the server is then in
//!   a failed transaction: send `ROLLBACK`.
//! - Names of prepared statements are remembered only once the server has confirmed them.
//!
//! Traps:
//! - The statements between two Syncs are one implicit transaction, unless `BEGIN` makes it an
//!   explicit one. `SAVEPOINT` and `LOCK TABLE` need the explicit one.
//! - A Parse that succeeded stays, even if its transaction is rolled back.
//! - `COPY … FROM STDIN` must come with its data ([`Batch::copy_in`]): without it the server
//!   swallows the Sync and would wait for ever. `COPY … TO STDOUT` is not for these sessions.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING>

mod array;
mod batch;
mod bind;
mod copy_in;
mod outcome;
mod session;

#[cfg(test)]
mod tests;

pub use array::Array;
pub use batch::Batch;
pub use bind::{Bind, Format};
pub use copy_in::CopyIn;
pub use outcome::{Outcome, Row};
pub use session::{Session, TransactionStatus};
