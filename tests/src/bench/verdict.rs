//! Rows in; the lines at the end out: how Everywrite's figures compare with the reference, and whether they
//! meet the target.
//!
//! Each Everywrite system of the run has its lines: on PostgreSQL 15 they bear the plain name, on others
//! the version behind it (`a`, `a/18`).

use std::fmt::Write as _;

use serde::Serialize;

use super::scenario::Scenario;
use super::statistics::figure;
use super::summary::{Cell, Row};
use super::target::{
    CONFLICTS_PER_S_MIN, DAEMON_GROWTH_MAX, DRAIN_S_MAX, HELD_MB_MAX, MEMORY_BYTES_MAX,
    SERVER_GROWTH_MAX, TARGETS, Target,
};

/// One line at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    /// Nothing when it could not be formed.
    pub(crate) ratio: Option<f64>,
    pub(crate) target: String,
    pub(crate) ok: bool,
    /// Figures and reference behind the ratio, or why there is none.
    pub(crate) detail: String,
    /// The figure that meets the target, for the chart.
    pub(crate) needed: Option<f64>,
    /// Which scenario and which figure of the records it is about.
    pub(crate) scenario: String,
    pub(crate) figure: String,
    /// What the line shows in front of the target.
    #[serde(skip)]
    shown: String,
}

impl Verdict {
    /// `NAME RATIO x (target T) ok|short`.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<12} {:>10} (target {}) {}",
            self.name,
            self.shown,
            self.target,
            if self.ok { "ok" } else { "short" }
        )
    }

    /// The figures behind the line.
    pub(crate) fn explanation(&self) -> String {
        format!("   {:<12} {}", self.name, self.detail)
    }
}

/// The lines at the end, for every Everywrite system of the run.
pub(crate) fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for target in TARGETS {
        let Some(row) = row(rows, target.scenario) else {
            continue;
        };
        if target.scenario == Scenario::G {
            verdicts.extend(everywrites(row).map(|ours| held(row, ours)));
        }
        verdicts.extend(everywrites(row).map(|ours| compared(rows, row, ours, &target)));
        if target.scenario == Scenario::X10
            && let Some(row) = self::row(rows, Scenario::X100)
        {
            verdicts.extend(everywrites(row).map(|ours| decided(row, ours)));
        }
    }
    if let Some(row) = row(rows, Scenario::N8) {
        for form in [server_growth, daemon_growth] {
            verdicts.extend(everywrites(row).map(|ours| form(rows, row, ours)));
        }
    }
    verdicts.extend(memory(rows));
    verdicts
}

fn row(rows: &[Row], scenario: Scenario) -> Option<&Row> {
    rows.iter().find(|row| row.name == scenario.name())
}

fn cell<'a>(rows: &'a [Row], scenario: Scenario, system: &str) -> Option<&'a Cell> {
    let row = row(rows, scenario)?;
    row.systems.iter().find(|cell| cell.system == system)
}

fn everywrites(row: &Row) -> impl Iterator<Item = &Cell> {
    row.systems
        .iter()
        .filter(|cell| cell.system.starts_with("everywrite"))
}

/// Name of a line of one system.
fn name(name: &str, system: &str) -> String {
    match system.trim_start_matches(|c: char| !c.is_ascii_digit()) {
        "15" | "" => name.to_owned(),
        major => format!("{name}/{major}"),
    }
}

fn compared(rows: &[Row], row: &Row, ours: &Cell, target: &Target) -> Verdict {
    let median = |scenario, system: &str| cell(rows, scenario, system)?.median(target.figure);
    let mut verdict = Verdict {
        name: name(target.name, &ours.system),
        ratio: None,
        target: target.wording(),
        ok: false,
        detail: String::new(),
        needed: None,
        scenario: row.name.clone(),
        figure: target.figure.into(),
        shown: "- x".into(),
    };
    match (ours.median(target.figure), target.reference(median)) {
        (None, _) => {
            verdict.detail = format!("{} has no figure: every run failed", ours.system);
        }
        (Some(value), None) => {
            verdict.detail = format!("{} against nothing: {}", figure(value), target.missing());
        }
        (Some(value), Some((reference, how))) => {
            let ratio = target.ratio(value, reference);
            let drain = ours
                .median("drain_s")
                .filter(|_| [Scenario::W, Scenario::W3].contains(&target.scenario))
                .unwrap_or(0.0);
            verdict.ratio = Some(ratio);
            verdict.shown = format!("{ratio:.2} x");
            verdict.ok = target.met(ratio) && drain <= DRAIN_S_MAX && ours.failed == 0;
            verdict.needed = Some(target.needed(reference));
            verdict.detail = format!("{} against {} ({how})", figure(value), figure(reference));
            if drain > DRAIN_S_MAX {
                let _ = write!(
                    verdict.detail,
                    "; the peer does not keep up: {} s behind at the end",
                    figure(drain)
                );
            }
        }
    }
    if target.scenario == Scenario::X10 {
        check_history(&mut verdict, ours);
    }
    note_failures(&mut verdict, ours);
    verdict
}

