//! Makes, starts, stops and removes the demo's servers and nodes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use everywrite_conflict::NodeId;
use rustix::process::Signal;

use super::state::{Running, SiteState, State};
use super::traffic;
use crate::cluster::Site;
use crate::node::{CLUSTER, Identity, Node, PeerAddress};
use crate::place::{self, Owner};
use crate::postgres::{self, DATABASE, SUPERUSER, Server};
use crate::process::signal_to;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// A unix socket's path has at most 107 bytes; `/a/.s.PGSQL.5432.lock` comes on top.
const HOME_BYTES_MAX: usize = 80;

/// All sites of the demo in `dir`, running and ready; made if this is the first time.
pub(crate) async fn start(dir: &Path) -> anyhow::Result<Vec<Site>> {
    let mut state = match State::read(dir)? {
        Some(state) => state,
        None => make(dir).await?,
    };
    let mut sites = Vec::new();
    for index in 0..state.sites.len() {
        let site = site_of(&state.home, &state.sites[index])?;
        let known = &mut state.sites[index];
        if !known.server.is_alive() {
            println!("starting the server of site {}", known.name);
            known.server.id = site.server.start_detached().await?;
            state.write()?;
        }
        let known = &mut state.sites[index];
        if !known.daemon.is_alive() {
            println!("starting the daemon of site {}", known.name);
            known.daemon.id = site.node.start_detached()?;
            state.write()?;
        }
        sites.push(site);
    }
    for site in &sites {
        site.node.wait_ready().await?;
    }
    println!();
    Ok(sites)
}

fn site_of(home: &Path, known: &SiteState) -> anyhow::Result<Site> {
    let server = Server::existing(&home.join(&known.name), None)?;
    let identity = Identity {
        id: NodeId(known.id),
        name: known.name.clone(),
        cluster: CLUSTER.to_owned(),
        postgres: server.url(SUPERUSER, DATABASE),
        listen: known.listen,
        admin: known.admin,
    };
    let node = Node::existing(identity, &node_dir(home, &known.name));
    Ok(Site::new(node, server))
}

fn node_dir(home: &Path, name: &str) -> PathBuf {
    home.join(format!("node-{name}"))
}

/// Makes the servers with their tables, and the nodes' configuration and certificates.
async fn make(dir: &Path) -> anyhow::Result<State> {
    place::daemon()?;
    remove(dir)?; // what a first run left that did not come to its end
    let home = home(dir)?;
    let mut identities = Vec::new();
    for (number, name) in (1..).zip(NAMES) {
        println!("making the server of site {name}");
        let mut server = Server::prepare(&home.join(name), &postgres::Options::default())?;
        server.start().await?;
        server.execute(traffic::SCHEMA).await?;
        server.stop()?;
        let url = server.url(SUPERUSER, DATABASE);
        identities.push(Identity::new(number, name, url)?);
    }
    let mut sites = Vec::new();
    for identity in &identities {
        let others = identities.iter().filter(|other| other.id != identity.id);
        let peers: Vec<PeerAddress> = others
            .map(|other| PeerAddress {
                id: other.id,
                name: other.name.clone(),
                address: other.listen,
            })
            .collect();
        let node_dir = node_dir(&home, &identity.name);
        let node = Node::init(identity.clone(), &node_dir, &home.join("ca"), &peers)?;
        let mark = |path: PathBuf| Running {
            id: 0,
            mark: path.display().to_string(),
        };
        sites.push(SiteState {
            name: identity.name.clone(),
            id: identity.id.0,
            listen: identity.listen,
            admin: identity.admin,
            server: mark(home.join(&identity.name).join("data")),
            daemon: mark(node.config()),
        });
    }
    let state = State { home, sites };
    state.write()?;
    Ok(state)
}

/// The folder to use: `dir` itself, or one below /tmp that `dir` then points to, when the servers'
/// user cannot reach `dir` or its path is too long for a socket.
fn home(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    place::open_to_traverse(dir)?;
    let reachable = match Owner::find()? {
        Some(owner) => owner.reaches(dir),
        None => true,
    };
    if reachable && dir.as_os_str().len() <= HOME_BYTES_MAX {
        return Ok(dir.to_owned());
    }
    let mut elsewhere = place::scratch("everywrite-demo-")?;
    elsewhere.disable_cleanup(true);
    std::fs::remove_dir(dir).with_context(|| format!("make room for {}", dir.display()))?;
    symlink(elsewhere.path(), dir).with_context(|| format!("link {}", dir.display()))?;
    Ok(elsewhere.path().to_owned())
}

/// Ends daemons, then servers.
pub(crate) fn stop(state: &State) -> anyhow::Result<()> {
    for site in &state.sites {
        end(&site.daemon, Signal::TERM)
            .with_context(|| format!("end the daemon of site {}", site.name))?;
    }
    for site in &state.sites {
        end(&site.server, Signal::INT)
            .with_context(|| format!("end the server of site {}", site.name))?;
    }
    Ok(())
}

fn end(running: &Running, signal: Signal) -> anyhow::Result<()> {
    if !running.is_alive() {
        return Ok(());
    }
    signal_to(running.id, signal);
    let begin = Instant::now();
    while running.is_alive() {
        if begin.elapsed() > Duration::from_secs(30) {
            bail!("process {} does not end", running.id);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes the folder, and what it points to when it is a link.
pub(crate) fn remove(dir: &Path) -> anyhow::Result<()> {
    let remove = |path: &Path| match std::fs::remove_dir_all(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    };
    if dir.is_symlink() {
        let elsewhere = std::fs::read_link(dir).context("read the link")?;
        if !elsewhere.starts_with("/tmp") {
            bail!(
                "{} points to {}, which this demo did not make: remove the link yourself",
                dir.display(),
                elsewhere.display()
            );
        }
        remove(&elsewhere)?;
        return std::fs::remove_file(dir).context("remove the link");
    }
    remove(dir)
}
