//! Which server to talk to, as whom, and how safely.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;

use super::{Error, tls};

/// A PostgreSQL database and how to reach it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host name or address; a path that starts with `/` is the directory of a unix socket.
    pub host: String,
    /// Port; also part of a unix socket's file name.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// Password, for the methods that ask for one.
    pub password: Option<SecretString>,
    /// Shown in `pg_stat_activity`, and what `synchronous_standby_names` refers to.
    pub application_name: String,
    /// Encryption of TCP connections. Unix sockets are never encrypted.
    pub tls: Tls,
    /// How long connecting, TLS and login may take together.
    pub connect_timeout: Duration,
}

/// How a TCP connection is encrypted.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// How much is demanded.
    pub mode: TlsMode,
    /// Certificates (PEM) of the authorities that are trusted, or the server's own self-signed one.
    /// Needed by the two verifying modes; with it, `require` verifies the authority too (as libpq
    /// does).
    pub ca_file: Option<PathBuf>,
    /// Our certificate (PEM), for servers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// The key (PEM) of our certificate.
    pub key_file: Option<PathBuf>,
}

/// libpq's `sslmode`, without `allow`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server offers it; nothing is verified.
    #[default]
    Prefer,
    /// Always; verified only if there is a CA file.
    Require,
    /// Always, and the certificate must be signed by a trusted authority.
    VerifyCa,
    /// Always, signed by a trusted authority, and for this host name.
    VerifyFull,
}

impl Target {
    /// A target with PostgreSQL's usual port, no password, TLS if offered, and ten seconds to
    /// connect.
    pub fn new(
        host: impl Into<String>,
        user: impl Into<String>,
        database: impl Into<String>,
    ) -> Self {
        Target {
            host: host.into(),
            port: 5432,
            user: user.into(),
            database: database.into(),
            password: None,
            application_name: "everywrite".to_owned(),
            tls: Tls::default(),
            // A lost SYN is sent again after 1 and 3 s: long enough for two of those.
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// The same target under another application name.
    #[must_use]
    pub fn named(&self, application_name: impl Into<String>) -> Self {
        Target {
            application_name: application_name.into(),
            ..self.clone()
        }
    }

    /// The host is the directory of a unix socket.
    pub fn is_unix(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Where the server is, for people.
    pub fn address(&self) -> String {
        if self.is_unix() {
            format!("{}/.s.PGSQL.{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The same target for tokio-postgres, which does the catalog queries.
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name(&self.application_name)
            .connect_timeout(self.connect_timeout)
            .ssl_mode(match self.tls.mode {
                TlsMode::Disable => tokio_postgres::config::SslMode::Disable,
                TlsMode::Prefer => tokio_postgres::config::SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {
                    tokio_postgres::config::SslMode::Require
                }
            });
        if self.is_unix() {
            // tokio-postgres would refuse "require" on a socket that cannot have TLS.
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        }
        if let Some(password) = &self.password {
            config.password(password.expose_secret());
        }
        config
    }

    /// Connects tokio-postgres with the same TLS choice and runs its connection in a task, which
    /// ends when the client is dropped.
    pub async fn client(&self) -> Result<tokio_postgres::Client, Error> {
        self.client_with(self.config())
            .await
            .map(|(client, _)| client)
    }

    /// Like [`client`](Self::client), with a changed [`config`](Self::config); also gives the
    /// connection's task.
    pub async fn client_with(
        &self,
        config: tokio_postgres::Config,
    ) -> Result<(tokio_postgres::Client, JoinHandle<()>), Error> {
        let tls = match tls::client_config(self)? {
            Some(config) => tokio_postgres_rustls::MakeRustlsConnect::new(config),
            None => {
                let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
                return Ok((client, spawn(connection)));
            }
        };
        let (client, connection) = config.connect(tls).await?;
        Ok((client, spawn(connection)))
    }
}

fn spawn<S, T>(connection: tokio_postgres::Connection<S, T>) -> JoinHandle<()>
where
    tokio_postgres::Connection<S, T>:
        Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        // Whoever uses the client gets an error of its own; this one is only for the log.
        if let Err(error) = connection.await {
            tracing::debug!(error = %error, "catalog connection ended");
        }
    })
}
