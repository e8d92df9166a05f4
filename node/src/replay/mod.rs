//! Peers' transactions → local rows.
