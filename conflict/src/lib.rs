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
//! Mental model, rules and traps: `OVERVIEW.md` beside this crate's `Cargo.toml`.
//!
//! - [`Lsn`], [`NodeId`], [`Stamp`], [`Version`], [`Position`], [`Vector`]: the numbers that travel
//! - [`RelationHash`], [`KeyHash`], [`KeyHasher`], [`canonical`]: a row's identity as a number
//! - [`HybridClock`]: stamps for local transactions
//! - [`Fold`]: a group of transactions → one net change of each key
//! - [`Index`]: key → greatest version that is not stable yet
//! - [`decide()`]: one change against the index
//! - [`policy`]: what decides instead of the stamp, where a table has a policy
//! - [`unique`]: a set of changes against the holders of their second unique values
//! - [`Settled`]: what is stable, what the journals may drop
//! - [`invariants`]: what must always hold, as functions

pub mod canonical;
mod clock;
pub mod decide;
pub mod fold;
mod index;
pub mod invariants;
mod key;
mod lsn;
mod node_id;
pub mod policy;
mod position;
mod settled;
mod stamp;
pub mod unique;
mod vector;
mod version;

pub use clock::HybridClock;
pub use decide::{Decision, Kind, Operation, decide};
pub use fold::{Change, Fold, Folded, Image, Key, Net, Writer};
pub use index::{
    Announced, Bounds, ColumnChange, Entry, First, Index, Merging, PARTS, Undo, Update,
};
pub use key::{Identity, KeyHash, KeyHasher, RelationHash};
pub use lsn::{Lsn, ParseLsnError};
pub use node_id::NodeId;
pub use position::Position;
pub use settled::Settled;
pub use stamp::Stamp;
pub use vector::Vector;
pub use version::Version;
