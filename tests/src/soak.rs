//! Workload, faults and checker together: three sites under random load, while processes are killed
//! and links fail; then everything heals and is judged.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::checker::{self, Account};
use crate::cluster::{Cluster, Plan};
use crate::conflicts::{Conflict, lost_tags};
use crate::history::History;
use crate::random::Random;
use crate::workload::{self, TABLES, Workload};
use crate::{logs, wait};

/// How a soak goes about.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is random.
    pub seed: u64,
    /// How long the load and the faults last.
    pub duration: Duration,
    /// How long the sites may take to agree afterwards.
    pub patience: Duration,
    /// Only faults whose name has this in it.
    pub faults: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            duration: Duration::from_secs(60),
            patience: wait::LIMIT * 2,
            faults: String::new(),
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The seed that repeats it.
    pub seed: u64,
    /// Transactions that were acknowledged.
    pub acknowledged: usize,
    /// Faults of each kind, with how often.
    pub faults: Vec<(&'static str, u32)>,
    /// Rows in the end.
    pub rows: u64,
    /// Row versions that are there.
    pub present: usize,
    /// Row versions that another write stands in place of.
    pub superseded: usize,
    /// Conflicts decided, at all sites.
    pub conflicts: usize,
    /// How long the sites took to agree after the last fault.
    pub settled_in: Duration,
    /// What is wrong; empty when all is well.
    pub violations: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{count} × {kind}"))
            .collect();
        writeln!(f, "seed          {}", self.seed)?;
        writeln!(f, "transactions  {} acknowledged", self.acknowledged)?;
        writeln!(f, "faults        {}", faults.join(", "))?;
        writeln!(f, "rows          {}, equal at all sites", self.rows)?;
        writeln!(
            f,
            "row versions  {} present, {} superseded, {} unaccounted for",
            self.present,
            self.superseded,
            self.violations.len()
        )?;
        writeln!(f, "conflicts     {} decided", self.conflicts)?;
        write!(f, "settled in    {:.1} s", self.settled_in.as_secs_f64())
    }
}

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug)]
enum Fault {
    CrashDaemon(usize),
    CrashServer(usize),
    CrashSite(usize),
    CrashAllDaemons,
    Cut(usize, usize),
    Silence(usize, usize),
    Isolate(usize),
    FreezeDaemon(usize),
}

/// Names, in the order of [`Fault::place`].
const NAMES: [&str; 8] = [
    "kill -9 of a daemon",
    "kill -9 of a server",
    "kill -9 of both",
    "kill -9 of all daemons",
    "link cut",
    "link silent",
    "site cut off",
    "daemon frozen",
];

impl Fault {
    fn choose(random: &mut Random, sites: usize) -> Fault {
        let one = random.index(sites);
        let other = (one + 1 + random.index(sites - 1)) % sites;
        match random.below(12) {
            0..3 => Fault::CrashDaemon(one),
            3..6 => Fault::CrashServer(one),
            6 => Fault::CrashSite(one),
            7 => Fault::CrashAllDaemons,
            8 => Fault::Cut(one, other),
            9 => Fault::Silence(one, other),
            10 => Fault::Isolate(one),
            _ => Fault::FreezeDaemon(one),
        }
    }

    fn place(self) -> usize {
        match self {
            Fault::CrashDaemon(_) => 0,
            Fault::CrashServer(_) => 1,
            Fault::CrashSite(_) => 2,
            Fault::CrashAllDaemons => 3,
            Fault::Cut(..) => 4,
            Fault::Silence(..) => 5,
            Fault::Isolate(_) => 6,
            Fault::FreezeDaemon(_) => 7,
        }
    }

    fn strike(self, cluster: &mut Cluster) {
        match self {
            Fault::CrashDaemon(site) => cluster.site_mut(site).node.crash(),
            Fault::CrashServer(site) => cluster.site_mut(site).server.crash(),
            Fault::CrashSite(site) => {
                cluster.site_mut(site).server.crash();
                cluster.site_mut(site).node.crash();
            }
            Fault::CrashAllDaemons => {
                for site in &mut cluster.sites {
                    site.node.crash();
                }
            }
            Fault::Cut(one, other) => cluster.cut(one, other),
            Fault::Silence(one, other) => cluster.freeze(one, other),
            Fault::Isolate(site) => cluster.isolate(site),
            Fault::FreezeDaemon(site) => cluster.site(site).node.freeze(),
        }
    }
}

/// Everything runs and is connected again.
async fn mend(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.heal();
    for site in &mut cluster.sites {
        if !site.server.is_started() {
            site.server.start().await?;
        }
        if site.node.is_started() {
            site.node.thaw();
        } else {
            site.node.start()?;
        }
    }
    Ok(())
}

