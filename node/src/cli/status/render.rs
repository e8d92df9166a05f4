//! The status document as a person reads it: a few lines, then a table of origins and one of
//! links. What needs attention is said in words under its table.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

use crate::telemetry::{CROWDED_S, OpenConflicts, OriginState, OriginStatus, PeerStatus, Status};

/// Everything, with a line end behind each line.
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    headline(&mut out, status);
    out.push('\n');
    lines(&mut out, status);
    if !status.origins.is_empty() {
        out.push('\n');
        origins(&mut out, &status.origins);
    }
    if !status.peers.is_empty() {
        out.push('\n');
        peers(&mut out, status);
    }
    out
}

fn headline(out: &mut String, status: &Status) {
    let _ = writeln!(
        out,
        "node {} ({}) of cluster {}, everywrite {}, up {}: {}",
        status.name,
        status.node,
        status.cluster,
        status.version,
        duration(status.uptime_s),
        if status.ready { "ready" } else { "NOT READY" },
    );
    for reason in &status.waiting_for {
        let _ = writeln!(out, "  waits for: {reason}");
    }
}

fn lines(out: &mut String, status: &Status) {
    let postgres = &status.postgres;
    let server = match (postgres.connected, &postgres.error) {
        (true, _) => format!("connected, version {}", postgres.version),
        (false, Some(error)) => format!("not connected: {error}"),
        (false, None) => "not connected".to_owned(),
    };
    let _ = writeln!(out, "postgres   {server}");

    let capture = &status.capture;
    let _ = writeln!(
        out,
        "capture    {}, at {}, {} behind, {} tx/s; {} transactions, {} changes",
        capture.state,
        capture.captured_lsn,
        bytes(capture.lag_bytes),
        rate(capture.transactions_per_s),
        count(capture.transactions),
        count(capture.changes),
    );
    if let Some(error) = &capture.error {
        let _ = writeln!(out, "           {error}");
    }
    if capture.processor_wait_s >= CROWDED_S {
        let wait = capture.processor_wait_s * 1e3;
        let _ = writeln!(
            out,
            "           threads wait {wait:.1} ms for a processor: commits leave in larger rounds"
        );
    }

    let others = status.origins.iter().map(|o| o.journal_bytes).sum();
    let _ = writeln!(
        out,
        "journal    {} own, {} of others; own end {}",
        bytes(capture.journal_bytes),
        bytes(others),
        capture.journal_end,
    );
    if let Some(reason) = &status.journals_kept {
        let _ = writeln!(out, "           kept: {reason}");
    }
    let _ = writeln!(
        out,
        "index      {} keys, {} forgotten{}",
        count(status.index.entries),
        count(status.index.forgotten),
        match status.index.files {
            0 => String::new(),
            files => format!(
                ", {} in {} files ({}) for absent nodes",
                count(status.index.spilled),
                count(files),
                bytes(status.index.file_bytes)
            ),
        },
    );
    let kinds: Vec<String> = status
        .conflicts
        .iter()
        .filter(|&(_, &decided)| decided > 0)
        .map(|(kind, &decided)| format!("{kind} {}", count(decided)))
        .collect();
    let kinds = if kinds.is_empty() {
        "none".to_owned()
    } else {
        kinds.join(", ")
    };
    let _ = writeln!(out, "conflicts  {kinds}");
    let sum = |of: fn(&OpenConflicts) -> u64| status.open_conflicts.iter().map(of).sum::<u64>();
    let (merging, parked) = (sum(|o| o.merging), sum(|o| o.parked));
    if merging + parked > 0 {
        let open = status.open_conflicts.iter().map(|o| o.oldest_at_us);
        let oldest = open.filter(|at| *at > 0).min();
        let since = oldest.map(|at| seconds(status.gathered_at_us.saturating_sub(at)));
        let _ = writeln!(
            out,
            "open       {} to be merged, {} parked, the oldest for {}; see everywrite.merging, everywrite.parked",
            count(merging),
            count(parked),
            since.map_or_else(|| "an unknown time".to_owned(), lag),
        );
    }
}

fn origins(out: &mut String, origins: &[OriginStatus]) {
    let header = [
        "origin",
        "state",
        "received",
        "applied",
        "behind",
        "lag",
        "tx/s",
        "transactions",
        "changes",
        "conflicts",
        "journal",
    ];
    let rows = origins.iter().map(|o| {
        vec![
            o.name.clone(),
            state(o.state).to_owned(),
            o.journal_end.to_string(),
            o.applied.to_string(),
            bytes(o.lag_bytes),
            lag(o.lag_s),
            rate(o.transactions_per_s),
            count(o.transactions),
            count(o.changes),
            count(o.conflicts),
            bytes(o.journal_bytes),
        ]
    });
    table(out, &header, 2, rows);
    for origin in origins {
        if let Some(reason) = &origin.reason {
            let _ = writeln!(out, " {} is {}: {reason}", origin.name, state(origin.state));
        }
    }
}

