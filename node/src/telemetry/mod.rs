//! Status, metrics, logs.

mod status;

pub use status::{
    CaptureStatus, IndexStatus, OriginState, OriginStatus, PeerStatus, PostgresStatus, Status,
};
