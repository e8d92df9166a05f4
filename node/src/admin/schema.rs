//! The daemon's own schema `everywrite`, one copy in each replicated database.
//!
//! - `migrate` brings it to this program's version; nothing else creates objects in it.
//! - `nodes` and `publish` write what the views show.
//! - `retention` deletes old conflict history.
//! - `left_out` keeps which rows are older than what was left out of them.
//! - `outbox` has the statements that replay runs inside its own transactions; those of the conflict
//!   history depend on the table, see `replay::history`.
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

mod left_out;
mod migrate;
mod nodes;
mod outbox;
mod policies;
mod publish;
mod retention;
#[cfg(test)]
mod tests;

pub use left_out::{INSERT_LEFT_OUT, INSERT_LEFT_OUT_TYPES, key_bytes, left_out};
pub use migrate::migrate;
pub use nodes::{Site, paused, register_nodes, skipped};
pub use outbox::{EMIT_OUTBOX, INSERT_OUTBOX, INSERT_OUTBOX_TYPES};
pub use policies::{Set, policies, policies_begun};
pub use publish::publish_status;
pub use retention::{beyond_newest, forget_conflicts};
