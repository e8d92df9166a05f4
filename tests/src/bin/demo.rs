//! `make demo` and `make demo-down`: see [`everywrite_tests::demo`].
//!
//! `DEMO_SECONDS` says how long it writes (15).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use everywrite_tests::demo::{Options, down, up};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("demo: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let here = std::env::current_dir().context("find the current folder")?;
    let dir: PathBuf = here.join("demo-data");
    let mut options = Options::default();
    if let Ok(seconds) = std::env::var("DEMO_SECONDS") {
        options.writing = Duration::from_secs(seconds.parse().context("DEMO_SECONDS")?);
    }
    match std::env::args().nth(1).as_deref() {
        Some("up") | None => up(&dir, &options).await,
        Some("down") => down(&dir),
        Some(other) => anyhow::bail!("\"{other}\" is neither up nor down"),
    }
}
