//! `make soak`: three sites, random transactions, kill -9 of random processes, failing links; then all
//! rows must be equal and every committed row version accounted for.
//!
//! `SEED` repeats a run's decisions, `SECONDS` says how long load and faults last (60), `FAULTS`
//! chooses the faults whose name has that in it: `FAULTS="a server"`.

use std::process::ExitCode;
use std::time::Duration;

use everywrite_tests::random;
use everywrite_tests::soak::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    let seconds = std::env::var("SECONDS").ok().and_then(|s| s.parse().ok());
    let options = Options {
        seed: random::seed(),
        duration: Duration::from_secs(seconds.unwrap_or(60)),
        faults: std::env::var("FAULTS").unwrap_or_default(),
        ..Options::default()
    };
    match run(&options, |line| println!("{line}")).await {
        Ok(summary) => {
            println!("\n{summary}");
            for violation in &summary.violations {
                println!("WRONG  {violation}");
            }
            if summary.violations.is_empty() {
                return ExitCode::SUCCESS;
            }
        }
        Err(err) => println!("WRONG  {err:#}"),
    }
    println!("repeat with: make soak SEED={}", options.seed);
    ExitCode::FAILURE
}
