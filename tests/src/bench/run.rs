//! The run: sets the pairs up, measures every scenario on each in turn, writes the results.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::chart;
use super::machine::Machine;
use super::mesh::Mesh;
use super::options::{Plan, SystemPlan};
use super::pair::{Hold, Pair};
use super::progress::{Progress, Step};
use super::record::Record;
use super::registry::Registry;
use super::scenario::Scenario;
use super::statistics::figure;
use super::summary::{self, Row};
use super::verdict::{self, Verdict};

/// What stands in `summary.json`.
#[derive(Serialize)]
struct Report<'a> {
    /// Local time of the end.
    at: String,
    machine: Machine,
    systems: Vec<(String, String)>,
    runs: u32,
    scale: f64,
    scenarios: &'a [Row],
    verdicts: &'a [Verdict],
    /// Tables whose rows were not the same on A and B at the end, by system.
    differences: Vec<String>,
}

/// A system that is out of the run once it has failed to start or to replicate.
struct Contestant<'a> {
    name: String,
    plan: &'a SystemPlan,
    pair: Option<Pair>,
}

/// Returns once SIGINT or SIGTERM arrives.
pub(crate) async fn interrupted() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("listen for SIGTERM")?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.context("listen for SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}

/// The records of the run so far, in memory and in `results.jsonl`.
struct Book {
    results: File,
    records: Vec<Record>,
    failures: usize,
}

impl Book {
    fn open(plan: &Plan) -> Result<Self> {
        let file = plan.out.join("results.jsonl");
        let results = File::create(&file).with_context(|| format!("create {}", file.display()))?;
        Ok(Self {
            results,
            records: Vec::new(),
            failures: 0,
        })
    }

    fn enter(&mut self, record: Record) -> Result<()> {
        self.failures += usize::from(record.error.is_some());
        serde_json::to_writer(&mut self.results, &record).context("write results.jsonl")?;
        self.results
            .write_all(b"\n")
            .context("write results.jsonl")?;
        self.records.push(record);
        Ok(())
    }
}

/// One measurement of every system.
#[derive(Debug, Clone, Copy)]
struct Measurement {
    scenario: Scenario,
    hold: Hold,
    run: u32,
}

impl Measurement {
    fn label(self) -> String {
        let paused = if self.hold == Hold::Paused {
            "/paused"
        } else {
            ""
        };
        format!("{}{paused}", self.scenario.name())
    }

    fn concerns(self, system: &SystemPlan) -> bool {
        self.scenario
            .concerns(system.kind, system.postgres.major, self.hold)
    }

    fn begin(self, system: &str, progress: &mut Progress) -> (Step, String) {
        let text = format!("{:<10} {system:<13} run {}", self.label(), self.run);
        let at = chrono::Local::now().format("%Y-%m-%dT%H:%M:%S").to_string();
        (progress.step(&text), at)
    }

    /// The record with its heading.
    fn record(self, measured: Result<Record>, system: &str, version: &str, at: String) -> Record {
        let record = measured.unwrap_or_else(|err| Record {
            error: Some(format!("{err:#}")),
            ..Record::default()
        });
        Record {
            system: system.to_owned(),
            version: version.to_owned(),
            scenario: self.label(),
            run: self.run,
            at,
            ..record
        }
    }
}

/// Measures everything; whether every measurement succeeded and all tables were the same at the end.
pub(crate) async fn run(plan: &Plan) -> Result<bool> {
    for dir in [&plan.work, &plan.out] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let (apart, together): (Vec<_>, Vec<_>) = steps(plan)
        .into_iter()
        .partition(|step| step.scenario.sites().is_some());
    let count = |steps: &[Measurement]| {
        let of = |system| steps.iter().filter(|step| step.concerns(system)).count();
        plan.systems.iter().map(of).sum::<usize>()
    };
    let frame = if together.is_empty() {
        0
    } else {
        plan.systems.len() * 2
    };
    let mut progress = Progress::new(frame + count(&together) + count(&apart));
    let mut book = Book::open(plan)?;
    let registry = Registry::default();

    let differences = if together.is_empty() {
        Vec::new()
    } else {
        run_pairs(plan, &together, &registry, &mut progress, &mut book).await?
    };
    for step in apart {
        for system in plan.systems.iter().filter(|system| step.concerns(system)) {
            run_sites(plan, system, step, &registry, &mut progress, &mut book).await?;
        }
    }
    finish(plan, &book.records, &differences)?;
    Ok(book.failures == 0 && differences.is_empty())
}

/// The scenarios of two sites: all pairs stay up until all of them are done. Gives the tables whose rows were
/// not the same at the end.
async fn run_pairs(
    plan: &Plan,
    steps: &[Measurement],
    registry: &Registry,
    progress: &mut Progress,
    book: &mut Book,
) -> Result<Vec<String>> {
    let mut contestants = Vec::new();
    for system in &plan.systems {
        let step = progress.step(&format!("{} set-up", system.name()));
        let _lock = lock(plan.lock.as_deref())?;
        let started = async {
            let mut pair = Pair::set_up(plan, system, registry).await?;
            pair.connect().await?;
            anyhow::Ok(pair)
        };
        let pair = match started.await {
            Ok(pair) => {
                step.finish(&format!("PostgreSQL {}{}", pair.version, delays(&pair)));
                Some(pair)
            }
            Err(err) => {
                step.finish(&format!("failed: {err:#}"));
                book.failures += 1;
                None
            }
        };
        contestants.push(Contestant {
            name: system.name(),
            plan: system,
            pair,
        });
    }
    for step in steps {
        for contestant in &mut contestants {
            if step.concerns(contestant.plan) {
                contestant.measure(plan, *step, progress, book).await?;
            }
        }
    }
    let mut differences = Vec::new();
    for contestant in &mut contestants {
        let step = progress.step(&format!("{} compare tables", contestant.name));
        let Some(pair) = &mut contestant.pair else {
            step.finish("the system is out of the run");
            continue;
        };
        pair.wait_caught_up().await?;
        let found = pair.differences().await?;
        step.finish(if found.is_empty() {
            "A and B hold the same rows"
        } else {
            "A AND B DIFFER"
        });
        let name = &contestant.name;
        differences.extend(found.into_iter().map(|table| format!("{name}: {table}")));
        pair.stop().await?;
    }
    Ok(differences)
}

impl Contestant<'_> {
    async fn measure(
        &mut self,
        plan: &Plan,
        step: Measurement,
        progress: &mut Progress,
        book: &mut Book,
    ) -> Result<()> {
        let (line, at) = step.begin(&self.name, progress);
        let record = match &mut self.pair {
            None => {
                let out = Err(anyhow::anyhow!("the system is out of the run"));
                step.record(out, &self.name, "", at)
            }
            Some(pair) => {
                let _lock = lock(plan.lock.as_deref())?;
                let measured = async {
                    let record = step.scenario.measure(pair, step.hold, plan.scale).await?;
                    pair.tidy().await?;
                    anyhow::Ok(record)
                };
                let mut record = step.record(measured.await, &self.name, &pair.version, at);
                if record.error.is_some() {
                    record.daemon_peak_bytes = pair.peaks();
                }
                record
            }
        };
        if record.error.is_some() {
            // A pair that lost its way would spoil what comes after it, its own runs and the others'.
            self.pair = None;
        }
        line.finish(&outcome(step.scenario, &record));
        book.enter(record)
    }
}

