//! What a daemon said: a test fails when it panicked, or complained about something that the test
//! did not provoke.

use std::path::Path;

/// The lines of a log, oldest first; empty when there is none yet.
pub fn lines(log: &Path) -> Vec<String> {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(without_colours)
        .collect()
}

/// Its last lines, for a failure message.
pub fn tail(log: &Path, count: usize) -> String {
    let lines = lines(log);
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The lines that say the program ran into a bug of its own.
pub fn panics(log: &Path) -> Vec<String> {
    lines(log)
        .into_iter()
        .filter(|line| line.contains("panicked at") || line.contains("BorrowMutError"))
        .collect()
}

/// The lines at level ERROR, without those that contain one of `expected`.
pub fn unexpected_errors(log: &Path, expected: &[String]) -> Vec<String> {
    lines(log)
        .into_iter()
        .filter(|line| is_error(line))
        .filter(|line| !expected.iter().any(|e| line.contains(e.as_str())))
        .collect()
}

/// Plain (`… ERROR target: …`) and JSON (`"level":"ERROR"`) lines.
fn is_error(line: &str) -> bool {
    line.contains("\"level\":\"ERROR\"") || line.split_whitespace().take(3).any(|w| w == "ERROR")
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_panics_and_errors_and_leaves_the_expected_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text = "2026-01-01T00:00:00Z  INFO everywrite: started\n\
            2026-01-01T00:00:01Z \u{1b}[31mERROR\u{1b}[0m everywrite: cannot connect error=refused\n\
            thread 'main' panicked at src/main.rs:1:1:\n";
        std::fs::write(&log, text).unwrap();
        assert_eq!(panics(&log).len(), 1);
        assert_eq!(unexpected_errors(&log, &[]).len(), 1);
        assert!(unexpected_errors(&log, &["cannot connect".to_owned()]).is_empty());
        assert!(tail(&log, 1).contains("panicked"));
    }
}
