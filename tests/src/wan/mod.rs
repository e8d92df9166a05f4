//! Wide-area links: Everywrite and PostgreSQL's own logical replication over the same slow wire.
//!
//! ```text
//!  namespace a                                        namespace b
//!  native's server A ──────┐                 ┌────── native's server B
//!  Everywrite's server A ─ daemon ─ TUN ═ wire ═ TUN ─ daemon ─ Everywrite's server B
//! ```
//!
//! | module     | role |
//! |------------|------|
//! | [`tun`]      | a device whose packets this program reads and writes |
//! | [`emulator`] | the wire: delay, loss, rate; counts packets by port |
//! | [`netns`]    | two namespaces joined by a wire |
//! | [`pair`]     | the systems |
//! | [`measure`]  | catching up, a steady rate, the wire itself |
//! | [`record`]   | JSON and tables |
//!
//! `docs/wide-area.md` says how to read the figures.

mod emulator;
mod measure;
mod netns;
mod pair;
mod record;
mod tun;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use everywrite_tests::place;

use emulator::Weather;
use measure::{Backlog, RAW_PORT, Steady};
use netns::Network;
use pair::{LINK_PORT, NATIVE_PORT, Pair};
use record::{Figures, Record};

/// What to measure.
#[derive(Clone, Debug, clap::Parser)]
#[command(about = "Everywrite and native logical replication over a slow wire (needs root)")]
pub(crate) struct Options {
    /// Round trips in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "20,80,200")]
    rtt: Vec<u64>,
    /// Lost packets in percent, in each direction.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    loss: Vec<f64>,
    /// TCP's congestion control: `cubic` is what distributions ship.
    #[arg(long, value_delimiter = ',', default_value = "cubic")]
    congestion: Vec<String>,
    /// The wire's rate in Mbit/s.
    #[arg(long, default_value_t = 1000)]
    mbit: u64,
    /// `native`, `everywrite`.
    #[arg(long, value_delimiter = ',', default_value = "native,everywrite")]
    systems: Vec<String>,
    /// `raw`, `catch_up`, `wide`, `insert`, `tpcb`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "raw,catch_up,wide,insert,tpcb"
    )]
    what: Vec<String>,
    /// Everywrite's link: `none`, `lz4` or `zstd`.
    #[arg(long, default_value = "none")]
    compression: String,
    /// How much is written, 1 being the usual.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Where records are added; a folder of its own below bench-results unless given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Keeps a copy of A's journal (for `scale --compress`).
    #[arg(long)]
    keep_journal: Option<PathBuf>,
}

/// Ends when everything is measured, or with the first error.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let out = options.out.clone().unwrap_or_else(|| {
        let now = chrono::Local::now().format("%Y%m%d-%H%M%S");
        PathBuf::from(format!("bench-results/wan-{now}"))
    });
    std::fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let results = out.join("wan.jsonl");
    let dir = place::scratch("ew-wan-")?;
    let calm = Weather {
        delay: Duration::ZERO,
        loss_ppm: 0,
        bits_per_s: options.mbit * 1_000_000,
    };
    let ports = [NATIVE_PORT, LINK_PORT, RAW_PORT];
    let network = Network::create(&ports, calm, &options.congestion)?;
    // Connections take what is set when they begin.
    let first = options
        .congestion
        .first()
        .context("no congestion control")?;
    network.congestion(first)?;
    let mut pairs = Vec::new();
    for system in &options.systems {
        pairs.push(match system.as_str() {
            "native" => Pair::native(&network, dir.path()).await?,
            "everywrite" => Pair::everywrite(&network, dir.path(), &options.compression).await?,
            other => bail!("there is no system {other}"),
        });
    }
    for congestion in &options.congestion {
        network.congestion(congestion)?;
        for &rtt_ms in &options.rtt {
            for &loss_percent in &options.loss {
                network.wire.set(Weather {
                    delay: Duration::from_millis(rtt_ms) / 2,
                    loss_ppm: (loss_percent * 10_000.0) as u32,
                    ..calm
                });
                let keep = |system: &str, what: &str, figures: Figures| {
                    let record = Record {
                        system: system.to_owned(),
                        what: what.to_owned(),
                        rtt_ms,
                        loss_percent,
                        congestion: congestion.clone(),
                        figures: figures
                            .into_iter()
                            .map(|(k, v)| (k.to_owned(), v))
                            .collect(),
                    };
                    eprintln!("{}", serde_json::to_string(&record).unwrap_or_default());
                    record::append(&results, &record)
                };
                weather(options, &network, &mut pairs, loss_percent > 0.0, keep).await?;
            }
        }
    }
    if let (Some(to), Some(journal)) = (&options.keep_journal, pairs.iter().find_map(Pair::journal))
    {
        copy_segments(&journal, to)?;
    }
    let complaints: Vec<String> = pairs.iter().flat_map(Pair::check).collect();
    drop(pairs);
    let table = record::tables(&record::read(&results)?);
    std::fs::write(out.join("wan.txt"), &table).context("write the table")?;
    println!("{table}\n{}", out.display());
    if !complaints.is_empty() {
        bail!("in the daemons' logs:\n{}", complaints.join("\n"));
    }
    Ok(())
}

async fn weather(
    options: &Options,
    network: &Network,
    pairs: &mut [Pair],
    lossy: bool,
    keep: impl Fn(&str, &str, Figures) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let wanted = |what: &str| options.what.iter().any(|w| w == what);
    // One lost packet of a hundred leaves TCP little of a long wire: a tenth is enough to see it.
    let scale = options.scale * if lossy { 0.1 } else { 1.0 };
    let rows = |rows: f64| ((rows * scale) as u32).max(1000);
    if wanted("raw") {
        keep("tcp", "raw", measure::raw(network, 4).await?)?;
    }
    // First what begins with new connections, so that none knows an earlier weather.
    for (what, table, count) in [("catch_up", "t", 200_000.0), ("wide", "wide", 50_000.0)] {
        for pair in pairs.iter_mut().filter(|_| wanted(what)) {
            let backlog = Backlog {
                table,
                rows: rows(count),
                rows_per_transaction: 100,
            };
            let figures = measure::catch_up(network, pair, backlog).await;
            let figures = figures.with_context(|| format!("{what} of {}", pair.name))?;
            keep(&pair.name, what, figures)?;
        }
    }
    for (what, function, table) in [("insert", "insert_one", "lat"), ("tpcb", "tpcb", "history")] {
        for pair in pairs.iter().filter(|_| wanted(what)) {
            let steady = Steady {
                function,
                table,
                per_s: 200,
                seconds: ((8.0 * options.scale) as u32).max(1),
            };
            let figures = measure::steady(network, pair, steady).await;
            let figures = figures.with_context(|| format!("{what} of {}", pair.name))?;
            keep(&pair.name, what, figures)?;
        }
    }
    Ok(())
}

fn copy_segments(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let path = entry.context("list the journal")?.path();
        if path.is_dir() {
            copy_segments(&path, to)?;
        } else if path.extension().is_some_and(|end| end == "seg")
            && let (Some(folder), Some(name)) =
                (path.parent().and_then(Path::file_name), path.file_name())
        {
            let name = format!("{}-{}", folder.to_string_lossy(), name.to_string_lossy());
            std::fs::copy(&path, to.join(name)).context("copy a segment")?;
        }
    }
    Ok(())
}
