//! The PostgreSQL protocol, version 3.0: sockets, TLS, login, framing.
//!
//! ```text
//!  Target ──► Socket (TCP, unix, TLS) ──► log_in ──► Connection { Frames ◄── server
//!                                                                 Outbox ──► server }
//! ```
//!
//! Invariants: the two sides never wait for each other; payloads are slices of the read buffer,
//! never copies; both sides may be cancelled at any await without losing or repeating a byte.
//!
//! Traps:
//! - A slice keeps the whole read (up to 128 KiB, or one large message) alive. Who keeps slices for
//!   long must copy them.
//! - Notices, notifications and parameter changes can come between any two messages: see
//!   `is_aside`.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

mod connection;
mod frames;
mod login;
mod outbox;
mod socket;

#[cfg(test)]
mod tests;

pub use connection::{Canceller, Connection};
pub(in crate::pg) use connection::{cells, unexpected};
pub(in crate::pg) use frames::Frames;
pub(in crate::pg) use outbox::Outbox;

use super::ServerError;

/// Whether a message came in between and answers nothing; notices are logged.
pub(in crate::pg) fn is_aside(tag: u8, body: &[u8]) -> bool {
    match tag {
        b'N' => {
            log_notice(body);
            true
        }
        // ParameterStatus, NotificationResponse
        b'S' | b'A' => true,
        _ => false,
    }
}

fn log_notice(body: &[u8]) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let notice = ServerError::decode(body);
        tracing::debug!(notice = %notice, "notice from postgresql");
    }
}
