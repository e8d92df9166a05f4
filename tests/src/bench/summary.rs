//! Records in; medians, ratios and the bill per process out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::cpu::Cpu;
use super::record::Record;
use super::scenario::Scenario;
use super::statistics::{Spread, figure};

/// One process's seconds.
type Share = fn(&Cpu) -> f64;

/// The columns of the bill: heading and whose seconds.
const BILL: [(&str, Share); 8] = [
    ("A walsender", |cpu| cpu.walsender_a),
    ("A server", |cpu| cpu.server_a),
    ("A daemon", |cpu| cpu.daemon_a),
    ("B apply", |cpu| cpu.apply_b),
    ("B walsender", |cpu| cpu.walsender_b),
    ("B server", |cpu| cpu.server_b),
    ("B daemon", |cpu| cpu.daemon_b),
    ("all", |cpu| {
        cpu.server_a + cpu.server_b + cpu.daemon_a + cpu.daemon_b
    }),
];

/// One system in one scenario.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    /// Name of the system.
    pub(crate) system: String,
    /// Runs that count.
    pub(crate) runs: usize,
    /// Runs with foreign load, and failed ones.
    pub(crate) noisy: usize,
    pub(crate) failed: usize,
    /// What one unit is.
    pub(crate) unit: String,
    /// All figures of the records.
    pub(crate) figures: BTreeMap<String, Spread>,
    /// CPU microseconds per unit, by process; load and timed phase together.
    pub(crate) cpu_us_per_unit: BTreeMap<String, Spread>,
    /// Memory peaks of A's and B's daemon.
    pub(crate) daemon_peak_bytes: Option<[u64; 2]>,
}

/// All systems in one scenario.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// `a`, `a/paused`, …
    pub(crate) name: String,
    #[serde(skip)]
    pub(crate) scenario: Option<Scenario>,
    pub(crate) title: String,
    pub(crate) systems: Vec<Cell>,
}

impl Cell {
    /// Median of a figure.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        Some(self.figures.get(name)?.median)
    }
}

/// Gathers the records by scenario and system, in the order of their first appearance.
pub(crate) fn rows(records: &[Record]) -> Vec<Row> {
    let mut rows: Vec<(String, Vec<&str>)> = Vec::new();
    for record in records {
        let row = match rows.iter_mut().find(|(name, _)| *name == record.scenario) {
            Some(row) => row,
            None => {
                rows.push((record.scenario.clone(), Vec::new()));
                let Some(row) = rows.last_mut() else { continue };
                row
            }
        };
        if !row.1.contains(&record.system.as_str()) {
            row.1.push(&record.system);
        }
    }
    rows.into_iter()
        .map(|(name, systems)| {
            let (plain, paused) = name
                .strip_suffix("/paused")
                .map_or((name.as_str(), ""), |plain| (plain, ", from B's journal"));
            let scenario = Scenario::ALL
                .into_iter()
                .find(|scenario| scenario.name() == plain);
            let title = format!(
                "{}{paused}",
                scenario.map_or_else(|| plain.to_owned(), |known| known.title().to_owned())
            );
            let systems = systems
                .into_iter()
                .map(|system| cell(records, &name, system))
                .collect();
            Row {
                name,
                scenario,
                title,
                systems,
            }
        })
        .collect()
}

fn cell(records: &[Record], scenario: &str, system: &str) -> Cell {
    let all: Vec<&Record> = records
        .iter()
        .filter(|record| record.scenario == scenario && record.system == system)
        .collect();
    let good: Vec<&Record> = all.iter().copied().filter(|record| record.ok).collect();
    let quiet: Vec<&Record> = good
        .iter()
        .copied()
        .filter(|record| !record.noisy())
        .collect();
    let noisy = good.len() - quiet.len();
    // Leaving out runs is only fair when enough remain to have a median.
    let used = if quiet.len() >= 3 {
        quiet
    } else {
        good.clone()
    };
    let names: std::collections::BTreeSet<&String> = used
        .iter()
        .flat_map(|record| record.figures.keys())
        .collect();
    let figures = names.into_iter().filter_map(|name| {
        Some((
            name.clone(),
            Spread::of(
                used.iter()
                    .filter_map(|record| record.figures.get(name).copied()),
            )?,
        ))
    });
    let bill = BILL.iter().filter_map(|(name, seconds)| {
        let per_unit = used
            .iter()
            .filter_map(|record| Some(seconds(&record.total_cpu()?) * 1e6 / record.units.max(1.0)));
        Some(((*name).to_owned(), Spread::of(per_unit)?))
    });
    let peaks = all
        .iter()
        .filter_map(|record| record.daemon_peak_bytes)
        .reduce(|x, y| [x[0].max(y[0]), x[1].max(y[1])]);
    Cell {
        system: system.to_owned(),
        runs: used.len(),
        noisy,
        failed: all.len() - good.len(),
        unit: all
            .iter()
            .map(|record| record.unit.as_str())
            .find(|unit| !unit.is_empty())
            .unwrap_or("unit")
            .to_owned(),
        figures: figures.collect(),
        cpu_us_per_unit: bill.collect(),
        daemon_peak_bytes: peaks,
    }
}

