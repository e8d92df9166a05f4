//! Whole links: real TLS over loopback, real journals, several nodes in one process.

mod cluster;
mod compression;
mod flow;
mod gossip;
mod proxy;
mod questions;
mod raw;
mod refusals;
mod routes;
mod rows;
