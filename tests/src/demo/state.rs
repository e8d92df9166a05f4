//! What the demo has started, on disk, so that a later run finds it again.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::process;

/// A process that was started, and how to know that the id is still its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Running {
    /// The process id, 0 before the first start.
    pub id: u32,
    /// A part of its command line that nothing else has.
    pub mark: String,
}

impl Running {
    /// Whether it runs; an id that was given to somebody else since does not count.
    pub(crate) fn is_alive(&self) -> bool {
        let command = std::fs::read(format!("/proc/{}/cmdline", self.id)).unwrap_or_default();
        self.id != 0
            && process::is_running(self.id)
            && String::from_utf8_lossy(&command).contains(&self.mark)
    }
}

/// One site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SiteState {
    /// `a`, `b`, `c`.
    pub name: String,
    /// The node's number.
    pub id: u16,
    /// Where peers find it.
    pub listen: std::net::SocketAddr,
    /// Where its admin port is.
    pub admin: std::net::SocketAddr,
    /// Its server.
    pub server: Running,
    /// Its daemon.
    pub daemon: Running,
}

/// The whole demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Where everything really is: not below the checkout if the servers' user cannot go there.
    pub home: PathBuf,
    /// The sites.
    pub sites: Vec<SiteState>,
}

impl State {
    /// The state of the demo in `dir`; none if there is no whole one.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Option<State>> {
        let path = dir.join("demo.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged", path.display()))
                .map(Some),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes the state, whole or not at all.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let (path, half) = (
            self.home.join("demo.json"),
            self.home.join("demo.json.half"),
        );
        let text = serde_json::to_string_pretty(self).context("put the state into words")?;
        std::fs::write(&half, text).context("write the state")?;
        std::fs::rename(&half, &path).context("name the state")
    }
}
