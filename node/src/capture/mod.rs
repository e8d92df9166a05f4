//! Stage 1: local WAL → transactions.
//!
//! ```text
//!  walsender ──pgoutput──► Assembler ──frames──► journal
//!                             │  ▲
//!                    Touched  ▼  │ stamp, vector
//!                            Ledger
//! ```
//!
//! One logical slot, decoded once, however many peers. What capture adds to pgoutput's stream is
//! the stamp and the vector; both must be the same for ever, so nothing leaves before the journal
//! is durable (I2).
//!
//! Traps:
//! - PostgreSQL 15 cannot leave out what replay wrote; the origin message tells, and the whole
//!   transaction is dropped.
//! - A large transaction arrives in pieces before its commit, with the pieces of others between;
//!   subtransactions of it may abort. Its pieces wait in a spool file.
//! - A keepalive says how far the server has decoded; it may be confirmed only when everything
//!   before it is durable in the journal.

mod assembler;
mod error;
mod hurry;
mod merged;
mod pace;
mod policies;
mod processors;
mod service;
mod shapes;
mod spool;
mod touched;

pub use assembler::{Assembled, Assembler, Repair, RepairRow, Signal};
pub use error::Error;
pub use hurry::Hurry;
pub(crate) use service::chain;
pub use service::{Capture, Options, Progress};
pub use shapes::Shapes;
pub use spool::Spools;
pub(crate) use touched::{key_cells, touch_with, travelling};
