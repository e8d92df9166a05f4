//! What can go wrong: processes, links, clocks, disks. And what may be changed meanwhile: policies.

use std::time::Duration;

use crate::cluster::{Cluster, Machines};
use crate::machine::Machine;
use crate::merged::MERGED;
use crate::proxy::{Direction, Flow};
use crate::random::Random;
use crate::workload::{Table, UNDER_POLICIES, set_policy};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// kill -9 of a daemon.
    CrashDaemon,
    /// kill -9 of a server and all its sessions.
    CrashServer,
    /// Both at once.
    CrashSite,
    /// All daemons at once.
    CrashAllDaemons,
    /// A fast shutdown, and a start.
    RestartServer,
    /// `pg_terminate_backend` of all the daemon's sessions.
    EndSessions,
    /// SIGSTOP for a while.
    FreezeDaemon,
    /// No connection between two sites.
    Cut,
    /// Connections between two sites that say nothing.
    Silence,
    /// A site without links.
    Isolate,
    /// Two groups of sites without links between them.
    Partition,
    /// What one site sends another is held; the other direction passes.
    OneWay,
    /// Everything takes 100 ms.
    Delay,
    /// Every way has a delay of its own and one is cut: what travels by relays overtakes.
    Reorder,
    /// A site's clock goes elsewhere, and stays there when the fault is over.
    Clock,
    /// A daemon's disk is full.
    FullDisk,
    /// A server's disk is full.
    FullServerDisk,
    /// Every sync of a site takes long.
    SlowDisk,
    /// A daemon's syncs fail: it has to end.
    FailedSync,
    /// A server's syncs fail: it has to end.
    FailedServerSync,
    /// VACUUM FREEZE at a site.
    Freeze,
    /// A table's policy is another one from here on.
    Policy,
}

impl Kind {
    /// Its name, and how often it is chosen in a soak and in chaos, in shares.
    const fn traits(self) -> (&'static str, u64, u64) {
        match self {
            Kind::CrashDaemon => ("kill -9 of a daemon", 3, 3),
            Kind::CrashServer => ("kill -9 of a server", 3, 3),
            Kind::CrashSite => ("kill -9 of both", 1, 1),
            Kind::CrashAllDaemons => ("kill -9 of all daemons", 1, 1),
            Kind::RestartServer => ("server restarted", 0, 1),
            Kind::EndSessions => ("sessions ended", 0, 2),
            Kind::FreezeDaemon => ("daemon frozen", 1, 1),
            Kind::Cut => ("link cut", 1, 1),
            Kind::Silence => ("link silent", 1, 1),
            Kind::Isolate => ("site cut off", 1, 2),
            Kind::Partition => ("partition", 0, 2),
            Kind::OneWay => ("one way lost", 0, 2),
            Kind::Delay => ("100 ms on all links", 0, 2),
            Kind::Reorder => ("reordered by relays", 0, 3),
            Kind::Clock => ("clock set", 0, 5),
            Kind::FullDisk => ("daemon's disk full", 0, 2),
            Kind::FullServerDisk => ("server's disk full", 0, 1),
            Kind::SlowDisk => ("slow disk", 0, 2),
            Kind::FailedSync => ("daemon's sync fails", 0, 1),
            Kind::FailedServerSync => ("server's sync fails", 0, 1),
            Kind::Freeze => ("vacuum freeze", 0, 2),
            Kind::Policy => ("policy set", 0, 4),
        }
    }

    /// What it is called in options and summaries.
    pub const fn name(self) -> &'static str {
        self.traits().0
    }
}

/// All kinds.
pub const KINDS: [Kind; 22] = [
    Kind::CrashDaemon,
    Kind::CrashServer,
    Kind::CrashSite,
    Kind::CrashAllDaemons,
    Kind::RestartServer,
    Kind::EndSessions,
    Kind::FreezeDaemon,
    Kind::Cut,
    Kind::Silence,
    Kind::Isolate,
    Kind::Partition,
    Kind::OneWay,
    Kind::Delay,
    Kind::Reorder,
    Kind::Clock,
    Kind::FullDisk,
    Kind::FullServerDisk,
    Kind::SlowDisk,
    Kind::FailedSync,
    Kind::FailedServerSync,
    Kind::Freeze,
    Kind::Policy,
];

/// The kinds that a run chooses from, each as often as its share says: those of a soak or all, and of
/// these the ones whose name has `part` in it.
pub(super) fn chosen(chaos: bool, part: &str) -> Vec<Kind> {
    let share = |kind: &Kind| {
        let (_, soak, all) = kind.traits();
        if chaos { all } else { soak }
    };
    let mut kinds = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.name().contains(part)) {
        kinds.extend((0..share(kind)).map(|_| *kind));
    }
    kinds
}

const SECOND_US: i64 = 1_000_000;

/// Mostly near, sometimes so far that streams are held, sometimes right again.
fn clock(random: &mut Random) -> i64 {
    let seconds = match random.below(10) {
        0..2 => return 0,
        2..8 => 3,
        _ => 9,
    };
    let span = 2 * seconds * SECOND_US;
    i64::try_from(random.below(span.unsigned_abs())).unwrap_or(0) - span / 2
}

