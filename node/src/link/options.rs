//! What a link needs to know.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everywrite_conflict::NodeId;

/// Another node, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where it listens: `host:port`.
    pub address: String,
}

/// This node and its peers.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's number.
    pub me: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The cluster's name; nodes of another cluster are refused.
    pub cluster: String,
    /// Where to listen: `address:port`; port 0 takes a free one.
    pub listen: String,
    /// All other nodes. Only these may connect, and only these are pulled from.
    pub peers: Vec<Peer>,
    /// The cluster's CA certificate, PEM.
    pub ca: PathBuf,
    /// This node's certificate, PEM. Read again when it changes.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Periods and limits.
    pub timing: Timing,
    /// The bytes of one subscription that may be on the way or waiting for the journal.
    /// At least 1 MiB.
    pub window_bytes: u32,
    /// How what is sent is compressed, to peers that understand it.
    pub compression: Compression,
    /// Wall clock, for the measurement of skew.
    pub clock: Clock,
}

impl Options {
    /// One subscription's window: 4 MiB fill 100 ms of a 320 Mbit/s line, and bound what a slow
    /// receiver makes anybody hold.
    pub const WINDOW_BYTES: u32 = 4 << 20;
    /// Smaller windows could not hold a few of the largest pieces.
    pub const WINDOW_BYTES_MIN: u32 = 1 << 20;
}

/// How journal bytes are compressed before they are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Each piece by itself; costs little.
    Lz4,
    /// With what a subscription has sent before; smaller, even for small transactions.
    Zstd,
}

/// Periods and limits. The defaults suit every network known; tests make some shorter.
#[derive(Clone, Debug)]
pub struct Timing {
    /// For TCP, TLS and hello together: some round trips of the worst line, and no more, because
    /// a silent address must not delay the next attempt.
    pub connect: Duration,
    /// Nothing received for so long: five pings were not answered, the connection is dead.
    pub silence: Duration,
    /// Between pings; small next to `silence`, negligible as traffic.
    pub ping: Duration,
    /// Between sends of the own beat under load: it carries acknowledgements, so it is quick.
    pub own_beat: Duration,
    /// Between sends of others' beats when they changed: each node repeats what it hears.
    pub beats: Duration,
    /// Between sends of all beats when nothing changes.
    pub beats_idle: Duration,
    /// The first wait before a reconnection (the very first attempt is made at once); doubled
    /// each time.
    pub backoff_first: Duration,
    /// The longest wait before a reconnection: what a repaired network waits at worst.
    pub backoff_max: Duration,
    /// For the answer to a row fetch, which waits until the row's version is applied there.
    pub fetch: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(5),
            ping: Duration::from_secs(1),
            own_beat: Duration::from_millis(10),
            beats: Duration::from_millis(100),
            beats_idle: Duration::from_secs(1),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            fetch: Duration::from_secs(30),
        }
    }
}

/// Microseconds since the Unix epoch, from the system or from a test.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// A clock of one's own.
    pub fn new(now_unix_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now_unix_us))
    }

    pub(super) fn now_unix_us(&self) -> i64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new(|| match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
