//! A real daemon: `everywrite init` writes its configuration and certificate, `everywrite run` runs
//! it. What it says goes to a file; a panic in it fails the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use everywrite_conflict::NodeId;
use everywrite_node::telemetry::Status;
use rustix::process::Signal;

use crate::place;
use crate::process::{self, Process};
use crate::{http, logs, ports, wait};

/// The cluster's name in every test.
pub const CLUSTER: &str = "demo";

/// Where a node is reached by one other node.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    /// The peer's number.
    pub id: NodeId,
    /// The peer's name.
    pub name: String,
    /// Where to dial it: usually a proxy.
    pub address: SocketAddr,
}

/// What a node is told at its `init`.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Its server.
    pub postgres: String,
    /// Where peers find it.
    pub listen: SocketAddr,
    /// Where its admin port is.
    pub admin: SocketAddr,
}

impl Identity {
    /// A node of the usual cluster with free ports of the loopback.
    pub fn new(id: u16, name: &str, postgres: String) -> anyhow::Result<Identity> {
        let free = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free_port()?)));
        Ok(Identity {
            id: NodeId(id),
            name: name.to_owned(),
            cluster: CLUSTER.to_owned(),
            postgres,
            listen: free()?,
            admin: free()?,
        })
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub output: String,
    /// What it wrote to stderr.
    pub errors: String,
}

