//! The servers, rows and loads of `make bench`.

#![allow(dead_code)] // The bench does more with them.

#[path = "../bench/installed.rs"]
pub(crate) mod installed;
#[path = "../bench/load.rs"]
pub(crate) mod load;
#[path = "../bench/machine.rs"]
pub(crate) mod machine;
#[path = "../bench/process.rs"]
pub(crate) mod process;
#[path = "../bench/server.rs"]
pub(crate) mod server;
