//! The live table: drawn again in place on a terminal, a plain line for each site now and then
//! otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use everywrite_node::telemetry::{OriginStatus, Status};

use crate::cluster::Site;

/// How often plain lines are written.
const PLAIN_EVERY: Duration = Duration::from_secs(3);

/// Remembers what was drawn, to draw over it.
pub(crate) struct Table {
    terminal: bool,
    drawn: usize,
    last: Option<Instant>,
    begin: Instant,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            terminal: std::io::stdout().is_terminal(),
            drawn: 0,
            last: None,
            begin: Instant::now(),
        }
    }

    /// Shows how all sites are.
    pub(crate) async fn show(&mut self, sites: &[Site], written: u64) {
        if !self.terminal && self.last.is_some_and(|last| last.elapsed() < PLAIN_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let mut lines = vec![format!(
            "{:<5} {:>12} {:>9} {:>10} {:>10}   {:<52}",
            "site", "position", "writes/s", "applied/s", "conflicts", "behind the others"
        )];
        for site in sites {
            lines.push(match site.node.status().await {
                Ok(status) => line(&status),
                Err(err) => format!("{:<5} {err:#}", site.node.name()),
            });
        }
        lines.push(format!(
            "{written} transactions committed in {:.0} s",
            self.begin.elapsed().as_secs_f64()
        ));
        self.draw(&lines);
    }

    fn draw(&mut self, lines: &[String]) {
        let mut out = std::io::stdout().lock();
        if self.terminal && self.drawn > 0 {
            write!(out, "\x1b[{}A", self.drawn).ok();
        }
        for line in lines {
            let clear = if self.terminal { "\x1b[2K" } else { "" };
            writeln!(out, "{clear}{}", line.trim_end()).ok();
        }
        out.flush().ok();
        self.drawn = lines.len();
    }
}

fn line(status: &Status) -> String {
    let applied = status.origins.iter().map(|o| o.transactions_per_s);
    let applied = applied.fold(0.0, |sum, rate| sum + rate);
    let conflicts: u64 = status.conflicts.values().sum();
    let behind: Vec<String> = status.origins.iter().map(behind).collect();
    format!(
        "{:<5} {:>12} {:>9.0} {:>10.0} {:>10}   {:<52}",
        status.name,
        status.capture.journal_end.to_string(),
        status.capture.transactions_per_s,
        applied,
        conflicts,
        behind.join("   ")
    )
}

/// How far a site is behind one other.
fn behind(origin: &OriginStatus) -> String {
    let lag = if origin.lag_bytes == 0 {
        "0 B".to_owned()
    } else {
        format!("{:.1} kB", origin.lag_bytes as f64 / 1024.0)
    };
    format!("{} {lag}, {:.2} s", origin.name, origin.lag_s)
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::Lsn;

    use super::*;

    #[test]
    fn a_line_has_everything() {
        let origin = OriginStatus {
            name: "b".to_owned(),
            lag_bytes: 2048,
            lag_s: 0.25,
            transactions_per_s: 12.4,
            ..OriginStatus::default()
        };
        let mut status = Status {
            name: "a".to_owned(),
            origins: vec![origin],
            ..Status::default()
        };
        status.capture.journal_end = Lsn(0x1_0000_00ff);
        status.conflicts.insert("insert_exists".to_owned(), 3);
        let line = line(&status);
        for part in ["a ", "1/FF", " 12 ", " 3 ", "b 2.0 kB, 0.25 s"] {
            assert!(line.contains(part), "no {part:?} in {line:?}");
        }
    }
}
