//! The harness itself: what the suites rely on must hold before they can mean anything.

mod checker;
mod machine;
mod merged_checker;
mod proxy;
mod server;
mod workload;
