//! Every metric of the daemon: name, meaning, and how it is taken from the status document.
//!
//! Names are `everywrite_<stage>_<what>_<unit>`; counters end in `_total`. Labels hold names of sites and
//! tables, conflict kinds and states, never anything from a row.
//!
//! Numbers are set when they are asked for, from one [`Status`], so `/metrics` and `/v1/status`
//! never disagree and an idle daemon spends nothing on them.

use std::sync::Arc;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{OriginState, OriginStatus, PeerStatus, Status};

/// The node of a transaction's first commit.
const ORIGIN: &str = "origin";
/// The other end of a link.
const PEER: &str = "peer";

const NODE_INFO: &str = "everywrite_node_info";
const NODE_READY: &str = "everywrite_node_ready";
const NODE_UPTIME: &str = "everywrite_node_uptime_seconds";
const POSTGRES_CONNECTED: &str = "everywrite_postgres_connected";
const CAPTURE_STREAMING: &str = "everywrite_capture_streaming";
const CAPTURE_LAG: &str = "everywrite_capture_lag_bytes";
const CAPTURE_TRANSACTIONS: &str = "everywrite_capture_transactions_total";
const CAPTURE_CHANGES: &str = "everywrite_capture_changes_total";
const CAPTURE_PROCESSOR_WAIT: &str = "everywrite_capture_processor_wait_seconds";
const JOURNAL_SIZE: &str = "everywrite_journal_size_bytes";
const LINK_CONNECTED: &str = "everywrite_link_connected";
const LINK_PAUSED: &str = "everywrite_link_paused";
const LINK_ROUND_TRIP: &str = "everywrite_link_round_trip_seconds";
const LINK_CLOCK_SKEW: &str = "everywrite_link_clock_skew_seconds";
const LINK_RECEIVED: &str = "everywrite_link_received_bytes_total";
const LINK_SENT: &str = "everywrite_link_sent_bytes_total";
const LINK_SAVED: &str = "everywrite_link_saved_bytes_total";
const REPLAY_STATE: &str = "everywrite_replay_state";
const REPLAY_LAG_BYTES: &str = "everywrite_replay_lag_bytes";
const REPLAY_LAG_SECONDS: &str = "everywrite_replay_lag_seconds";
const REPLAY_TRANSACTIONS: &str = "everywrite_replay_transactions_total";
const REPLAY_CHANGES: &str = "everywrite_replay_changes_total";
const REPLAY_GROUPS: &str = "everywrite_replay_groups_total";
const REPLAY_ORIGIN_CONFLICTS: &str = "everywrite_replay_origin_conflicts_total";
const REPLAY_CONFLICTS: &str = "everywrite_replay_conflicts_total";
const REPLAY_OPEN_CONFLICTS: &str = "everywrite_replay_open_conflicts";
const SETTLE_INDEX_ENTRIES: &str = "everywrite_settle_index_entries";
const SETTLE_INDEX_FORGOTTEN: &str = "everywrite_settle_index_forgotten_total";
const SETTLE_INDEX_SPILLED: &str = "everywrite_settle_index_spilled_entries";
const SETTLE_INDEX_FILES: &str = "everywrite_settle_index_files";
const SETTLE_INDEX_FILE_BYTES: &str = "everywrite_settle_index_file_bytes";
const SETTLE_INDEX_FILE_LOOKUPS: &str = "everywrite_settle_index_file_lookups_total";
const SETTLE_INDEX_FILE_HITS: &str = "everywrite_settle_index_file_hits_total";

/// How a number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, from 0 at the start of the daemon.
    Counter,
}

