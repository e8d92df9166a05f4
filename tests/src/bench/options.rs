//! Command line and environment in, a checked [`Plan`] out.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use super::installed::{self, Postgres, find, variable};
use super::scenario::Scenario;

/// Measure Everywrite against PostgreSQL's own logical replication on this machine.
///
/// Each option can also be given as an environment variable (SCENARIOS, RUNS, SCALE, SYSTEMS, BENCH_WORK,
/// BENCH_OUT, BENCH_LOCK, EVERYWRITE_BIN), which is how `make bench SCENARIOS=a,c1 RUNS=5` works.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// Comma list of a, b, c1, c2, d (du and dd), e, w, x (x10 and x100), g, w3, n (n1, n2, n4 and n8)
    /// [default: all]
    #[arg(long)]
    scenarios: Option<String>,
    /// Runs of each scenario and system (g: see --away-runs) [default: 3]
    #[arg(long)]
    runs: Option<u32>,
    /// Factor on all sizes and times; anything but 1 is a smoke run, not a measurement [default: 1]
    #[arg(long)]
    scale: Option<f64>,
    /// Comma list of native and everywrite, or with a server version: native15, native18, everywrite18
    /// [default: native, everywrite, and both on 18 when its programs are found]
    #[arg(long)]
    systems: Option<String>,
    /// Folder for data, sockets and logs; emptied of earlier clusters [default: everywrite-bench in the
    /// temporary folder]
    #[arg(long)]
    work: Option<PathBuf>,
    /// Folder for results [default: one named by the time, under bench-results]
    #[arg(long)]
    out: Option<PathBuf>,
    /// The `everywrite` program [default: beside this program, built first when run through cargo]
    #[arg(long)]
    everywrite: Option<PathBuf>,
    /// Lock file to hold while timing, shared with other benchmarks on this machine (as flock(1) does)
    #[arg(long)]
    lock: Option<PathBuf>,
    /// Runs of scenario g, which writes 2 GB each time
    #[arg(long, default_value_t = 1)]
    away_runs: u32,
    /// Leave out the second way of catching up, from a journal that is already at the peer
    #[arg(long)]
    no_paused: bool,
    /// Keep the data folders (servers and daemons are stopped all the same)
    #[arg(long)]
    keep: bool,
}

/// What replicates from A to B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// PostgreSQL's own publication and subscription.
    Native,
    /// An Everywrite daemon beside each server.
    Everywrite,
}

/// One system under test.
#[derive(Debug, Clone)]
pub(crate) struct SystemPlan {
    pub(crate) kind: Kind,
    pub(crate) postgres: Postgres,
}

impl SystemPlan {
    /// `native15`, `everywrite15`, …
    pub(crate) fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Native => "native",
            Kind::Everywrite => "everywrite",
        };
        format!("{kind}{}", self.postgres.major)
    }
}

/// Everything that is decided before the first server starts.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<SystemPlan>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) runs: u32,
    pub(crate) away_runs: u32,
    pub(crate) scale: f64,
    pub(crate) paused: bool,
    pub(crate) keep: bool,
    pub(crate) work: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) lock: Option<PathBuf>,
    pub(crate) pgbench: PathBuf,
    /// Set when a system needs it.
    pub(crate) everywrite: Option<PathBuf>,
}

impl Options {
    /// Fills in environment and defaults, finds programs, and refuses what cannot work.
    pub(crate) fn plan(self) -> Result<Plan> {
        let scenarios = self
            .scenarios
            .or_else(|| variable("SCENARIOS"))
            .unwrap_or_else(|| "all".into());
        let runs = number(self.runs, "RUNS", 3)?;
        let scale = number(self.scale, "SCALE", 1.0)?;
        if runs == 0 || scale <= 0.0 || !scale.is_finite() {
            bail!("runs and scale must be greater than 0");
        }
        let systems = systems(
            self.systems.or_else(|| variable("SYSTEMS")).as_deref(),
            find,
        )?;
        let everywrite = if systems.iter().any(|system| system.kind == Kind::Everywrite) {
            Some(everywrite(
                self.everywrite
                    .or_else(|| variable("EVERYWRITE_BIN").map(Into::into)),
            )?)
        } else {
            None
        };
        let now = chrono::Local::now().format("%Y-%m-%d-%H%M%S").to_string();
        Ok(Plan {
            scenarios: Scenario::parse_list(&scenarios)?,
            runs,
            away_runs: self.away_runs.max(1),
            scale,
            paused: !self.no_paused,
            keep: self.keep,
            work: self
                .work
                .or_else(|| variable("BENCH_WORK").map(Into::into))
                .unwrap_or_else(|| std::env::temp_dir().join("everywrite-bench")),
            out: self
                .out
                .or_else(|| variable("BENCH_OUT").map(Into::into))
                .unwrap_or_else(|| Path::new("bench-results").join(now)),
            lock: self.lock.or_else(|| variable("BENCH_LOCK").map(Into::into)),
            pgbench: installed::pgbench(systems.iter().map(|system| &system.postgres))?,
            systems,
            everywrite,
        })
    }
}

