//! Repairs: a plan, a confirmation, ordinary writes, and a second comparison that proves them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use everywrite_conflict::NodeId;

use super::compare::{Comparison, Options};
use super::error::Error;
use super::progress::Progress;
use super::report::TableReport;
use super::sites::Sites;
use crate::verify::plan;
use crate::verify::question::{Asked, Key, Repair, RepairRow, Repaired, Said};

/// Deletes that foreign keys refuse are tried again once others are done, so often.
const PASSES: u32 = 4;
/// Rows of one transaction: small enough not to hold up the application's writes of them.
const AT_ONCE: usize = 200;

/// What became of a planned step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing was written yet.
    Planned,
    /// Written, and then the same everywhere.
    Repaired,
    /// The row was written by somebody else meanwhile; nothing was done.
    Changed,
    /// It could not be written, or is not the same everywhere afterwards.
    Failed(String),
}

impl Outcome {
    fn of(done: bool) -> Self {
        if done {
            Outcome::Repaired
        } else {
            Outcome::Changed
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Outcome::Planned => String::new(),
            Outcome::Repaired => "; repaired".to_owned(),
            Outcome::Changed => {
                "; nothing done: the row was written by somebody else meanwhile".to_owned()
            }
            Outcome::Failed(reason) => format!("; FAILED: {reason}"),
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Outcome::Planned => "planned",
            Outcome::Repaired => "repaired",
            Outcome::Changed => "changed",
            Outcome::Failed(_) => "failed",
        }
    }

    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Outcome::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

/// Plans what to write for every key that differs. `from`: the site whose rows win.
pub(super) fn plan(tables: &mut [TableReport], from: Option<NodeId>) -> usize {
    let mut steps = 0;
    for table in tables {
        table.plan = table
            .found
            .differ
            .iter()
            .filter_map(|(key, rows)| {
                let step = plan::step(rows, from)?;
                Some((key.clone(), (step, Outcome::Planned)))
            })
            .collect();
        steps += table.plan.len();
    }
    steps
}

/// Asks the person; no person, no.
pub(super) fn confirmed(steps: usize) -> bool {
    if !std::io::stdin().is_terminal() {
        eprintln!("nothing is written: say --yes to carry this plan out");
        return false;
    }
    eprint!("write {steps} rows as ordinary transactions, which replicate everywhere? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Carries the plans out and compares their keys once more.
pub(super) async fn mend(
    sites: &Sites,
    tables: &mut [TableReport],
    options: Options,
    progress: &mut Progress,
) -> Result<(), Error> {
    // Deletes first: what they remove may hold a unique value that a rewritten row needs elsewhere.
    write(sites, tables, true).await?;
    write(sites, tables, false).await?;
    for table in tables {
        prove(sites, table, options, progress).await?;
    }
    Ok(())
}

async fn write(sites: &Sites, tables: &mut [TableReport], delete: bool) -> Result<(), Error> {
    for pass in 0..PASSES {
        // What one transaction refuses is tried row by row.
        let at_once = if pass == 0 { AT_ONCE } else { 1 };
        let mut open = 0;
        let mut done = 0;
        for table in tables.iter_mut() {
            let Some(spec) = table.subject.spec.clone() else {
                continue;
            };
            for (site, keys) in due(table, delete) {
                for keys in keys.chunks(at_once) {
                    let row = |key: &Key| {
                        let xmin = table.plan.get(key).map_or(0, |(step, _)| step.xmin);
                        let key = key.clone();
                        RepairRow { key, xmin }
                    };
                    let asked = Asked::Repair(Repair {
                        spec: spec.clone(),
                        rows: keys.iter().map(row).collect(),
                        delete,
                    });
                    let outcomes: Vec<Outcome> = match sites.ask(site, asked).await {
                        Ok(Said::Repaired(Repaired { done })) => {
                            done.iter().map(|&done| Outcome::of(done)).collect()
                        }
                        Ok(_) => return Err(Error::Confused(sites.name(site))),
                        Err(error) => vec![Outcome::Failed(error.to_string()); keys.len()],
                    };
                    for (key, outcome) in keys.iter().zip(outcomes) {
                        match outcome {
                            Outcome::Failed(_) => open += 1,
                            _ => done += 1,
                        }
                        if let Some((_, before)) = table.plan.get_mut(key) {
                            *before = outcome;
                        }
                    }
                }
            }
        }
        // The first pass may have failed as a whole for one row's sake.
        if open == 0 || (done == 0 && pass > 0) {
            break;
        }
    }
    Ok(())
}

/// The keys that are still to be written, by the site that does.
fn due(table: &TableReport, delete: bool) -> BTreeMap<NodeId, Vec<Key>> {
    let mut due: BTreeMap<NodeId, Vec<Key>> = BTreeMap::new();
    for (key, (step, outcome)) in &table.plan {
        if step.delete == delete && matches!(outcome, Outcome::Planned | Outcome::Failed(_)) {
            due.entry(step.at).or_default().push(key.clone());
        }
    }
    due
}

/// Whatever was said about them, only keys that are the same everywhere are repaired.
async fn prove(
    sites: &Sites,
    table: &mut TableReport,
    options: Options,
    progress: &mut Progress,
) -> Result<(), Error> {
    let Some(spec) = &table.subject.spec else {
        return Ok(());
    };
    let written = |(_, outcome): &(plan::Step, Outcome)| !matches!(outcome, Outcome::Failed(_));
    let keys: Vec<Key> = table
        .plan
        .iter()
        .filter(|(_, step)| written(step))
        .map(|(key, _)| key.clone())
        .collect();
    let mut comparison = Comparison::of_keys(sites, spec, options);
    comparison.add(keys.iter().cloned());
    let found = comparison.run(progress).await?;
    let verdicts: BTreeMap<&Key, String> = keys
        .iter()
        .filter_map(|key| {
            if found.differ.contains_key(key) {
                Some((key, "it still differs".to_owned()))
            } else if let Some((site, reason)) = found.undecided.get(key) {
                Some((key, format!("site {}: {reason}", sites.name(*site))))
            } else if found.still_changing.contains(key) {
                Some((key, "it is being written all the time".to_owned()))
            } else {
                None
            }
        })
        .collect();
    for key in &keys {
        if let Some((_, outcome)) = table.plan.get_mut(key) {
            *outcome = match verdicts.get(key) {
                Some(reason) => Outcome::Failed(reason.clone()),
                None => Outcome::Repaired,
            };
        }
    }
    Ok(())
}