/// The folders of a cluster's servers, for a workload.
pub fn servers(cluster: &Cluster) -> Vec<PathBuf> {
    let dir = |site: &crate::cluster::Site| site.server.dir().to_owned();
    cluster.sites.iter().map(dir).collect()
}

/// Runs a soak, saying how it goes. What is wrong in the end is in the summary; an error means that
/// it did not come to an end.
pub async fn run(options: &Options, mut say: impl FnMut(String)) -> anyhow::Result<Summary> {
    let plan = Plan::with_schema(&workload::schema(&TABLES));
    let mut cluster = plan.start().await?;
    say(format!("seed {}: three sites are up", options.seed));
    let outcome = run_in(&mut cluster, options, &mut say).await;
    let wrong = match &outcome {
        Ok(summary) => !summary.violations.is_empty(),
        Err(_) => true,
    };
    if wrong {
        say(format!(
            "everything is left in {}",
            cluster.keep().display()
        ));
        for site in &cluster.sites {
            let log = logs::tail(&site.node.log(), 15);
            say(format!("the log of {} ends:\n{log}", site.node.name()));
        }
    }
    outcome.with_context(|| format!("SEED={} repeats this", options.seed))
}

async fn run_in(
    cluster: &mut Cluster,
    options: &Options,
    say: &mut impl FnMut(String),
) -> anyhow::Result<Summary> {
    if !NAMES.iter().any(|name| name.contains(&options.faults)) {
        anyhow::bail!(
            "no fault is called \"{}\"; there are: {}",
            options.faults,
            NAMES.join(", ")
        );
    }
    let load = Workload::start(&servers(cluster), &workload::Options::new(options.seed));
    let mut random = Random::new(options.seed).fork(u64::MAX);
    let mut struck = [0_u32; NAMES.len()];
    let (begin, mut told) = (Instant::now(), Instant::now());
    while begin.elapsed() < options.duration {
        tokio::time::sleep(Duration::from_millis(300 + random.below(2_000))).await;
        let fault = loop {
            let fault = Fault::choose(&mut random, cluster.sites.len());
            if NAMES[fault.place()].contains(&options.faults) {
                break fault;
            }
        };
        fault.strike(cluster);
        struck[fault.place()] += 1;
        // Mostly short, sometimes longer than it takes to notice silence.
        let longest = if random.percent(20) { 7_000 } else { 1_000 };
        tokio::time::sleep(Duration::from_millis(random.below(longest))).await;
        mend(cluster).await?;
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            say(format!(
                "{:>4} s  {:>8} transactions acknowledged  {:>5} failed  {:>4} faults",
                begin.elapsed().as_secs(),
                load.history().acknowledged(),
                load.failed(),
                struck.iter().sum::<u32>(),
            ));
        }
    }
    let history = load.end().await?;
    say("load and faults are over, waiting for the sites to agree".to_owned());
    let healed = Instant::now();
    cluster.wait_ready().await?;
    let rows = cluster.converged_within(options.patience).await?;
    let settled_in = healed.elapsed();
    let account = judge(cluster, &history).await?;
    let mut conflicts = 0;
    for site in &cluster.sites {
        conflicts += site.conflicts().await?.len();
    }
    Ok(Summary {
        seed: options.seed,
        acknowledged: history.acknowledged(),
        faults: NAMES.into_iter().zip(struck).filter(|f| f.1 > 0).collect(),
        rows,
        present: account.present,
        superseded: account.superseded,
        conflicts,
        settled_in,
        violations: account.violations,
    })
}

/// Waits until all sites agree, then accounts for every write of the workload.
pub async fn judge(cluster: &Cluster, history: &History) -> anyhow::Result<Account> {
    cluster.converged().await?;
    let (mut decided, mut violations) = (Vec::new(), Vec::new());
    for (index, site) in cluster.sites.iter().enumerate() {
        history.resolve(index, &site.sql().await?).await?;
        decided.extend(site.conflicts().await?);
        let panics = logs::panics(&site.node.log());
        violations.extend(
            panics
                .into_iter()
                .map(|p| format!("{}: {p}", site.node.name())),
        );
    }
    violations.extend(decided.iter().filter_map(Conflict::contradiction));
    let site = cluster.sites.first().context("a cluster without sites")?;
    let rows = checker::rows(&site.sql().await?, &TABLES).await?;
    let mut account = checker::account(&history.committed(), &rows, &lost_tags(&decided));
    account.violations.extend(violations);
    Ok(account)
}
