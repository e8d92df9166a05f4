//! What may be set of a journal.

/// Sizes of one origin's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A segment that has reached this many bytes is followed by a new one. Space is given back
    /// segment by segment, and opening a journal reads its last segment. Default 64 MiB.
    pub segment_bytes: u64,
    /// The journal takes no more than about this many bytes; at the limit it behaves as on a
    /// full disk. `None`: the disk is the limit.
    pub quota_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            quota_bytes: None,
        }
    }
}

impl Options {
    /// The size that segments really get: the active segment is never released, so it must
    /// leave most of a small quota to what can be.
    pub(super) fn segment_size(&self) -> u64 {
        let limit = self.quota_bytes.map_or(u64::MAX, |quota| quota / 8);
        self.segment_bytes.min(limit).max(1)
    }
}
