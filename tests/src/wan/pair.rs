//! The systems: two servers, one in each namespace, and what replicates from A to B.
//!
//! | system     | way over the wire | port |
//! |------------|-------------------|------|
//! | native     | B's subscription, plain TCP | 5432 |
//! | everywrite | the two daemons, mutual TLS; both directions, as in use | 7400 |

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use everywrite_conflict::NodeId;
use everywrite_tests::node::{Identity, Node, PeerAddress};
use everywrite_tests::postgres::{DATABASE, Options, SUPERUSER, Server};
use everywrite_tests::wait;

use super::netns::{Namespace, Network};

pub(super) const NATIVE_PORT: u16 = 5432;
pub(super) const LINK_PORT: u16 = 7400;

const SCHEMA: &str = include_str!("schema.sql");

/// Where a slow link makes everything slow.
const LIMIT: Duration = Duration::from_secs(300);

/// What replicates.
#[derive(Debug)]
enum Means {
    Native,
    Everywrite { a: Box<Node>, b: Box<Node> },
}

/// One system under test.
#[derive(Debug)]
pub(super) struct Pair {
    /// With the major: `native15`.
    pub(super) name: String,
    /// Its port on the wire.
    pub(super) port: u16,
    means: Means,
    pub(super) a: Server,
    pub(super) b: Server,
}

/// The same for all servers.
fn options(listen: &str) -> Options {
    Options {
        hba: Some("local all all trust\nhost all all 0.0.0.0/0 trust\n".to_owned()),
        ..Options::default()
    }
    .set("listen_addresses", listen)
    .set("shared_buffers", "256MB")
    .set("max_wal_size", "8GB")
}

async fn server(namespace: &Namespace, dir: &Path, listen: &str) -> anyhow::Result<Server> {
    let options = options(listen);
    let server = namespace.run(async || Server::create(dir, &options).await)?;
    server.execute(SCHEMA).await?;
    Ok(server)
}

async fn major(server: &Server) -> anyhow::Result<String> {
    let version = "select current_setting('server_version_num')::int / 10000";
    server.value(version).await
}

impl Pair {
    /// PostgreSQL's logical replication from A to B.
    pub(super) async fn native(network: &Network, dir: &Path) -> anyhow::Result<Pair> {
        let a = server(&network.a, &dir.join("na"), network.a.address).await?;
        let b = server(&network.b, &dir.join("nb"), network.b.address).await?;
        a.execute("create publication wan for all tables").await?;
        b.execute(&format!(
            "create subscription wan connection 'host={} port={NATIVE_PORT} user={SUPERUSER} dbname={DATABASE}' \
             publication wan with (copy_data = false, binary = true, streaming = on)",
            network.a.address
        ))
        .await?;
        Ok(Pair {
            name: format!("native{}", major(&a).await?),
            port: NATIVE_PORT,
            means: Means::Native,
            a,
            b,
        })
    }

    /// Two daemons, each beside its server.
    pub(super) async fn everywrite(
        network: &Network,
        dir: &Path,
        compression: &str,
    ) -> anyhow::Result<Pair> {
        let servers = [
            server(&network.a, &dir.join("ea"), "").await?,
            server(&network.b, &dir.join("eb"), "").await?,
        ];
        let sites = [(&network.a, "a"), (&network.b, "b")];
        let mut identities = Vec::new();
        for (number, ((site, name), server)) in (1..).zip(sites.into_iter().zip(&servers)) {
            let mut identity = Identity::new(number, name, server.url(SUPERUSER, DATABASE))?;
            identity.listen = SocketAddr::new(site.address.parse()?, LINK_PORT);
            identities.push(identity);
        }
        let node = |me: usize, other: usize| {
            let (identity, peer) = (&identities[me], &identities[other]);
            let peer = PeerAddress {
                id: NodeId(peer.id.0),
                name: peer.name.clone(),
                address: peer.listen,
            };
            let home = dir.join(format!("node-{}", identity.name));
            Node::init(identity.clone(), &home, &dir.join("ca"), &[peer])
        };
        let (mut node_a, mut node_b) = (node(0, 1)?, node(1, 0)?);
        for node in [&node_a, &node_b] {
            node.set_config("link", "compression", &format!("\"{compression}\""))?;
        }
        start(&network.a, &mut node_a)?;
        start(&network.b, &mut node_b)?;
        let [a, b] = servers;
        Ok(Pair {
            name: match compression {
                "none" => format!("everywrite{}", major(&a).await?),
                other => format!("everywrite{}-{other}", major(&a).await?),
            },
            port: LINK_PORT,
            means: Means::Everywrite {
                a: Box::new(node_a),
                b: Box::new(node_b),
            },
            a,
            b,
        })
    }

