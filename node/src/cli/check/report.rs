//! All findings: a table for people, JSON for programs.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde::Serialize;

use super::server::Server;
use super::{Finding, Level};

/// What a look at a server found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// As in `server_version`.
    pub version: String,
    /// The database that was looked at.
    pub database: String,
    /// The role that was judged.
    pub role: String,
    /// How many findings are errors.
    pub errors: usize,
    /// How many are warnings.
    pub warnings: usize,
    /// In the order they were looked for.
    pub findings: Vec<Finding>,
}

/// Without a terminal: wide enough for most lines, narrow enough for a mail.
const WIDTH: u16 = 100;

impl Report {
    pub(super) fn new(server: &Server, findings: Vec<Finding>) -> Report {
        let count = |level| findings.iter().filter(|f| f.level == level).count();
        Report {
            version: server.version_text.clone(),
            database: server.database.clone(),
            role: server.role.clone(),
            errors: count(Level::Error),
            warnings: count(Level::Warning),
            findings,
        }
    }

    /// Whether anything is an error.
    #[must_use]
    pub fn must_change(&self) -> bool {
        self.errors > 0
    }

    /// One object; `findings` in it.
    #[must_use]
    pub fn json(&self) -> String {
        // A report is strings and numbers: it can always be written.
        serde_json::to_string_pretty(self).map_or_else(|_| String::new(), |text| text + "\n")
    }

    /// An overview, then what to do about each finding that is not ok, as SQL to copy.
    #[must_use]
    pub fn table(&self, colours: bool) -> String {
        let mut text = format!(
            "PostgreSQL {}, database {}, role {}\n\n",
            self.version, self.database, self.role
        );
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["", "object", "finding"]);
        if colours {
            table.enforce_styling();
        } else {
            table.force_no_tty().set_width(WIDTH);
        }
        for finding in &self.findings {
            let mut level = Cell::new(finding.level.word());
            if colours {
                level = level.fg(colour(finding.level));
            }
            table.add_row([level, Cell::new(&finding.object), Cell::new(&finding.what)]);
        }
        let _ = writeln!(text, "{table}");
        for level in [Level::Error, Level::Warning, Level::Note] {
            for finding in self.findings.iter().filter(|f| f.level == level) {
                explain(&mut text, finding, colours);
            }
        }
        self.summary(&mut text);
        text
    }

    fn summary(&self, text: &mut String) {
        let plural = |count: usize, word: &str| {
            let s = if count == 1 { "" } else { "s" };
            format!("{count} {word}{s}")
        };
        let errors = plural(self.errors, "error");
        let warnings = plural(self.warnings, "warning");
        let verdict = match (self.errors, self.warnings) {
            (0, 0) => "this server is ready for Everywrite".to_owned(),
            (0, _) => format!("this server is ready for Everywrite; {warnings} to think about"),
            _ => format!("{errors} to mend before a node can work here, {warnings}"),
        };
        let restart = self
            .findings
            .iter()
            .any(|f| f.restart && f.level == Level::Error);
        let restart = if restart {
            "; restart PostgreSQL once after all settings are made"
        } else {
            ""
        };
        let _ = writeln!(text, "\n{verdict}{restart}");
    }
}

fn explain(text: &mut String, finding: &Finding, colours: bool) {
    if finding.why.is_empty() && finding.mend.is_empty() {
        return;
    }
    let word = finding.level.word();
    let word = if colours {
        let code = match finding.level {
            Level::Error => 31,
            Level::Warning => 33,
            Level::Note => 36,
            Level::Ok => 32,
        };
        format!("\x1b[{code}m{word}\x1b[0m")
    } else {
        word.to_owned()
    };
    let _ = writeln!(text, "\n{word}: {} {}", finding.object, finding.what);
    if !finding.why.is_empty() {
        let _ = writeln!(text, "  why: {}", finding.why);
    }
    if !finding.mend.is_empty() {
        let restart = if finding.restart {
            " (then restart PostgreSQL)"
        } else {
            ""
        };
        let _ = writeln!(text, "  mend{restart}:");
    }
    for line in &finding.mend {
        let _ = writeln!(text, "    {line}");
    }
}

fn colour(level: Level) -> Color {
    match level {
        Level::Ok => Color::Green,
        Level::Note => Color::Cyan,
        Level::Warning => Color::Yellow,
        Level::Error => Color::Red,
    }
}
