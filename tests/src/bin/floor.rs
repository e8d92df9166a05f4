//! `make floor`: what COPY, unnest, the walsender, the link and the disk can do on this machine by themselves.
//!
//! docs/floor.md has the figures and says how to read them.

#[path = "../floor/bench.rs"]
mod bench;
#[path = "../floor/mod.rs"]
mod floor;
#[allow(dead_code)] // One kind of the transactions is wanted.
#[path = "../scale/transaction.rs"]
mod transaction;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let options = floor::Options::parse();
    // Dropping the run on a signal ends every server that it has made.
    let outcome = tokio::select! {
        done = floor::run(&options) => done,
        ended = ended() => ended.and(Err(anyhow::anyhow!("interrupted"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("floor: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn ended() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}
