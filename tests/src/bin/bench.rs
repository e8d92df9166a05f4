//! `make bench`: Everywrite and PostgreSQL's own logical replication in turn, in one run, on one machine.
//!
//! docs/performance.md says what is measured, how, and how to read the figures.

#[path = "../bench/mod.rs"]
mod bench;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = async {
        let plan = bench::Options::parse().plan()?;
        // Dropping the run on a signal ends every server and daemon it has started.
        tokio::select! {
            done = bench::run(&plan) => done,
            interrupted = bench::interrupted() => {
                interrupted?;
                anyhow::bail!("interrupted; everything that was started has been stopped")
            }
        }
    };
    match outcome.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("bench: {err:#}");
            ExitCode::FAILURE
        }
    }
}
