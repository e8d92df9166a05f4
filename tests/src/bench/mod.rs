//! The benchmark driver.
//!
//! Every system under test is a [`pair::Pair`]: two fresh servers, A (written) and B (its peer), on this
//! machine. All pairs stay up, and each scenario is measured on one pair after the other, run by run, so
//! that slow phases of the machine hit all alike.
//!
//! ```text
//!  options ─► run ─► pair (native | everywrite) ─► scenario ─► record ─► summary ─► verdict ─► lines, JSON, chart
//!                      server, daemon                │
//!                                                 load, meter, latency
//! ```
//!
//! Scenarios of more than two sites (`w3`, `n`) have a [`mesh::Mesh`] instead. It exists while they are
//! measured, after all pairs have been compared and stopped.
//!
//! The traps are all about measuring something else than replication:
//! - a system that replays whole groups shows the first and the last change of a backlog at the same
//!   moment, so "first to last marker" says nothing there ([`catch_up`] has the remedy);
//! - a system that decodes while the load runs must have that work on its bill, so the meter also runs
//!   during the load;
//! - the driver must not be what is slow: markers are polled with a prepared statement, latency from a
//!   thread of its own at less than 1 ms.

mod away;
mod catch_up;
mod chart;
mod conflicts;
mod cpu;
mod daemon;
mod everywrite;
mod installed;
mod latency;
mod live;
mod load;
mod machine;
mod mesh;
mod meter;
mod options;
mod pair;
mod peers;
mod process;
mod progress;
mod record;
mod registry;
mod run;
mod scenario;
mod server;
mod statistics;
mod summary;
mod target;
mod three;
mod verdict;

pub(crate) use options::Options;
pub(crate) use run::{interrupted, run};
