//! Status, metrics, logs.
//!
//! - [`Status`]: the one document that says how a node is; everything that shows it starts there.
//! - [`metrics`]: the same numbers by Prometheus' names.
//! - [`logs`]: where log lines go and which of them.

pub mod logs;
pub mod metrics;
mod status;

pub use status::{
    CROWDED_S, CaptureStatus, ConflictCount, IndexStatus, OpenConflicts, OriginState, OriginStatus,
    PeerStatus, PostgresStatus, Status,
};
