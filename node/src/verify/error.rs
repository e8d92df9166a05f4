//! Why a question cannot be answered.

use tokio_postgres::error::SqlState;

use super::question::{Failed, Said, TooMany};
use crate::pg::sqlstate::{Class, classify};

/// A question cannot be answered. Every text is one line for the person who asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// Not now.
    #[error("{0}")]
    NotNow(String),
    /// The server cannot be reached.
    #[error(transparent)]
    Connect(#[from] crate::pg::Error),
    /// The server refuses a statement.
    #[error("{}", said(.0))]
    Sql(#[from] tokio_postgres::Error),
}

/// The server's own words: the error alone says "db error".
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

impl Error {
    /// As an answer. `large`: what takes too long may be asked for in smaller parts.
    pub(super) fn answer(&self, large: bool) -> Said {
        let code = match self {
            Error::Sql(error) => error.code(),
            _ => None,
        };
        if large && code == Some(&SqlState::QUERY_CANCELED) {
            return Said::TooMany(TooMany {});
        }
        let again = match self {
            Error::Refused(_) => false,
            Error::NotNow(_) | Error::Connect(_) => true,
            Error::Sql(error) => {
                code.is_none_or(|code| classify(code.code()) == Class::Retry) || error.is_closed()
            }
        };
        Said::Failed(Failed {
            reason: self.to_string(),
            again,
        })
    }
}
