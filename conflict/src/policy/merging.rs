//! When a site may merge a row that lost into the row that stands.
//!
//! Under [`Policy::Function`](super::Policy::Function) the versions alone say which write stands, so all
//! sites agree at once. Merging is a new write, which has seen both:
//!
//! ```text
//!   a    u ──────────────────────►┐ u lost to w: a's own, so it is a that merges
//!   b      w ──► u comes, loses ──► m = f(w, u), an ordinary write above both ──► everywhere
//! ```
//!
//! - **Who.** The site whose own write a row lost to. Nothing is left out: let F be the write that stands
//!   in the end and H one that F has not seen. H reaches F's site when F stands there (nothing is above
//!   it), loses, and is merged: then F did not stand in the end.
//! - **Whose turn is over.** When a write U of another site that has not seen w beats w, what waited to be
//!   merged into w and U has not seen either is met by U's site too: it waits here no more. What U has seen may
//!   have lost there before, to a write that is not this site's, and whose site met it when that had lost as
//!   well: it is merged here, into U. And if U has seen w, it stands on it.
//! - **Again.** So a row may be merged into one that has it already: two rows do not tell what they have in
//!   common. A function that adds up counts that twice; one for which merging again changes nothing does not.
//! - **An end.** Two sites that merge at the same time make two writes that have not seen each other, which
//!   are merged again, and so on for ever if the function never says "nothing new". So after [`FREE`] merges
//!   of a key with no application's write of this site in between, a site merges only into a write that is
//!   **stable**: replayed by every member, with all that they had committed before. Of two such merges, into
//!   F at one site and into F' at another, one has seen the other: the site of the one had replayed F' before
//!   it merged, or it had not, and then its merge was committed before, so the other had to have it first.
//!   Free merges are as many as [`FREE`] for each write of an application; those that wait are made one after
//!   the other; and what is made after the last write of an application and the last free merge are everywhere
//!   meets nothing that it has not seen.
//!
//! Whatever the function does, all sites hold the same row: each result is one write, with one version.

use std::collections::HashMap;
use std::hash::Hash;

use crate::Vector;

/// How often a site merges into one key at once, before it waits until what stands is stable.
pub const FREE: u32 = 8;
/// How many keys are remembered. The oldest go; those are merged [`FREE`] times more.
const KEYS: usize = 10_000;

/// The row that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Names the local transaction that wrote it.
    pub write: u64,
    /// It is not replayed: an application of this site wrote it, or this site merged it.
    pub own: bool,
}

/// Whether a row may be merged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// At once.
    Merge,
    /// Not before what stands is stable: [`Turns::wait`] with the vector of what has been applied here.
    Ask,
    /// What stands is not stable yet.
    Wait,
}

#[derive(Clone, Debug, Default)]
struct Turn {
    /// The last merge.
    wrote: Option<u64>,
    /// How many since an application of this site wrote the row.
    merges: u32,
    /// What must be stable before this write is merged into.
    waits: Option<(u64, Vector)>,
    /// Orders the turns by age.
    used: u64,
}

/// What a site remembers of the rows that it has merged. In memory: a restart gives each row [`FREE`] merges.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    turns: HashMap<K, Turn>,
    used: u64,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Turns {
            turns: HashMap::new(),
            used: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Whether a row may be merged into what stands; `stable`: what every member has.
    pub fn may(&mut self, key: &K, standing: Standing, stable: &Vector) -> May {
        let Some(turn) = self.turns.get_mut(key) else {
            return May::Merge;
        };
        if standing.own && turn.wrote != Some(standing.write) {
            turn.merges = 0;
        }
        if turn.merges < FREE {
            return May::Merge;
        }
        match &turn.waits {
            Some((write, all)) if *write == standing.write => match stable.covers_all(all) {
                true => May::Merge,
                false => May::Wait,
            },
            _ => May::Ask,
        }
    }

    /// The row waits until `all` is stable: everything applied here, and captured, when it stood already.
    pub fn wait(&mut self, key: &K, standing: Standing, all: Vector) {
        if let Some(turn) = self.turns.get_mut(key) {
            turn.waits = Some((standing.write, all));
        }
    }

    /// It was merged, by that write.
    pub fn merged(&mut self, key: &K, write: u64) {
        self.used += 1;
        let used = self.used;
        let turn = self.turns.entry(key.clone()).or_default();
        turn.wrote = Some(write);
        turn.merges = turn.merges.saturating_add(1);
        turn.waits = None;
        turn.used = used;
        if self.turns.len() > KEYS {
            let half = used.saturating_sub(KEYS as u64 / 2);
            self.turns.retain(|_, turn| turn.used > half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lsn, NodeId};

    fn vector(lsn: u64) -> Vector {
        let mut vector = Vector::new();
        vector.set(NodeId(1), Lsn(lsn));
        vector
    }

    fn own(write: u64) -> Standing {
        Standing { write, own: true }
    }

    #[test]
    fn free_merges_end_until_the_row_is_stable_or_written() {
        let mut turns = Turns::default();
        let none = Vector::new();
        for write in 1..=u64::from(FREE) {
            assert_eq!(turns.may(&"k", own(write - 1), &none), May::Merge);
            turns.merged(&"k", write);
        }
        let last = u64::from(FREE);
        assert_eq!(turns.may(&"k", own(last), &none), May::Ask);
        turns.wait(&"k", own(last), vector(70));
        assert_eq!(turns.may(&"k", own(last), &vector(69)), May::Wait);
        // Another site's write stands now: it is another one that must be stable.
        let other = Standing {
            write: 500,
            own: false,
        };
        assert_eq!(turns.may(&"k", other, &vector(70)), May::Ask);
        assert_eq!(turns.may(&"k", own(last), &vector(70)), May::Merge);
        turns.merged(&"k", 600);
        assert_eq!(turns.may(&"k", own(600), &vector(70)), May::Ask);
        // An application has written.
        assert_eq!(turns.may(&"k", own(601), &vector(70)), May::Merge);
    }

    #[test]
    fn old_keys_are_forgotten() {
        let mut turns = Turns::default();
        for key in 0..=KEYS as u64 {
            turns.merged(&key, key);
        }
        assert!(turns.turns.len() <= KEYS / 2 + 1);
        assert!(turns.turns.contains_key(&(KEYS as u64)));
    }
}
