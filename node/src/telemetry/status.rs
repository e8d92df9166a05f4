//! The one document that says how a node is: `/v1/status`, `everywrite status`, the SQL views and
//! `/metrics` all show parts of it.
//!
//! A reader may be older or newer than the daemon that wrote it: fields are only added, and one
//! that is not there reads as its default.

use std::collections::BTreeMap;

use everywrite_conflict::{Lsn, NodeId};
use serde::{Deserialize, Serialize};

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// This node's number.
    pub node: NodeId,
    /// This node's name.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The daemon's version.
    pub version: String,
    /// When this was gathered, Unix microseconds.
    pub gathered_at_us: i64,
    /// Seconds since the daemon started.
    pub uptime_s: f64,
    /// True when changes flow: server reachable, capture running, index complete.
    pub ready: bool,
    /// What must be seen to before it is ready, in plain words; empty when ready.
    pub waiting_for: Vec<String>,
    /// The local server.
    pub postgres: PostgresStatus,
    /// Local WAL → journal.
    pub capture: CaptureStatus,
    /// Every other node as an origin of transactions.
    pub origins: Vec<OriginStatus>,
    /// Every other node as a link.
    pub peers: Vec<PeerStatus>,
    /// The conflict index.
    pub index: IndexStatus,
    /// Conflicts decided since start, by kind.
    pub conflicts: BTreeMap<String, u64>,
    /// The same by table and kind.
    pub conflict_counts: Vec<ConflictCount>,
    /// What lost and is still open, by table.
    pub open_conflicts: Vec<OpenConflicts>,
    /// Why journals are kept that no member needs any more, when that has been so for half a minute.
    pub journals_kept: Option<String>,
}

/// What lost in one table and is still open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenConflicts {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// To be merged by the function of its policy.
    pub merging: u64,
    /// Waits for a person.
    pub parked: u64,
    /// When the oldest of them was decided, Unix microseconds; 0 when nothing is open.
    pub oldest_at_us: i64,
}

/// Conflicts of one table and kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictCount {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// Kind of the conflict.
    pub kind: String,
    /// Decided since start.
    pub conflicts: u64,
}

/// The local server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresStatus {
    /// Whether the daemon's sessions are up.
    pub connected: bool,
    /// `server_version`, empty before the first connection.
    pub version: String,
    /// The last error, while not connected.
    pub error: Option<String>,
}

/// Local WAL → journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureStatus {
    /// "streaming", "waiting" (for the answer to a commit), "connecting", "stopped".
    pub state: String,
    /// The last error, while not streaming.
    pub error: Option<String>,
    /// Local WAL up to here is in the journal.
    pub captured_lsn: Lsn,
    /// The last transaction in the own journal.
    pub journal_end: Lsn,
    /// The server's WAL behind what is captured, bytes.
    pub lag_bytes: u64,
    /// Transactions captured since start.
    pub transactions: u64,
    /// Changes captured since start.
    pub changes: u64,
    /// Transactions a second over the last seconds.
    pub transactions_per_s: f64,
    /// Size of the own journal on disk, bytes.
    pub journal_bytes: u64,
    /// For how long capture's thread lately waited for a processor each time it was woken, seconds, in the mean. Beyond
    /// 0.1 ms commits leave in larger rounds.
    #[serde(default)]
    pub processor_wait_s: f64,
}

/// Where threads wait so long for a processor, in the mean, a person is told: commits leave in rounds 6 ms apart and more. Seconds.
pub const CROWDED_S: f64 = 0.000_25;

/// What an origin's stream is doing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginState {
    /// Applying, or nothing to apply.
    #[default]
    Replaying,
    /// Paused by a person.
    Paused,
    /// Waits for another origin's transactions (causality).
    Waiting,
    /// Stopped by something that a person must see to; `reason` says what.
    Held,
    /// The local server is not reachable.
    Disconnected,
}

/// Another node as an origin of transactions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginStatus {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What its stream is doing here.
    pub state: OriginState,
    /// Why, when it is not simply replaying.
    pub reason: Option<String>,
    /// How far its own journal goes, by its newest beat.
    pub origin_end: Lsn,
    /// How far its journal goes here.
    pub journal_end: Lsn,
    /// How far it is applied here.
    pub applied: Lsn,
    /// What is received and not applied yet, and what is not received yet, bytes of its WAL.
    pub lag_bytes: u64,
    /// Age of the oldest transaction not applied yet, seconds; 0 when caught up.
    pub lag_s: f64,
    /// Transactions applied since start.
    pub transactions: u64,
    /// Changes applied since start.
    pub changes: u64,
    /// Transactions a second over the last seconds.
    pub transactions_per_s: f64,
    /// Groups applied by the fast path since start.
    pub fast_groups: u64,
    /// Groups applied by the careful path since start.
    pub careful_groups: u64,
    /// Conflicts decided since start.
    pub conflicts: u64,
    /// Size of its journal here, bytes on disk.
    pub journal_bytes: u64,
}

/// Another node as a link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub address: String,
    /// Whether the connection that we dialled is up.
    pub connected: bool,
    /// Whether the connection that it dialled is up.
    pub connected_inbound: bool,
    /// The last error, while not connected.
    pub error: Option<String>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Its clock minus ours, milliseconds.
    pub clock_skew_ms: Option<f64>,
    /// Bytes received from it since start.
    pub received_bytes: u64,
    /// Bytes sent to it since start.
    pub sent_bytes: u64,
    /// Bytes that compression kept out of `sent_bytes`.
    pub saved_bytes: u64,
    /// Origins that it currently feeds us.
    pub feeds: Vec<NodeId>,
    /// Whether a person paused it.
    pub paused: bool,
}

/// The conflict index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexStatus {
    /// Keys in memory.
    pub entries: u64,
    /// Keys forgotten since start because their writes are stable.
    pub forgotten: u64,
    /// Entries in files, because only an absent node can still conflict with them.
    pub spilled: u64,
    /// The files.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Keys that files were asked for since start.
    pub file_lookups: u64,
    /// How many of these they had.
    pub file_hits: u64,
}