fn number<T: std::str::FromStr>(option: Option<T>, name: &str, default: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match (option, variable(name)) {
        (Some(value), _) => Ok(value),
        (None, Some(text)) => text
            .parse()
            .with_context(|| format!("{name}={text} is not a number")),
        (None, None) => Ok(default),
    }
}

/// `find` gives the server of a major version. Without a list: native and Everywrite on the oldest and on 18.
fn systems(list: Option<&str>, find: impl Fn(u32) -> Option<Postgres>) -> Result<Vec<SystemPlan>> {
    let Some(first) = (15..=18).find_map(&find) else {
        bail!(
            "no PostgreSQL 15 to 18 found; apt-get install postgresql-15, or set PG15_BIN to the folder of initdb"
        );
    };
    let Some(list) = list else {
        let newest = if first.major == 18 { None } else { find(18) };
        let systems = [first].into_iter().chain(newest).flat_map(|postgres| {
            [Kind::Native, Kind::Everywrite].map(|kind| SystemPlan {
                kind,
                postgres: postgres.clone(),
            })
        });
        return Ok(systems.collect());
    };
    list.split(',')
        .map(|name| system(name.trim(), &first, &find))
        .collect()
}

fn system(
    name: &str,
    first: &Postgres,
    find: impl Fn(u32) -> Option<Postgres>,
) -> Result<SystemPlan> {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let kind = match letters {
        "native" => Kind::Native,
        "everywrite" => Kind::Everywrite,
        _ => bail!(
            "unknown system {name}: expected native or everywrite, with or without a server version"
        ),
    };
    let version = name.get(letters.len()..).unwrap_or_default();
    let postgres = match version.parse() {
        Err(_) => first.clone(),
        Ok(major) => find(major).with_context(|| {
            format!("{name}: no PostgreSQL {version} found; set PG{version}_BIN to the folder of its initdb")
        })?,
    };
    Ok(SystemPlan { kind, postgres })
}

/// The program beside this one, made up to date when cargo runs us.
fn everywrite(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(program) = given {
        return std::path::absolute(&program)
            .with_context(|| format!("find {}", program.display()));
    }
    if let Some(cargo) = variable("CARGO") {
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "-p", "everywrite-node", "--bin", "everywrite"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        if !build.status().context("run cargo build")?.success() {
            bail!("the everywrite program does not build");
        }
    }
    let program = std::env::current_exe()
        .context("find this program")?
        .with_file_name("everywrite");
    if !program.exists() {
        bail!(
            "{} does not exist; cargo build --release -p everywrite-node makes it",
            program.display()
        );
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(major: u32) -> Option<Postgres> {
        [15, 18].contains(&major).then(|| Postgres {
            major,
            bin: PathBuf::new(),
        })
    }

    fn names(list: Option<&str>, find: impl Fn(u32) -> Option<Postgres>) -> Result<Vec<String>> {
        Ok(systems(list, find)?.iter().map(SystemPlan::name).collect())
    }

    #[test]
    fn the_default_is_native_and_everywrite_on_the_oldest_and_on_18() {
        assert_eq!(
            names(None, found).unwrap(),
            ["native15", "everywrite15", "native18", "everywrite18"]
        );
        let only_15 = |major| found(major).filter(|postgres| postgres.major == 15);
        assert_eq!(names(None, only_15).unwrap(), ["native15", "everywrite15"]);
        assert!(names(None, |_| None).is_err());
    }

    #[test]
    fn named_systems_need_their_server() {
        assert_eq!(
            names(Some("everywrite18, native"), found).unwrap(),
            ["everywrite18", "native15"]
        );
        assert!(names(Some("native17"), found).is_err());
        assert!(names(Some("other"), found).is_err());
    }
}
