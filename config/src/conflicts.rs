//! `[conflicts]`: what becomes of rows that lost.

use std::time::Duration;

use crate::Size;
use crate::section::Kind;
use crate::section::Presence::Default;

crate::section::section! {
    /// What becomes of rows that lost a conflict.
    pub struct Conflicts in "conflicts", repeated: false {
        /// How long a losing row stays in `everywrite.conflicts`, where SQL can read it and put it back.
        ///
        /// Since 0.1.0.
        #[serde(with = "humantime_serde")]
        history_keep: Duration,
            Kind::Duration {
                min: Duration::from_secs(60),
                max: Duration::from_secs(100 * 365 * 86_400),
            },
            Default("\"30days\"");

        /// How many conflicts `everywrite.conflicts` keeps, the newest ones, and up to 127 that were written
        /// together with the oldest of them; 0 keeps all of `history-keep`.
        ///
        /// A conflict takes about twice the size of its row as JSON, and half a kilobyte; in a storm of them a
        /// sixth of that half.
        ///
        /// Since 0.2.0.
        history_rows: u64, Kind::Integer { min: 0, max: 1_000_000_000 }, Default("1000000");

        /// How much memory the conflict index takes before what only absent nodes can still conflict
        /// with goes to files in `data-directory`.
        ///
        /// A key takes up to 112 bytes in memory and 49 in a file. Until the absent node is back, and
        /// has all that was written meanwhile, the files grow; they are read only when its
        /// transactions come. Tables with a policy stay in memory.
        ///
        /// Since 0.2.0.
        index_memory: Size,
            Kind::Size { min: Size::from_bytes(64 << 10), max: Size::from_bytes(1 << 40) },
            Default("\"64MiB\"");
    }
}
