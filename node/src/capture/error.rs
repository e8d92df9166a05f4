//! What can go wrong in capture.

use crate::pg;

/// An error of capture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream holds something that pgoutput does not send.
    #[error("decode the local change stream")]
    Decode(#[from] pg::pgoutput::Error),
    /// The stream is out of order.
    #[error("the local change stream is out of order: {0}")]
    Order(&'static str),
    /// A row's key cannot be read.
    #[error("read the key of a changed row of {table}")]
    Key {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: crate::settle::KeyError,
    },
    /// The spool of a large transaction failed.
    #[error("spool a large transaction")]
    Spool(#[source] std::io::Error),
    /// The journal failed.
    #[error("append to the own journal")]
    Journal(#[from] crate::journal::Error),
    /// The server or the connection to it failed.
    #[error("stream from the local server")]
    Postgres(#[from] pg::Error),
    /// A catalog query failed.
    #[error("read the local catalog")]
    Catalog(#[from] tokio_postgres::Error),
    /// Something must be changed before capture can run.
    #[error("{0}")]
    Setup(String),
}