/// Name, kind, unit and meaning of every metric, in the order of the flow.
pub const METRICS: &[(&str, Kind, Unit, &str)] = &[
    (
        NODE_INFO,
        Kind::Gauge,
        Unit::Count,
        "always 1; labels say which node, cluster and version",
    ),
    (
        NODE_READY,
        Kind::Gauge,
        Unit::Count,
        "1 while changes flow, 0 while something must be seen to",
    ),
    (
        NODE_UPTIME,
        Kind::Gauge,
        Unit::Seconds,
        "time since the daemon started",
    ),
    (
        POSTGRES_CONNECTED,
        Kind::Gauge,
        Unit::Count,
        "1 while the sessions to the local server are up",
    ),
    (
        CAPTURE_STREAMING,
        Kind::Gauge,
        Unit::Count,
        "1 while local WAL is being read",
    ),
    (
        CAPTURE_LAG,
        Kind::Gauge,
        Unit::Bytes,
        "local WAL that is not captured yet",
    ),
    (
        CAPTURE_TRANSACTIONS,
        Kind::Counter,
        Unit::Count,
        "local transactions captured",
    ),
    (
        CAPTURE_CHANGES,
        Kind::Counter,
        Unit::Count,
        "local row changes captured",
    ),
    (
        CAPTURE_PROCESSOR_WAIT,
        Kind::Gauge,
        Unit::Seconds,
        "mean wait of capture's thread for a processor",
    ),
    (
        JOURNAL_SIZE,
        Kind::Gauge,
        Unit::Bytes,
        "an origin's journal on disk here",
    ),
    (
        LINK_CONNECTED,
        Kind::Gauge,
        Unit::Count,
        "1 while a connection is up; direction says who dialled",
    ),
    (
        LINK_PAUSED,
        Kind::Gauge,
        Unit::Count,
        "1 while a person has paused the peer",
    ),
    (
        LINK_ROUND_TRIP,
        Kind::Gauge,
        Unit::Seconds,
        "round trip to the peer; NaN while unknown",
    ),
    (
        LINK_CLOCK_SKEW,
        Kind::Gauge,
        Unit::Seconds,
        "the peer's clock minus this one's; NaN while unknown",
    ),
    (
        LINK_RECEIVED,
        Kind::Counter,
        Unit::Bytes,
        "bytes received from the peer",
    ),
    (
        LINK_SENT,
        Kind::Counter,
        Unit::Bytes,
        "bytes sent to the peer",
    ),
    (
        LINK_SAVED,
        Kind::Counter,
        Unit::Bytes,
        "bytes that compression kept out of these",
    ),
    (
        REPLAY_STATE,
        Kind::Gauge,
        Unit::Count,
        "1 for the state that an origin's stream is in, 0 for the others",
    ),
    (
        REPLAY_LAG_BYTES,
        Kind::Gauge,
        Unit::Bytes,
        "the origin's WAL that is not applied here yet",
    ),
    (
        REPLAY_LAG_SECONDS,
        Kind::Gauge,
        Unit::Seconds,
        "age of the origin's oldest transaction not applied here yet",
    ),
    (
        REPLAY_TRANSACTIONS,
        Kind::Counter,
        Unit::Count,
        "the origin's transactions applied here",
    ),
    (
        REPLAY_CHANGES,
        Kind::Counter,
        Unit::Count,
        "the origin's row changes applied here",
    ),
    (
        REPLAY_GROUPS,
        Kind::Counter,
        Unit::Count,
        "groups applied, by the fast or the careful path",
    ),
    (
        REPLAY_ORIGIN_CONFLICTS,
        Kind::Counter,
        Unit::Count,
        "conflicts with the origin's writes decided here",
    ),
    (
        REPLAY_CONFLICTS,
        Kind::Counter,
        Unit::Count,
        "conflicts decided here, by table and kind",
    ),
    (
        REPLAY_OPEN_CONFLICTS,
        Kind::Gauge,
        Unit::Count,
        "rows that lost and are to be merged, or parked, by table",
    ),
    (
        SETTLE_INDEX_ENTRIES,
        Kind::Gauge,
        Unit::Count,
        "keys of the conflict index in memory",
    ),
    (
        SETTLE_INDEX_FORGOTTEN,
        Kind::Counter,
        Unit::Count,
        "keys forgotten because their writes are stable",
    ),
    (
        SETTLE_INDEX_SPILLED,
        Kind::Gauge,
        Unit::Count,
        "entries of the conflict index in files, for absent nodes",
    ),
    (
        SETTLE_INDEX_FILES,
        Kind::Gauge,
        Unit::Count,
        "files of the conflict index",
    ),
    (
        SETTLE_INDEX_FILE_BYTES,
        Kind::Gauge,
        Unit::Bytes,
        "size of the files of the conflict index",
    ),
    (
        SETTLE_INDEX_FILE_LOOKUPS,
        Kind::Counter,
        Unit::Count,
        "keys that a file of the conflict index was asked for",
    ),
    (
        SETTLE_INDEX_FILE_HITS,
        Kind::Counter,
        Unit::Count,
        "of these the keys that it had",
    ),
];

