//! `[link]`: what travels between the nodes.

use serde::Deserialize;

use crate::Size;
use crate::section::Kind;
use crate::section::Presence::Default;

crate::section::section! {
    /// How this node sends to its peers, and takes from them.
    pub struct Link in "link", repeated: false {
        /// How changes are compressed on their way to the peers: `none`, `lz4` or `zstd`.
        ///
        /// Worth it where the line is long or paid by the byte. `lz4` costs little; `zstd` makes it smaller,
        /// above all small transactions, because it remembers what it has sent. Each node sets what it
        /// sends; a peer of an older release is sent plain bytes. What is compressed before it is encrypted
        /// shows by its length how alike the rows are: leave it at `none` where somebody who can both
        /// watch the line and write rows must not learn others' values.
        ///
        /// Since 0.2.0.
        compression: Compression, Kind::Choice(&Compression::NAMES), Default("\"none\"");

        /// How many bytes of one node's changes may be on the way to here or wait for the journal.
        ///
        /// At most this much arrives in one round trip: 4 MiB are 50 MB/s at 80 ms. More than 4 MiB helps
        /// only where the kernel's buffers (`net.ipv4.tcp_rmem` here, `tcp_wmem` at the peers) are raised, too.
        /// Each peer's stream may hold this much memory. Compressed bytes count as they travel.
        ///
        /// Since 0.2.0.
        window: Size,
            Kind::Size { min: Size::mib(1), max: Size::mib(256) },
            Default("\"4MiB\"");
    }
}

/// How bytes are compressed before they are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast.
    Lz4,
    /// Smaller.
    Zstd,
}

impl Compression {
    pub(crate) const NAMES: [&'static str; 3] = ["none", "lz4", "zstd"];
}
