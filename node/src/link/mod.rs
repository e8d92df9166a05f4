//! Segments ↔ peers.