fn note_failures(verdict: &mut Verdict, ours: &Cell) {
    if ours.failed > 0 {
        let _ = write!(verdict.detail, "; {} runs failed", ours.failed);
    }
}

/// g: an absolute limit.
fn held(row: &Row, ours: &Cell) -> Verdict {
    let native = row
        .systems
        .iter()
        .find(|cell| cell.system.starts_with("native"))
        .and_then(|cell| cell.median("held_mb"));
    let value = ours.median("held_mb");
    Verdict {
        name: name("g", &ours.system),
        ratio: value.zip(native).map(|(ours, native)| ours / native),
        target: format!("less than {HELD_MB_MAX} MB"),
        ok: value.is_some_and(|value| value < HELD_MB_MAX) && ours.failed == 0,
        detail: native.map_or_else(String::new, |native| {
            format!("WAL held on A; native holds {} MB", figure(native))
        }),
        needed: Some(HELD_MB_MAX),
        scenario: row.name.clone(),
        figure: "held_mb".into(),
        shown: value.map_or_else(|| "- MB".into(), |value| format!("{} MB", figure(value))),
    }
}

/// x100: how many conflicts one site decides.
fn decided(row: &Row, ours: &Cell) -> Verdict {
    let value = ours.median("conflicts_per_s");
    let mut verdict = Verdict {
        name: name("x100", &ours.system),
        ratio: value.map(|value| value / CONFLICTS_PER_S_MIN),
        target: format!("at least {} /s", figure(CONFLICTS_PER_S_MIN)),
        ok: value.is_some_and(|value| value >= CONFLICTS_PER_S_MIN) && ours.failed == 0,
        detail: "conflicts decided at B".into(),
        needed: Some(CONFLICTS_PER_S_MIN),
        scenario: row.name.clone(),
        figure: "conflicts_per_s".into(),
        shown: value.map_or_else(|| "- /s".into(), |value| format!("{} /s", figure(value))),
    };
    check_history(&mut verdict, ours);
    note_failures(&mut verdict, ours);
    verdict
}

/// Every conflict must stand in the history of both sites, once.
fn check_history(verdict: &mut Verdict, ours: &Cell) {
    let of = |name| ours.median(name);
    let (Some(expected), Some(a), Some(b)) =
        (of("history_expected"), of("history_a"), of("history_b"))
    else {
        return;
    };
    verdict.ok &= a == expected && b == expected;
    let _ = write!(
        verdict.detail,
        "; conflict history: {} rows at A, {} at B, {} expected at each",
        figure(a),
        figure(b),
        figure(expected)
    );
}

/// n server: what eight peers make of the CPU of the origin's server.
fn server_growth(rows: &[Row], row: &Row, ours: &Cell) -> Verdict {
    let of = |scenario| cell(rows, scenario, &ours.system)?.median("server_us");
    let one = of(Scenario::N1);
    let growth = one.zip(of(Scenario::N8)).map(|(one, many)| many / one);
    let mut verdict = growth_verdict("server", rows, row, ours, growth, SERVER_GROWTH_MAX);
    verdict.needed = one.map(|one| one * SERVER_GROWTH_MAX);
    verdict
}

/// n daemon: what one more peer costs the origin's daemon, in terms of the server's work for replication. The
/// detail also has it in terms of the whole server, with the sessions of the load.
fn daemon_growth(rows: &[Row], row: &Row, ours: &Cell) -> Verdict {
    let of = |scenario, figure| cell(rows, scenario, &ours.system)?.median(figure);
    let (one, many) = (of(Scenario::N1, "daemon_us"), of(Scenario::N8, "daemon_us"));
    let each = one.zip(many).map(|(one, many)| (many - one) / 7.0);
    let server = of(Scenario::N1, "server_us");
    let growth = each.zip(server).map(|(each, server)| each / server);
    let mut verdict = growth_verdict("daemon", rows, row, ours, growth, DAEMON_GROWTH_MAX);
    let load = of(Scenario::N1, "load_sessions_us");
    if let (Some(each), Some(server), Some(load)) = (each, server, load) {
        let _ = write!(
            verdict.detail,
            "; {} more for each, {:.3} x of A's server with the sessions of the load",
            figure(each),
            each / (server + load)
        );
    }
    verdict
}

