//! How people and monitoring reach the daemon: HTTP, the SQL schema, and the messages in WAL.
//!
//! ```text
//!  psql ──► functions of schema everywrite ──► WAL message ──► capture ──► daemon
//!  psql ◄── views of schema everywrite ◄── node_status, conflict_history ◄── daemon, replay
//!  curl, Prometheus, `everywrite status` ◄── http ◄── Status
//! ```
//!
//! - [`schema`]: the daemon's own tables, views and functions in each database.
//! - [`message`]: what the functions and the daemon write into WAL, byte by byte.
//! - [`http`]: `/v1/status`, `/health`, `/ready`, `/metrics`.
//!
//! Nothing here is on the way of a change: if all of it fails, replication goes on.

mod error;
pub mod http;
pub mod message;
pub mod schema;

pub use error::Error;
