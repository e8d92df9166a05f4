//! The run: sets the pairs up, measures every scenario on each in turn, writes the results.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::chart;
use super::machine::Machine;
use super::options::Plan;
use super::pair::{Hold, Pair};
use super::progress::Progress;
use super::record::Record;
use super::registry::Registry;
use super::scenario::Scenario;
use super::statistics::figure;
use super::summary::{self, Row, Verdict};

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
struct Contestant {
    name: String,
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

/// Measures everything; whether every measurement succeeded and all tables were the same at the end.
pub(crate) async fn run(plan: &Plan) -> Result<bool> {
    for dir in [&plan.work, &plan.out] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let steps = steps(plan);
    let mut progress = Progress::new(
        plan.systems.len() * 2 + steps.len() * plan.systems.len() - skipped(plan, &steps),
    );
    let file = plan.out.join("results.jsonl");
    let mut results = File::create(&file).with_context(|| format!("create {}", file.display()))?;
    let registry = Registry::default();
    let mut records = Vec::new();
    let mut failures = 0;

    let mut contestants = Vec::new();
    for system in &plan.systems {
        let name = system.name();
        let step = progress.step(&format!("{name} set-up"));
        let _lock = lock(plan.lock.as_deref())?;
        let started = async {
            let mut pair = Pair::set_up(plan, system, &registry).await?;
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
                failures += 1;
                None
            }
        };
        contestants.push(Contestant { name, pair });
    }

    for (scenario, hold, run) in steps {
        for contestant in &mut contestants {
            if hold == Hold::Paused && !contestant.name.starts_with("everywrite") {
                continue;
            }
            let label = if hold == Hold::Paused {
                format!("{}/paused", scenario.name())
            } else {
                scenario.name().into()
            };
            let step = progress.step(&format!("{label:<10} {:<13} run {run}", contestant.name));
            let at = chrono::Local::now().format("%Y-%m-%dT%H:%M:%S").to_string();
            let (mut record, version) = match &mut contestant.pair {
                None => {
                    let error = Some("the system is out of the run".to_owned());
                    (
                        Record {
                            error,
                            ..Record::default()
                        },
                        String::new(),
                    )
                }
                Some(pair) => {
                    let _lock = lock(plan.lock.as_deref())?;
                    let measured = async {
                        let record = scenario.measure(pair, hold, plan.scale).await?;
                        pair.tidy().await?;
                        anyhow::Ok(record)
                    };
                    let record = match measured.await {
                        Ok(record) => record,
                        Err(err) => Record {
                            error: Some(format!("{err:#}")),
                            daemon_peak_bytes: pair.peaks(),
                            ..Record::default()
                        },
                    };
                    (record, pair.version.clone())
                }
            };
            record.system.clone_from(&contestant.name);
            record.version = version;
            record.scenario = label;
            record.run = run;
            record.at = at;
            serde_json::to_writer(&mut results, &record).context("write results.jsonl")?;
            results.write_all(b"\n").context("write results.jsonl")?;
            if record.error.is_some() {
                failures += 1;
                // A pair that lost its way would spoil what comes after it, its own runs and the others'.
                contestant.pair = None;
            }
            step.finish(&outcome(scenario, &record));
            records.push(record);
        }
    }

    let mut differences = Vec::new();
    let mut systems = Vec::new();
    for contestant in &mut contestants {
        let step = progress.step(&format!("{} compare tables", contestant.name));
        let Some(pair) = &mut contestant.pair else {
            step.finish("the system is out of the run");
            continue;
        };
        systems.push((contestant.name.clone(), pair.version.clone()));
        pair.wait_caught_up().await?;
        let found = pair.differences().await?;
        step.finish(if found.is_empty() {
            "A and B hold the same rows"
        } else {
            "A AND B DIFFER"
        });
        differences.extend(
            found
                .into_iter()
                .map(|table| format!("{}: {table}", contestant.name)),
        );
        pair.stop().await?;
    }
    drop(contestants);
    finish(plan, &records, systems, &differences)?;
    Ok(failures == 0 && differences.is_empty())
}

/// Every scenario's runs; the second way of catching up comes after all of the first, so that all systems
/// have the same history until then, and before `g`, which leaves much behind.
fn steps(plan: &Plan) -> Vec<(Scenario, Hold, u32)> {
    let away = plan
        .scenarios
        .iter()
        .filter(|scenario| **scenario == Scenario::G);
    let near = plan
        .scenarios
        .iter()
        .filter(|scenario| **scenario != Scenario::G);
    let paused = plan
        .scenarios
        .iter()
        .filter(|scenario| plan.paused && scenario.catches_up());
    let runs = |scenario: &Scenario, hold: Hold, runs: u32| {
        let scenario = *scenario;
        (1..=runs).map(move |run| (scenario, hold, run))
    };
    near.flat_map(|scenario| runs(scenario, Hold::Cut, plan.runs))
        .chain(paused.flat_map(|scenario| runs(scenario, Hold::Paused, plan.runs)))
        .chain(away.flat_map(|scenario| runs(scenario, Hold::Cut, plan.away_runs)))
        .collect()
}

/// Steps that systems without a pause leave out.
fn skipped(plan: &Plan, steps: &[(Scenario, Hold, u32)]) -> usize {
    let paused = steps
        .iter()
        .filter(|(_, hold, _)| *hold == Hold::Paused)
        .count();
    paused
        * plan
            .systems
            .iter()
            .filter(|system| system.kind == super::options::Kind::Native)
            .count()
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

fn finish(
    plan: &Plan,
    records: &[Record],
    systems: Vec<(String, String)>,
    differences: &[String],
) -> Result<()> {
    let rows = summary::rows(records);
    let verdicts = summary::verdicts(&rows);
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
        systems,
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
        .map(|verdict| format!("   {:<4} {}\n", verdict.name, verdict.detail))
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
