//! Workload, faults and checker together: sites under random load, while processes are killed, links
//! fail, clocks jump and disks run full; then everything heals and is judged. `make soak` and
//! `make chaos` are this with other [`Options`].

mod fault;
mod options;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::checker::{self, Account};
use crate::cluster::{Cluster, Plan};
use crate::conflicts::{Conflict, conflicts_without, listed_tags};
use crate::history::History;
use crate::journals::Archive;
use crate::logs;
use crate::merged::{self, MERGED};
use crate::random::Random;
use crate::workload::{self, TABLES, Table, UNDER_POLICIES, Workload};

pub use fault::{KINDS, Kind};
pub use options::{Options, Summary};

/// A server that lets nobody in for so long on a healthy disk hangs.
const HANGS: Duration = Duration::from_secs(20);

/// The folders of a cluster's servers, for a workload.
pub fn servers(cluster: &Cluster) -> Vec<PathBuf> {
    let dir = |site: &crate::cluster::Site| site.server.dir().to_owned();
    cluster.sites.iter().map(dir).collect()
}

/// Runs a soak, saying how it goes. What is wrong in the end is in the summary; an error means that
/// it did not come to an end.
pub async fn run(options: &Options, mut say: impl FnMut(String)) -> anyhow::Result<Summary> {
    say(format!("seed {}: {}", options.seed, options.line()));
    let tables = options.tables();
    let mut plan = Plan::with_schema(&workload::schema(&tables)).sites(options.sites);
    if options.chaos {
        // So that clocks are both: wrong and let pass, and wrong and held.
        plan = plan
            .on_machines()
            .configure("replication", "max-clock-skew", "\"5s\"");
    }
    if options.small_groups {
        plan = plan.configure("replication", "group-transactions", "2");
    }
    let mut cluster = plan.start().await?;
    say(format!("{} sites are up", options.sites));
    for table in &tables {
        for site in &cluster.sites {
            if let Some(checks) = merged::checks(table) {
                site.execute(&checks).await?;
            }
        }
        if let Some(rows) = merged::beginning(table) {
            cluster.site(0).execute(&rows).await?;
        }
        if let Some(policy) = table.policies.first() {
            let set = workload::set_policy(table, *policy);
            cluster.site(0).execute(&set).await?;
        }
    }
    merged::begun(&cluster, &tables).await?;
    let mut soak = Soak::new(options, &cluster)?;
    let outcome = soak.rounds(&mut cluster, &mut say).await;
    let wrong = outcome.is_err() || !soak.summary.violations.is_empty();
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
    outcome.with_context(|| format!("repeat with: {}", options.line()))?;
    Ok(soak.summary)
}

struct Soak<'a> {
    options: &'a Options,
    kinds: Vec<Kind>,
    random: Random,
    history: Arc<History>,
    archive: Archive,
    summary: Summary,
}

impl Options {
    /// What is written to: in chaos also tables under policies.
    fn tables(&self) -> Vec<Table> {
        let more = UNDER_POLICIES.iter().chain(&MERGED);
        let more = more.filter(|_| self.chaos);
        TABLES.iter().chain(more).copied().collect()
    }
}

