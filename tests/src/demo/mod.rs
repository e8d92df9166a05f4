//! `make demo`: three servers and three nodes that stay up, writes at all three at once under the eyes
//! of whoever runs it, and the proof that all three hold the same rows in the end.
//!
//! ```text
//!  ./demo-data/  demo.json        what runs, by process id
//!                a/ b/ c/         servers: data, socket, log
//!                node-a/ …        nodes: configuration, certificate, journals, log
//!                ca/              the cluster's certificate authority
//! ```
//! A second run finds `demo.json`, starts again what has died, and goes on.

mod sites;
mod state;
mod table;
mod traffic;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::agreement;
use crate::cluster::Site;

use state::State;
use table::Table;
use traffic::Traffic;

/// How the demo goes about.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long it writes.
    pub writing: Duration,
    /// How long the sites may take to agree afterwards.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            writing: Duration::from_secs(15),
            patience: Duration::from_secs(120),
        }
    }
}

/// Starts what is not running, writes, and compares. An error if the sites do not agree.
pub async fn up(dir: &Path, options: &Options) -> anyhow::Result<()> {
    let sites = sites::start(dir).await?;
    how_to_connect(&sites);

    println!(
        "Writing at all three sites at once for {} s: orders, transfers between accounts, and the same",
        options.writing.as_secs()
    );
    println!(
        "few rows of table \"stock\" everywhere, so that sites are in conflict all the time.\n"
    );
    let traffic = Traffic::start(&sites);
    let mut table = Table::new();
    let begin = Instant::now();
    while begin.elapsed() < options.writing {
        tokio::time::sleep(Duration::from_millis(500)).await;
        table.show(&sites, traffic.count()).await;
    }
    let written = traffic.end().await;

    println!(
        "\n{written} transactions committed. Waiting until all sites have applied all of them …"
    );
    let begin = Instant::now();
    let rows = agreement::reached(&sites, options.patience).await?;
    table.show(&sites, written).await;
    println!(
        "\nall three sites hold the same {rows} rows (compared {:.1} s after the last write)\n",
        begin.elapsed().as_secs_f64()
    );
    how_to_go_on(&sites, dir);
    Ok(())
}

/// Ends what the demo started, by process id, and removes its folder.
pub fn down(dir: &Path) -> anyhow::Result<()> {
    let Some(state) = State::read(dir)? else {
        println!("no demo is up");
        return sites::remove(dir);
    };
    sites::stop(&state)?;
    sites::remove(dir)?;
    println!("the demo is down, {} is removed", dir.display());
    Ok(())
}

fn how_to_connect(sites: &[Site]) {
    println!("Three PostgreSQL servers, one everywrite daemon beside each:\n");
    for site in sites {
        println!("  {}   {}", site.node.name(), site.server.psql());
    }
    println!();
}

fn how_to_go_on(sites: &[Site], dir: &Path) {
    println!("The cluster stays up. Write at one site, read at another:\n");
    let [a, b, ..] = sites else { return };
    println!(
        "  {} -c \"update stock set quantity = 1000 where sku = 'hot-1'\"",
        a.server.psql()
    );
    println!(
        "  {} -c \"select * from stock where sku = 'hot-1'\"",
        b.server.psql()
    );
    println!(
        "  {} -c \"select kind, decision, local_row, incoming_row from everywrite.conflicts order by id desc limit 5\"",
        a.server.psql()
    );
    println!(
        "\nLogs and configuration are in {}; `make demo-down` ends it all.",
        dir.display()
    );
}
