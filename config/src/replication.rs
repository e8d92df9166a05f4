//! `[replication]`: how peers' transactions are taken in.

use std::time::Duration;

use crate::Size;
use crate::section::Kind;
use crate::section::Presence::Default;

crate::section::section! {
    /// How the peers' transactions are taken in.
    pub struct Replication in "replication", repeated: false {
        /// A peer's transactions are held, visibly, while their stamps lie further than this in
        /// the future of the local server's clock.
        ///
        /// The last write wins by the clock, so a site whose clock runs ahead would win over
        /// everybody, and would push all other sites' stamps ahead with it. Servers with a
        /// working NTP are milliseconds apart; ten seconds is far from any healthy clock and
        /// still close enough that a wrong one does little harm. Nothing is lost while held:
        /// the transactions are applied once the clocks agree.
        ///
        /// Since 0.1.0.
        #[serde(with = "humantime_serde")]
        max_clock_skew: Duration,
            Kind::Duration { min: Duration::from_millis(100), max: Duration::from_secs(3_600) },
            Default("\"10s\"");

        /// How many transactions of one peer are applied as one local transaction at most.
        ///
        /// Groups form only when there is a backlog. Larger ones cost less for each
        /// transaction, and hold their row locks longer. 1 turns grouping off.
        ///
        /// Since 0.1.0.
        group_transactions: u32, Kind::Integer { min: 1, max: 100_000 }, Default("5000");

        /// How much of one peer's changes are applied as one local transaction at most.
        ///
        /// A single transaction larger than this is applied alone. Each peer's stream may hold
        /// a few times this much memory.
        ///
        /// Since 0.1.0.
        group_bytes: Size,
            Kind::Size { min: Size::kib(64), max: Size::mib(256) },
            Default("\"8MiB\"");

        /// In how many sessions of the local server each peer's transactions are applied.
        ///
        /// With two, the server works on two groups of a backlog at once, on a processor each; they
        /// are committed in their order all the same. It costs a connection and a replication
        /// origin for each peer. With one, groups are written one after the other.
        ///
        /// Since 0.2.0.
        sessions: u32, Kind::Integer { min: 1, max: 2 }, Default("2");
    }
}