/// A scenario of more sites: they exist only while it is measured.
async fn run_sites(
    plan: &Plan,
    system: &SystemPlan,
    step: Measurement,
    registry: &Registry,
    progress: &mut Progress,
    book: &mut Book,
) -> Result<()> {
    let Some(sites) = step.scenario.sites() else {
        return Ok(());
    };
    let (line, at) = step.begin(&system.name(), progress);
    let _lock = lock(plan.lock.as_deref())?;
    let mut version = String::new();
    let measured = async {
        let mut mesh = Mesh::start(plan, system, step.scenario.name(), sites, registry).await?;
        version.clone_from(&mesh.version);
        let record = step.scenario.measure_sites(&mut mesh, plan.scale).await?;
        mesh.stop().await?;
        anyhow::Ok(record)
    };
    let measured = measured.await;
    let record = step.record(measured, &system.name(), &version, at);
    line.finish(&outcome(step.scenario, &record));
    book.enter(record)
}

/// Every scenario's runs; the second way of catching up comes after all of the first, so that all systems
/// have the same history until then; then what only Everywrite takes part in, and `g`, which leaves much behind.
fn steps(plan: &Plan) -> Vec<Measurement> {
    let runs = |scenario, hold, runs: u32| {
        (1..=runs).map(move |run| Measurement {
            scenario,
            hold,
            run,
        })
    };
    let cut = |scenario: Scenario| {
        let times = if scenario == Scenario::G {
            plan.away_runs
        } else {
            plan.runs
        };
        runs(scenario, Hold::Cut, times)
    };
    let late =
        |scenario: &Scenario| [Scenario::X10, Scenario::X100, Scenario::G].contains(scenario);
    let chosen = || plan.scenarios.iter().copied();
    let paused = chosen().filter(|scenario| plan.paused && scenario.catches_up());
    chosen()
        .filter(|scenario| !late(scenario))
        .flat_map(cut)
        .chain(paused.flat_map(|scenario| runs(scenario, Hold::Paused, plan.runs)))
        .chain(chosen().filter(late).flat_map(cut))
        .collect()
}

