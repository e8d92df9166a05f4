//! The CPU bill of one measurement, in seconds, by process. With more than two sites, B is all but A together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// CPU seconds between start and stop of a meter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// Seconds that passed.
    pub(crate) wall: f64,
    /// Decoding on A.
    pub(crate) walsender_a: f64,
    /// Decoding on B: an active-active system must decode, and drop, what it applied there.
    pub(crate) walsender_b: f64,
    /// Applying on B: the apply workers, or the server processes of the daemon's sessions.
    pub(crate) apply_b: f64,
    /// The daemon's sessions on A, without the walsender.
    pub(crate) sessions_a: f64,
    /// All of A's server without the sessions of load and driver.
    pub(crate) server_a: f64,
    /// All of B's server without the sessions of the driver.
    pub(crate) server_b: f64,
    /// Sessions of load and driver on A.
    pub(crate) clients_a: f64,
    /// Sessions of the driver on B.
    pub(crate) clients_b: f64,
    /// A's daemon.
    pub(crate) daemon_a: f64,
    /// B's daemon.
    pub(crate) daemon_b: f64,
    /// This driver and pgbench.
    pub(crate) driver: f64,
    /// The systems that are not being measured.
    pub(crate) idle_systems: f64,
    /// Everything else on the machine.
    pub(crate) foreign: f64,
    /// Time a processor waited for a disk.
    pub(crate) iowait: f64,
    /// Time the hypervisor took.
    pub(crate) steal: f64,
    /// The daemons' sessions by site and application name.
    pub(crate) sessions: BTreeMap<String, f64>,
}

impl Cpu {
    /// Processors used by what is neither the system nor the driver.
    pub(crate) fn foreign_processors(&self) -> f64 {
        if self.wall > 0.0 {
            (self.foreign + self.idle_systems).max(0.0) / self.wall
        } else {
            0.0
        }
    }

    /// The bill of two phases together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        let mut sessions = self.sessions.clone();
        for (name, seconds) in &other.sessions {
            *sessions.entry(name.clone()).or_default() += seconds;
        }
        Self {
            wall: self.wall + other.wall,
            walsender_a: self.walsender_a + other.walsender_a,
            walsender_b: self.walsender_b + other.walsender_b,
            apply_b: self.apply_b + other.apply_b,
            sessions_a: self.sessions_a + other.sessions_a,
            server_a: self.server_a + other.server_a,
            server_b: self.server_b + other.server_b,
            clients_a: self.clients_a + other.clients_a,
            clients_b: self.clients_b + other.clients_b,
            daemon_a: self.daemon_a + other.daemon_a,
            daemon_b: self.daemon_b + other.daemon_b,
            driver: self.driver + other.driver,
            idle_systems: self.idle_systems + other.idle_systems,
            foreign: self.foreign + other.foreign,
            iowait: self.iowait + other.iowait,
            steal: self.steal + other.steal,
            sessions,
        }
    }
}
