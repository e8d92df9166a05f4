//! Measures CPU time by process while something else runs.
//!
//! A task looks at /proc five times a second, because server processes end and take their times with them.
//! The total of a server does not depend on that: the postmaster's count of ended children is in it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::cpu::Cpu;
use super::machine::{self, Busy};
use super::process;
use super::registry::Registry;
use super::server::{APPLICATION, DATABASE, Server};

/// Rare enough to cost nothing, often enough to see every process that does real work.
const PERIOD: Duration = Duration::from_millis(200);

/// A running meter.
pub(crate) struct Meter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Cpu>,
}

impl Meter {
    /// Starts to count for `system`, whose servers are given.
    pub(crate) async fn start(
        registry: &Registry,
        system: &str,
        servers: &[&Server],
    ) -> Result<Self> {
        let mut sampler = Sampler {
            registry: registry.clone(),
            system: system.to_owned(),
            servers: Vec::new(),
            daemons: BTreeMap::new(),
            others: 0.0,
            busy: Busy::default(),
            driver: 0.0,
            started: Instant::now(),
            primed: false,
        };
        for server in servers {
            let monitor = server.connect().await?;
            sampler.servers.push(Probe {
                site: server.label,
                postmaster: server.postmaster()?,
                monitor,
                total: 0.0,
                own: 0.0,
                seen: HashMap::new(),
            });
        }
        sampler.sample().await;
        sampler.begin();
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            while tokio::time::timeout(PERIOD, &mut stopped).await.is_err() {
                sampler.sample().await;
            }
            sampler.finish().await
        });
        Ok(Self { stop, task })
    }

    /// Ends the count.
    pub(crate) async fn stop(self) -> Result<Cpu> {
        let _ = self.stop.send(());
        self.task.await.context("the CPU meter failed")
    }
}

struct Sampler {
    registry: Registry,
    system: String,
    servers: Vec<Probe>,
    daemons: BTreeMap<u32, (char, Span)>,
    /// At the start: CPU seconds of the idle systems.
    others: f64,
    busy: Busy,
    driver: f64,
    started: Instant,
    primed: bool,
}

struct Probe {
    site: char,
    postmaster: u32,
    monitor: Client,
    /// At the start: CPU seconds of the whole server, and of the postmaster alone.
    total: f64,
    own: f64,
    seen: HashMap<u32, Process>,
}

struct Process {
    span: Span,
    work: Option<Work>,
}

/// First and last reading of one process.
#[derive(Clone, Copy)]
struct Span {
    first: f64,
    last: f64,
}

impl Span {
    fn seconds(self) -> f64 {
        (self.last - self.first).max(0.0)
    }
}

/// What a server process does.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    Walsender,
    Apply,
    /// A client's session; the name is its application's once it is known.
    Session(String),
    Background,
}

impl Sampler {
    fn begin(&mut self) {
        self.busy = machine::busy();
        self.driver = process::own_cpu();
        self.others = self
            .registry
            .others(&self.system)
            .into_iter()
            .map(tree_seconds)
            .sum();
        for server in &mut self.servers {
            server.total = tree_seconds(server.postmaster);
            server.own = own_seconds(server.postmaster);
        }
        self.started = Instant::now();
        self.primed = true;
    }

    async fn sample(&mut self) {
        for (site, pid) in self.registry.daemons(&self.system) {
            if let Some(times) = process::times(pid) {
                let first = if self.primed { 0.0 } else { times.own };
                self.daemons
                    .entry(pid)
                    .or_insert((site, Span { first, last: first }))
                    .1
                    .last = times.own;
            }
        }
        for server in &mut self.servers {
            server.sample(self.primed).await;
        }
    }

    async fn finish(mut self) -> Cpu {
        let wall = self.started.elapsed().as_secs_f64();
        let busy = machine::busy();
        let driver = process::own_cpu() - self.driver;
        let totals: Vec<f64> = self
            .servers
            .iter()
            .map(|server| tree_seconds(server.postmaster) - server.total)
            .collect();
        let postmasters: Vec<f64> = self
            .servers
            .iter()
            .map(|server| own_seconds(server.postmaster) - server.own)
            .collect();
        let others: f64 = self
            .registry
            .others(&self.system)
            .into_iter()
            .map(tree_seconds)
            .sum();
        self.sample().await;
        let mut cpu = Cpu {
            wall,
            driver,
            idle_systems: (others - self.others).max(0.0),
            iowait: busy.iowait - self.busy.iowait,
            steal: busy.steal - self.busy.steal,
            ..Cpu::default()
        };
        for ((server, total), postmaster) in self.servers.iter().zip(&totals).zip(&postmasters) {
            server.add_to(&mut cpu, *total, *postmaster);
        }
        for (site, span) in self.daemons.values() {
            *(if *site == 'a' {
                &mut cpu.daemon_a
            } else {
                &mut cpu.daemon_b
            }) += span.seconds();
        }
        cpu.foreign = busy.busy
            - self.busy.busy
            - totals.iter().sum::<f64>()
            - cpu.daemon_a
            - cpu.daemon_b
            - cpu.driver
            - cpu.idle_systems;
        cpu
    }
}

