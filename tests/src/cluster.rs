//! Several sites, each a server and a daemon, where every direction between two of them leads
//! through a proxy of its own.
//!
//! ```text
//!   site 0                     site 1
//!   server 0 ── node 0 ──► proxy 0→1 ──► node 1 ── server 1
//!                     ◄── proxy 1→0 ◄──
//! ```
//! The receiver dials, so what flows from site 0 to site 1 goes through the proxy 1→0.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use everywrite_node::telemetry::{OriginState, OriginStatus};
use tempfile::TempDir;

use crate::conflicts::{Conflict, conflicts};
use crate::machine::Machine;
use crate::node::{Identity, Node, PeerAddress};
use crate::postgres::{self, DATABASE, SUPERUSER, Server};
use crate::proxy::Proxy;
use crate::{agreement, logs, place, wait};

/// The tables that suites use when they bring none of their own.
pub const SCHEMA: &str = "create table items (id bigint primary key, n int, note text);";

/// The names of sites, in order.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One site.
#[derive(Debug)]
pub struct Site {
    /// Its daemon.
    pub node: Node,
    /// Its server; declared behind the daemon, so that it is ended after it.
    pub server: Server,
    machines: Option<Machines>,
}

/// What a site's two processes believe to run on, see [`Plan::on_machines`].
#[derive(Debug)]
pub struct Machines {
    /// The daemon's.
    pub node: Machine,
    /// The server's.
    pub server: Machine,
}

impl Site {
    /// A site on a healthy machine.
    pub fn new(node: Node, server: Server) -> Site {
        Site {
            node,
            server,
            machines: None,
        }
    }

    /// A session of the superuser.
    pub async fn sql(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.server.connect().await
    }

    /// What its processes believe to run on.
    pub fn machines(&self) -> anyhow::Result<&Machines> {
        self.machines
            .as_ref()
            .context("a cluster that was not made with Plan::on_machines")
    }

    /// Sets the clock of the site, server and daemon, so many microseconds ahead of the true time.
    pub fn set_clock(&self, ahead_us: i64) -> anyhow::Result<()> {
        let machines = self.machines()?;
        machines.server.set_clock_offset(ahead_us)?;
        machines.node.set_clock_offset(ahead_us)
    }

    /// Lets the clock of the site's server stand at a Unix time in microseconds.
    pub fn stop_clock(&self, at_us: i64) -> anyhow::Result<()> {
        self.machines()?.server.stop_clock(at_us)
    }

    /// Its disks are healthy again; its clock is left as it is.
    pub fn mend_disks(&self) -> anyhow::Result<()> {
        if let Some(machines) = &self.machines {
            machines.node.heal()?;
            machines.server.heal()?;
        }
        Ok(())
    }

    /// Runs statements in a session of their own, all of them one transaction.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        self.server.execute(sql).await
    }

    /// Runs statements with a replication origin that passes for one of the node's: it does not see
    /// what they change. Once a site.
    pub async fn execute_unseen(&self, sql: &str) -> anyhow::Result<()> {
        let sql = format!(
            "select pg_replication_origin_create('everywrite_unseen'); \
             select pg_replication_origin_session_setup('everywrite_unseen'); {sql}"
        );
        self.execute(&sql).await
    }

    /// The first column of the first row, as text.
    pub async fn value(&self, sql: &str) -> anyhow::Result<String> {
        self.server.value(sql).await
    }

    /// Waits until a query's first value is `expected`.
    pub async fn wait_value(&self, sql: &str, expected: &str) -> anyhow::Result<()> {
        let what = format!("{sql} = {expected} at {}", self.node.name());
        wait::until(&what, wait::LIMIT, async || match self.value(sql).await {
            Ok(value) if value == expected => Ok(()),
            Ok(value) => Err(format!("it is {value}")),
            Err(err) => Err(format!("{err:#}")),
        })
        .await
        .with_context(|| format!("the node's log ends:\n{}", logs::tail(&self.node.log(), 10)))
    }

    /// Waits until the daemon has logged a line with this part.
    pub async fn wait_logged(&self, part: &str) -> anyhow::Result<()> {
        let what = format!("{} to say \"{part}\"", self.node.name());
        wait::until(&what, wait::LIMIT, async || {
            let lines = logs::lines(&self.node.log());
            let said = lines.iter().any(|line| line.contains(part));
            said.then_some(()).ok_or_else(|| "it does not".to_owned())
        })
        .await
    }

    /// What was decided here, oldest first.
    pub async fn conflicts(&self) -> anyhow::Result<Vec<Conflict>> {
        conflicts(&self.sql().await?).await
    }

    /// Waits until the stream of `of` is in that state here; what the daemon says of it then.
    pub async fn wait_state(&self, of: &Site, state: OriginState) -> anyhow::Result<OriginStatus> {
        let names = (of.node.name(), self.node.name());
        let what = format!("{} to be {state:?} at {}", names.0, names.1);
        wait::until(&what, wait::LIMIT, async || {
            let origin = self.origin(of).await.map_err(|err| format!("{err:#}"))?;
            if origin.state == state {
                Ok(origin)
            } else {
                Err(format!("{origin:?}"))
            }
        })
        .await
    }

    /// What the daemon says of one origin's stream.
    pub async fn origin(&self, of: &Site) -> anyhow::Result<OriginStatus> {
        let status = self.node.status().await?;
        status
            .origins
            .into_iter()
            .find(|origin| origin.node == of.node.id())
            .with_context(|| format!("{} knows no {}", self.node.name(), of.node.name()))
    }
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many sites.
    pub sites: usize,
    /// Run at every server before its daemon starts.
    pub schema: String,
    /// For every server.
    pub server: postgres::Options,
    /// For every node's configuration file: section, key, value in TOML.
    pub config: Vec<(&'static str, &'static str, &'static str)>,
    /// Whether clocks and disks can be told to go wrong.
    pub machines: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            sites: 3,
            schema: SCHEMA.to_owned(),
            server: postgres::Options::default(),
            config: Vec::new(),
            machines: false,
        }
    }
}

