//! `make wan`: replication over a slow wire, Everywrite's and PostgreSQL's own.
//!
//! docs/wide-area.md says what is measured, how, and how to read the figures.

#[path = "../wan/mod.rs"]
mod wan;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let options = wan::Options::parse();
    // Dropping the run on a signal ends every server, daemon and namespace that it has made.
    let outcome = tokio::select! {
        done = wan::run(&options) => done,
        ended = ended() => ended.and(Err(anyhow::anyhow!("interrupted"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("wan: {err:#}");
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
