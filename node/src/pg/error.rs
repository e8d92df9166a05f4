//! Everything that can go wrong between this process and a PostgreSQL server.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::ServerError;
use super::sqlstate::Class;

/// An operation on a PostgreSQL connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection at all: refused, unreachable, no such socket.
    #[error(
        "cannot connect to PostgreSQL at {address}: is the server running there, and does it listen on that address?"
    )]
    Connect {
        /// Host and port, or the socket.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("PostgreSQL at {address} did not answer within {after:?}")]
    ConnectTimeout {
        /// Host and port, or the socket.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// TLS is demanded and the server has none.
    #[error(
        "PostgreSQL at {address} does not offer TLS, which the TLS mode demands: set ssl = on there, or choose mode \"prefer\""
    )]
    TlsNotOffered {
        /// Host and port.
        address: String,
    },
    /// The TLS handshake failed, for instance on an untrusted certificate.
    #[error("TLS handshake with PostgreSQL at {address} failed")]
    TlsHandshake {
        /// Host and port.
        address: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// A certificate or key file cannot be read.
    #[error("cannot read {what} from {}", path.display())]
    TlsFile {
        /// Certificate authority, certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The TLS settings do not fit together.
    #[error("TLS settings: {problem}")]
    TlsSettings {
        /// What is wrong and what to do.
        problem: String,
        /// What TLS said, if it was TLS.
        #[source]
        source: Option<rustls::Error>,
    },
    /// The server asks for something this side cannot give.
    #[error("cannot log in to PostgreSQL: {0}")]
    Authentication(String),
    /// The server refused the connection or a command.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The server refused one statement of a batch, and skipped those behind it.
    #[error("statement {index} of the batch failed: {error}")]
    Statement {
        /// Which one, counted from 0 since the last Sync: so many statements before it succeeded.
        index: usize,
        /// Which one of those behind the mark, counted from 0, if it is one of them.
        behind_mark: Option<usize>,
        /// Why.
        error: Box<ServerError>,
    },
    /// Reading or writing failed.
    #[error("the connection to PostgreSQL broke while {operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server closed the connection without a word: it crashed, or something between did.
    #[error("PostgreSQL closed the connection")]
    Closed,
    /// The server said something that does not belong there.
    #[error("unexpected answer from PostgreSQL: {0}")]
    Protocol(String),
    /// A message is longer than PostgreSQL can receive.
    #[error("a message of {bytes} bytes is more than the 1 GiB PostgreSQL can receive")]
    TooLarge {
        /// How long it would be.
        bytes: usize,
    },
    /// A statement, name or setting with a zero byte in it, which the protocol cannot express.
    #[error("{what} contains a zero byte")]
    ZeroByte {
        /// Where it was found.
        what: &'static str,
    },
    /// A bind has more parameters than the protocol can count.
    #[error("a statement has {count} parameters, PostgreSQL takes at most 65535")]
    TooManyParameters {
        /// How many.
        count: usize,
    },
    /// A catalog query failed.
    #[error("query failed: {}", describe(.0))]
    Query(#[source] tokio_postgres::Error),
}

impl Error {
    pub(super) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { operation, source }
    }

    /// What the server said, if it was the server.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Error::Server(error) | Error::Statement { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The server's SQLSTATE, if it was the server.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Query(error) => error.code().map(tokio_postgres::error::SqlState::code),
            other => other.server().map(|error| error.code.as_str()),
        }
    }

    /// What must happen next.
    pub fn class(&self) -> Class {
        match self {
            Error::Server(error) | Error::Statement { error, .. } => error.class(),
            Error::Query(error) => error
                .code()
                .map_or(Class::Retry, |code| super::sqlstate::classify(code.code())),
            Error::Connect { .. }
            | Error::ConnectTimeout { .. }
            | Error::TlsHandshake { .. }
            | Error::Io { .. }
            | Error::Closed
            | Error::Protocol(_) => Class::Retry,
            Error::TlsNotOffered { .. }
            | Error::TlsFile { .. }
            | Error::TlsSettings { .. }
            | Error::Authentication(_) => Class::Halt,
            Error::TooLarge { .. } | Error::ZeroByte { .. } | Error::TooManyParameters { .. } => {
                Class::Park
            }
        }
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        Error::Server(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Query(error)
    }
}

/// tokio-postgres prints only "db error"; what happened is in its fields.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}