impl<'a> Soak<'a> {
    fn new(options: &'a Options, cluster: &Cluster) -> anyhow::Result<Soak<'a>> {
        let kinds = fault::chosen(options.chaos, &options.faults);
        if kinds.is_empty() {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
            anyhow::bail!(
                "no fault here is called \"{}\"; there are: {}",
                options.faults,
                names.join(", ")
            );
        }
        Ok(Soak {
            options,
            kinds,
            random: Random::new(options.seed).fork(u64::MAX),
            history: Arc::default(),
            archive: Archive::new(cluster.dir().join("kept")),
            summary: Summary {
                line: options.line(),
                ..Summary::default()
            },
        })
    }

    async fn rounds(
        &mut self,
        cluster: &mut Cluster,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<()> {
        let mut left = self.options.duration;
        for round in 1.. {
            let length = left.min(self.options.round);
            self.trouble(cluster, round, length, say).await?;
            self.rest(cluster, round, say).await?;
            left = left.saturating_sub(length);
            if left.is_zero() || !self.summary.violations.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Load and faults; in the end everything runs, and the load is over.
    async fn trouble(
        &mut self,
        cluster: &mut Cluster,
        round: u64,
        length: Duration,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<()> {
        let load = workload::Options {
            name: format!("r{round}"),
            tables: self.options.tables(),
            ..workload::Options::new(self.options.seed.wrapping_add(round))
        };
        let load = Workload::go_on(&servers(cluster), &load, Arc::clone(&self.history));
        let (begin, mut told) = (Instant::now(), Instant::now());
        while begin.elapsed() < length {
            let rest = Duration::from_millis(300 + self.random.below(2_000));
            tokio::time::sleep(rest).await;
            let together = match self.random.below(10) {
                _ if !self.options.chaos => 1,
                0..6 => 1,
                6..9 => 2,
                _ => 3,
            };
            for _ in 0..together {
                let kind = self.kinds[self.random.index(self.kinds.len())];
                fault::strike(kind, cluster, &mut self.random).await?;
                *self.summary.faults.entry(kind.name()).or_default() += 1;
            }
            // Mostly short, sometimes longer than it takes to notice silence.
            let longest = if self.random.percent(20) {
                7_000
            } else {
                1_000
            };
            tokio::time::sleep(Duration::from_millis(self.random.below(longest))).await;
            self.summary.violations.extend(fault::mend(cluster).await?);
            self.archive.keep(&cluster.sites)?;
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                say(format!(
                    "{:>4} s  {:>8} transactions acknowledged  {:>5} failed  {:>4} faults",
                    begin.elapsed().as_secs(),
                    load.history().acknowledged(),
                    load.failed(),
                    self.summary.faults.values().sum::<u32>(),
                ));
            }
        }
        if self.options.chaos {
            // A clock that is too far ahead, or behind, would hold streams as long as it is so.
            for site in &cluster.sites {
                site.set_clock(0)?;
            }
        }
        load.end().await?;
        Ok(())
    }

    /// Waits until all sites agree, and judges.
    async fn rest(
        &mut self,
        cluster: &mut Cluster,
        round: u64,
        say: &mut impl FnMut(String),
    ) -> anyhow::Result<()> {
        let healed = Instant::now();
        // What a bad disk has done to a process may show a moment later.
        while !cluster.is_ready().await && healed.elapsed() < self.options.patience {
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.summary.violations.extend(fault::mend(cluster).await?);
            if healed.elapsed() > HANGS {
                fault::start_hanging_servers(cluster).await?;
            }
        }
        cluster.wait_ready().await?;
        let patience = self.options.patience;
        let mut rows = cluster.converged_within(patience).await?;
        if self.options.chaos {
            rows = merged::merged(cluster, patience).await?;
        }
        let settled_in = healed.elapsed();
        let tables = self.options.tables();
        let judgement = judge(cluster, &tables, &self.history, &self.archive).await?;
        let summary = &mut self.summary;
        summary.rows = rows;
        summary.acknowledged = self.history.acknowledged();
        summary.present = judgement.account.present;
        summary.superseded = judgement.account.superseded;
        summary.conflicts.clear();
        for conflict in &judgement.conflicts {
            *summary.conflicts.entry(conflict.kind.clone()).or_default() += 1;
        }
        summary.turned = judgement.turned;
        summary.settled_in.push(settled_in);
        summary.raised_max = summary.raised_max.max(judgement.raised_max);
        summary.violations.extend(judgement.account.violations);
        say(format!(
            "round {round}: {rows} rows equal at all sites after {:.1} s, {} transactions, {} conflicts, {} violations",
            settled_in.as_secs_f64(),
            summary.acknowledged,
            judgement.conflicts.len(),
            summary.violations.len(),
        ));
        Ok(())
    }
}

/// What the checker says of a cluster at rest.
#[derive(Debug)]
pub struct Judgement {
    /// Every write accounted for.
    pub account: Account,
    /// Everything decided, at all sites.
    pub conflicts: Vec<Conflict>,
    /// Updates of tables that are merged by columns for a while only, by what they were.
    pub turned: BTreeMap<&'static str, usize>,
    /// How far a stamp was above its commit timestamp at most.
    pub raised_max: Duration,
}

/// Waits until all sites agree, then accounts for every write of the workload.
pub async fn judge(
    cluster: &Cluster,
    tables: &[Table],
    history: &History,
    archive: &Archive,
) -> anyhow::Result<Judgement> {
    cluster.converged().await?;
    cluster.captured().await?;
    archive.keep(&cluster.sites)?;
    let journals = archive.read()?;
    let (mut conflicts, mut violations) = (Vec::new(), journals.check());
    for (index, site) in cluster.sites.iter().enumerate() {
        let client = site.sql().await?;
        let id = site.node.id();
        violations.extend(history.resolve(index, id, &client, &journals).await?);
        conflicts.extend(conflicts_without(&client, "body").await?);
        let panics = logs::panics(&site.node.log());
        violations.extend(
            panics
                .into_iter()
                .map(|p| format!("{}: {p}", site.node.name())),
        );
    }
    // Where there is a policy, more than the stamp decides.
    let ranks = |c: &Conflict| {
        let policed = |t: &Table| !t.policies.is_empty() && c.table.ends_with(t.name);
        tables.iter().any(policed)
    };
    let by_stamp = conflicts.iter().filter(|c| !ranks(c));
    violations.extend(by_stamp.filter_map(Conflict::contradiction));
    violations.extend(checker::misnamed(&conflicts, &history.writers(), ranks));
    let site = cluster.sites.first().context("a cluster without sites")?;
    let client = site.sql().await?;
    let rows = checker::rows(&client, tables).await?;
    let (committed, listed) = (history.committed(), listed_tags(&conflicts));
    let mut account = checker::account(&committed, &rows, tables, &listed);
    account.violations.extend(violations);
    let rows = merged::check::rows(&client, tables).await?;
    let merged = merged::check::account(&committed, &rows, tables, &conflicts);
    account.violations.extend(merged);
    Ok(Judgement {
        account,
        conflicts,
        turned: merged::check::turned(&committed, tables),
        raised_max: journals.raised_max(),
    })
}
