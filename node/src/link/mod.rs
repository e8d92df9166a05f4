//! Segments ↔ peers.

pub mod certificates;
