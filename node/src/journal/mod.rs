//! Transactions → durable segments: one log per origin, kept by every node.

mod error;
pub mod record;

pub use error::Error;
