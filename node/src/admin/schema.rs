//! The daemon's own schema `everywrite`, one copy in each replicated database.
//!
//! - `migrate` brings it to this program's version; nothing else creates objects in it.
//! - `nodes` and `publish` write what the views show.
//! - `conflicts` and `outbox` are the statements that replay runs inside its own transactions.
//!
//! Invariants:
//! - Nothing of this schema is replicated: each copy describes its own site. Capture leaves changes
//!   of its tables out, whatever the publication holds.
//! - It works for a role without superuser that owns the schema; what that role needs beyond it
//!   is `execute` on `pg_replication_origin_progress(text, boolean)` for `everywrite.wait_for`.
//! - Tables are the truth, messages are news: a command in WAL says "look at `paused` and
//!   `skipped` now". After a restart the tables alone give the same result.
//!
//! Trap: any role may call `pg_logical_emit_message` unless that is revoked, so what a message
//! says proves nothing about who said it.

mod conflicts;
mod migrate;
mod nodes;
mod outbox;
mod policies;
mod publish;
#[cfg(test)]
mod tests;

pub use conflicts::{Conflict, ConflictRows, INSERT_CONFLICTS, INSERT_CONFLICTS_TYPES};
pub use migrate::migrate;
pub use nodes::{Site, paused, register_nodes, skipped};
pub use outbox::{EMIT_OUTBOX, INSERT_OUTBOX, INSERT_OUTBOX_TYPES};
pub use policies::policies;
pub use publish::{forget_conflicts, publish_status};
