//! What the parts that nobody can leave out can do on this machine, each by itself: the lower bound for
//! any system that decodes with pgoutput and applies with SQL.
//!
//! ```text
//!  A: load ─► walsender ─► reader that drops everything     how fast it decodes, what it lags behind one large COMMIT
//!                └► the same transactions, kept
//!                     └► B: replay's own statements          how fast one session applies, or two
//!                             └► walsender ─► reader         the second decode, of what bears an origin
//! ```
//!
//! | module        | role |
//! |---------------|------|
//! | [`backlog`]   | a load written at A, and its transactions as the walsender sends them |
//! | [`walsender`] | decoding and sending |
//! | [`apply`]     | groups through replay's writer |
//! | [`wire`]      | the link's TLS connection, and round trips |
//! | [`disk`]      | fdatasync, and a journal |
//! | [`clock`]     | processor time |
//! | [`figure`]    | one line of the table |
//! | [`bound`]     | what follows for B |
//!
//! Nothing is measured while anything else of this program runs, and what the driver has to prepare is
//! prepared before the clock starts.

mod apply;
mod backlog;
mod bound;
mod clock;
mod disk;
mod figure;
mod server;
mod walsender;
mod wire;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::bench::installed::{self, Postgres, variable};
use crate::bench::machine::Machine;
use bound::Bound;
use figure::Figure;

/// What COPY, unnest, the walsender, the link and the disk can do on this machine.
///
/// Example: `floor --majors 15 --scale 0.1 --work /var/tmp/floor --json`
#[derive(Debug, clap::Parser)]
#[command(name = "floor")]
pub(crate) struct Options {
    /// Factor on all sizes; below 1 the figures are rough, and 0.01 only shows that the program works
    /// [default: SCALE, or 1]
    #[arg(long)]
    scale: Option<f64>,
    /// Comma list of PostgreSQL's majors; PG15_BIN and so on say where they are [default: MAJORS, or 15, and
    /// 18 if it is found]
    #[arg(long)]
    majors: Option<String>,
    /// Leaves the parts out that need no server
    #[arg(long)]
    no_machine: bool,
    /// Folder for data, sockets and journals; emptied of earlier clusters [default: everywrite-floor in the
    /// temporary folder]
    #[arg(long)]
    work: Option<PathBuf>,
    /// Prints JSON instead of the table
    #[arg(long)]
    json: bool,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    figures: Vec<Figure>,
    bounds: Vec<Bound>,
}

/// Measures, then prints.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let scale = match (options.scale, variable("SCALE")) {
        (Some(scale), _) => scale,
        (None, Some(text)) => text
            .parse()
            .with_context(|| format!("SCALE={text} is not a number"))?,
        (None, None) => 1.0,
    };
    if scale <= 0.0 || !scale.is_finite() {
        bail!("the scale must be greater than 0, and it is {scale}");
    }
    let majors = options.majors.clone().or_else(|| variable("MAJORS"));
    let servers = postgres(majors.as_deref())?;
    let work = match &options.work {
        Some(work) => {
            std::path::absolute(work).with_context(|| format!("find {}", work.display()))?
        }
        None => std::env::temp_dir().join("everywrite-floor"),
    };
    std::fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let mut figures = Vec::new();
    for postgres in &servers {
        figures.extend(server::measure(postgres, scale, &work).await?);
    }
    if !options.no_machine {
        figures.extend(disk::measure(scale, &work).await?);
        figures.extend(wire::measure(scale, &work).await?);
    }
    let machine = Machine::read();
    let bounds = bound::of(&figures, machine.processors);
    let report = Report {
        machine,
        figures,
        bounds,
    };
    if options.json {
        let json = serde_json::to_string_pretty(&report).context("encode the figures")?;
        println!("{json}");
    } else {
        println!("{}", table(&report));
    }
    Ok(())
}

fn postgres(list: Option<&str>) -> Result<Vec<Postgres>> {
    let Some(list) = list else {
        let found: Vec<Postgres> = [15, 18].into_iter().filter_map(installed::find).collect();
        if found.is_empty() {
            bail!(
                "no PostgreSQL 15 or 18 found; apt-get install postgresql-15, or set PG15_BIN to the folder of initdb"
            );
        }
        return Ok(found);
    };
    list.split([',', ' '])
        .filter(|major| !major.is_empty())
        .map(|major| {
            let number = major
                .parse()
                .with_context(|| format!("{major} is no major version"))?;
            installed::find(number).with_context(|| {
                format!(
                    "no PostgreSQL {major} found; set PG{major}_BIN to the folder of its initdb"
                )
            })
        })
        .collect()
}

/// For people, and for docs/floor.md as it is.
fn table(report: &Report) -> String {
    let mut text = format!(
        "{} processors, {}, Linux {}\n\n",
        report.machine.processors, report.machine.model, report.machine.kernel
    );
    text += &figure::table(&report.figures);
    if !report.bounds.is_empty() {
        text += "\n";
        text += &bound::table(&report.bounds, report.machine.processors);
    }
    text
}
