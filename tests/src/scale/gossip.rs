//! How many beats go around: the rules of `link::gossip`, where every site is connected with every other.
//!
//! Each node speaks a new beat of its own at every look of the steward while there is work, and sends it to
//! each peer over one connection. Others' beats go only to who is not connected with those who speak in
//! them: here to nobody. What is repeated once a second when nothing is new does not come to that.

use everywrite_conflict::{Lsn, NodeId};

use crate::settle::Beat;

use super::transaction::vector;

/// The steward's looks while there is work.
const OWN_BEATS_PER_S: f64 = 20.0;

/// Per node and second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gossip {
    /// Frames sent, each with one beat.
    pub(crate) messages_per_s: f64,
    /// Bytes of the frames sent.
    pub(crate) bytes_per_s: f64,
}

/// A beat of so many sites.
pub(crate) fn beat(sites: usize, node: usize) -> Beat {
    Beat {
        node: NodeId(node as u16 + 1),
        sequence: 1_800_000_000_000_000,
        journal_end: Lsn(0x1_0000_0000),
        applied: vector(sites - 1, 1),
        holds: vector(sites, 1),
    }
}

/// One way between two sites, in milliseconds: sites on a circle, 1 ms to a neighbour that is no
/// distance away, 80 ms to the other side.
pub(crate) fn delay_ms(sites: usize, a: usize, b: usize) -> u64 {
    let around = a.abs_diff(b).min(sites - a.abs_diff(b));
    1 + 158 * around as u64 / sites as u64
}

/// What one of so many sites sends.
pub(crate) fn sent(sites: usize) -> Gossip {
    let messages_per_s = OWN_BEATS_PER_S * (sites - 1) as f64;
    let frame = crate::link::beats(&[beat(sites, 0)], sites - 1);
    Gossip {
        messages_per_s,
        bytes_per_s: messages_per_s * frame.len() as f64,
    }
}
