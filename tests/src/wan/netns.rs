//! Two network namespaces joined by a [`Wire`].
//!
//! A process belongs to the namespace of the thread that starts it, so [`Namespace::run`] does its
//! work in a thread of its own that has moved there. Unix sockets lead through all namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::emulator::{Weather, Wire};
use super::tun;

/// What Linux distributions ship; the buffers bound how much a connection has under way.
const SETTINGS: &[(&str, &str)] = &[
    ("tcp_rmem", "4096 131072 6291456"),
    ("tcp_wmem", "4096 16384 4194304"),
];

/// One site's network.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    /// Its address on the wire.
    pub(super) address: &'static str,
}

impl Namespace {
    fn create(name: String, address: &'static str, device: &str) -> anyhow::Result<Namespace> {
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name, address };
        let name = namespace.name.as_str();
        ip(&["link", "set", device, "netns", name])?;
        let inside = |arguments: &[&str]| ip(&[&["-n", name], arguments].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "add", &format!("{address}/24"), "dev", device])?;
        inside(&["link", "set", device, "txqueuelen", "10000", "up"])?;
        Ok(namespace)
    }

    /// Runs a future in this namespace, with a runtime of its own; processes that it starts belong
    /// to the namespace, too.
    pub(super) fn run<T: Send>(
        &self,
        work: impl AsyncFnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.enter()?;
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().context("start a runtime")?;
                runtime.block_on(work())
            });
            there
                .join()
                .map_err(|_| anyhow!("a panic in {}", self.name))?
        })
    }

    fn enter(&self) -> anyhow::Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), network)
            .with_context(|| format!("enter {path}"))
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.run(async || {
            let path = format!("/proc/sys/net/ipv4/{name}");
            std::fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
        })
    }

    /// Bytes that the interface has sent and received, by the kernel's own counting.
    pub(super) fn interface_bytes(&self, device: &str) -> anyhow::Result<(u64, u64)> {
        self.run(async || {
            let table = std::fs::read_to_string("/proc/thread-self/net/dev")
                .context("read the interface's counters")?;
            let line = table
                .lines()
                .find_map(|line| line.trim().strip_prefix(&format!("{device}:")));
            let fields: Vec<u64> = line
                .context("no such interface")?
                .split_whitespace()
                .filter_map(|field| field.parse().ok())
                .collect();
            Ok((
                *fields.get(8).context("sent")?,
                *fields.first().context("received")?,
            ))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(err) = ip(&["netns", "del", &self.name]) {
            eprintln!("wan: {err:#}");
        }
    }
}

/// Namespaces may only choose what the machine allows everybody; widened while this lives.
#[derive(Debug)]
struct Allowed {
    before: String,
}

impl Allowed {
    const PATH: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

    fn also(names: &[String]) -> anyhow::Result<Allowed> {
        let before = std::fs::read_to_string(Self::PATH).context("read what is allowed")?;
        let all = format!("{} {}", before.trim(), names.join(" "));
        std::fs::write(Self::PATH, &all).with_context(|| format!("allow {all}"))?;
        Ok(Allowed { before })
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if let Err(err) = std::fs::write(Self::PATH, &self.before) {
            eprintln!("wan: restore {}: {err}", Self::PATH);
        }
    }
}

/// Two sites and the wire between them.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) a: Namespace,
    pub(super) b: Namespace,
    pub(super) wire: Wire,
    /// A's device, by which the kernel's counters are found.
    pub(super) device: String,
    _allowed: Allowed,
}

impl Network {
    /// Makes both namespaces; needs root.
    pub(super) fn create(
        ports: &[u16],
        weather: Weather,
        congestion: &[String],
    ) -> anyhow::Result<Network> {
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces and TUN devices need root");
        }
        let id = std::process::id();
        let devices = [format!("ewa{id}"), format!("ewb{id}")];
        let (a_end, b_end) = (tun::create(&devices[0])?, tun::create(&devices[1])?);
        let a = Namespace::create(format!("ew-wan-a-{id}"), "10.77.0.1", &devices[0])?;
        let b = Namespace::create(format!("ew-wan-b-{id}"), "10.77.0.2", &devices[1])?;
        let [device, _] = devices;
        let wire = Wire::join(a_end, b_end, ports, weather)?;
        let network = Network {
            a,
            b,
            wire,
            device,
            _allowed: Allowed::also(congestion)?,
        };
        for namespace in [&network.a, &network.b] {
            for (name, value) in SETTINGS {
                namespace.set(name, value)?;
            }
        }
        Ok(network)
    }

    /// Changes the congestion control of connections that begin from now on.
    pub(super) fn congestion(&self, name: &str) -> anyhow::Result<()> {
        self.a.set("tcp_congestion_control", name)?;
        self.b.set("tcp_congestion_control", name)
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run ip (package iproute2)")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), error.trim());
    }
    Ok(())
}
