//! The command line.

pub mod check;
pub mod init;
pub mod run;
pub mod status;
pub mod verify;
