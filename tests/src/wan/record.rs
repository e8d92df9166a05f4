//! One line of JSON for each measurement, and the table of all of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Figures by name.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) system: String,
    /// What was measured: `raw`, `catch_up`, `wide`, `insert`, `tpcb`.
    pub(super) what: String,
    pub(super) rtt_ms: u64,
    pub(super) loss_percent: f64,
    pub(super) congestion: String,
    pub(super) figures: BTreeMap<String, f64>,
}

/// Adds it to the file.
pub(super) fn append(path: &Path, record: &Record) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(record).context("encode a record")?;
    line.push('\n');
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.with_context(|| format!("write {}", path.display()))
}

/// All records in the file.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).context("decode a record"))
        .collect()
}

/// The columns of each kind of measurement: heading, figure.
const TABLES: &[(&str, &[(&str, &str)])] = &[
    (
        "raw",
        &[
            ("MB/s", "mean_mb_per_s"),
            ("later MB/s", "second_half_mb_per_s"),
        ],
    ),
    ("catch_up", CATCH_UP),
    ("wide", CATCH_UP),
    ("insert", STEADY),
    ("tpcb", STEADY),
];
const CATCH_UP: &[(&str, &str)] = &[
    ("rows/s", "rows_per_s"),
    ("wire MB/s", "wire_mb_per_s"),
    ("begin s", "begin_s"),
    ("total s", "total_s"),
    ("done", "done"),
    ("there B/tx", "there_bytes_per_tx"),
    ("back B/tx", "back_bytes_per_tx"),
    ("cpu A s", "cpu_a_s"),
    ("cpu B s", "cpu_b_s"),
];
const STEADY: &[(&str, &str)] = &[
    ("p50 ms", "p50_ms"),
    ("p99 ms", "p99_ms"),
    ("tx/s", "written_per_s"),
    ("behind", "behind_at_end"),
    ("there B/tx", "there_bytes_per_tx"),
    ("there payload", "there_payload_per_tx"),
    ("back B/tx", "back_bytes_per_tx"),
    ("there pkt/tx", "there_packets_per_tx"),
    ("back pkt/tx", "back_packets_per_tx"),
    ("cpu A s", "cpu_a_s"),
    ("cpu B s", "cpu_b_s"),
];

/// All records as text, one table for each kind.
pub(super) fn tables(records: &[Record]) -> String {
    let mut text = String::new();
    for (what, columns) in TABLES {
        let mut rows: Vec<&Record> = records.iter().filter(|r| r.what == *what).collect();
        rows.sort_by(|a, b| {
            let key = |r: &Record| {
                (
                    r.rtt_ms,
                    r.loss_percent > 0.0,
                    r.congestion.clone(),
                    r.system.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        let _ = write!(
            text,
            "\n{what}\n{:>6} {:>5} {:>6} {:<13}",
            "rtt ms", "loss", "", "system"
        );
        for (heading, _) in *columns {
            let _ = write!(text, " {heading:>13}");
        }
        text.push('\n');
        for row in rows {
            let Record {
                rtt_ms,
                loss_percent,
                congestion,
                system,
                ..
            } = row;
            let _ = write!(
                text,
                "{rtt_ms:>6} {loss_percent:>4}% {congestion:>6} {system:<13}"
            );
            for (_, figure) in *columns {
                let value = row.figures.get(*figure).copied().unwrap_or(f64::NAN);
                let digits = if value.abs() < 100.0 { 1 } else { 0 };
                let _ = write!(text, " {value:>13.digits$}");
            }
            text.push('\n');
        }
    }
    text
}
