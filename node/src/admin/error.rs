//! What can go wrong between the daemon and the people who look at it.

use std::error::Error as StdError;
use std::fmt::Write as _;

/// Each variant names the operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A statement on the daemon's own schema failed.
    #[error("{operation}: {}", describe(source))]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// What the server or the connection said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The role may not create the schema.
    #[error(
        "create schema everywrite: {}; let the owner of the database run: \
         create schema everywrite authorization {role}",
        describe(source)
    )]
    SchemaMissing {
        /// The daemon's role, quoted.
        role: String,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The role does not own the schema.
    #[error(
        "schema everywrite belongs to {owner}, but the daemon connects as {role}; \
         let a superuser run: alter schema everywrite owner to {role}, or connect as {owner}"
    )]
    SchemaOfAnother {
        /// Who owns it, quoted.
        owner: String,
        /// The daemon's role, quoted.
        role: String,
    },
    /// Someone else holds the migration lock, or locks on the tables.
    #[error(
        "set up schema everywrite: waited too long for a lock; another daemon or session works on \
         this schema; look at pg_locks, it is tried again"
    )]
    SchemaLocked(#[source] tokio_postgres::Error),
    /// The schema was made by a newer daemon.
    #[error(
        "schema everywrite is at version {found}, this daemon knows versions up to {known}; \
         run the daemon that was here before, or a newer one"
    )]
    SchemaNewer {
        /// The version in the database.
        found: i32,
        /// The newest version this program has.
        known: i32,
    },
    /// A migration that was applied differs from the one in this program.
    #[error(
        "migration {version} ({name}) of schema everywrite was applied with another content; \
         this database was set up by a different build of everywrite, run that one"
    )]
    SchemaDiffers {
        /// Its number.
        version: i32,
        /// Its name.
        name: &'static str,
    },
    /// The admin address cannot be used.
    #[error(
        "listen for admin requests on {address}: {source}; \
         choose another address under [listen] admin"
    )]
    Listen {
        /// The address as configured.
        address: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

/// The whole chain in one line: tokio-postgres prints only its own level.
fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = String::new();
    match error.as_db_error() {
        Some(server) => {
            let _ = write!(text, "{} ({})", server.message(), server.code().code());
            if let Some(hint) = server.hint() {
                let _ = write!(text, "; {hint}");
            }
        }
        None => {
            let _ = write!(text, "{error}");
            let mut cause = error.source();
            while let Some(inner) = cause {
                let _ = write!(text, ": {inner}");
                cause = inner.source();
            }
        }
    }
    text
}

impl Error {
    /// For `map_err` behind a statement.
    pub(crate) fn sql(operation: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |source| Error::Sql { operation, source }
    }
}