/// Holds the numbers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All numbers described, none set. Several nodes in one process have one each.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        Metrics {
            recorder: Arc::new(recorder),
            handle,
        }
    }

    /// Also collects what the process counts with the macros of the `metrics` crate. False if
    /// another recorder is installed already.
    pub fn install(&self) -> bool {
        metrics::set_global_recorder(Arc::clone(&self.recorder)).is_ok()
    }

    /// Sets every number from `status` and writes all in Prometheus' text format.
    pub fn render(&self, status: &Status) -> String {
        metrics::with_local_recorder(&self.recorder, || set_all(status));
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn describe() {
    for &(name, kind, unit, meaning) in METRICS {
        match kind {
            Kind::Gauge => describe_gauge!(name, unit, meaning),
            Kind::Counter => describe_counter!(name, unit, meaning),
        }
    }
}

/// Sets every gauge and counter of the current recorder from `status`.
pub fn set_all(status: &Status) {
    gauge!(
        NODE_INFO,
        "node" => status.name.clone(),
        "cluster" => status.cluster.clone(),
        "version" => status.version.clone(),
    )
    .set(1);
    gauge!(NODE_READY).set(flag(status.ready));
    gauge!(NODE_UPTIME).set(status.uptime_s);
    gauge!(POSTGRES_CONNECTED).set(flag(status.postgres.connected));
    gauge!(CAPTURE_STREAMING).set(flag(status.capture.state == "streaming"));
    gauge!(CAPTURE_LAG).set(float(status.capture.lag_bytes));
    counter!(CAPTURE_TRANSACTIONS).absolute(status.capture.transactions);
    counter!(CAPTURE_CHANGES).absolute(status.capture.changes);
    gauge!(CAPTURE_PROCESSOR_WAIT).set(status.capture.processor_wait_s);
    gauge!(JOURNAL_SIZE, ORIGIN => status.name.clone()).set(float(status.capture.journal_bytes));
    status.peers.iter().for_each(set_peer);
    status.origins.iter().for_each(set_origin);
    for count in &status.conflict_counts {
        let table = format!("{}.{}", count.schema, count.table);
        let kind = count.kind.clone();
        counter!(REPLAY_CONFLICTS, "table" => table, "kind" => kind).absolute(count.conflicts);
    }
    for open in &status.open_conflicts {
        let table = format!("{}.{}", open.schema, open.table);
        for (state, count) in [("merging", open.merging), ("parked", open.parked)] {
            let table = table.clone();
            gauge!(REPLAY_OPEN_CONFLICTS, "table" => table, "state" => state).set(float(count));
        }
    }
    gauge!(SETTLE_INDEX_ENTRIES).set(float(status.index.entries));
    counter!(SETTLE_INDEX_FORGOTTEN).absolute(status.index.forgotten);
    gauge!(SETTLE_INDEX_SPILLED).set(float(status.index.spilled));
    gauge!(SETTLE_INDEX_FILES).set(float(status.index.files));
    gauge!(SETTLE_INDEX_FILE_BYTES).set(float(status.index.file_bytes));
    counter!(SETTLE_INDEX_FILE_LOOKUPS).absolute(status.index.file_lookups);
    counter!(SETTLE_INDEX_FILE_HITS).absolute(status.index.file_hits);
}

fn set_peer(peer: &PeerStatus) {
    let name = || peer.name.clone();
    gauge!(LINK_CONNECTED, PEER => name(), "direction" => "outbound").set(flag(peer.connected));
    gauge!(LINK_CONNECTED, PEER => name(), "direction" => "inbound")
        .set(flag(peer.connected_inbound));
    gauge!(LINK_PAUSED, PEER => name()).set(flag(peer.paused));
    let seconds = |milliseconds: Option<f64>| milliseconds.map_or(f64::NAN, |ms| ms / 1000.0);
    gauge!(LINK_ROUND_TRIP, PEER => name()).set(seconds(peer.rtt_ms));
    gauge!(LINK_CLOCK_SKEW, PEER => name()).set(seconds(peer.clock_skew_ms));
    counter!(LINK_RECEIVED, PEER => name()).absolute(peer.received_bytes);
    counter!(LINK_SENT, PEER => name()).absolute(peer.sent_bytes);
    counter!(LINK_SAVED, PEER => name()).absolute(peer.saved_bytes);
}

fn set_origin(origin: &OriginStatus) {
    let name = || origin.name.clone();
    for (state, label) in [
        (OriginState::Replaying, "replaying"),
        (OriginState::Paused, "paused"),
        (OriginState::Waiting, "waiting"),
        (OriginState::Held, "held"),
        (OriginState::Disconnected, "disconnected"),
    ] {
        gauge!(REPLAY_STATE, ORIGIN => name(), "state" => label).set(flag(origin.state == state));
    }
    gauge!(JOURNAL_SIZE, ORIGIN => name()).set(float(origin.journal_bytes));
    gauge!(REPLAY_LAG_BYTES, ORIGIN => name()).set(float(origin.lag_bytes));
    gauge!(REPLAY_LAG_SECONDS, ORIGIN => name()).set(origin.lag_s);
    counter!(REPLAY_TRANSACTIONS, ORIGIN => name()).absolute(origin.transactions);
    counter!(REPLAY_CHANGES, ORIGIN => name()).absolute(origin.changes);
    counter!(REPLAY_GROUPS, ORIGIN => name(), "path" => "fast").absolute(origin.fast_groups);
    counter!(REPLAY_GROUPS, ORIGIN => name(), "path" => "careful").absolute(origin.careful_groups);
    counter!(REPLAY_ORIGIN_CONFLICTS, ORIGIN => name()).absolute(origin.conflicts);
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// Prometheus' numbers are doubles; a size beyond 2^53 loses bytes that nobody reads.
#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{ConflictCount, OpenConflicts};
    use super::*;

    fn busy() -> Status {
        Status {
            name: "a".into(),
            cluster: "shop".into(),
            version: "0.1.0".into(),
            ready: true,
            peers: vec![PeerStatus {
                name: "b".into(),
                connected: true,
                rtt_ms: Some(1.5),
                received_bytes: 10,
                ..PeerStatus::default()
            }],
            origins: vec![OriginStatus {
                name: "b".into(),
                state: OriginState::Held,
                lag_bytes: 4096,
                careful_groups: 2,
                ..OriginStatus::default()
            }],
            conflict_counts: vec![ConflictCount {
                schema: "public".into(),
                table: "stock".into(),
                kind: "update_origin_differs".into(),
                conflicts: 3,
            }],
            open_conflicts: vec![OpenConflicts {
                schema: "public".to_owned(),
                table: "stock".to_owned(),
                merging: 2,
                parked: 1,
                ..OpenConflicts::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn every_metric_is_described_and_set() {
        let text = Metrics::new().render(&busy());
        for (name, kind, _, meaning) in METRICS {
            let kind = match kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
            };
            assert!(
                text.contains(&format!("# HELP {name} {meaning}")),
                "{name}\n{text}"
            );
            assert!(
                text.contains(&format!("# TYPE {name} {kind}")),
                "{name}\n{text}"
            );
        }
        let described: BTreeSet<_> = METRICS.iter().map(|m| m.0).collect();
        for line in text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
        {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            assert!(described.contains(name), "{line}");
        }
    }

    #[test]
    fn numbers_follow_the_status() {
        let metrics = Metrics::new();
        let mut status = busy();
        let text = metrics.render(&status);
        for line in [
            r#"everywrite_replay_state{origin="b",state="held"} 1"#,
            r#"everywrite_replay_lag_bytes{origin="b"} 4096"#,
            r#"everywrite_replay_groups_total{origin="b",path="careful"} 2"#,
            r#"everywrite_replay_conflicts_total{table="public.stock",kind="update_origin_differs"} 3"#,
            r#"everywrite_replay_open_conflicts{table="public.stock",state="merging"} 2"#,
            r#"everywrite_link_round_trip_seconds{peer="b"} 0.0015"#,
            r#"everywrite_link_clock_skew_seconds{peer="b"} NaN"#,
            "everywrite_node_ready 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        status.ready = false;
        status.origins[0].state = OriginState::Replaying;
        let text = metrics.render(&status);
        assert!(text.contains("everywrite_node_ready 0"));
        assert!(text.contains(r#"everywrite_replay_state{origin="b",state="held"} 0"#));
    }

    #[test]
    fn the_guide_lists_every_metric() {
        let guide = include_str!("../../../docs/guide/monitoring.md");
        for (name, _, _, meaning) in METRICS {
            let row = guide
                .lines()
                .find(|line| line.contains(&format!("| `{name}` |")));
            assert!(row.is_some_and(|row| row.contains(meaning)), "{name}");
        }
    }

    #[test]
    fn names_follow_the_rule() {
        for (name, kind, _, _) in METRICS {
            assert!(name.starts_with("everywrite_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
    }
}
