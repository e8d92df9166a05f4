//! Says on standard error what is being done, and for how long.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// Counts the steps of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    steps: usize,
    done: usize,
    started: Instant,
}

/// A step under way. Ends its line when finished or dropped.
#[derive(Debug)]
pub(crate) struct Step {
    text: String,
    started: Instant,
    /// Rewrites the line each second on a terminal.
    ticker: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn new(steps: usize) -> Self {
        Self {
            steps,
            done: 0,
            started: Instant::now(),
        }
    }

    /// Begins a step; `text` names it.
    pub(crate) fn step(&mut self, text: &str) -> Step {
        self.done += 1;
        let text = format!(
            "[{:>3}/{} {:>5} s] {text:<34}",
            self.done,
            self.steps,
            self.started.elapsed().as_secs()
        );
        let started = Instant::now();
        let ticker = std::io::stderr().is_terminal().then(|| {
            let text = text.clone();
            tokio::spawn(async move {
                loop {
                    eprint!("\r{text} … {} s ", started.elapsed().as_secs());
                    let _ = std::io::stderr().flush();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        });
        Step {
            text,
            started,
            ticker,
        }
    }
}

impl Step {
    /// Ends the step with what came of it.
    pub(crate) fn finish(mut self, outcome: &str) {
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
            eprint!("\r");
        }
        eprintln!(
            "{} {:>6.1} s  {outcome}",
            self.text,
            self.started.elapsed().as_secs_f64()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
            eprintln!();
        }
    }
}
