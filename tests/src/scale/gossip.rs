//! How many beats go around: the rules of `link::gossip`, step by step, with delays.
//!
//! Each node speaks a new beat of its own at every look of the steward while there is work. Each end of
//! each connection sends what the other end lacks: at least 10 ms after its last sending if its
//! own beat is new, 100 ms if only others' are, and then everything that is new. A beat counts as
//! known to the other end when it was sent to it or came from it on this connection.

use everywrite_conflict::{Lsn, NodeId};

use crate::settle::Beat;

use super::transaction::vector;

/// The steward's looks while there is work.
const OWN_BEAT_MS: u64 = 50;
const OWN_DUE_MS: u64 = 10;
const OTHERS_DUE_MS: u64 = 100;
const IDLE_DUE_MS: u64 = 1000;
const SETTLE_MS: u64 = 1000;
const MEASURED_MS: u64 = 2000;

/// Per node and second, one connection of each pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gossip {
    /// Frames sent.
    pub(crate) messages_per_s: f64,
    /// Beats sent.
    pub(crate) beats_per_s: f64,
    /// Bytes of the frames sent.
    pub(crate) bytes_per_s: f64,
}

/// Beats on their way: the end where they arrive, and (node, sequence) of each.
type Sent = (usize, Vec<(usize, u64)>);

struct End {
    from: usize,
    to: usize,
    has: Vec<u64>,
    last: Option<u64>,
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

/// Runs the rules for some seconds.
pub(crate) fn simulate(sites: usize) -> Gossip {
    let sizes: Vec<usize> = (0..=sites)
        .map(|count| {
            let beats: Vec<Beat> = (0..count).map(|node| beat(sites, node)).collect();
            crate::link::beats(&beats).len()
        })
        .collect();
    let mut newest = vec![vec![0_u64; sites]; sites];
    let mut ends: Vec<End> = Vec::new();
    for from in 0..sites {
        for to in (0..sites).filter(|&to| to != from) {
            ends.push(End {
                from,
                to,
                has: vec![0; sites],
                last: None,
            });
        }
    }
    let at = |from: usize, to: usize| from * (sites - 1) + if to > from { to - 1 } else { to };
    let mut arriving: Vec<Vec<Sent>> = vec![Vec::new(); 128];
    let (mut messages, mut beats, mut bytes) = (0_u64, 0_u64, 0_u64);
    for now in 0..SETTLE_MS + MEASURED_MS {
        for (node, known) in newest.iter_mut().enumerate() {
            // They do not all speak at the same moment.
            if (now + node as u64 * 17).is_multiple_of(OWN_BEAT_MS) {
                known[node] += 1;
            }
        }
        let slot = (now % 128) as usize;
        for (receiver_end, list) in std::mem::take(&mut arriving[slot]) {
            let end = &mut ends[receiver_end];
            for (node, sequence) in list {
                let known = &mut newest[end.from][node];
                *known = sequence.max(*known);
                end.has[node] = sequence.max(end.has[node]);
            }
        }
        for end in &mut ends {
            let End { from, to, .. } = *end;
            let lacks = |node: &usize| end.has[*node] < newest[from][*node];
            let own = lacks(&from);
            let others = || {
                (0..sites)
                    .filter(|&node| node != from)
                    .any(|node| lacks(&node))
            };
            let since = end.last.map_or(u64::MAX, |last| now - last);
            let due = if own {
                since >= OWN_DUE_MS
            } else if since >= OTHERS_DUE_MS {
                others() || since >= IDLE_DUE_MS
            } else {
                false
            };
            if !due {
                continue;
            }
            let list: Vec<(usize, u64)> = (0..sites)
                .filter(lacks)
                .map(|node| (node, newest[from][node]))
                .collect();
            for &(node, sequence) in &list {
                end.has[node] = sequence;
            }
            end.last = Some(now);
            if now >= SETTLE_MS {
                messages += 1;
                beats += list.len() as u64;
                bytes += sizes[list.len()] as u64;
            }
            let arrival = ((now + delay_ms(sites, from, to)) % 128) as usize;
            arriving[arrival].push((at(to, from), list));
        }
    }
    let per = sites as f64 * MEASURED_MS as f64 / 1e3;
    Gossip {
        messages_per_s: messages as f64 / per,
        beats_per_s: beats as f64 / per,
        bytes_per_s: bytes as f64 / per,
    }
}
