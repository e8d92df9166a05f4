//! When a transaction was committed, as conflicts see it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's own epoch.
///
/// A transaction's stamp is its commit timestamp, raised where needed above the origin's last
/// stamp and above every stamp replayed there (a hybrid logical clock).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub i64);

impl Stamp {
    /// Before every stamp a server can give.
    pub const MIN: Stamp = Stamp(i64::MIN);
    /// Microseconds between the Unix epoch and PostgreSQL's.
    pub const UNIX_TO_POSTGRES_US: i64 = 946_684_800_000_000;

    /// From microseconds since the Unix epoch.
    pub const fn from_unix_us(us: i64) -> Self {
        Stamp(us - Self::UNIX_TO_POSTGRES_US)
    }

    /// To microseconds since the Unix epoch.
    pub const fn to_unix_us(self) -> i64 {
        self.0.saturating_add(Self::UNIX_TO_POSTGRES_US)
    }

    /// The stamp right after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Stamp(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}