impl Plan {
    /// Three sites with these tables.
    pub fn with_schema(schema: &str) -> Plan {
        Plan {
            schema: schema.to_owned(),
            ..Plan::default()
        }
    }

    /// So many sites.
    #[must_use]
    pub fn sites(mut self, sites: usize) -> Plan {
        self.sites = sites;
        self
    }

    /// Adds a server setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Plan {
        self.server = self.server.set(name, value);
        self
    }

    /// Gives every server and daemon a [`Machine`], so that clocks and disks can go wrong.
    #[must_use]
    pub fn on_machines(mut self) -> Plan {
        self.machines = true;
        self
    }

    /// Adds a setting of the nodes.
    #[must_use]
    pub fn configure(
        mut self,
        section: &'static str,
        key: &'static str,
        value: &'static str,
    ) -> Plan {
        self.config.push((section, key, value));
        self
    }

    /// Starts the servers and nodes and waits until every node is ready.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        let mut cluster = self.prepare().await?;
        for site in &mut cluster.sites {
            site.node.start()?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Starts the servers and writes the nodes' configuration, but starts no node.
    pub async fn prepare(self) -> anyhow::Result<Cluster> {
        let dir = place::scratch("ew-")?;
        let names = NAMES
            .get(..self.sites)
            .context("so many sites have no names")?;
        let mut servers = Vec::new();
        let mut identities = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let mut server = Server::prepare(&dir.path().join(name), &self.server)?;
            let machine = |of: &str| Machine::new(dir.path(), &format!("{of}-{name}"));
            let machines = match self.machines {
                true => Some(Machines {
                    node: machine("node")?,
                    server: machine("server")?,
                }),
                false => None,
            };
            if let Some(machines) = &machines {
                server.set_environment(machines.server.environment());
            }
            server.start().await?;
            server.execute(&self.schema).await?;
            let id = u16::try_from(index + 1).context("a node id")?;
            identities.push(Identity::new(id, name, server.url(SUPERUSER, DATABASE))?);
            servers.push((server, machines));
        }
        let proxies = proxies(&identities).await?;
        let mut sites = Vec::new();
        for (index, (server, machines)) in servers.into_iter().enumerate() {
            let mut node = init(dir.path(), &identities, index, &proxies)?;
            if let Some(machines) = &machines {
                node.set_environment(machines.node.environment());
            }
            for (section, key, value) in &self.config {
                node.set_config(section, key, value)?;
            }
            sites.push(Site {
                node,
                server,
                machines,
            });
        }
        Ok(Cluster {
            sites,
            proxies,
            dir,
        })
    }
}

async fn proxies(identities: &[Identity]) -> anyhow::Result<BTreeMap<(usize, usize), Proxy>> {
    let mut proxies = BTreeMap::new();
    for from in 0..identities.len() {
        for (to, identity) in identities.iter().enumerate() {
            if from != to {
                proxies.insert((from, to), Proxy::start(identity.listen).await?);
            }
        }
    }
    Ok(proxies)
}

fn init(
    dir: &Path,
    identities: &[Identity],
    index: usize,
    proxies: &BTreeMap<(usize, usize), Proxy>,
) -> anyhow::Result<Node> {
    let mut peers = Vec::new();
    for (other, identity) in identities.iter().enumerate() {
        if let Some(proxy) = proxies.get(&(index, other)) {
            peers.push(PeerAddress {
                id: identity.id,
                name: identity.name.clone(),
                address: proxy.address(),
            });
        }
    }
    let identity = identities
        .get(index)
        .context("a node without identity")?
        .clone();
    let home = dir.join(format!("node-{}", identity.name));
    Node::init(identity, &home, &dir.join("ca"), &peers)
}

/// Several sites that replicate to each other.
#[derive(Debug)]
pub struct Cluster {
    /// The sites, in order of their node ids (1, 2, 3 …).
    pub sites: Vec<Site>,
    proxies: BTreeMap<(usize, usize), Proxy>,
    dir: TempDir,
}

impl Cluster {
    /// Three sites with the usual table.
    pub async fn start() -> anyhow::Result<Cluster> {
        Plan::default().start().await
    }

    /// One site.
    pub fn site(&self, index: usize) -> &Site {
        &self.sites[index]
    }

