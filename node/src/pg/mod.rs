//! The only code that speaks PostgreSQL's protocol.
//!
//! | module          | role |
//! |-----------------|------|
//! | [`wire`]        | sockets, TLS, login, framing |
//! | [`replication`] | a slot's stream in, three positions out; slots |
//! | [`pgoutput`]    | what the stream's payloads say |
//! | [`oid`]         | built-in types |
//! | [`quote`]       | names and strings inside SQL |
//! | [`pipeline`]    | many statements under one Sync, for replay |
//! | [`sqlstate`]    | what to do about an error |
//!
//! Catalog queries and everything that is not hot go through tokio-postgres:
//! [`Target::client`].
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod oid;
pub mod pgoutput;
pub mod pipeline;
pub mod quote;
pub mod replication;
pub mod sqlstate;
pub mod wire;

mod error;
mod server_error;
mod target;
mod tls;

#[cfg(test)]
pub(crate) mod test_server;

pub use error::Error;
pub use server_error::ServerError;
pub use target::{Target, Tls, TlsMode};
