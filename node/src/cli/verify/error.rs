//! Why tables cannot be compared: one line, with the remedy.

use std::path::PathBuf;

use crate::verify::ranges::Unreadable;

/// Each variant names what failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings file is not usable.
    #[error("{0}")]
    Settings(String),
    /// The daemon does not run here.
    #[error(
        "no daemon answers at {} ({source}); is `everywrite run` running with these settings, \
         and does this user own its data directory?",
        socket.display()
    )]
    Daemon {
        /// Its socket.
        socket: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A site that is not there.
    #[error("there is no site \"{site}\": the sites are {}", sites.join(", "))]
    NoSuchSite {
        /// What was given.
        site: String,
        /// What there is.
        sites: Vec<String>,
    },
    /// Nothing to compare with.
    #[error("there is only one site: name at least two, or add peers to the settings")]
    OneSite,
    /// A table that is nowhere.
    #[error(
        "no site has a table \"{table}\" that is replicated; write it as table or schema.table, as it is spelt in the catalog"
    )]
    NoSuchTable {
        /// What was given.
        table: String,
    },
    /// A site does not answer.
    #[error("site {site}: {reason}")]
    Site {
        /// Which.
        site: String,
        /// Why.
        reason: String,
    },
    /// A site answers something else.
    #[error("site {0} answered another question; please report it")]
    Confused(String),
    /// A range cannot be answered.
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
}

impl Error {
    /// A mistake of the person who asks, not of a site.
    pub(super) fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Settings(_)
                | Error::NoSuchSite { .. }
                | Error::NoSuchTable { .. }
                | Error::OneSite
        )
    }
}