/// The tables for people.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let _ = writeln!(out, "\n{}  {}", row.name, row.title);
        for (name, unit, _) in row.scenario.map_or(&[][..], Scenario::figures) {
            let base = base(rows, row).and_then(|cell| cell.median(name));
            for cell in &row.systems {
                let Some(spread) = cell.figures.get(*name) else {
                    continue;
                };
                let ratio =
                    base.map_or_else(String::new, |base| format!("{:.2} x", spread.median / base));
                let range = format!("[{}..{}]", figure(spread.min), figure(spread.max));
                let _ = writeln!(
                    out,
                    "   {:<14}{:>12} {unit:<16}{range:<24}{ratio:>8}{}",
                    cell.system,
                    figure(spread.median),
                    notes(cell)
                );
            }
        }
        for cell in row.systems.iter().filter(|cell| cell.runs == 0) {
            let _ = writeln!(
                out,
                "   {:<14} failed in all {} runs",
                cell.system, cell.failed
            );
        }
        bill(&mut out, row);
    }
    out
}

/// What the ratios in the table are to: the first system of the scenario, for both ways of catching up.
fn base<'a>(rows: &'a [Row], row: &'a Row) -> Option<&'a Cell> {
    let plain = row.name.split('/').next().unwrap_or_default();
    let main = rows.iter().find(|row| row.name == plain).unwrap_or(row);
    main.systems.first()
}

fn notes(cell: &Cell) -> String {
    let mut notes = String::new();
    for (count, what) in [(cell.noisy, "noisy"), (cell.failed, "failed")] {
        if count > 0 {
            let _ = write!(notes, "  {count} {what}");
        }
    }
    notes
}

fn bill(out: &mut String, row: &Row) {
    let cells: Vec<&Cell> = row
        .systems
        .iter()
        .filter(|cell| !cell.cpu_us_per_unit.is_empty())
        .collect();
    let Some(first) = cells.first() else { return };
    let headings: String = BILL.iter().map(|(name, _)| format!("{name:>12}")).collect();
    let _ = writeln!(
        out,
        "   {:<14}{headings}  daemon memory",
        format!("CPU µs/{}", short(&first.unit))
    );
    for cell in cells {
        let values: String = BILL
            .iter()
            .map(|(name, _)| {
                format!(
                    "{:>12}",
                    cell.cpu_us_per_unit
                        .get(*name)
                        .map_or_else(|| "-".into(), |spread| figure(spread.median))
                )
            })
            .collect();
        let memory = cell.daemon_peak_bytes.map_or_else(String::new, |[a, b]| {
            format!(
                "{:.0} MiB, {:.0} MiB",
                a as f64 / 1048576.0,
                b as f64 / 1048576.0
            )
        });
        let _ = writeln!(out, "   {:<14}{values}  {memory}", cell.system);
    }
}

fn short(unit: &str) -> &str {
    if unit == "transaction" { "tx" } else { unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noisy_runs_are_left_out_when_three_quiet_ones_remain() {
        let loud = |value, foreign| {
            let mut record = Record::of("native15", "a", &[("rate_per_s", value)]);
            record.cpu = Some(Cpu {
                wall: 1.0,
                foreign,
                ..Cpu::default()
            });
            record
        };
        let mut records = vec![loud(10.0, 0.0), loud(11.0, 0.1), loud(99.0, 1.0)];
        let with = rows(&records)[0].systems[0].clone();
        assert_eq!(
            (with.runs, with.noisy, with.median("rate_per_s")),
            (3, 1, Some(11.0))
        );
        records.push(loud(12.0, 0.0));
        let without = rows(&records)[0].systems[0].clone();
        assert_eq!(
            (without.runs, without.noisy, without.median("rate_per_s")),
            (3, 1, Some(11.0))
        );
        assert_eq!(without.figures["rate_per_s"].max, 12.0);
    }
}
