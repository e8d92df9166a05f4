//! `make soak` and `make chaos`: sites under random transactions while things go wrong; then all rows
//! must be equal and every committed row version accounted for.
//!
//! The argument `chaos` takes all kinds of faults, several at once, in rounds of 15 s; without it, crashes and
//! links. `SEED` repeats a run's decisions, `SECONDS` says how long load and faults last (60), `NODES`
//! how many sites there are (3), `FAULTS` chooses the faults whose name has that in it: `FAULTS="a server"`.
//! With `SMALL_GROUPS=1` two transactions fill a group of replay, so that both sessions of an origin are in use.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use everywrite_tests::random;
use everywrite_tests::soak::{Options, run};

fn number<T: FromStr>(name: &str, default: T) -> T {
    let given = std::env::var(name).ok();
    given.and_then(|s| s.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> ExitCode {
    let duration = Duration::from_secs(number("SECONDS", 60));
    let (seed, sites) = (random::seed(), number("NODES", 3));
    let chaos = std::env::args().nth(1).is_some_and(|arg| arg == "chaos");
    let options = Options {
        sites,
        faults: std::env::var("FAULTS").unwrap_or_default(),
        small_groups: number("SMALL_GROUPS", 0) > 0,
        ..match chaos {
            true => Options::chaos(seed, sites, duration),
            false => Options::soak(seed, duration),
        }
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
    println!("repeat with: {}", options.line());
    ExitCode::FAILURE
}
