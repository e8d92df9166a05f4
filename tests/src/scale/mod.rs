//! What a node costs as the number of sites grows: computed with the daemon's own encodings, and checked
//! at five real sites.
//!
//! | module          | role |
//! |-----------------|------|
//! | [`transaction`] | transactions as they lie in journals |
//! | [`gossip`]      | how many beats go around |
//! | [`cost`]        | one number of sites: sizes, rates, memory, CPU |
//! | [`check`]       | five real sites |
//! | [`chart`]       | the picture |
//!
//! `docs/scale.md` has the formulas and says what is computed and what is measured.

mod chart;
mod check;
mod cost;
mod gossip;
mod transaction;

use std::path::{Path, PathBuf};

use anyhow::Context;

use cost::Cost;

/// What to compute.
#[derive(Clone, Debug, clap::Parser)]
#[command(about = "What a node costs with 3 to 48 sites")]
pub(crate) struct Options {
    /// Numbers of sites.
    #[arg(long, value_delimiter = ',', default_value = "3,6,12,24,48")]
    sites: Vec<usize>,
    /// Transactions a second in the whole cluster.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Also starts five real sites and compares.
    #[arg(long)]
    check: bool,
    /// Writes what a link would carry of these journal segments into one file, for compressors.
    #[arg(long, num_args = 2, value_names = ["SEGMENTS", "FILE"])]
    dump: Option<Vec<PathBuf>>,
    /// Where results go; a folder of its own below bench-results unless given.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Computes, prints, and leaves JSON and a chart behind.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    if let Some([from, to]) = options.dump.as_deref() {
        return dump(from, to);
    }
    let out = options.out.clone().unwrap_or_else(|| {
        let now = chrono::Local::now().format("%Y%m%d-%H%M%S");
        PathBuf::from(format!("bench-results/scale-{now}"))
    });
    std::fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let costs: Vec<Cost> = options
        .sites
        .iter()
        .map(|&sites| cost::of(sites.max(2), options.rate))
        .collect();
    let mut table = table(&costs)?;
    let write = |name: &str, text: &str| {
        std::fs::write(out.join(name), text).with_context(|| format!("write {name}"))
    };
    let subtitle = format!(
        "{} transactions/s in all, one row each, evenly spread",
        options.rate
    );
    write("scale.svg", &chart::draw(&costs, &subtitle))?;
    let json = serde_json::to_string_pretty(&costs).context("encode the figures")?;
    write("scale.json", &json)?;
    if options.check {
        let check = check::run().await?;
        let json = serde_json::to_string_pretty(&check).context("encode the check")?;
        write("check.json", &json)?;
        table.push_str(&format!(
            "\nfive real sites, one link, one direction:\n{json}\n"
        ));
    }
    write("scale.txt", &table)?;
    println!("{table}\n{}", out.display());
    Ok(())
}

/// A line for each figure, a column for each number of sites.
fn table(costs: &[Cost]) -> anyhow::Result<String> {
    let columns: Vec<serde_json::Map<String, serde_json::Value>> = costs
        .iter()
        .map(|cost| match serde_json::to_value(cost) {
            Ok(serde_json::Value::Object(map)) => Ok(map),
            other => anyhow::bail!("figures that are no object: {other:?}"),
        })
        .collect::<Result<_, _>>()?;
    let first = columns.first().context("no number of sites")?;
    let mut text = String::new();
    for name in first.keys() {
        text.push_str(&format!("{name:<36}"));
        for column in &columns {
            let value = column.get(name).and_then(serde_json::Value::as_f64);
            let value = value.unwrap_or(f64::NAN);
            let digits = match value {
                v if v.fract() == 0.0 || v >= 1000.0 => 0,
                v if v >= 10.0 => 1,
                _ => 2,
            };
            text.push_str(&format!("{value:>12.digits$}"));
        }
        text.push('\n');
    }
    Ok(text)
}

/// The frames of all segments in a folder, without the segments' own preambles.
fn dump(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let listed = std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))?;
    for entry in listed {
        let path = entry.context("list the segments")?.path();
        let segment = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        // "EWRITE\r\n" | u16 version | u32 length of the preamble
        let length = segment
            .get(10..14)
            .and_then(|length| length.try_into().ok());
        let length = length
            .map(u32::from_be_bytes)
            .context("a segment without preamble")?;
        let frames = segment.get(length as usize..).unwrap_or_default();
        let whole = everywrite_node::journal::record::whole_frames(frames)?;
        let frames = bytes::Bytes::copy_from_slice(frames.get(..whole).unwrap_or_default());
        bytes.extend_from_slice(&crate::link::data(1, frames));
    }
    std::fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}
