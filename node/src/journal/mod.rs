//! Transactions → durable segments.
