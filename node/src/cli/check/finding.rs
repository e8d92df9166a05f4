//! One thing that was looked at, and what came of it.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing has to change.
    Note,
    /// Works, with a consequence that is seldom wanted.
    Warning,
    /// Must change before the node can work, or data would be lost or stuck.
    Error,
}

impl Level {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// What was found about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about: `wal_level`, `table public.orders`, `role everywrite` …
    pub object: String,
    /// What is so.
    pub what: String,
    /// Why that matters; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// SQL (or lines of a file) that mends it, to be run as they are; a line that starts with
    /// `--` is for the reader.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mend: Vec<String>,
    /// Whether the mending is seen only after a restart of the server.
    pub restart: bool,
}

impl Finding {
    fn new(level: Level, object: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding {
            level,
            object: object.into(),
            what: what.into(),
            why: String::new(),
            mend: Vec::new(),
            restart: false,
        }
    }

    pub(super) fn ok(object: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(Level::Ok, object, what)
    }

    pub(super) fn note(object: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(Level::Note, object, what)
    }

    pub(super) fn warning(object: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(Level::Warning, object, what)
    }

    pub(super) fn error(object: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(Level::Error, object, what)
    }

    pub(super) fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = why.into();
        self
    }

    pub(super) fn mend(mut self, line: impl Into<String>) -> Finding {
        self.mend.push(line.into());
        self
    }

    pub(super) fn restart(mut self) -> Finding {
        self.restart = true;
        self
    }
}
