//! Local WAL → transactions.