    /// One site, to start and stop.
    pub fn site_mut(&mut self, index: usize) -> &mut Site {
        &mut self.sites[index]
    }

    /// The cluster's scratch folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the cluster's folder behind, for a person to look at; its path.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    /// The way on which `from` dials `to`, and `to` feeds `from`.
    pub fn proxy(&self, from: usize, to: usize) -> &Proxy {
        &self.proxies[&(from, to)]
    }

    /// All ways between all sites.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.values()
    }

    /// Cuts two sites off from each other.
    pub fn cut(&self, one: usize, other: usize) {
        self.proxy(one, other).cut();
        self.proxy(other, one).cut();
    }

    /// Cuts every site off from every other.
    pub fn cut_all(&self) {
        for proxy in self.proxies.values() {
            proxy.cut();
        }
    }

    /// Holds what two sites send each other, without closing anything.
    pub fn freeze(&self, one: usize, other: usize) {
        self.proxy(one, other).freeze();
        self.proxy(other, one).freeze();
    }

    /// Cuts one site off from all others.
    pub fn isolate(&self, site: usize) {
        for (&(from, to), proxy) in &self.proxies {
            if from == site || to == site {
                proxy.cut();
            }
        }
    }

    /// All ways are open again.
    pub fn heal(&self) {
        for proxy in self.proxies.values() {
            proxy.heal();
        }
    }

    /// Waits until every node that runs is ready.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        for site in self.sites.iter().filter(|site| site.node.is_started()) {
            site.node.wait_ready().await?;
        }
        Ok(())
    }

    /// Whether every server lets somebody in and every node is ready, now.
    pub async fn is_ready(&self) -> bool {
        for site in &self.sites {
            if site.sql().await.is_err() || !site.node.is_ready().await {
                return false;
            }
        }
        true
    }

    /// Tells every node that these errors in its log are meant to be there.
    pub fn expect_errors(&mut self, parts: &[&str]) {
        for site in &mut self.sites {
            site.node.expect_errors(parts);
        }
    }

    /// Waits until `reader` has applied all that `origin` has committed until now.
    pub async fn caught_up(&self, reader: usize, origin: usize) -> anyhow::Result<()> {
        let (reader, origin) = (self.site(reader), self.site(origin));
        let place = agreement::mark(origin, wait::LIMIT).await?;
        agreement::applied(reader, origin, place, wait::LIMIT).await
    }

    /// Waits until `reader` has received all that `origin` has committed until now, applied or not.
    pub async fn received(&self, reader: usize, origin: usize) -> anyhow::Result<()> {
        let (reader, origin) = (self.site(reader), self.site(origin));
        let place = agreement::mark(origin, wait::LIMIT).await?;
        agreement::received(reader, origin, place, wait::LIMIT).await
    }

    /// Waits until all sites have applied everything of each other and hold the same rows in every
    /// table; what differs is the error. The number of rows.
    pub async fn converged(&self) -> anyhow::Result<u64> {
        self.converged_within(wait::LIMIT).await
    }

    /// Like [`Cluster::converged`], with a limit of its own.
    pub async fn converged_within(&self, limit: Duration) -> anyhow::Result<u64> {
        match agreement::reached(&self.sites, limit).await {
            Ok(rows) => Ok(rows),
            Err(err) => {
                let mut report = format!("{err:#}\n");
                for site in &self.sites {
                    let log = logs::tail(&site.node.log(), 12);
                    report.push_str(&format!("-- log of {}:\n{log}\n", site.node.name()));
                }
                bail!(report)
            }
        }
    }

    /// Waits until what is committed at each site by now stands in its journal. Sites that agree may still
    /// have to write down what changed no row.
    pub async fn captured(&self) -> anyhow::Result<()> {
        for site in &self.sites {
            let client = site.sql().await?;
            let end = "select pg_current_wal_insert_lsn()::text";
            let end: String = client.query_one(end, &[]).await?.get(0);
            let query = format!(
                "select coalesce(bool_and(confirmed_flush_lsn >= '{end}'), false) from pg_replication_slots"
            );
            let what = format!("{} to capture up to {end}", site.node.name());
            wait::until(&what, wait::LIMIT, async || {
                let row = client.query_one(&query, &[]).await;
                match row.map_err(|e| e.to_string())?.get(0) {
                    true => Ok(()),
                    false => Err("its slot is not there yet".to_owned()),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Ends a test: no node has said anything that the test did not provoke.
    pub fn finish(self) -> anyhow::Result<()> {
        let complaints: Vec<String> = self
            .sites
            .iter()
            .flat_map(|site| {
                let name = site.node.name().to_owned();
                let lines = site.node.complaints();
                lines.into_iter().map(move |line| format!("{name}: {line}"))
            })
            .collect();
        if complaints.is_empty() {
            return Ok(());
        }
        bail!("unexpected in the nodes' logs:\n{}", complaints.join("\n"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for site in &self.sites {
            let (name, log) = (site.node.name(), site.node.log());
            eprintln!("-- the log of node {name} ends:\n{}", logs::tail(&log, 30));
        }
    }
}
