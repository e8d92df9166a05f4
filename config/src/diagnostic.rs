//! One complaint about a place in the file: where, the line, a caret, what was expected, the
//! remedy.
//!
//! Invariant: a secret's value never gets into a [`Diagnostic`]. When the file could be parsed,
//! the exact places of the secrets are known and masked; when it could not, everything behind
//! `password =` is, and no line is shown that may belong to a password of several lines.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One complaint, ready to print.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    file: PathBuf,
    line: usize,
    column: usize,
    /// The whole line, secrets masked; none when it cannot be shown.
    text: Option<String>,
    caret: usize,
    width: usize,
    message: String,
    expected: Option<String>,
    help: Option<String>,
}

impl Diagnostic {
    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// What is wrong, without its place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Diagnostic {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "error: {}", self.message)?;
        write!(
            f,
            "{margin}--> {}:{}:{}",
            self.file.display(),
            self.line,
            self.column
        )?;
        if let Some(text) = &self.text {
            write!(f, "\n{margin} |\n{number} | {text}\n{margin} | ")?;
            // Tabs before the caret are kept, so that it stands below its place in any terminal.
            let before: String = text
                .chars()
                .take(self.caret)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "{before}{}", "^".repeat(self.width))?;
        }
        if let Some(expected) = &self.expected {
            write!(f, "\n{margin} = expected: {expected}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{margin} = help: {help}")?;
        }
        Ok(())
    }
}

/// The text that complaints point into.
pub(crate) struct Page<'a> {
    path: &'a Path,
    text: &'a str,
    masks: Masks,
}

/// What must not be shown.
enum Masks {
    /// The file was parsed: these bytes.
    Exact(Vec<Range<usize>>),
    /// It was not: whatever looks like a password.
    Guess,
}

const MASKED: &str = "[REDACTED]";

impl<'a> Page<'a> {
    pub(crate) fn unparsed(path: &'a Path, text: &'a str) -> Page<'a> {
        let masks = Masks::Guess;
        Page { path, text, masks }
    }

    /// `secrets`: the places of the values that must not be shown.
    pub(crate) fn parsed(path: &'a Path, text: &'a str, secrets: Vec<Range<usize>>) -> Page<'a> {
        let masks = Masks::Exact(secrets);
        Page { path, text, masks }
    }

    /// A complaint about those bytes of the text.
    pub(crate) fn at(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let start = floor(self.text, span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        let end = floor(self.text, span.end).clamp(start, line_end);
        let line = line_start..line_end;
        let shown = self.secrets(&line).map(|secrets| {
            // A caret inside a secret stands below the whole mask.
            let inside = |at: usize| secrets.iter().find(|s| s.start < at && at <= s.end);
            let from = inside(start).map_or(start, |secret| secret.start);
            let to = inside(end).map_or(end, |secret| secret.end).max(from);
            let before = self.masked(line_start..from, &secrets);
            let marked = self.masked(from..to, &secrets);
            let after = self.masked(to..line_end, &secrets);
            let caret = before.chars().count();
            let width = marked.chars().count().max(1);
            (format!("{before}{marked}{after}"), caret, width)
        });
        let (text, caret, width) = match shown {
            Some((text, caret, width)) => (Some(text.trim_end().to_owned()), caret, width),
            None => (None, 0, 0),
        };
        Diagnostic {
            file: self.path.to_owned(),
            line: self.text[..line_start].matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            text,
            caret,
            width,
            message: message.into(),
            expected: None,
            help: None,
        }
    }

    /// What must be masked of a line; none when the line cannot be shown at all.
    fn secrets(&self, line: &Range<usize>) -> Option<Vec<Range<usize>>> {
        match &self.masks {
            Masks::Exact(secrets) => Some(secrets.clone()),
            Masks::Guess => {
                let before = &self.text[..line.start];
                if ["\"\"\"", "\'\'\'"]
                    .iter()
                    .any(|open| before.contains(open))
                {
                    return None;
                }
                let text = &self.text[line.clone()];
                let value = text
                    .find("password")
                    .and_then(|at| text[at..].find('=').map(|equals| at + equals + 1));
                let Some(value) = value.filter(|_| !text.trim_start().starts_with('#')) else {
                    return Some(Vec::new());
                };
                let blanks = text[value..].len() - text[value..].trim_start().len();
                let end = text.trim_end().len().max(value + blanks);
                let secret = line.start + value + blanks..line.start + end;
                Some(Vec::from([secret]))
            }
        }
    }

    /// A part of the text, with a mask for whatever of it is secret.
    fn masked(&self, part: Range<usize>, secrets: &[Range<usize>]) -> String {
        let mut text = String::new();
        let mut at = part.start;
        for secret in secrets {
            if secret.start < part.end && secret.end > part.start {
                text.push_str(&self.text[at..secret.start.max(at)]);
                text.push_str(MASKED);
                at = secret.end.min(part.end);
            }
        }
        text.push_str(&self.text[at..part.end]);
        text
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
