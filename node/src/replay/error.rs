//! What can go wrong in replay, and what must happen next.

use crate::pg::{self, sqlstate::Class};

/// An error of replay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The local table does not fit the origin's.
    #[error("table {table} does not fit the origin's: {what}")]
    Schema {
        /// The table.
        table: String,
        /// What differs.
        what: String,
    },
    /// A change has no key to find its row by.
    #[error(
        "{0} has rows to update or delete but neither a primary key nor a replica identity index"
    )]
    NoKey(String),
    /// The journal holds something that cannot be read.
    #[error("read the journal")]
    Journal(#[from] crate::journal::Error),
    /// The journal holds something that pgoutput does not send.
    #[error("decode a change from the journal")]
    Decode(#[from] pg::pgoutput::Error),
    /// The journal holds a change whose effect is not known here, and must not be left out.
    #[error("a newer everywrite wrote a change of the kind {0:?}: this daemon must be upgraded")]
    Newer(char),
    /// A key cannot be read.
    #[error("read the key of a row of {table}")]
    Key {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: crate::settle::KeyError,
    },
    /// A table's policy leaves a conflict to a person.
    #[error(
        "a conflict in table {0} waits for a person, as its policy \"stop\" says; another policy decides it, set here, \
         where the stream is held: select everywrite.set_policy('{0}', 'all', 'last_update_wins')"
    )]
    Stopped(String),
    /// The function of a table's policy breaks its contract.
    #[error(
        "a conflict in table {table} cannot be left to the function of its policy: {reason}; once the function is mended, or \
         another policy is set here with everywrite.set_policy, it is tried again"
    )]
    Merging {
        /// The table.
        table: String,
        /// What was wrong with its last merge.
        reason: String,
    },
    /// The local server said no, or the connection to it is gone.
    #[error("write to the local server")]
    Postgres(#[from] pg::Error),
    /// A catalog query failed.
    #[error("query the local server")]
    Catalog(#[from] tokio_postgres::Error),
    /// A guard of the fast path failed: decide with care.
    #[error("the fast path's guard failed")]
    Guard,
    /// Somebody wrote in between: try again.
    #[error("trying again: {0}")]
    Again(&'static str),
    /// Missing TOAST values could not be had from any site that knows the row.
    #[error(
        "a TOAST value that the stream leaves out is needed and no site that has it can be reached: {0}"
    )]
    Toast(String),
    /// The daemon ends.
    #[error("the daemon is shutting down")]
    Shutdown,
}

impl Error {
    /// What must happen next.
    pub fn class(&self) -> Class {
        match self {
            Error::Postgres(e) => e.class(),
            Error::Catalog(e) => match e.code() {
                Some(code) => pg::sqlstate::classify(code.code()),
                None => Class::Retry,
            },
            Error::Guard | Error::Again(_) | Error::Toast(_) | Error::Shutdown => Class::Retry,
            Error::Schema { .. } | Error::NoKey(_) | Error::Key { .. } => Class::Park,
            Error::Journal(_) | Error::Decode(_) | Error::Newer(_) => Class::Park,
            Error::Stopped(_) | Error::Merging { .. } => Class::Park,
        }
    }

    /// The connection to the server may be gone.
    pub fn session_lost(&self) -> bool {
        match self {
            Error::Postgres(e) => !matches!(e, pg::Error::Statement { .. }),
            Error::Catalog(e) => e.code().is_none() || e.is_closed(),
            _ => false,
        }
    }

    /// The error with its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }
}