fn growth_verdict(
    process: &str,
    rows: &[Row],
    row: &Row,
    ours: &Cell,
    growth: Option<f64>,
    limit: f64,
) -> Verdict {
    let name_of_figure = format!("{process}_us");
    let figures = |system: &str| {
        let each = Scenario::PEERS.map(|scenario| {
            cell(rows, scenario, system)
                .and_then(|cell| cell.median(&name_of_figure))
                .map_or_else(|| "-".into(), figure)
        });
        each.join(", ")
    };
    let mut detail = match growth {
        None => "no figures of both 1 and 8 peers; ".into(),
        Some(_) => String::new(),
    };
    let _ = write!(
        detail,
        "µs a transaction with 1, 2, 4, 8 peers: {}",
        figures(&ours.system)
    );
    let native = row
        .systems
        .iter()
        .find(|cell| cell.system.starts_with("native"))
        .filter(|_| process == "server");
    if let Some(native) = native {
        let _ = write!(detail, "; {}: {}", native.system, figures(&native.system));
    }
    let mut verdict = Verdict {
        name: name(&format!("n {process}"), &ours.system),
        ratio: growth,
        target: if process == "server" {
            format!("at most {limit} x")
        } else {
            format!("less than {limit} x of the server's a peer")
        },
        ok: growth.is_some_and(|growth| growth <= limit) && ours.failed == 0,
        detail,
        needed: None,
        scenario: row.name.clone(),
        figure: name_of_figure,
        shown: growth.map_or_else(|| "- x".into(), |growth| format!("{growth:.3} x")),
    };
    note_failures(&mut verdict, ours);
    verdict
}

/// m: the greatest memory peak of any daemon in any scenario, for each system.
fn memory(rows: &[Row]) -> Vec<Verdict> {
    let mut systems: Vec<&str> = Vec::new();
    for cell in rows.iter().flat_map(|row| &row.systems) {
        if cell.daemon_peak_bytes.is_some() && !systems.contains(&cell.system.as_str()) {
            systems.push(&cell.system);
        }
    }
    systems
        .into_iter()
        .filter_map(|system| memory_of(rows, system))
        .collect()
}

