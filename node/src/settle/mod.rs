//! Stage 5: what is durable where → slot, journal, index.

mod barriers;
mod beats;
mod changed;
pub mod cutting;
mod elements;
mod keeping;
mod keys;
mod ledger;
mod lifeline;
mod looked;
pub(crate) mod origins;
mod spilled;
mod steward;

pub use barriers::Barriers;
pub(crate) use barriers::progress;
pub use beats::{Beat, Beats};
pub(crate) use changed::changed;
pub use cutting::Stability;
pub(crate) use elements::{Elements, object_of};
pub use keeping::{Keeping, Kept};
pub use keys::{Identity, KeyError};
pub use ledger::{
    Announcement, Asked, Captured, Coming, Intent, Landed, LeavesOut, Ledger, Lost, Merged,
    Outside, Stamped, Touched, describe,
};
pub use lifeline::Lifeline;
pub use looked::LookedAt;
pub use steward::Steward;