/// A daemon, running or not.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    dir: PathBuf,
    process: Option<Process>,
    expected_errors: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Node {
    /// Runs `everywrite init` in `dir`; all nodes of a cluster share `ca_dir`.
    pub fn init(
        identity: Identity,
        dir: &Path,
        ca_dir: &Path,
        peers: &[PeerAddress],
    ) -> anyhow::Result<Node> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut command = Command::new(place::daemon()?);
        command
            .arg("init")
            .args(["--node-id", &identity.id.to_string()])
            .args(["--name", &identity.name, "--cluster", &identity.cluster])
            .arg("--dir")
            .arg(dir)
            .args(["--postgres", &identity.postgres])
            .args(["--listen", &identity.listen.to_string()])
            .args(["--admin", &identity.admin.to_string()])
            .arg("--ca-dir")
            .arg(ca_dir);
        for peer in peers {
            let PeerAddress { id, name, address } = peer;
            command.arg("--peer");
            command.arg(format!("id={id},name={name},address={address}"));
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .context("run everywrite init")?;
        if !output.status.success() {
            bail!(
                "everywrite init ended with {}:\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let node = Node::existing(identity, dir);
        if !node.config().exists() {
            bail!("everywrite init wrote no {}", node.config().display());
        }
        Ok(node)
    }

    /// A node that was made before, and is not started by this process.
    pub fn existing(identity: Identity, dir: &Path) -> Node {
        Node {
            identity,
            dir: dir.to_owned(),
            process: None,
            expected_errors: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.identity.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("everywrite.toml")
    }

    /// Changes its configuration file; seen at the next start.
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        let path = self.config();
        let text = std::fs::read_to_string(&path).context("read the configuration")?;
        std::fs::write(&path, edit(text)).context("write the configuration")
    }

    /// Gives a key of its configuration file a value (in TOML); seen at the next start.
    pub fn set_config(&self, section: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let (header, given) = (format!("[{section}]"), format!("{key} = "));
        let mut found = false;
        self.edit_config(|text| {
            let (mut inside, mut edited) = (false, String::new());
            for line in text.lines() {
                if line.starts_with('[') {
                    inside = line == header;
                }
                if inside && line.starts_with(&given) {
                    continue;
                }
                edited.push_str(line);
                edited.push('\n');
                if line == header {
                    found = true;
                    edited.push_str(&format!("{given}{value}\n"));
                }
            }
            edited
        })?;
        if !found {
            bail!("{} has no section {header}", self.config().display());
        }
        Ok(())
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// The errors in its log that the test provokes, by a part of their text.
    pub fn expect_errors(&mut self, parts: &[&str]) {
        self.expected_errors
            .extend(parts.iter().map(|&part| part.to_owned()));
    }

    /// What the process gets to know at its next start.
    pub fn set_environment(&mut self, environment: Vec<(&'static str, PathBuf)>) {
        self.environment = environment;
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(place::daemon()?);
        command.arg("run").arg("--config").arg(self.config());
        command.env("RUST_BACKTRACE", "1");
        // As on a machine with more processors than this one: threads that wait for each other's locks meet more often.
        command.env("TOKIO_WORKER_THREADS", "4");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts it, without waiting for anything.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() {
            bail!("node {} is started already", self.name());
        }
        self.process = Some(Process::start(
            "everywrite",
            &mut self.command()?,
            &self.log(),
        )?);
        Ok(())
    }

    /// Starts it so that it outlives this process; its process id.
    pub fn start_detached(&self) -> anyhow::Result<u32> {
        process::start_detached("everywrite", &mut self.command()?, &self.log())
    }

    /// kill -9.
    pub fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.wait_for_handler();
        let status = process.stop(Signal::TERM, Duration::from_secs(30))?;
        if !status.success() {
            bail!(
                "node {} ended with {status} on SIGTERM:\n{}",
                self.name(),
                logs::tail(&self.log(), 10)
            );
        }
        Ok(())
    }

    /// Stops it where it is (SIGSTOP) until [`Node::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Whether this process has it running.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Its process id, while running.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Notices a daemon that has ended by itself: then it can be started again. Its exit code, if so.
    pub fn has_ended(&mut self) -> anyhow::Result<Option<i32>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let ended = process.ended()?;
        if ended.is_some() {
            self.process = None;
        }
        Ok(ended.map(|status| status.code().unwrap_or(-1)))
    }

    /// Waits until the daemon ends by itself; whether it called that a success.
    pub async fn ended(&mut self) -> anyhow::Result<bool> {
        let name = self.name().to_owned();
        let process = self
            .process
            .as_mut()
            .context("the node was never started")?;
        let status = wait::until("the daemon to end", wait::LIMIT, async || {
            match process.ended() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(format!("node {name} still runs")),
                Err(err) => Err(format!("{err:#}")),
            }
        })
        .await?;
        self.process = None;
        Ok(status.success())
    }

    /// What the daemon says of itself over HTTP.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = http::get(self.identity.admin, "/v1/status").await?;
        serde_json::from_str(&answer.body)
            .with_context(|| format!("the status of node {}: {}", self.name(), answer.body))
    }

    /// What it counts, as Prometheus reads it.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(http::get(self.identity.admin, "/metrics").await?.body)
    }

    /// Whether `/ready` says so, now.
    pub async fn is_ready(&self) -> bool {
        let answer = http::get(self.identity.admin, "/ready").await;
        answer.is_ok_and(|answer| answer.code == 200)
    }

    /// Waits until `/ready` says so.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let admin = self.identity.admin;
        let ready = wait::until("the node to be ready", wait::LIMIT, async || {
            let answer = http::get(admin, "/ready").await;
            match answer.map_err(|err| format!("{err:#}"))? {
                answer if answer.code == 200 => Ok(()),
                answer => Err(format!("{} {}", answer.code, answer.body)),
            }
        });
        ready.await.with_context(|| {
            let log = logs::tail(&self.log(), 15);
            format!("node {} is not ready; its log ends:\n{log}", self.name())
        })
    }

    /// Waits until a line of its log contains `part`; the line.
    pub async fn wait_for_log(&self, part: &str) -> anyhow::Result<String> {
        let what = format!("\"{part}\" in the log of node {}", self.name());
        wait::until(&what, wait::LIMIT, async || {
            logs::lines(&self.log())
                .into_iter()
                .find(|line| line.contains(part))
                .ok_or_else(|| format!("it ends:\n{}", logs::tail(&self.log(), 15)))
        })
        .await
    }

    /// Runs another command of the program with this node's configuration; its code and output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let ended = self.finish(arguments)?;
        Ok((ended.code == Some(0), ended.output + &ended.errors))
    }

    /// Runs another command of the program with this node's configuration to its end, blocking.
    pub fn finish(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        let output = Command::new(place::daemon()?)
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run everywrite {arguments:?}"))?;
        Ok(Ended {
            code: output.status.code(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What in its log the test did not provoke: panics always, errors that were not expected.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = logs::panics(&self.log());
        found.extend(logs::unexpected_errors(&self.log(), &self.expected_errors));
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process = None; // ends it
        if std::thread::panicking() {
            return;
        }
        let panics = logs::panics(&self.log());
        assert!(
            panics.is_empty(),
            "node {} panicked: {panics:?}",
            self.name()
        );
    }
}
