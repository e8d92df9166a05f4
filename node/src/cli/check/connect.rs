//! Reaching the server. Each refusal is one line with its remedy.

use std::time::Duration;

use everywrite_config::Postgres;
use secrecy::ExposeSecret as _;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

/// A person waits for the answer; a server that is there answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server could not be reached or let nobody in. `Display` is complete, with the remedy.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot connect to database {database} at {place} as {user}: {}\n  = help: {}",
    explain(source),
    remedy(source)
)]
pub struct Error {
    database: String,
    place: String,
    user: String,
    #[source]
    source: tokio_postgres::Error,
}

/// Connects as the settings say.
///
/// # Errors
/// With what the server said and what to do about it.
pub async fn connect(postgres: &Postgres) -> Result<Client, Error> {
    let mut config = Config::new();
    config
        .host(&postgres.host)
        .port(postgres.port)
        .user(&postgres.user)
        .dbname(&postgres.database)
        .application_name("everywrite check")
        .connect_timeout(PATIENCE)
        .ssl_mode(match postgres.sslmode {
            everywrite_config::SslMode::Disable => SslMode::Disable,
            everywrite_config::SslMode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        });
    if let Some(password) = &postgres.password {
        config.password(password.expose_secret());
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|source| Error {
        database: postgres.database.clone(),
        place: format!("{}:{}", postgres.host, postgres.port),
        user: postgres.user.clone(),
        source,
    })?;
    // It ends when the client is dropped; what goes wrong meanwhile is the queries' to report.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// What went wrong, causes included: the driver's own text leaves them out.
pub(super) fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return error.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn remedy(error: &tokio_postgres::Error) -> &'static str {
    let code = error.code();
    if code == Some(&SqlState::INVALID_PASSWORD) {
        "correct `password` or `password-file` in [postgres], or: alter role … password '…'"
    } else if code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) {
        "create the role (create role everywrite login replication), and let it in with a line in pg_hba.conf, then: select pg_reload_conf()"
    } else if code == Some(&SqlState::INVALID_CATALOG_NAME) {
        "correct `database` in [postgres], or: create database …"
    } else if code == Some(&SqlState::TOO_MANY_CONNECTIONS) {
        "raise max_connections (needs a restart), or close connections that are not used"
    } else if code == Some(&SqlState::CANNOT_CONNECT_NOW) {
        "wait until the server has started, then try again"
    } else if code.is_some() {
        "look at the server's log"
    } else if explain(error).contains("password missing") {
        "the server asks for a password: set `password` or `password-file` in [postgres]"
    } else if explain(error).contains("TLS") {
        "set `sslmode` in [postgres] to what the server offers"
    } else {
        "is the server running, and are `host` and `port` in [postgres] right? a host that starts with / is the folder of the server's unix socket"
    }
}
