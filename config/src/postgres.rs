//! `[postgres]`: how to reach the local server.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use crate::section::Kind;
use crate::section::Presence::{Default, Optional, Required};

crate::section::section! {
    /// The PostgreSQL server beside this node, and the database that is replicated.
    ///
    /// `everywrite check` says what the server and the role still need.
    pub struct Postgres in "postgres", repeated: false {
        /// The folder of the server's unix socket (starts with `/`), or a host name or address.
        ///
        /// The daemon belongs beside its server: every change passes here twice.
        ///
        /// Since 0.1.0.
        host: String, Kind::Text, Default("\"/var/run/postgresql\"");

        /// The server's port; for a unix socket the number at the end of the socket's name.
        ///
        /// Since 0.1.0.
        port: u16, Kind::Integer { min: 1, max: 65_535 }, Default("5432");

        /// The role the daemon works as. It needs no superuser: `everywrite check` prints the grants.
        ///
        /// Since 0.1.0.
        user: String, Kind::Text, Default("\"everywrite\"");

        /// The database that is replicated.
        ///
        /// Since 0.1.0.
        database: String, Kind::Text, Required;

        /// The role's password, or `"${NAME}"` for the value of an environment variable.
        ///
        /// It appears in no log and no error. Excludes `password-file`.
        ///
        /// Since 0.1.0.
        password: Option<SecretString>, Kind::Secret, Optional("no password: peer, trust or certificate authentication");

        /// A file whose first line is the role's password. Excludes `password`.
        ///
        /// Since 0.1.0.
        password_file: Option<PathBuf>, Kind::Path, Optional("no password from a file");

        /// Whether the connection is encrypted, and how much of the server's certificate is checked.
        ///
        /// As in libpq: `disable`, `prefer` (TLS when the server has it), `require` (TLS, any
        /// certificate), `verify-ca` (signed by `ca-file`), `verify-full` (and made for `host`).
        /// A unix socket is never encrypted.
        ///
        /// Since 0.1.0.
        sslmode: SslMode, Kind::Choice(&SslMode::NAMES), Default("\"prefer\"");

        /// The authority that signed the server's certificate (PEM). Needed by `verify-ca` and `verify-full`.
        ///
        /// Since 0.1.0.
        ca_file: Option<PathBuf>, Kind::Path, Optional("the server's certificate is not checked");

        /// The daemon's own certificate for this server (PEM), together with `key`.
        ///
        /// Since 0.1.0.
        certificate: Option<PathBuf>, Kind::Path, Optional("no client certificate");

        /// The private key of `certificate` (PEM).
        ///
        /// Since 0.1.0.
        key: Option<PathBuf>, Kind::Path, Optional("no client certificate");
    }
}

impl Postgres {
    /// Whether `host` is the folder of a unix socket.
    #[must_use]
    pub fn unix_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl std::default::Default for Postgres {
    /// The defaults of the reference page; `database`, which has none, is `postgres`.
    fn default() -> Postgres {
        Postgres {
            host: "/var/run/postgresql".to_owned(),
            port: 5432,
            user: "everywrite".to_owned(),
            database: "postgres".to_owned(),
            password: None,
            password_file: None,
            sslmode: SslMode::Prefer,
            ca_file: None,
            certificate: None,
            key: None,
        }
    }
}

/// libpq's `sslmode`, without `allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted when the server offers it.
    Prefer,
    /// Encrypted; any certificate will do.
    Require,
    /// Encrypted; the certificate is signed by `ca-file`.
    VerifyCa,
    /// Encrypted; the certificate is signed by `ca-file` and made for `host`.
    VerifyFull,
}

impl SslMode {
    pub(crate) const NAMES: [&'static str; 5] =
        ["disable", "prefer", "require", "verify-ca", "verify-full"];

    /// The mode of that name.
    pub(crate) fn from_name(name: &str) -> Option<SslMode> {
        Some(match name {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}
