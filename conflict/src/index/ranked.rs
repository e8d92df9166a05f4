//! The entries of tables that have had a policy: their versions have a rank.
//!
//! Such an entry keeps what its transaction claims to have seen, because a write replaces that
//! even if that stands higher (see [`policy`](crate::policy)), whichever of the two is announced
//! first. And it keeps the greatest rank of all else that was announced of its key, because a local
//! transaction that is captured after the entry was announced, and had not seen it, inherits from
//! what was there before.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Announced, Entry, Index, forgettable, landed_with, merged};
use crate::policy::{Epoch, Rank};
use crate::{KeyHash, Lsn, Position, RelationHash, Vector, Version};

/// An entry and what it came after.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// What its transaction claims to have seen of other origins.
    seen: Arc<Vector>,
    /// The greatest rank of what else is known of the key.
    under: Rank,
    relation: RelationHash,
}

impl Held {
    fn rank(&self) -> Rank {
        self.entry.version.rank()
    }

    /// Whether it stands above a truncate: because it came behind it, or by its version.
    pub(super) fn is_above(&self, truncate: &Entry) -> bool {
        covers(&self.entry, &self.seen, truncate.source) || self.entry.version >= truncate.version
    }
}

/// Whether the transaction of `entry` claims to have seen what stands at a position. Not only what it
/// has surely seen: its rank is made of what it claims.
fn covers(entry: &Entry, seen: &Vector, position: Option<Position>) -> bool {
    let Some(position) = position else {
        return false;
    };
    let earlier = |s: Position| s.origin == position.origin && s.lsn > position.lsn;
    entry.source.is_some_and(earlier) || seen.covers(position)
}

/// Which of two writes of a key stays.
fn compare(a: (&Entry, &Vector), b: (&Entry, &Vector)) -> Ordering {
    if a.0.version == b.0.version {
        return Ordering::Equal;
    }
    if covers(a.0, a.1, b.0.source) {
        return Ordering::Greater;
    }
    if covers(b.0, b.1, a.0.source) {
        return Ordering::Less;
    }
    a.0.version.cmp(&b.0.version)
}

impl Index {
    /// [`announce_over`](Self::announce_over) for a version that has a rank. `seen`: its
    /// transaction's vector.
    pub fn announce_ranked(
        &mut self,
        relation: RelationHash,
        key: KeyHash,
        entry: Entry,
        seen: &Arc<Vector>,
    ) -> (Option<Entry>, Announced) {
        let truncate = self.truncates.get(&relation).copied();
        let nothing = Vector::new();
        let before = self.get(relation, key);
        if let Some(truncate) = truncate
            && compare((&entry, seen), (&truncate, &nothing)).is_lt()
        {
            return (before, Announced::Older(truncate));
        }
        let mut under = Rank::NONE;
        let (mut kept, mut kept_seen) = (entry, Arc::clone(seen));
        match self.ranked.get_mut(&key) {
            Some(held) => match compare((&entry, seen), (&held.entry, &held.seen)) {
                Ordering::Less => {
                    held.under = held.under.max(entry.version.rank());
                    return (
                        before,
                        Announced::Older(self.get_held(relation, key, entry)),
                    );
                }
                Ordering::Equal => {
                    under = held.under;
                    kept = merged(held.entry, entry);
                    // A decided delete is announced before it has been anywhere.
                    if held.entry.source.is_some() {
                        kept_seen = Arc::clone(&held.seen);
                    }
                }
                Ordering::Greater => under = held.under.max(held.rank()),
            },
            None => {
                if let Some(own) = self.own(key) {
                    if own.version > entry.version {
                        return (before, Announced::Older(own));
                    }
                    self.shard_mut(key).remove(&key);
                }
            }
        }
        let old = before.and_then(|b| b.source);
        if let Some(source) = kept.source.filter(|s| old != Some(*s)) {
            self.announced(source, 1);
            self.drop_registers(key);
        }
        let held = Held {
            entry: kept,
            seen: kept_seen,
            under,
            relation,
        };
        self.ranked.insert(key, held);
        (before, Announced::Newest)
    }

    /// Whether there is a rank that a local write could inherit.
    #[inline]
    pub fn knows_ranks(&self) -> bool {
        !self.ranked.is_empty() || self.truncates.values().any(|t| t.version.is_ranked())
    }

