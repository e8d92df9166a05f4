//! How a soak goes about, and how it went.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::wait;

/// How a soak goes about.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is random.
    pub seed: u64,
    /// How many sites.
    pub sites: usize,
    /// How long the load and the faults last.
    pub duration: Duration,
    /// After so much of that everything heals and is judged.
    pub round: Duration,
    /// How long the sites may take to agree afterwards.
    pub patience: Duration,
    /// All kinds of faults, several at once; otherwise crashes and links.
    pub chaos: bool,
    /// Only faults whose name has this in it.
    pub faults: String,
    /// Two transactions fill a group of replay: there are two on the way, and in both sessions, all the time.
    pub small_groups: bool,
}

impl Options {
    /// Three sites, crashes and links, judged once in the end.
    pub fn soak(seed: u64, duration: Duration) -> Options {
        Options {
            seed,
            sites: 3,
            duration,
            round: duration,
            patience: wait::LIMIT * 2,
            chaos: false,
            faults: String::new(),
            small_groups: false,
        }
    }

    /// Everything that can go wrong, judged after each round.
    pub fn chaos(seed: u64, sites: usize, duration: Duration) -> Options {
        Options {
            sites,
            round: Duration::from_secs(15).min(duration),
            chaos: true,
            ..Options::soak(seed, duration)
        }
    }

    /// The line that repeats it.
    pub fn line(&self) -> String {
        let target = if self.chaos { "chaos" } else { "soak" };
        let mut line = format!(
            "make {target} SEED={} SECONDS={} NODES={}",
            self.seed,
            self.duration.as_secs(),
            self.sites
        );
        if !self.faults.is_empty() {
            line.push_str(&format!(" FAULTS=\"{}\"", self.faults));
        }
        if self.small_groups {
            line.push_str(" SMALL_GROUPS=1");
        }
        line
    }
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What repeats it.
    pub line: String,
    /// Transactions that were acknowledged.
    pub acknowledged: usize,
    /// Faults of each kind, with how often.
    pub faults: BTreeMap<&'static str, u32>,
    /// Rows in the end.
    pub rows: u64,
    /// Row versions that are there.
    pub present: usize,
    /// Row versions that another write stands in place of.
    pub superseded: usize,
    /// Conflicts decided, at all sites, by their kind.
    pub conflicts: BTreeMap<String, usize>,
    /// Updates of tables that are merged by columns for a while only, by what they were.
    pub turned: BTreeMap<&'static str, usize>,
    /// How long the sites took to agree after each round's last fault.
    pub settled_in: Vec<Duration>,
    /// How far a stamp was above its commit timestamp at most.
    pub raised_max: Duration,
    /// What is wrong; empty when all is well.
    pub violations: Vec<String>,
}

/// `3 × this, 2 × that`.
fn list<K: fmt::Display, N: fmt::Display>(counts: &BTreeMap<K, N>) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} × {kind}"))
        .collect();
    parts.join(", ")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settled: Vec<String> = self
            .settled_in
            .iter()
            .map(|time| format!("{:.1}", time.as_secs_f64()))
            .collect();
        let decided: usize = self.conflicts.values().sum();
        writeln!(f, "run           {}", self.line)?;
        writeln!(f, "transactions  {} acknowledged", self.acknowledged)?;
        writeln!(f, "faults        {}", list(&self.faults))?;
        writeln!(f, "rows          {}, equal at all sites", self.rows)?;
        writeln!(
            f,
            "row versions  {} present, {} superseded",
            self.present, self.superseded
        )?;
        writeln!(f, "conflicts     {decided}: {}", list(&self.conflicts))?;
        if !self.turned.is_empty() {
            writeln!(f, "in turns      {}", list(&self.turned))?;
        }
        writeln!(
            f,
            "stamps        at most {:.3} s above the commit timestamp",
            self.raised_max.as_secs_f64()
        )?;
        writeln!(f, "settled in    {} s", settled.join(", "))?;
        write!(f, "divergences   {}", self.violations.len())
    }
}
