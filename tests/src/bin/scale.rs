//! `make scale`: what a node costs with 3 to 48 sites.
//!
//! docs/scale.md has the formulas and says how to read the table.

#[path = "../scale/link.rs"]
mod link;
#[path = "../scale/mod.rs"]
mod scale;

/// What the link's messages carry, at the place where their source looks for it.
mod settle {
    pub(crate) use everywrite_node::settle::Beat;
}

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match scale::run(&scale::Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("scale: {err:#}");
            ExitCode::FAILURE
        }
    }
}
