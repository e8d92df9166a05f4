//! What can go wrong with a file of settings.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::diagnostic::Diagnostic;

/// A file that gave no settings. `Display` is complete: it is meant to be printed as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the settings from {}: {source}\n  = help: {}", path.display(), read_help(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file was read, and does not say what it must: all complaints, in the order of the file.
    #[error("{}", Joined(.0))]
    Invalid(Vec<Diagnostic>),
    /// A connection URL that cannot be used. Never shows the URL: it may hold a password.
    #[error(
        "the PostgreSQL URL cannot be used: {0}\n  = help: write it as postgres://user@host:5432/database, or postgres://user@/database?host=/var/run/postgresql for a unix socket"
    )]
    Url(String),
}

fn read_help(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "name the file with --config FILE, or make one with `everywrite init`"
        }
        io::ErrorKind::PermissionDenied => "let the user the daemon runs as read the file",
        io::ErrorKind::InvalidData => "save the file as UTF-8 text",
        _ => "look at the file and its folder",
    }
}

/// Diagnostics one below the other.
struct Joined<'a>(&'a [Diagnostic]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}
