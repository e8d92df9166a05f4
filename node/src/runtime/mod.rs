//! Wiring: settings → a node whose parts know each other.
//!
//! ```text
//!  journals, ledger, beats          made first, from disk alone
//!  links                            up at once: peers can pull what is in the journal
//!  server reachable ──► schema ──► index rebuilt ──► capture ──► first barrier ──► streams
//! ```
//!
//! Replay begins only after capture has passed everything that was in the local WAL at start: the
//! index is complete then.

mod commands;
mod gather;
mod node;
mod rates;
mod retention;

pub use node::Node;