fn delays(pair: &Pair) -> String {
    let milliseconds = |hold| pair.idle_delay(hold).map(|delay| delay.as_millis());
    match (milliseconds(Hold::Cut), milliseconds(Hold::Paused)) {
        (Some(start), Some(resume)) => {
            format!(", daemon start to first change {start} ms, resume {resume} ms")
        }
        _ => String::new(),
    }
}

fn outcome(scenario: Scenario, record: &Record) -> String {
    if let Some(error) = &record.error {
        return format!("failed: {error}");
    }
    let figures = scenario.figures().iter().filter_map(|(name, unit, _)| {
        Some(format!("{} {unit}", figure(*record.figures.get(*name)?)))
    });
    let noise = if record.noisy() {
        "  (noisy: other work on the machine)"
    } else {
        ""
    };
    figures.collect::<Vec<_>>().join(", ") + noise
}

/// The machine for ourselves, when a lock file is named. Blocks; nothing else happens meanwhile.
fn lock(file: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = file else { return Ok(None) };
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(Some(file))
}

/// Name and server version of each system that has records.
fn versions(records: &[Record]) -> Vec<(String, String)> {
    let mut versions: Vec<(String, String)> = Vec::new();
    for record in records.iter().filter(|record| !record.version.is_empty()) {
        if !versions.iter().any(|(system, _)| *system == record.system) {
            versions.push((record.system.clone(), record.version.clone()));
        }
    }
    versions
}

fn finish(plan: &Plan, records: &[Record], differences: &[String]) -> Result<()> {
    let rows = summary::rows(records);
    let verdicts = verdict::verdicts(&rows);
    let machine = Machine::read();
    let at = chrono::Local::now().format("%Y-%m-%d %H:%M").to_string();
    let scaled = if plan.scale == 1.0 {
        String::new()
    } else {
        format!(" · SCALED BY {}: not a measurement", plan.scale)
    };
    let subtitle = format!(
        "{at} · {} processors, {} · median and range of {} runs{scaled}",
        machine.processors, machine.model, plan.runs
    );
    let report = Report {
        at,
        machine,
        systems: versions(records),
        runs: plan.runs,
        scale: plan.scale,
        scenarios: &rows,
        verdicts: &verdicts,
        differences: differences.to_vec(),
    };
    let tables = summary::text(&rows);
    let lines: String = verdicts
        .iter()
        .map(|verdict| verdict.line() + "\n")
        .collect();
    let details: String = verdicts
        .iter()
        .map(|verdict| verdict.explanation() + "\n")
        .collect();
    let different: String = differences
        .iter()
        .map(|table| format!("   DIFFERENT  {table}\n"))
        .collect();
    let text =
        format!("{subtitle}\n{tables}\nHow the ratios were formed\n{details}{different}\n{lines}");
    let write = |name: &str, content: &str| {
        let file = plan.out.join(name);
        std::fs::write(&file, content).with_context(|| format!("write {}", file.display()))
    };
    write(
        "summary.json",
        &(serde_json::to_string_pretty(&report).context("write summary.json")? + "\n"),
    )?;
    write("chart.svg", &chart::draw(&rows, &verdicts, &subtitle))?;
    write("summary.txt", &text)?;
    println!("\nresults in {}\n{text}", plan.out.display());
    Ok(())
}
