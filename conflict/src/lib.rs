//! What happens when two sites wrote the same row. Pure: no I/O, no clock, no tokio.
//!
//! ```text
//!  change ──► fold (a group of one origin, one net change a key)
//!                │
//!                ▼            Index: key → greatest version not yet stable
//!             decide ◄──────────┘
//!                │
//!                ▼
//!          apply / keep, and the Kind that goes to the conflict history
//! ```
//!
//! - [`Lsn`], [`NodeId`], [`Stamp`], [`Version`], [`Position`], [`Vector`]: the numbers that travel.

mod lsn;
mod node_id;
mod position;
mod stamp;
mod vector;
mod version;

pub use lsn::{Lsn, ParseLsnError};
pub use node_id::NodeId;
pub use position::Position;
pub use stamp::Stamp;
pub use vector::Vector;
pub use version::Version;
