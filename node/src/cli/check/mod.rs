//! `everywrite check`: what a server still needs before a node can work beside it, object by
//! object, with the SQL that mends it.
//!
//! Only reads: every query is a look at the catalogs, in one read-only snapshot. It judges the
//! role it is connected as, so run it as the daemon's role; a superuser is shown the grants
//! that a lesser role would need.
//!
//! | module       | looks at |
//! |--------------|----------|
//! | `connect`    | reaching the server; each refusal with its remedy |
//! | `server`     | version, settings, slots, senders, origins |
//! | `grants`     | what the role may do, and the exact grants that lack |
//! | `tables`     | replica identity, unlogged tables, row security |
//! | `constraints`| exclusion, deferrable, foreign keys, triggers and rules that fire on replicas |
//! | `columns`    | types that do not travel well, keys whose equality is not that of bytes |
//! | `sequences`  | numbers that two sites would both hand out |
//! | `objects`    | extensions, large objects, views, foreign tables, other replication |
//! | `report`     | a table for people, JSON for programs |

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use everywrite_config::{Postgres, Settings};
use tokio_postgres::Client;

mod columns;
mod connect;
mod constraints;
mod extensions;
mod finding;
mod grants;
mod objects;
mod report;
mod sequences;
mod server;
mod tables;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;

pub use connect::connect;
pub use finding::{Finding, Level};
pub use report::Report;

/// Inspects a PostgreSQL server and says what must change, and how.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The node's settings file
    #[arg(long, value_name = "FILE", default_value = "everywrite.toml")]
    pub config: PathBuf,
    /// A server to look at without a settings file, as `postgres://user@host:port/database`
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub postgres: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The node the server is to belong to, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The node's number.
    pub node: Option<u16>,
    /// The other nodes' numbers.
    pub peers: Vec<u16>,
    /// In how many sessions each peer's transactions are applied.
    pub sessions: u32,
}

/// A look at the server failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {}", connect::explain(source))]
pub struct Error {
    what: &'static str,
    #[source]
    source: tokio_postgres::Error,
}

impl Error {
    fn reading(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
        move |source| Error { what, source }
    }
}

/// Runs the command: 0 when nothing must change, 1 when something must, 2 when the server could
/// not be looked at.
pub async fn run(args: CheckArgs) -> ExitCode {
    match check(&args).await {
        Ok(report) => {
            let text = if args.json {
                report.json()
            } else {
                report.table(io::stdout().is_terminal())
            };
            // A closed pipe must not change the exit code.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(report.must_change()))
        }
        Err(error) => {
            eprintln!("error: {}", error.strip_prefix("error: ").unwrap_or(&error));
            ExitCode::from(2)
        }
    }
}

async fn check(args: &CheckArgs) -> Result<Report, String> {
    let (postgres, site) = match &args.postgres {
        Some(url) => {
            let postgres = Postgres::from_url(url).map_err(|error| error.to_string())?;
            (postgres, Site::default())
        }
        None => {
            let settings = Settings::load(&args.config).map_err(|error| error.to_string())?;
            let site = Site {
                node: Some(settings.node.id),
                peers: settings.peers.iter().map(|peer| peer.id).collect(),
                sessions: settings.replication.sessions,
            };
            (settings.postgres, site)
        }
    };
    let client = connect(&postgres)
        .await
        .map_err(|error| error.to_string())?;
    inspect(&client, &site)
        .await
        .map_err(|error| error.to_string())
}

/// Looks at everything.
///
/// # Errors
/// When a catalog cannot be read: the connection broke, or something of another name is there.
pub async fn inspect(client: &Client, site: &Site) -> Result<Report, Error> {
    // One snapshot, so that the findings are of one moment; names in the queries are the catalogs'.
    client
        .batch_execute(
            "begin isolation level repeatable read read only;
             set local search_path = pg_catalog, pg_temp",
        )
        .await
        .map_err(Error::reading("the server"))?;
    let report = inspect_in_snapshot(client, site).await;
    let ended = client
        .batch_execute("rollback")
        .await
        .map_err(Error::reading("the server"));
    let report = report?;
    ended.map(|()| report)
}

async fn inspect_in_snapshot(client: &Client, site: &Site) -> Result<Report, Error> {
    let server = server::Server::read(client).await?;
    let mut findings = Vec::new();
    findings.extend(server::findings(client, &server, site).await?);
    // An older server lacks catalogs that the rest reads, and there is no way on with it anyway.
    if server.supported() {
        findings.extend(grants::findings(client, &server).await?);
        findings.extend(tables::findings(client, &server).await?);
        findings.extend(columns::findings(client).await?);
        findings.extend(constraints::findings(client).await?);
        findings.extend(sequences::findings(client, site).await?);
        findings.extend(objects::findings(client).await?);
        findings.extend(extensions::findings(client).await?);
    }
    Ok(Report::new(&server, findings))
}

/// The condition on a `pg_namespace n` that leaves only what users made.
const USER_SCHEMA: &str = "n.nspname not in ('pg_catalog', 'information_schema', 'everywrite')
    and n.nspname !~ '^pg_(toast|temp)'";
