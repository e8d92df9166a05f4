//! `[journal]`: the durable log of every node's transactions.

use std::time::Duration;

use crate::Size;
use crate::section::Kind;
use crate::section::Presence::{Default, Optional};

crate::section::section! {
    /// The durable log of every node's transactions, in `data-directory`.
    pub struct Journal in "journal", repeated: false {
        /// How large a file grows before the next one is begun.
        ///
        /// Space is given back in whole files, once every node has applied all that a file
        /// holds.
        ///
        /// Since 0.1.0.
        segment_size: Size,
            Kind::Size { min: Size::mib(1), max: Size::mib(2048) },
            Default("\"64MiB\"");

        /// How large the journal of one origin may grow; at least four times `segment-size`.
        ///
        /// At the limit the node takes in no more, as on a full disk, and says so: what is
        /// journaled stays safe, and PostgreSQL keeps its WAL until there is room again. Set it
        /// where the journal shares a disk with something that must not run out of space.
        ///
        /// Since 0.1.0.
        quota: Option<Size>,
            Kind::Size { min: Size::mib(4), max: Size::from_bytes(u64::MAX) },
            Optional("no limit but the disk");

        /// For how long this site's commits are gathered at most, to go into the journal and to the peers together.
        ///
        /// A quiet site's commits are taken at once. A busy one's are gathered for some
        /// milliseconds, and for longer where threads wait for a processor: each round costs the
        /// cluster the same, however many commits it has. `"0s"` turns that off: commits are
        /// elsewhere as soon as may be, and a busy cluster has less time for them.
        ///
        /// Since 0.2.0.
        #[serde(with = "humantime_serde")]
        longest_round: Duration,
            Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(1) },
            Default("\"25ms\"");
    }
}
