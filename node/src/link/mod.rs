//! Segments ↔ peers: mutual TLS connections between nodes, over which journals are pulled.
//!
//! ```text
//!  journal[A] ─► serve ─► writer ═══ TLS ═══ session::read ─► receive ─► journal[A]
//!                           ▲ control first      │
//!       beats, pings, credit, row requests ──────┴─► gossip, skew, serve, rows
//! ```
//!
//! Each node dials each other one, so there are two connections per pair; on either of them both
//! sides may subscribe, and the one that a node dialled itself is what it pulls over. When only one
//! of the two can dial, one connection does for both directions.
//!
//! | part | role |
//! |------|------|
//! | `certificates`, `identity`, `credentials`, `tls` | who may talk to whom |
//! | `dial`, `accept`, `hello` | from an address to a peer |
//! | `session`, `frame`, `message`, `writer` | one connection |
//! | `routing` (pure), `hub` | which connection brings which origin |
//! | `serve`, `receive` | one subscription, at its two ends |
//! | `gossip`, `skew`, `rows`, `questions` | beats, clocks, single rows, what the link does not understand |
//!
//! Invariants:
//! - Journal bytes travel as they are on disk; nothing between the two disks decodes them.
//! - Only what is durable here is sent (the journal's reader sees to it, I2).
//! - Per origin there is one subscription, and bytes of two senders are never mixed; a new one
//!   begins at the own durable end, and what comes twice is skipped by the journal.
//! - Nobody makes anybody else hold more than a window of a subscription's bytes.
//! - An error ends a connection, never the process, and the dialler tries again for ever.
//!
//! The bytes are described in `docs/formats/link.md`.

pub mod certificates;

mod accept;
mod backoff;
mod credentials;
mod dial;
mod error;
mod frame;
mod gossip;
mod handle;
mod hello;
mod hub;
mod identity;
mod linger;
#[doc(hidden)]
pub mod measured;
mod message;
mod node;
mod options;
mod pack;
mod peer;
mod questions;
mod receive;
pub mod routing;
mod rows;
mod serve;
mod session;
mod skew;
mod tls;
mod writer;

pub use error::Error;
pub use handle::{Handle, Link};
pub use options::{Clock, Compression, Options, Peer, Timing};
pub use questions::QuestionSource;
pub use rows::{FetchRow, FetchedRow, RowSource};

#[cfg(test)]
mod tests;
