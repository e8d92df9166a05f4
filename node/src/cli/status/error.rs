//! Why a node's status cannot be shown: one line, with the remedy.

use std::path::PathBuf;

/// Each variant names the operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not an address.
    #[error(
        "\"{0}\" is not an admin address: write host:port or http://host:port, \
         such as http://127.0.0.1:7401"
    )]
    Url(String),
    /// The admin address speaks plain HTTP.
    #[error(
        "\"{0}\": the admin address speaks plain HTTP; write http://, or reach it through \
         ssh -L 7401:127.0.0.1:7401"
    )]
    Https(String),
    /// The settings file cannot be read.
    #[error("read {}: {source}; name the file with --config, or the address with --admin", file.display())]
    Settings {
        /// Which file.
        file: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The settings file is not TOML.
    #[error("read {}: {source}", file.display())]
    Toml {
        /// Which file.
        file: PathBuf,
        /// Line, column and caret.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Nobody listens.
    #[error(
        "no daemon answers at {address} ({source}); is `everywrite run` running there, \
         and is this its [listen] admin address?"
    )]
    Connect {
        /// Where.
        address: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error(
        "the daemon at {address} does not answer within {seconds} s; \
         look at its log, or whether something else listens there"
    )]
    Timeout {
        /// Where.
        address: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The answer broke off or is no HTTP.
    #[error("what answers at {address} is not an everywrite daemon: {reason}")]
    Answer {
        /// Where.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is not a status document.
    #[error("what answers at {address} does not send the status of an everywrite daemon: {source}")]
    NotStatus {
        /// Where.
        address: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}