fn memory_of(rows: &[Row], system: &str) -> Option<Verdict> {
    let peaks = rows.iter().flat_map(|row| {
        let cells = row.systems.iter().filter(|cell| cell.system == system);
        cells
            .filter_map(|cell| cell.daemon_peak_bytes)
            .flat_map(|peaks| {
                ["A", "B"]
                    .into_iter()
                    .zip(peaks)
                    .map(|(site, bytes)| (bytes, site, &row.name))
            })
    });
    let (bytes, site, scenario) = peaks.max_by_key(|(bytes, ..)| *bytes)?;
    let share = bytes as f64 / MEMORY_BYTES_MAX;
    Some(Verdict {
        name: name("m", system),
        ratio: Some(share),
        target: format!("less than {} MiB", MEMORY_BYTES_MAX / 1048576.0),
        ok: share < 1.0,
        detail: format!("greatest memory peak: {site}'s daemon of {system} in {scenario}"),
        needed: None,
        scenario: scenario.clone(),
        figure: "daemon_peak_bytes".into(),
        shown: format!("{:.0} MiB", bytes as f64 / 1048576.0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::super::summary::rows;
    use super::*;

    /// The lines without the padding of their columns.
    fn lines(records: &[Record]) -> Vec<String> {
        let lines = verdicts(&rows(records)).into_iter();
        lines
            .map(|verdict| {
                let line = verdict.line();
                line.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    #[test]
    fn lines_compare_with_the_best_peer() {
        let records = [
            Record::of("native15", "a", &[("rate_per_s", 300_000.0)]),
            Record::of("everywrite15", "a", &[("rate_per_s", 900_000.0)]),
            Record::of("native18", "a", &[("rate_per_s", 310_000.0)]),
        ];
        assert_eq!(lines(&records), ["a 2.90 x (target 2.5 x) ok"]);
    }

    #[test]
    fn every_everywrite_has_its_line_with_the_same_reference() {
        let records = [
            Record::of("everywrite15", "a", &[("rate_per_s", 900_000.0)]),
            Record::of("native18", "a", &[("rate_per_s", 300_000.0)]),
            Record::of("everywrite18", "a", &[("rate_per_s", 600_000.0)]),
        ];
        assert_eq!(
            lines(&records),
            [
                "a 3.00 x (target 2.5 x) ok",
                "a/18 2.00 x (target 2.5 x) short"
            ]
        );
        // The plain name is never another version's.
        let alone = [Record::of("everywrite18", "a", &[])];
        assert_eq!(lines(&alone), ["a/18 - x (target 2.5 x) short"]);
    }

    #[test]
    fn a_writer_whose_peer_falls_behind_is_short() {
        let records = [
            Record::of("native15", "w", &[("tps", 4000.0), ("drain_s", 0.02)]),
            Record::of("everywrite15", "w", &[("tps", 6000.0), ("drain_s", 9.0)]),
        ];
        let verdicts = verdicts(&rows(&records));
        assert!(!verdicts[0].ok && verdicts[0].detail.contains("does not keep up"));
    }

    #[test]
    fn three_writers_need_native_18_to_be_compared() {
        let ours = Record::of("everywrite15", "w3", &[("tps", 5000.0), ("drain_s", 0.1)]);
        let verdict = &verdicts(&rows(std::slice::from_ref(&ours)))[0];
        assert!(!verdict.ok && verdict.detail.contains("no reference"));
        let native = Record::of("native18", "w3", &[("tps", 3000.0)]);
        assert_eq!(lines(&[ours, native]), ["w3 1.67 x (target 1.3 x) ok"]);
    }

    #[test]
    fn conflicts_are_judged_by_rate_and_history() {
        let history = |conflicts, found: f64| {
            let rate = [("rate_per_s", 95_000.0), ("conflicts_per_s", conflicts)];
            let history = [
                ("history_expected", 20_000.0),
                ("history_a", found),
                ("history_b", 20_000.0),
            ];
            rate.into_iter().chain(history).collect::<Vec<_>>()
        };
        let records = |found| {
            [
                Record::of("native15", "du", &[("rate_per_s", 90_000.0)]),
                Record::of("native18", "du", &[("rate_per_s", 95_000.0)]),
                Record::of("everywrite15", "x10", &history(0.0, found)),
                Record::of("everywrite15", "x100", &history(25_000.0, found)),
            ]
        };
        assert_eq!(
            lines(&records(20_000.0)),
            [
                "x10 1.00 x (target 1 x) ok",
                "x100 25,000 /s (target at least 20,000 /s) ok"
            ]
        );
        assert_eq!(
            lines(&records(19_999.0)),
            [
                "x10 1.00 x (target 1 x) short",
                "x100 25,000 /s (target at least 20,000 /s) short"
            ]
        );
    }

    #[test]
    fn peers_may_cost_the_origin_little() {
        let n = |system, peers, server, daemon| {
            let figures = [("server_us", server), ("daemon_us", daemon)];
            Record::of(system, peers, &figures)
        };
        let records = [
            n("native15", "n1", 100.0, 0.0),
            n("everywrite15", "n1", 100.0, 150.0),
            n("native15", "n8", 800.0, 0.0),
            n("everywrite15", "n8", 120.0, 220.0),
        ];
        assert_eq!(
            lines(&records),
            [
                "n server 1.200 x (target at most 1.25 x) ok",
                "n daemon 0.100 x (target less than 0.05 x of the server's a peer) short"
            ]
        );
        let verdicts = verdicts(&rows(&records));
        assert_eq!(
            verdicts[0].detail,
            "µs a transaction with 1, 2, 4, 8 peers: 100, -, -, 120; native15: 100, -, -, 800"
        );
    }

    #[test]
    fn absolute_limits_and_failures() {
        let mut failed = Record::of("everywrite15", "c1", &[]);
        failed.ok = false;
        let mut away = Record::of(
            "everywrite15",
            "g",
            &[("held_mb", 12.0), ("catchup_s", 4.0)],
        );
        away.daemon_peak_bytes = Some([300 << 20, 100 << 20]);
        let records = [
            failed,
            Record::of("native15", "g", &[("held_mb", 2000.0), ("catchup_s", 15.8)]),
            away,
        ];
        assert_eq!(
            lines(&records),
            [
                "c1 - x (target 3 x) short",
                "g 12.0 MB (target less than 64 MB) ok",
                "h 3.38 x (target 2.5 x) ok",
                "m 300 MiB (target less than 256 MiB) short",
            ]
        );
    }
}
