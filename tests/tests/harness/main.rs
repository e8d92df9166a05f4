//! The harness itself: what the suites rely on must hold before they can mean anything.

mod proxy;
mod server;