    /// From now on B receives nothing, and A goes on.
    pub(super) async fn hold(&mut self) -> anyhow::Result<()> {
        match &mut self.means {
            Means::Native => {
                self.b.execute("alter subscription wan disable").await?;
                let gone = "select count(*) from pg_stat_replication";
                wait_value(&self.a, gone, "0").await
            }
            Means::Everywrite { b, .. } => b.stop(),
        }
    }

    /// Lets B go. Returns at once; B begins on its own.
    pub(super) async fn release(&mut self, network: &Network) -> anyhow::Result<()> {
        match &mut self.means {
            Means::Native => self.b.execute("alter subscription wan enable").await,
            Means::Everywrite { b, .. } => network.b.run(async || b.start()),
        }
    }

    /// Everywrite decodes while B is away: waits until A's daemon has all of it in its journal.
    /// Native decodes when B is back, and waits for nothing.
    pub(super) async fn settled_at_a(&self) -> anyhow::Result<()> {
        if matches!(self.means, Means::Native) {
            return Ok(());
        }
        let end = self.a.value("select pg_current_wal_insert_lsn()").await?;
        let captured =
            format!("select bool_and(confirmed_flush_lsn >= '{end}') from pg_replication_slots");
        // Something has to follow, or there is nothing to confirm.
        self.a.execute("select everywrite.last_commit()").await?;
        wait_value(&self.a, &captured, "t").await
    }

    /// The folder of A's own journal, for Everywrite.
    pub(super) fn journal(&self) -> Option<std::path::PathBuf> {
        match &self.means {
            Means::Native => None,
            Means::Everywrite { a, .. } => Some(a.dir().to_owned()),
        }
    }

    /// Seconds of CPU that A's and B's daemons have taken since their starts.
    pub(super) fn cpu_s(&self) -> [f64; 2] {
        match &self.means {
            Means::Native => [0.0; 2],
            Means::Everywrite { a, b } => {
                [a, b].map(|node| node.process_id().map_or(0.0, process_cpu_s))
            }
        }
    }

    /// Errors if a daemon has said something that it should not have.
    pub(super) fn check(&self) -> Vec<String> {
        match &self.means {
            Means::Native => Vec::new(),
            Means::Everywrite { a, b } => [a.complaints(), b.complaints()].concat(),
        }
    }
}

/// From `/proc`: user and system time, in ticks of 10 ms.
fn process_cpu_s(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn start(namespace: &Namespace, node: &mut Node) -> anyhow::Result<()> {
    namespace.run(async || {
        node.start()?;
        node.wait_ready().await
    })
}

async fn wait_value(server: &Server, sql: &str, expected: &str) -> anyhow::Result<()> {
    wait::until(
        &format!("{sql} = {expected}"),
        LIMIT,
        async || match server.value(sql).await {
            Ok(value) if value == expected => Ok(()),
            Ok(value) => Err(format!("it is {value}")),
            Err(err) => Err(format!("{err:#}")),
        },
    )
    .await
    .context("wait for a server")
}