    /// The rank that a local write of a key has at least, because of what it replaces. `covers`: what
    /// its transaction may have seen.
    pub fn inherited(
        &self,
        relation: RelationHash,
        key: KeyHash,
        covers: impl Fn(Position) -> bool,
    ) -> Rank {
        let (stable, captured) = &self.settled;
        let truncate = self.truncates.get(&relation);
        let truncate = truncate
            .filter(|t| t.source.is_some_and(&covers) && !forgettable(t, stable, *captured))
            .map_or(Rank::NONE, |t| t.version.rank());
        let row = match self.held(key) {
            Some(held) if forgettable(&held.entry, stable, *captured) => Rank::NONE,
            Some(held) if held.entry.source.is_none_or(covers) => held.rank(),
            Some(held) => held.under,
            None => Rank::NONE,
        };
        row.max(truncate)
    }

    /// The newest policy that a local TRUNCATE of a table has to be under: of what it removes some may
    /// be under a policy whose change a crash of the server has taken back here for the moment.
    pub fn inherited_by_truncate(&self, relation: RelationHash) -> Epoch {
        let rows = self.ranked.values().filter(|h| h.relation == relation);
        let rows = rows.map(|h| h.rank().epoch).max().unwrap_or_default();
        let truncate = self.truncates.get(&relation);
        rows.max(truncate.map_or_else(Epoch::default, |t| t.version.rank().epoch))
    }

    #[inline]
    pub(super) fn held(&self, key: KeyHash) -> Option<&Held> {
        if self.ranked.is_empty() {
            return None;
        }
        self.ranked.get(&key)
    }

    /// That write of the key has landed.
    pub(super) fn ranked_landed(&mut self, key: KeyHash, version: Version, local_lsn: Lsn) {
        if let Some(held) = self.ranked.get_mut(&key)
            && landed_with(&held.entry, version)
        {
            held.entry.local_lsn = local_lsn;
        }
    }

    /// A row's entry, or its table's last truncate if that came behind it.
    pub(super) fn over_truncate(&self, relation: RelationHash, held: &Held) -> Entry {
        let truncate = self.truncates.get(&relation).copied();
        truncate.filter(|t| !held.is_above(t)).unwrap_or(held.entry)
    }

    fn get_held(&self, relation: RelationHash, key: KeyHash, or: Entry) -> Entry {
        self.held(key)
            .map_or(or, |held| self.over_truncate(relation, held))
    }

    /// Whether a row's write came behind the truncate of that version.
    pub(super) fn behind(&self, key: KeyHash, version: Version) -> bool {
        let truncate = self.truncates.values().find(|t| t.version == version);
        let (Some(held), Some(truncate)) = (self.held(key), truncate) else {
            return false;
        };
        covers(&held.entry, &held.seen, truncate.source)
    }

    pub(super) fn put_ranked(&mut self, relation: RelationHash, key: KeyHash, entry: Entry) {
        let old = self.own(key).and_then(|e| e.source);
        if let Some(source) = entry.source.filter(|s| old != Some(*s)) {
            self.announced(source, 1);
        }
        let (seen, under) = match self.ranked.get(&key) {
            Some(held) if held.entry.version == entry.version => {
                (Arc::clone(&held.seen), held.under)
            }
            Some(held) => (Arc::default(), held.under.max(held.rank())),
            None => {
                self.shard_mut(key).remove(&key);
                (Arc::default(), Rank::NONE)
            }
        };
        let held = Held {
            entry,
            seen,
            under,
            relation,
        };
        self.ranked.insert(key, held);
    }

    /// At start: a write that is below a truncate which is known already. It may have landed behind that and stand,
    /// see [`behind_truncate`](Self::behind_truncate). `seen`: its transaction's vector.
    pub fn keep_below(
        &mut self,
        relation: RelationHash,
        key: KeyHash,
        entry: Entry,
        seen: &Arc<Vector>,
    ) {
        let kept = |own: Entry| self.held(key).is_some() || own.version >= entry.version;
        if self.own(key).is_some_and(kept) {
            return;
        }
        self.put(relation, key, entry);
        if let Some(held) = self.ranked.get_mut(&key) {
            held.seen = Arc::clone(seen);
        }
    }

    pub(super) fn sweep_ranked(&mut self, stable: &Vector, captured: Lsn) -> usize {
        let before = self.ranked.len();
        let mut in_flight = Vec::new();
        let (behind, unstable) = (&mut self.sweep, &mut self.unstable);
        self.ranked.retain(|_, held| {
            let entry = &held.entry;
            let Some(source) = entry.source else {
                return true;
            };
            if forgettable(entry, stable, captured) {
                return false;
            }
            if !stable.covers(source) {
                *unstable += 1;
            } else if entry.in_flight() {
                in_flight.push(source);
            } else {
                behind.add(entry.local_lsn);
            }
            true
        });
        for source in in_flight {
            self.announced(source, 1);
        }
        before - self.ranked.len()
    }
}
