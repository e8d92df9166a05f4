//! `everywrite verify`: compares tables between sites while they are written, and repairs them.
//!
//! | module | role |
//! |--------|------|
//! | `sites` | asks the sites, through the local daemon |
//! | `tables` | which tables are compared, and how |
//! | `compare` | one table, by the pure parts of [`crate::verify`] |
//! | `mend` | plan, confirmation, writes, and the proof |
//! | `progress`, `report` | what the person sees |

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use everywrite_config::Settings;

mod compare;
mod error;
mod mend;
mod progress;
mod report;
mod sites;
mod tables;

pub use error::Error;

use compare::{Comparison, Found, Options};
use progress::Progress;
use report::{Report, TableReport};
use sites::Sites;
use tables::Subject;

/// Bad arguments or settings.
const USAGE: u8 = 2;

/// Compares tables between the sites while they are written, and repairs them.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: 0 equal (or repaired), 1 something differs, 2 bad arguments or settings, 3 it could not be finished.

Examples:
  everywrite verify                        every table, at every site
  everywrite verify accounts app.orders    these tables
  everywrite verify --conflicts            only keys that were ever in a conflict
  everywrite verify --repair               shows a plan and asks")]
pub struct VerifyArgs {
    /// Tables, as `table` or `schema.table`, as they are spelt in the catalog [default: all]
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
    /// The settings file of the node on this machine
    #[arg(long, short, value_name = "FILE", default_value = "everywrite.toml")]
    pub config: PathBuf,
    /// Only the keys that the conflict history of any site names
    #[arg(long)]
    pub conflicts: bool,
    /// Show a plan, ask, and write what mends the differences
    #[arg(long)]
    pub repair: bool,
    /// With --repair: do not ask
    #[arg(long, requires = "repair")]
    pub yes: bool,
    /// With --repair: the rows of this site win, instead of the highest versions
    #[arg(long, value_name = "SITE", requires = "repair")]
    pub from: Option<String>,
    /// Only these sites, separated by commas [default: all]
    #[arg(long, value_name = "SITES", value_delimiter = ',')]
    pub sites: Vec<String>,
    /// Per cent of one session's time that each site gives at most
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub share: u8,
    /// How long a row that differs is looked at before it counts as still changing
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// Leave a table after so many differing keys
    #[arg(long, value_name = "KEYS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; for the exit codes see its help.
pub async fn run(args: VerifyArgs) -> ExitCode {
    match verify(&args).await {
        Ok(report) => {
            let text = if args.json {
                report.json()
            } else {
                report.text()
            };
            // A closed pipe must not change the exit code.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(report.code())
        }
        Err(error) => {
            let error_text = error.to_string();
            eprintln!(
                "error: {}",
                error_text.strip_prefix("error: ").unwrap_or(&error_text)
            );
            ExitCode::from(if error.is_usage() {
                USAGE
            } else {
                report::UNFINISHED
            })
        }
    }
}

async fn verify(args: &VerifyArgs) -> Result<Report, Error> {
    let settings =
        Settings::load(&args.config).map_err(|error| Error::Settings(error.to_string()))?;
    let folder = &settings.node.data_directory;
    let sites = Sites::connect(folder, &args.sites, f64::from(args.share) / 100.0).await?;
    let from = match &args.from {
        Some(name) => Some(sites.node(name).ok_or_else(|| Error::NoSuchSite {
            site: name.clone(),
            sites: sites.nodes().into_iter().map(|n| sites.name(n)).collect(),
        })?),
        None => None,
    };
    let there = tables::ask(&sites).await?;
    let subjects = tables::side_by_side(&there, &args.tables, |node| sites.name(node))?;
    let options = Options {
        patience: Duration::from_secs(args.patience),
        limit: args.limit as usize,
    };
    let expected = if args.conflicts {
        0
    } else {
        subjects.iter().map(|s| s.estimated_rows).sum()
    };
    let mut progress = Progress::new(expected, args.json);
    let mut report = Report {
        sites: sites
            .nodes()
            .into_iter()
            .map(|node| (node, sites.name(node)))
            .collect(),
        tables: Vec::new(),
        seconds: 0.0,
        conflicts: args.conflicts,
    };
    for subject in subjects {
        let table = compare(&sites, subject, options, args.conflicts, &mut progress).await;
        report.tables.push(table);
    }
    report.seconds = progress.elapsed().as_secs_f64();
    progress.clear();
    if args.repair {
        let steps = mend::plan(&mut report.tables, from);
        if steps > 0 {
            if !args.json {
                eprint!("{}", report.text());
            }
            if args.yes || mend::confirmed(steps) {
                mend::mend(&sites, &mut report.tables, options, &mut progress).await?;
                progress.clear();
            }
        }
    }
    Ok(report)
}

/// One table; what stands in the way is part of what is found.
async fn compare(
    sites: &Sites,
    subject: Subject,
    options: Options,
    conflicts: bool,
    progress: &mut Progress,
) -> TableReport {
    let began = Instant::now();
    progress.table(&subject.name);
    let compared = match &subject.spec {
        None => Ok(Found::default()),
        Some(spec) if conflicts => keys_of_conflicts(sites, spec, options, progress).await,
        Some(spec) => {
            Comparison::whole(sites, spec, subject.leader, options)
                .run(progress)
                .await
        }
    };
    let (found, error) = match compared {
        Ok(found) => (found, None),
        Err(error) => (Found::default(), Some(error.to_string())),
    };
    progress.ended(found.rows, subject.estimated_rows);
    TableReport {
        subject,
        found,
        seconds: began.elapsed().as_secs_f64(),
        error,
        plan: std::collections::BTreeMap::new(),
    }
}

async fn keys_of_conflicts(
    sites: &Sites,
    spec: &crate::verify::question::Spec,
    options: Options,
    progress: &mut Progress,
) -> Result<Found, Error> {
    let keys = compare::history(sites, spec).await?;
    let rows = keys.len() as u64;
    let mut comparison = Comparison::of_keys(sites, spec, options);
    comparison.add(keys);
    let mut found = comparison.run(progress).await?;
    found.rows = rows;
    Ok(found)
}
