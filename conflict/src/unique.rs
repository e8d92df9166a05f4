//! Second unique keys: which of the rows that claim one value keeps it.
//!
//! A group is decided as a set. Its winning changes first remove everything that they overwrite;
//! what is then left in the table are the holders. The winners come in the order of their
//! versions, and the row with the higher version keeps the value. Whatever loses is removed by
//! a delete that travels, with the winner's version, so that every site removes it whether or
//! not it ever saw the two rows together.

use std::collections::{HashMap, HashSet};

use twox_hash::XxHash3_128;

use crate::key::Identity;
use crate::{KeyHash, Version};

/// The value of a row in one unique index, as a hash like [`KeyHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UniqueValue(pub u128);

impl UniqueValue {
    /// Of bytes that are equal exactly when the index counts the values as equal.
    pub fn of(bytes: &[u8]) -> Self {
        UniqueValue(XxHash3_128::oneshot(bytes))
    }
}

impl From<KeyHash> for UniqueValue {
    /// Unique values hash like keys: one [`KeyHasher`](crate::KeyHasher) does both.
    fn from(hash: KeyHash) -> Self {
        UniqueValue(hash.0)
    }
}

impl std::hash::Hash for UniqueValue {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// A winning insert or update of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its key.
    pub key: KeyHash,
    /// Its version.
    pub version: Version,
    /// For each unique index its value there; `None` cannot conflict (a NULL in it, or the
    /// index's predicate is false).
    pub values: Vec<Option<UniqueValue>>,
}

/// A row that is in the table, is not overwritten by the group, and has a candidate's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its key.
    pub key: KeyHash,
    /// Its version as it stands: [`Index::standing`](crate::Index::standing).
    pub version: Version,
    /// Which unique index, as in [`Candidate::values`].
    pub index: usize,
    /// Its value there.
    pub value: UniqueValue,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The candidate with this key is written.
    Place(KeyHash),
    /// The row with this key, candidate or holder, is removed by a delete that travels.
    Lost {
        /// The row that goes.
        key: KeyHash,
        /// The version of its delete: the winner's.
        version: Version,
        /// The row that has the value.
        winner: KeyHash,
    },
}

/// Decides a group as a set. Every candidate gets one outcome, and so does every holder that
/// loses; a holder that stays gets none. Lost rows come before placed ones, so that carrying the
/// outcomes out in order never meets a taken value.
pub fn resolve(mut winners: Vec<Candidate>, holders: Vec<Holder>) -> Vec<Outcome> {
    let candidates: HashSet<KeyHash, Identity> = winners.iter().map(|c| c.key).collect();
    let mut standing = Standing::default();
    for holder in holders {
        if !candidates.contains(&holder.key) {
            standing.add(holder.key, holder.version, holder.index, holder.value);
        }
    }
    winners.sort_by_key(|c| (c.version, c.key));
    let mut lost = Vec::new();
    for candidate in &winners {
        let against = standing.holding(candidate);
        let above = against
            .iter()
            .filter(|h| h.1 > candidate.version)
            .max_by_key(|h| h.1);
        if let Some(&(winner, version)) = above {
            lost.push(Outcome::Lost {
                key: candidate.key,
                version,
                winner,
            });
            continue;
        }
        for (key, _) in against {
            standing.remove(key);
            lost.push(Outcome::Lost {
                key,
                version: candidate.version,
                winner: candidate.key,
            });
        }
        for (index, value) in candidate.values.iter().enumerate() {
            if let Some(value) = value {
                standing.add(candidate.key, candidate.version, index, *value);
            }
        }
        standing.placed.insert(candidate.key);
    }
    let placed = winners.iter().filter(|c| standing.placed.contains(&c.key));
    let placed: Vec<_> = placed.map(|c| Outcome::Place(c.key)).collect();
    lost.extend(placed);
    lost
}

/// Who has which value now.
#[derive(Default)]
struct Standing {
    values: HashMap<(usize, UniqueValue), Vec<(KeyHash, Version)>>,
    rows: HashMap<KeyHash, Vec<(usize, UniqueValue)>, Identity>,
    placed: HashSet<KeyHash, Identity>,
}

impl Standing {
    fn add(&mut self, key: KeyHash, version: Version, index: usize, value: UniqueValue) {
        self.values
            .entry((index, value))
            .or_default()
            .push((key, version));
        self.rows.entry(key).or_default().push((index, value));
    }

    fn remove(&mut self, key: KeyHash) {
        for value in self.rows.remove(&key).unwrap_or_default() {
            if let Some(rows) = self.values.get_mut(&value) {
                rows.retain(|r| r.0 != key);
            }
        }
        self.placed.remove(&key);
    }

    /// The rows that have a value of this candidate, each once, by key.
    fn holding(&self, candidate: &Candidate) -> Vec<(KeyHash, Version)> {
        let values = candidate.values.iter().enumerate();
        let values = values.filter_map(|(index, value)| value.map(|v| (index, v)));
        let rows = values
            .filter_map(|v| self.values.get(&v))
            .flatten()
            .copied();
        let mut rows: Vec<_> = rows.filter(|r| r.0 != candidate.key).collect();
        rows.sort();
        rows.dedup_by_key(|r| r.0);
        rows
    }
}

#[cfg(test)]
#[path = "unique_tests.rs"]
mod tests;