/// Brings a fault about; a site that is down already is left as it is.
pub(super) async fn strike(
    kind: Kind,
    cluster: &mut Cluster,
    random: &mut Random,
) -> anyhow::Result<()> {
    let sites = cluster.sites.len();
    let one = random.index(sites);
    let other = (one + 1 + random.index(sites - 1)) % sites;
    match kind {
        Kind::CrashDaemon => cluster.site_mut(one).node.crash(),
        Kind::CrashServer => cluster.site_mut(one).server.crash(),
        Kind::CrashSite => {
            cluster.site_mut(one).server.crash();
            cluster.site_mut(one).node.crash();
        }
        Kind::CrashAllDaemons => cluster.sites.iter_mut().for_each(|site| site.node.crash()),
        Kind::RestartServer => cluster.site_mut(one).server.stop_or_crash(),
        Kind::EndSessions => {
            let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                where application_name like 'everywrite%'";
            cluster.site(one).execute(end).await.ok();
        }
        Kind::FreezeDaemon => cluster.site(one).node.freeze(),
        Kind::Cut => cluster.cut(one, other),
        Kind::Silence => cluster.freeze(one, other),
        Kind::Isolate => cluster.isolate(one),
        Kind::Partition => {
            // One side has `one`, the other `other`; chance decides about the rest.
            let side: Vec<bool> = (0..sites)
                .map(|site| site == one || (site != other && random.percent(50)))
                .collect();
            for (first, a) in side.iter().enumerate() {
                for (second, b) in side.iter().enumerate() {
                    if first < second && a != b {
                        cluster.cut(first, second);
                    }
                }
            }
        }
        Kind::OneWay => {
            let hold = Flow::Hold;
            cluster.proxy(one, other).set_flow(Direction::Outward, hold);
            cluster.proxy(other, one).set_flow(Direction::Inward, hold);
        }
        Kind::Delay => {
            for proxy in cluster.proxies() {
                proxy.set_delay(Duration::from_millis(100));
            }
        }
        Kind::Reorder => {
            for proxy in cluster.proxies() {
                proxy.set_delay(Duration::from_millis(random.below(400)));
            }
            cluster.cut(one, other);
        }
        Kind::Clock => cluster.site(one).set_clock(clock(random))?,
        Kind::FullDisk => {
            let room = u32::try_from(random.below(64 << 10)).unwrap_or(0);
            cluster.site(one).machines()?.node.leave_room(room)?;
        }
        Kind::FullServerDisk => {
            let room = u32::try_from(random.below(1 << 20)).unwrap_or(0);
            cluster.site(one).machines()?.server.leave_room(room)?;
        }
        Kind::SlowDisk => {
            let takes = Duration::from_millis(20 + random.below(280));
            let machines = cluster.site(one).machines()?;
            machines.node.slow_syncs(takes)?;
            machines.server.slow_syncs(takes)?;
        }
        Kind::FailedSync => cluster.site(one).machines()?.node.fail_syncs()?,
        Kind::FailedServerSync => cluster.site(one).machines()?.server.fail_syncs()?,
        Kind::Freeze => {
            let freeze = "vacuum (freeze)";
            cluster.site(one).execute(freeze).await.ok();
        }
        Kind::Policy => {
            let merged = MERGED.iter().filter(|table| table.is_turned());
            let tables: Vec<&Table> = match random.percent(50) {
                true => merged.collect(),
                false => UNDER_POLICIES.iter().collect(),
            };
            let table = tables[random.index(tables.len())];
            let policy = table.policies[random.index(table.policies.len())];
            let set = set_policy(table, policy);
            cluster.site(one).execute(&set).await.ok();
        }
    }
    Ok(())
}

/// Everything runs and is connected again, on healthy disks; clocks stay as they are. What has ended by
/// itself and should not have is returned.
pub(super) async fn mend(cluster: &mut Cluster) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    cluster.heal();
    for site in &mut cluster.sites {
        site.mend_disks()?;
        let damaged = |machine: fn(&Machines) -> &Machine| {
            let machines = site.machines().ok().map(machine);
            machines.is_some_and(Machine::was_damaged)
        };
        let (node, server) = (damaged(|m| &m.node), damaged(|m| &m.server));
        if site.server.has_ended()? && !server {
            wrong.push(format!("the server of {} has ended", site.node.name()));
        }
        if !site.server.is_started() {
            site.server.start().await?;
            site.machines().iter().for_each(|m| m.server.begins());
        }
        if let Some(code) = site.node.has_ended()?
            && !(node && code == FAILED_SYNC)
        {
            wrong.push(format!("{} has ended with {code}", site.node.name()));
        }
        if site.node.is_started() {
            site.node.thaw();
        } else {
            site.machines().iter().for_each(|m| m.node.begins());
            site.node.start()?;
        }
    }
    Ok(wrong)
}

/// A server that panics in recovery, because a sync fails there, may stay as it is and let nobody in: seen
/// on 18. What a person does then: ends it, and starts it again.
pub(super) async fn start_hanging_servers(cluster: &mut Cluster) -> anyhow::Result<()> {
    for site in &mut cluster.sites {
        let damaged = site.machines().is_ok_and(|m| m.server.was_damaged());
        if damaged && site.server.connect().await.is_err() {
            site.server.crash();
            site.server.start().await?;
            site.machines().iter().for_each(|m| m.server.begins());
        }
    }
    Ok(())
}

/// What a daemon ends with when a sync fails.
const FAILED_SYNC: i32 = 70;
