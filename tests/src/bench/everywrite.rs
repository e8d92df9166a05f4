//! Everywrite beside the servers of a pair, or of a larger cluster.
//!
//! Both directions replicate, as they would in use: B's walsender decodes, and drops, what replay wrote
//! there. The native pair replicates from A to B only, so that cost is Everywrite's alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::daemon::Daemon;
use super::registry::Registry;
use super::server::{DATABASE, Server, free_port};

/// The two daemons and what is known about how they start.
#[derive(Debug)]
pub(crate) struct Everywrite {
    pub(crate) a: Daemon,
    pub(crate) b: Daemon,
    /// Folder of B's daemon, its journals included.
    b_dir: PathBuf,
    /// From the start of B's daemon to the first change, with nothing to catch up.
    pub(crate) start_delay: Option<Duration>,
    /// From `resume` to the first change, with nothing to catch up.
    pub(crate) resume_delay: Option<Duration>,
}

/// Where one daemon lives and listens.
struct Site {
    id: u16,
    name: char,
    dir: PathBuf,
    listen: u16,
    admin: u16,
}

impl Everywrite {
    /// Writes both configurations; starts nothing.
    pub(crate) async fn init(
        system: &str,
        program: &Path,
        servers: [&Server; 2],
        work: &Path,
        registry: &Registry,
    ) -> Result<Self> {
        let daemons = daemons(system, program, &servers, work, registry).await?;
        let Ok([a, b]) = <[Daemon; 2]>::try_from(daemons) else {
            bail!("a pair has two sites")
        };
        Ok(Self {
            a,
            b,
            b_dir: folder(work, system, servers[1]),
            start_delay: None,
            resume_delay: None,
        })
    }

    /// An error when one of the daemons has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.a.check()?;
        self.b.check()
    }

    /// Bytes on disk in B's folder; grows while B's journal is being filled.
    pub(crate) fn b_bytes(&self) -> u64 {
        folder_bytes(&self.b_dir)
    }
}

/// One node beside each server, each a peer of all others, configured with `everywrite init`; starts nothing.
pub(crate) async fn daemons(
    system: &str,
    program: &Path,
    servers: &[&Server],
    work: &Path,
    registry: &Registry,
) -> Result<Vec<Daemon>> {
    let ca = work.join(format!("{system}-ca"));
    let _ = std::fs::remove_dir_all(&ca);
    let mut sites = Vec::new();
    for (id, server) in (1..).zip(servers) {
        let dir = folder(work, system, server);
        let _ = std::fs::remove_dir_all(&dir);
        sites.push(Site {
            id,
            name: server.label,
            dir,
            listen: free_port()?,
            admin: free_port()?,
        });
    }
    let mut daemons = Vec::new();
    for (me, server) in sites.iter().zip(servers) {
        let peers = sites.iter().filter(|site| site.id != me.id);
        init_site(program, me, peers, server, &ca).await?;
        let log = work.join(format!("log-{system}-daemon-{}.log", me.name));
        let _ = std::fs::remove_file(&log);
        let config = me.dir.join("everywrite.toml");
        daemons.push(Daemon::new(system, me.name, program, config, log, registry));
    }
    Ok(daemons)
}

/// Where the daemon beside a server lives, its journals included.
fn folder(work: &Path, system: &str, server: &Server) -> PathBuf {
    work.join(format!("{system}-{}", server.label))
}

async fn init_site(
    program: &Path,
    me: &Site,
    peers: impl Iterator<Item = &Site>,
    server: &Server,
    ca: &Path,
) -> Result<()> {
    let postgres = format!(
        "postgres://postgres@/{DATABASE}?host={}&port={}",
        server.socket_dir.display(),
        server.port
    );
    let peers = peers.flat_map(|peer| {
        let address = format!(
            "id={},name={},address=127.0.0.1:{}",
            peer.id, peer.name, peer.listen
        );
        ["--peer".to_owned(), address]
    });
    let output = Command::new(program)
        .arg("init")
        .args([
            "--node-id",
            &me.id.to_string(),
            "--name",
            &me.name.to_string(),
            "--cluster",
            "bench",
        ])
        .arg("--dir")
        .arg(&me.dir)
        .args(["--postgres", &postgres])
        .args([
            "--listen",
            &format!("127.0.0.1:{}", me.listen),
            "--admin",
            &format!("127.0.0.1:{}", me.admin),
        ])
        .args(peers)
        .arg("--ca-dir")
        .arg(ca)
        .output()
        .await
        .with_context(|| format!("run {} init", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} init failed: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn folder_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
