//! A logical slot's stream in, three positions out.
//!
//! ```text
//!                      ┌─► Stream::next ──► Event (payloads for pgoutput::decode)
//!  START_REPLICATION ──┤
//!                      └─◄ Feedback::send (write, flush, apply), by any task, at any time
//! ```
//!
//! Invariants: reading and feedback share nothing, so feedback goes out while nobody reads (the
//! walsender would otherwise end the connection after `wal_sender_timeout`); nothing is sent unless
//! the caller says so, and then at once: a commit that waits for this node is released by it.
//!
//! Traps:
//! - A keepalive with `reply_requested` must be answered, or the walsender gives up; a server that
//!   shuts down also waits until `flush` has reached what it sent.
//! - The position `flush` is what the slot may forget. It may only move over WAL whose every
//!   transaction is durable here.
//! - Positions may be behind what was reported earlier after a reconnect; the server ignores that.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

mod options;
mod slot;
mod stream;

#[cfg(test)]
mod tests;

pub use options::Options;
pub use slot::{ExportedSlot, Slot, create_slot, create_slot_exporting, drop_slot, find_slot};
pub use stream::{Event, Feedback, Stream, start};
