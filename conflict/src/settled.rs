//! What is stable, and what the journals may drop. Pure arithmetic on vectors.
//!
//! A write is stable here when every member has replayed it, and this node has replayed
//! everything that each member had committed before it did so: what arrives later has seen it.
//!
//! ```text
//!  settled[M][X]   how far M had replayed X before everything of M that is still to come here
//!                  = greatest of what M's transactions replayed here had surely seen
//!                    and of M's beats (L, V) with L <= applied here of M
//!  settled[X][X]   = applied here of X
//!  stable[X]       = least of settled[M][X] over the members M other than this node
//! ```
//!
//! A transaction's vector may claim what its origin had only begun to replay. That is no basis to
//! forget: after a crash the origin replays it again, and may ask for a value of its version. What
//! the transaction has *seen* stands before it in a WAL that is flushed, and counts for the index. The
//! journals take the beats alone.
//!
//! A beat (L, V) promises that everything of its node behind L carries at least V. So L has to be
//! read where capture assigns vectors, under its lock, and after V: the end of what capture has
//! stamped, not the end of what the journal has on disk.

use std::collections::{BTreeMap, VecDeque};

use crate::{Lsn, NodeId, Vector};

/// What this node knows of how far each other member has come.
#[derive(Clone, Debug)]
pub struct Settled {
    me: NodeId,
    members: BTreeMap<NodeId, Member>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    /// From what replayed transactions have seen, and from beats.
    seen: Vector,
    /// From beats alone.
    flushed: Vector,
    /// Beats that count as soon as the member's journal is applied here up to L, in order of L.
    waiting: VecDeque<(Lsn, Vector)>,
}

// While replay is behind, the beats that wait for it are thinned evenly: the ones that stay let
// the index forget in steps of a small part of the backlog.
const WAITING_BEATS: usize = 64;

impl Settled {
    /// Of node `me`, with these members (whether or not `me` is among them).
    pub fn new(me: NodeId, members: impl IntoIterator<Item = NodeId>) -> Self {
        let members = members.into_iter().filter(|&m| m != me);
        Settled {
            me,
            members: members.map(|m| (m, Member::default())).collect(),
        }
    }

    /// Changes the members. One that joins holds everything back until it is heard of.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        let mut old = std::mem::take(&mut self.members);
        let members = members.into_iter().filter(|&m| m != self.me);
        self.members = members
            .map(|m| (m, old.remove(&m).unwrap_or_default()))
            .collect();
    }

    /// A transaction of `origin` that had seen this has been replayed here.
    pub fn replayed(&mut self, origin: NodeId, seen: &Vector) {
        if let Some(member) = self.members.get_mut(&origin) {
            member.seen.merge(seen);
        }
    }

    /// A beat: everything of `node` behind `journal_end` carries at least `applied`.
    pub fn beat(&mut self, node: NodeId, journal_end: Lsn, applied: Vector) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        // Promises only grow, so a later one for the same L replaces it, and an old one is void.
        match member.waiting.back_mut() {
            Some((last, _)) if *last > journal_end => return,
            Some((last, vector)) if *last == journal_end => {
                vector.merge(&applied);
                return;
            }
            _ => member.waiting.push_back((journal_end, applied)),
        }
        if member.waiting.len() > WAITING_BEATS {
            thin(&mut member.waiting);
        }
    }

    /// Up to where every origin's transactions are stable here, for
    /// [`Index::forget`](crate::Index::forget). `applied` is what is replayed here (committed,
    /// not only dispatched), and for this node itself the end of its journal.
    pub fn stable(&mut self, applied: &Vector) -> Vector {
        self.ripen(applied);
        self.least(applied, |member| &member.seen)
    }

    /// Up to where every origin's transactions would be stable here if for each of them so many members
    /// that are the farthest behind were not there: for [what may leave memory](crate::Index::spillable).
    /// It is no base to forget anything.
    pub fn stable_without(&mut self, applied: &Vector, away: usize) -> Vector {
        self.ripen(applied);
        let everybody = self.members.keys().copied().chain([self.me]);
        let nearly = everybody.map(|x| {
            let settled = self.members.iter().map(|(&m, member)| match m == x {
                true => applied.get(x),
                false => member.seen.get(x),
            });
            let mut settled: Vec<Lsn> = settled.collect();
            settled.sort_unstable();
            let at = settled.get(away).copied();
            (x, at.unwrap_or_else(|| applied.get(x)))
        });
        nearly.collect()
    }

    /// How many other members there are.
    pub fn others(&self) -> usize {
        self.members.len()
    }

    /// Up to where every origin's journal may be released here. `applied` is what is replayed
    /// and flushed here.
    pub fn released(&mut self, applied: &Vector) -> Vector {
        self.ripen(applied);
        self.least(applied, |member| &member.flushed)
    }

    fn ripen(&mut self, applied: &Vector) {
        for (&node, member) in &mut self.members {
            let reached = applied.get(node);
            while let Some((_, vector)) = member.waiting.front().filter(|b| b.0 <= reached) {
                member.seen.merge(vector);
                member.flushed.merge(vector);
                member.waiting.pop_front();
            }
        }
    }

    fn least(&self, applied: &Vector, of: impl Fn(&Member) -> &Vector) -> Vector {
        let everybody = self.members.keys().copied().chain([self.me]);
        let least = everybody.map(|x| {
            let settled = self.members.iter().map(|(&m, member)| match m == x {
                true => applied.get(x),
                false => of(member).get(x),
            });
            // A node alone has nobody to wait for.
            (x, settled.min().unwrap_or_else(|| applied.get(x)))
        });
        least.collect()
    }
}

/// Drops the beat whose neighbours are closest to each other, never the first or the last.
fn thin(waiting: &mut VecDeque<(Lsn, Vector)>) {
    let before = waiting.iter();
    let after = waiting.iter().skip(2);
    let gaps = before
        .zip(after)
        .map(|(before, after)| after.0.0 - before.0.0);
    if let Some((at, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) {
        waiting.remove(at + 1);
    }
}

#[cfg(test)]
#[path = "settled_tests.rs"]
mod tests;
