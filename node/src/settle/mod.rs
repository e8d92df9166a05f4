//! What is durable where → slot, journal, index.

mod beats;

pub use beats::{Beat, Beats};
