//! How far it is, for a person who waits: on stderr, one line that is drawn again.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A terminal's line is drawn again so often.
const DRAW: Duration = Duration::from_millis(500);
/// Elsewhere a line is written so often.
const WRITE: Duration = Duration::from_secs(10);

/// All tables on their way.
pub(super) struct Progress {
    terminal: bool,
    silent: bool,
    began: Instant,
    shown: Instant,
    table: String,
    /// Rows of the tables before this one.
    before: u64,
    /// Rows of all tables, as the servers believe.
    expected: u64,
    drawn: bool,
}

impl Progress {
    /// Of so many rows in all. `silent`: only a terminal is told.
    pub(super) fn new(expected: u64, silent: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Progress {
            terminal,
            silent: silent && !terminal,
            began: Instant::now(),
            shown: Instant::now(),
            table: String::new(),
            before: 0,
            expected,
            drawn: false,
        }
    }

    /// Time since it began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The next table begins.
    pub(super) fn table(&mut self, name: &str) {
        name.clone_into(&mut self.table);
    }

    /// A table has ended with so many rows, of which the servers believed `expected`.
    pub(super) fn ended(&mut self, rows: u64, expected: u64) {
        self.before += rows;
        self.expected = (self.expected + rows).saturating_sub(expected);
        self.clear();
    }

    /// So many rows of this table are compared.
    pub(super) fn at(&mut self, rows: u64, disputed: usize, differ: usize) {
        let every = if self.terminal { DRAW } else { WRITE };
        if self.silent || self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let done = self.before + rows;
        let line = line(
            &self.table,
            done,
            self.expected.max(done),
            self.began.elapsed(),
            disputed,
            differ,
        );
        let mut err = std::io::stderr().lock();
        let _ = if self.terminal {
            write!(err, "\r\x1b[K{line}")
        } else {
            writeln!(err, "{line}")
        };
        let _ = err.flush();
        self.drawn = self.terminal;
    }

    /// Removes what was drawn.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K");
            let _ = err.flush();
        }
    }
}

fn line(
    table: &str,
    done: u64,
    expected: u64,
    elapsed: Duration,
    disputed: usize,
    differ: usize,
) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let percent = (done * 100).checked_div(expected).unwrap_or(100);
    let left = (expected - done) as f64 / rate.max(1.0);
    let mut line = format!(
        "{table}: {percent} % of about {expected} rows, {rate:.0} rows/s, about {} left",
        duration(left)
    );
    if disputed > 0 {
        line.push_str(&format!(", {disputed} looked at again"));
    }
    if differ > 0 {
        line.push_str(&format!(", {differ} differ"));
    }
    line
}

/// Seconds as a person says them.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let said = line("public.t", 250, 1000, Duration::from_secs(5), 0, 0);
        assert_eq!(
            said,
            "public.t: 25 % of about 1000 rows, 50 rows/s, about 15 s left"
        );
        let said = line("t", 0, 0, Duration::ZERO, 3, 2);
        assert!(said.ends_with("3 looked at again, 2 differ"), "{said}");
        assert_eq!(duration(3700.0), "1 h 1 min");
    }
}