fn peers(out: &mut String, status: &Status) {
    let header = [
        "peer",
        "link",
        "address",
        "feeds",
        "round trip",
        "clock skew",
        "received",
        "sent",
    ];
    let rows = status.peers.iter().map(|p| {
        let feeds: Vec<String> = p.feeds.iter().map(|&node| name_of(status, node)).collect();
        vec![
            p.name.clone(),
            link(p).to_owned(),
            p.address.clone(),
            if feeds.is_empty() {
                "-".to_owned()
            } else {
                feeds.join(", ")
            },
            milliseconds(p.rtt_ms, false),
            milliseconds(p.clock_skew_ms, true),
            bytes(p.received_bytes),
            bytes(p.sent_bytes),
        ]
    });
    table(out, &header, 4, rows);
    for peer in &status.peers {
        if let Some(error) = &peer.error {
            let _ = writeln!(out, " {}: {error}", peer.name);
        }
    }
}

/// The first `left` columns hold text, the others numbers.
fn table(out: &mut String, header: &[&str], left: usize, rows: impl Iterator<Item = Vec<String>>) {
    let align = |(index, text): (usize, String)| {
        let alignment = if index < left {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        };
        Cell::new_owned(text).set_alignment(alignment)
    };
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(rule));
    let header = header.iter().map(|&text| text.to_owned());
    table.set_header(header.enumerate().map(align).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(align).collect::<Vec<_>>());
    }
    let _ = writeln!(out, "{}", table.trim_fmt());
}

fn name_of(status: &Status, node: everywrite_conflict::NodeId) -> String {
    let peer = status.peers.iter().find(|p| p.node == node);
    peer.map_or_else(|| node.to_string(), |p| p.name.clone())
}

fn state(state: OriginState) -> &'static str {
    match state {
        OriginState::Replaying => "replaying",
        OriginState::Paused => "paused",
        OriginState::Waiting => "waiting",
        OriginState::Held => "HELD",
        OriginState::Disconnected => "disconnected",
    }
}

fn link(peer: &PeerStatus) -> &'static str {
    match (peer.paused, peer.connected, peer.connected_inbound) {
        (true, _, _) => "paused",
        (false, true, true) => "up",
        (false, true, false) => "outbound only",
        (false, false, true) => "inbound only",
        (false, false, false) => "DOWN",
    }
}

/// Three digits and a unit: 1.46 MiB.
#[allow(clippy::cast_precision_loss)]
fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64;
    let mut unit = "B";
    for next in UNITS {
        // 1023.9995 would print as 1024.
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match value {
        v if v < 9.995 => format!("{v:.2} {unit}"),
        v if v < 99.95 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// 1,234,567
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn rate(per_second: f64) -> String {
    if per_second < 99.95 {
        format!("{per_second:.1}")
    } else {
        // Rates are never negative and far below 2^64.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        count(per_second.round() as u64)
    }
}

/// How far behind in time: short ones exactly, long ones in words.
#[allow(clippy::cast_precision_loss)]
fn seconds(us: i64) -> f64 {
    us as f64 / 1_000_000.0
}

fn lag(seconds: f64) -> String {
    if seconds <= 0.0 {
        "0 s".to_owned()
    } else if seconds < 1.0 {
        format!("{:.0} ms", (seconds * 1000.0).max(1.0))
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        duration(seconds)
    }
}

/// The two greatest units: 3 h 12 min.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {} min", m % 60),
        (d, h, _) => format!("{d} d {} h", h % 24),
    }
}

fn milliseconds(value: Option<f64>, sign: bool) -> String {
    match value {
        None => "-".to_owned(),
        Some(ms) if sign => format!("{ms:+.1} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        let shown: Vec<_> = [0, 1023, 1024, 1_536, 10_239, 1_048_575, 1_048_576, u64::MAX]
            .map(bytes)
            .into();
        assert_eq!(
            shown,
            [
                "0 B",
                "1023 B",
                "1.00 KiB",
                "1.50 KiB",
                "10.0 KiB",
                "1.00 MiB",
                "1.00 MiB",
                "16384 PiB"
            ]
        );
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.0, 0.04, 99.94, 12_345.6].map(rate),
            ["0.0", "0.0", "99.9", "12,346"]
        );
        assert_eq!(
            [0.0, 0.0001, 0.25, 1.26, 200.0].map(lag),
            ["0 s", "1 ms", "250 ms", "1.3 s", "3 min 20 s"]
        );
        assert_eq!(
            [5.9, 65.0, 11_520.0, 90_000.0].map(duration),
            ["5 s", "1 min 5 s", "3 h 12 min", "1 d 1 h"]
        );
        assert_eq!(milliseconds(Some(-0.04), true), "-0.0 ms");
    }
}
