//! Against real servers, the oldest and the newest supported version.

mod functions;
mod history;
mod migrations;
mod server;
mod views;
mod waiting;

use std::sync::Arc;

use everywrite_conflict::NodeId;
use server::Server;
use tokio_postgres::Client;

use super::{Site, migrate, register_nodes};

const VERSIONS: [u32; 2] = [15, 18];

/// Servers for tests that keep to a database of their own.
fn servers() -> impl Iterator<Item = Arc<Server>> {
    each_version(Server::shared)
}

/// Servers for tests that change what all databases share: settings, replication origins.
fn own_servers() -> impl Iterator<Item = Server> {
    each_version(Server::start)
}

fn each_version<S>(start: impl Fn(u32) -> Option<S>) -> impl Iterator<Item = S> {
    VERSIONS.into_iter().filter_map(move |version| {
        let server = start(version);
        if server.is_none() {
            eprintln!("PostgreSQL {version} is not installed, not tested against it");
        }
        server
    })
}

/// Sites a (here), b and c.
async fn set_up(server: &Server, database: &str) -> Client {
    let client = server.database(database).await;
    migrate(&client).await.expect("migrate");
    register_nodes(&client, NodeId(1), &sites(&["a", "b", "c"]))
        .await
        .expect("register");
    client
}

/// Numbered from 1.
fn sites(names: &[&str]) -> Vec<Site> {
    (1..)
        .zip(names)
        .map(|(number, name)| Site {
            node: NodeId(number),
            name: (*name).to_owned(),
            address: format!("{name}.example:7070"),
        })
        .collect()
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.expect(sql).get(0)
}

/// What the server says against it: message, SQLSTATE, hint.
async fn refusal(client: &Client, sql: &str) -> (String, String, String) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let error = error.as_db_error().expect("comes from the server");
    (
        error.message().to_owned(),
        error.code().code().to_owned(),
        error.hint().unwrap_or_default().to_owned(),
    )
}