impl Probe {
    async fn sample(&mut self, primed: bool) {
        let mut nameless = false;
        for pid in process::children(self.postmaster) {
            let Some(times) = process::times(pid) else {
                continue;
            };
            let first = if primed { 0.0 } else { times.own };
            let process = self.seen.entry(pid).or_insert(Process {
                span: Span { first, last: first },
                work: None,
            });
            process.span.last = times.own;
            if process.work.is_none() {
                process.work = classify(&process::title(pid));
            }
            nameless |= matches!(&process.work, Some(Work::Session(name)) if name.is_empty());
        }
        if nameless {
            self.name_sessions().await;
        }
    }

    /// The titles of sessions do not hold the application's name; the server knows it.
    async fn name_sessions(&mut self) {
        let Ok(rows) = self
            .monitor
            .query("select pid, application_name from pg_stat_activity", &[])
            .await
        else {
            return;
        };
        for row in rows {
            let (Ok(pid), Ok(name)) = (
                row.try_get::<_, i32>(0),
                row.try_get::<_, Option<String>>(1),
            ) else {
                continue;
            };
            let process = u32::try_from(pid)
                .ok()
                .and_then(|pid| self.seen.get_mut(&pid));
            if let Some(Process {
                work: Some(Work::Session(known)),
                ..
            }) = process
                && known.is_empty()
            {
                *known = name
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| "unnamed".into());
            }
        }
    }

    /// Sessions end with the load, and their last fifth of a second is never seen. So the server's bill is the
    /// sum of the processes that stay, and what is left of the total is the clients'.
    fn add_to(&self, cpu: &mut Cpu, total: f64, postmaster: f64) {
        let (mut walsender, mut apply, mut sessions, mut background) = (0.0, 0.0, 0.0, postmaster);
        for process in self.seen.values() {
            let seconds = process.span.seconds();
            match &process.work {
                Some(Work::Walsender) => walsender += seconds,
                Some(Work::Apply) => apply += seconds,
                // Without a name: gone before it could be asked, as the driver's single statements are.
                Some(Work::Session(name))
                    if ["", APPLICATION, "pgbench"].contains(&name.as_str()) => {}
                Some(Work::Session(name)) => {
                    sessions += seconds;
                    *cpu.sessions
                        .entry(format!("{}/{name}", self.site))
                        .or_default() += seconds;
                }
                Some(Work::Background) => background += seconds,
                None => {}
            }
        }
        let server = walsender + apply + sessions + background;
        let clients = (total - server).max(0.0);
        // Every site but A counts as B: all peers together.
        if self.site == 'a' {
            cpu.walsender_a += walsender;
            cpu.sessions_a += sessions;
            cpu.clients_a += clients;
            cpu.server_a += server;
        } else {
            cpu.walsender_b += walsender;
            cpu.apply_b += apply + sessions;
            cpu.clients_b += clients;
            cpu.server_b += server;
        }
    }
}

/// Reads a process title. Nothing while the process is still starting.
fn classify(title: &str) -> Option<Work> {
    let activity = title.strip_prefix("postgres: ")?;
    if activity.starts_with("walsender") {
        Some(Work::Walsender)
    } else if activity.starts_with("logical replication") && activity.contains("worker") {
        Some(Work::Apply)
    } else if activity.starts_with(&format!("postgres {DATABASE} ")) {
        // A session may become a walsender a moment later; until then it shows `startup`.
        if activity.contains("initializing") || activity.contains("startup") {
            None
        } else {
            Some(Work::Session(String::new()))
        }
    } else {
        Some(Work::Background)
    }
}

fn own_seconds(pid: u32) -> f64 {
    process::times(pid).map_or(0.0, |times| times.own)
}

/// CPU seconds of a process with its children, those that have ended too.
fn tree_seconds(pid: u32) -> f64 {
    let root = process::times(pid).map_or(0.0, |times| times.own + times.reaped);
    root + process::children(pid)
        .into_iter()
        .filter_map(process::times)
        .map(|times| times.own)
        .sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_15_and_18_are_understood() {
        let cases = [
            (
                "postgres: walsender postgres bench 127.0.0.1(51234) START_REPLICATION",
                Some(Work::Walsender),
            ),
            (
                "postgres: logical replication worker for subscription 16395",
                Some(Work::Apply),
            ),
            (
                "postgres: logical replication apply worker for subscription 16395",
                Some(Work::Apply),
            ),
            (
                "postgres: logical replication parallel apply worker for subscription 16395",
                Some(Work::Apply),
            ),
            (
                "postgres: logical replication launcher",
                Some(Work::Background),
            ),
            (
                "postgres: postgres bench [local] idle",
                Some(Work::Session(String::new())),
            ),
            ("postgres: postgres bench [local] startup", None),
            ("postgres: checkpointer", Some(Work::Background)),
            ("/usr/lib/postgresql/15/bin/postgres -D /x", None),
        ];
        for (title, work) in cases {
            assert_eq!(classify(title), work, "{title}");
        }
    }
}
