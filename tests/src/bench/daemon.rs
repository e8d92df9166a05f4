//! One `everywrite run` process: start, stop, memory, and what its log says when it ends by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

use super::process;
use super::registry::{Registry, Role};

/// How long a daemon may take to end when asked; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A daemon that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    system: String,
    site: char,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    registry: Registry,
    child: Option<Child>,
    /// Greatest memory peak of the processes since [`Daemon::reset_peak`] that have ended.
    peak_bytes: u64,
}

impl Daemon {
    pub(crate) fn new(
        system: &str,
        site: char,
        program: &Path,
        config: PathBuf,
        log: PathBuf,
        registry: &Registry,
    ) -> Self {
        Self {
            system: system.to_owned(),
            site,
            program: program.to_owned(),
            config,
            log,
            registry: registry.clone(),
            child: None,
            peak_bytes: 0,
        }
    }

    /// Starts the process; does not wait until it replicates.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let errors = log.try_clone().context("open the daemon's log twice")?;
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        if let Some(pid) = child.id() {
            self.registry
                .set(&self.system, Role::Daemon(self.site), pid);
        }
        self.child = Some(child);
        Ok(())
    }

    /// Ends the process as an operator would, with SIGTERM.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.note_peak();
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if let Some(pid) = child.id() {
            let asked = Command::new("kill")
                .args(["-TERM", &pid.to_string()])
                .status()
                .await;
            asked.context("run kill")?;
            if tokio::time::timeout(STOP_LIMIT, child.wait())
                .await
                .is_err()
            {
                child.kill().await.context("kill the daemon")?;
            }
        }
        self.registry.remove(&self.system, Role::Daemon(self.site));
        Ok(())
    }

    /// An error with the end of the log when the process has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        let Some(status) = child.try_wait().context("look at the daemon")? else {
            return Ok(());
        };
        self.child = None;
        self.registry.remove(&self.system, Role::Daemon(self.site));
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!(
            "daemon {} ended with {status}; the end of {}:\n{}",
            self.site,
            self.log.display(),
            tail.join("\n")
        )
    }

    /// Peak memory since [`Daemon::reset_peak`], over restarts.
    pub(crate) fn peak_bytes(&mut self) -> u64 {
        self.note_peak();
        self.peak_bytes
    }

    /// Forgets the peak, so that each measurement has its own.
    pub(crate) fn reset_peak(&mut self) {
        self.peak_bytes = 0;
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            process::reset_peak(pid);
        }
    }

    fn note_peak(&mut self) {
        let now = self
            .child
            .as_ref()
            .and_then(Child::id)
            .and_then(process::peak_bytes);
        self.peak_bytes = self.peak_bytes.max(now.unwrap_or(0));
    }
}
