//! `[log]`: what the daemon writes to standard error.

use serde::Deserialize;

use crate::section::Kind;
use crate::section::Presence::Default;

crate::section::section! {
    /// What the daemon writes to standard error. Row values and secrets are never logged.
    pub struct Log in "log", repeated: false {
        /// `text` for people, `json` (one object for each line) for collectors.
        ///
        /// Since 0.1.0.
        format: LogFormat, Kind::Choice(&LogFormat::NAMES), Default("\"text\"");

        /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, or more for single modules.
        ///
        /// Example: `"info,everywrite_node::link=debug"`. The environment variable
        /// `EVERYWRITE_LOG` goes before it.
        ///
        /// Since 0.1.0.
        filter: String, Kind::Text, Default("\"info\"");
    }
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object for each line.
    Json,
}

impl LogFormat {
    pub(crate) const NAMES: [&'static str; 2] = ["text", "json"];
}
