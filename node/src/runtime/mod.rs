//! Wiring, shutdown, retry.
