//! The conflict index: the greatest version of every key that is not stable yet.
//!
//! ```text
//!  capture ── announce(own writes) ──────────┐
//!  replay ── announce(in flight) → landed ───┼──► key → Entry ──► get: decide
//!  replay ── lose (a delete that travels) ───┘        │
//!  settle ── forget(stable, captured): sweep ◄────────┘
//! ```
//!
//! A view of the journals: built again from them at start. For everything captured or received
//! it is the authority; a key that is not in it has no version that could still matter. One per
//! node, behind one mutex, under which capture also stamps and replay also dispatches.
//!
//! Memory: an entry takes 49 bytes in the map (16 key, 32 entry, 1 of the map's own); with a map
//! between half and seven eighths full that is 56 to 112 bytes a key. The map is split so that
//! growing moves a small part at a time and never holds the lock long.
//!
//! What is stable is swept out, part by part, when it is likely to be a fourth of all: reading a
//! map from one end to the other costs nanoseconds an entry, finding one key in it a cache miss or
//! two. So nothing remembers which keys are due, only how many were announced up to which place.
//!
//! While a member is away nothing becomes stable, and what it has not acknowledged may leave memory:
//! see `index/spilled.rs`.

use std::cmp::Ordering;
use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

mod merged;
mod ranked;
mod spilled;

use merged::Merged;
pub use merged::{ColumnChange, Merging, Update};
use ranked::Held;
pub use spilled::{Bounds, First};

use crate::key::Identity;
use crate::{KeyHash, Lsn, NodeId, Position, RelationHash, Stamp, Vector, Version, invariants};

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The greatest version of the key.
    pub version: Version,
    /// The stream position that carries it. `None`: a decided delete that still waits to travel;
    /// it is never forgotten until it has one.
    pub source: Option<Position>,
    /// A tombstone.
    pub deleted: bool,
    /// When the row was written here, as a place in the local WAL. For a replayed write the
    /// insert position that its transaction read after writing its rows and before its commit:
    /// a local transaction that touched the same row came before it exactly if its commit record
    /// ends at or before this. [`Lsn::MAX`] while in flight, [`Lsn::ZERO`] for a local write, the insert
    /// position at start for all that is restored from the journals.
    pub local_lsn: Lsn,
}

impl Entry {
    /// Its transaction is being replayed and has not landed here yet.
    pub fn in_flight(&self) -> bool {
        self.local_lsn == Lsn::MAX
    }

    /// A decision that is not committed yet and may still be undone: nobody may lose against it.
    /// Wait until it has landed or is undone, then ask again.
    pub fn undecided(&self) -> bool {
        self.in_flight() && self.source.is_none()
    }
}

/// What became of an announced version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It is the key's entry now, or was already.
    Newest,
    /// The index knows this newer one.
    Older(Entry),
}

/// Takes a [`lose`](Index::lose) back.
#[must_use = "a decision that is rolled back has to be undone"]
#[derive(Clone, Debug)]
pub struct Undo {
    relation: RelationHash,
    key: KeyHash,
    version: Version,
    previous: Option<Entry>,
    ranked: Option<Held>,
}

/// The index of one node.
#[derive(Debug)]
pub struct Index {
    shards: Vec<HashMap<KeyHash, Slot, Identity>>,
    truncates: HashMap<RelationHash, Entry>,
    /// Entries whose versions have a rank; such a key is in no shard.
    ranked: HashMap<KeyHash, Held, Identity>,
    /// What updates of merged rows have changed.
    merged: HashMap<KeyHash, Merged, Identity>,
    /// What could be forgotten when that was last asked: stable, and captured up to here.
    settled: (Vector, Lsn),
    /// For each origin, in its order: how many were announced, by the place of their sources.
    announced: Vec<(NodeId, VecDeque<Due>)>,
    /// How many of those have become stable since the last sweep.
    due: usize,
    /// What the last sweep met that was stable and that capture had not passed.
    behind: Behind,
    /// The sweep that is under way.
    sweep: Behind,
    /// How many entries it has met that are not stable.
    unstable: usize,
    /// What has left memory.
    spilled: Option<Box<Bounds>>,
}

/// An [`Entry`] in 32 bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    stamp: Stamp,
    source_lsn: Lsn,
    local_lsn: Lsn,
    origin: NodeId,
    source_origin: NodeId, // NodeId(0): no source
    deleted: bool,
}

/// So many announcements with sources up to here.
#[derive(Clone, Copy, Debug)]
struct Due {
    up_to: Lsn,
    count: usize,
}

/// Entries that wait for capture to pass the places where they were written.
#[derive(Clone, Copy, Debug, Default)]
struct Behind {
    count: usize,
    sum: u128,
}

impl Behind {
    fn add(&mut self, local_lsn: Lsn) {
        self.count += 1;
        self.sum += u128::from(local_lsn.0);
    }

    /// How many of them it may have passed: none before it is in the middle of them.
    fn passed(&self, captured: Lsn) -> usize {
        let middle = self.sum.checked_div(self.count as u128).unwrap_or(0);
        match u128::from(captured.0) >= middle {
            true => self.count,
            false => 0,
        }
    }
}

// How exactly the places are known at which announcements become stable.
const DUE_COUNT: usize = 256;
// What is due is swept out when it is likely to be one in so many.
const SWEEP: usize = 4;
// 64 parts: with ten million keys a part grows by moving 160,000 of them, under 10 ms.
const SHARD_BITS: u32 = 6;
/// In so many parts the index is swept.
pub const PARTS: usize = 1 << SHARD_BITS;

impl Default for Index {
    fn default() -> Self {
        Index {
            shards: (0..PARTS).map(|_| HashMap::default()).collect(),
            truncates: HashMap::new(),
            ranked: HashMap::default(),
            merged: HashMap::default(),
            settled: (Vector::new(), Lsn::ZERO),
            announced: Vec::new(),
            due: 0,
            behind: Behind::default(),
            sweep: Behind::default(),
            unstable: 0,
            spilled: None,
        }
    }
}

impl Index {
    /// Knows of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of a row: the greater of its own entry and its table's last truncate; its
    /// own if they are equal (written after the truncate by the same transaction).
    pub fn get(&self, relation: RelationHash, key: KeyHash) -> Option<Entry> {
        if let Some(held) = self.held(key) {
            return Some(self.over_truncate(relation, held));
        }
        greater(self.plain(key), self.truncates.get(&relation).copied())
    }

    /// A row's own entry, whatever its table's last truncate has made of it.
    #[inline]
    pub fn row(&self, key: KeyHash) -> Option<Entry> {
        self.own(key)
    }

    /// Whether a truncate of the table is known.
    #[inline]
    pub fn truncates(&self, relation: RelationHash) -> bool {
        !self.truncates.is_empty() && self.truncates.contains_key(&relation)
    }

    /// Keeps the greater version. An equal one adds what was not known: the source of a decided
    /// delete, the place where a replayed write has landed.
    ///
    /// A transaction announces the net change of each key, once: see [`Fold`](crate::Fold).
    pub fn announce(&mut self, relation: RelationHash, key: KeyHash, entry: Entry) -> Announced {
        self.announce_over(relation, key, entry).1
    }

    /// [`announce`](Self::announce), and what [`get`](Self::get) would have said before: one search.
    pub fn announce_over(
        &mut self,
        relation: RelationHash,
        key: KeyHash,
        entry: Entry,
    ) -> (Option<Entry>, Announced) {
        if entry.version.is_ranked() || self.held(key).is_some() {
            return self.announce_ranked(relation, key, entry, &Arc::default());
        }
        let truncate = self.truncates.get(&relation).copied();
        if let Some(truncate) = truncate.filter(|t| t.version > entry.version) {
            let before = greater(self.own(key), Some(truncate));
            return (before, Announced::Older(truncate));
        }
        let (before, source) = match self.shard_mut(key).entry(key) {
            Place::Vacant(place) => {
                place.insert(Slot::new(entry));
                (None, entry.source)
            }
            Place::Occupied(mut place) => {
                let own = place.get().entry();
                let before = Some(own);
                let kept = match own.version.cmp(&entry.version) {
                    Ordering::Greater => {
                        return (greater(before, truncate), Announced::Older(own));
                    }
                    Ordering::Equal => merged(own, entry),
                    Ordering::Less => entry,
                };
                place.insert(Slot::new(kept));
                (before, kept.source.filter(|s| own.source != Some(*s)))
            }
        };
        if let Some(source) = source {
            self.announced(source, 1);
            self.drop_registers(key);
        }
        (greater(before, truncate), Announced::Newest)
    }

    /// Where the table's last truncate stands, if one is known.
    pub fn truncated_at(&self, relation: RelationHash) -> Option<Position> {
        self.truncates.get(&relation)?.source
    }

    /// A truncate of the table: every row of a lower version is gone.
    pub fn announce_truncate(&mut self, relation: RelationHash, entry: Entry) {
        let entry = Entry {
            deleted: true,
            ..entry
        };
        let known = self.truncates.get(&relation);
        if known.is_none_or(|known| known.version < entry.version) {
            self.drop_all_registers(relation, &entry);
        }
        self.truncates
            .entry(relation)
            .and_modify(|known| {
                if known.version == entry.version {
                    *known = merged(*known, entry);
                } else if known.version < entry.version {
                    *known = entry;
                }
            })
            .or_insert(entry);
    }

    /// A row loses its unique value to a row of `version`: a tombstone without source, in flight
    /// until the deciding transaction has [`landed`](Self::landed). To be called before that
    /// transaction writes; [`undo`](Self::undo) it if it is rolled back.
    pub fn lose(&mut self, relation: RelationHash, key: KeyHash, version: Version) -> Undo {
        let (previous, ranked) = (self.own(key), self.held(key).cloned());
        let tombstone = Entry {
            version,
            source: None,
            deleted: true,
            local_lsn: Lsn::MAX,
        };
        // An equal version is a decision of the same outcome, made elsewhere or before.
        if self.get(relation, key).is_none_or(|e| e.version < version) {
            self.put(relation, key, tombstone);
        }
        Undo {
            relation,
            key,
            version,
            previous,
            ranked,
        }
    }

    /// The transaction of this decision was rolled back.
    pub fn undo(&mut self, undo: Undo) {
        let ours = self
            .own(undo.key)
            .filter(|e| e.version == undo.version && e.undecided());
        if ours.is_none() {
            return;
        }
        self.ranked.remove(&undo.key);
        match (undo.ranked, undo.previous) {
            (Some(held), _) => {
                self.ranked.insert(undo.key, held);
            }
            (None, Some(previous)) => self.put(undo.relation, undo.key, previous),
            (None, None) => {
                self.shard_mut(undo.key).remove(&undo.key);
            }
        }
    }

    /// Brings what is about to be asked for into the processor's cache. A key is anywhere in a large map, so finding it is
    /// waiting for memory, and what is done with each keeps the processor from beginning with the next. Here
    /// nothing is done, and it waits for several at once.
    pub fn warm(&self, keys: impl Iterator<Item = KeyHash>) {
        let known = keys.filter(|key| self.shards[shard_of(*key)].contains_key(key));
        std::hint::black_box(known.count());
    }

    /// The replayed write of `version` is committed; `local_lsn` as in [`Entry::local_lsn`].
    /// If a newer version is the entry by now, it is returned: the caller then looks at the row
    /// once more, because a local delete that was not captured left nothing to notice.
    pub fn landed(
        &mut self,
        relation: RelationHash,
        key: KeyHash,
        version: Version,
        local_lsn: Lsn,
    ) -> Option<Entry> {
        if self.held(key).is_some() {
            self.ranked_landed(key, version, local_lsn);
            return self.get(relation, key).filter(|e| e.version > version);
        }
        let truncate = self.truncates.get(&relation).copied();
        let own = self.shard_mut(key).get_mut(&key).map(|slot| {
            if landed_with(&slot.entry(), version) {
                slot.local_lsn = local_lsn;
            }
            slot.entry()
        });
        greater(own, truncate).filter(|e| e.version > version)
    }

    /// Like [`landed`](Self::landed), for a truncate.
    pub fn truncate_landed(&mut self, relation: RelationHash, version: Version, local_lsn: Lsn) {
        if let Some(entry) = self.truncates.get_mut(&relation)
            && entry.version == version
        {
            entry.local_lsn = local_lsn;
        }
    }

    /// The version of a row that is in the table, for who keeps a unique value. A stable row
    /// counts as [`Version::OLD`], and so does a row that will be replaced by what the index
    /// names. `here` says which of the two it is: true if the table has this entry's write
    /// (its source is applied or its own, or `xmin` has the origin and timestamp of a group whose
    /// answer was not read yet), false if it is only announced or came ahead of its transaction.
    pub fn standing(
        &self,
        relation: RelationHash,
        key: KeyHash,
        here: impl FnOnce(&Entry) -> bool,
    ) -> Version {
        match self.get(relation, key) {
            Some(entry) if !entry.deleted && here(&entry) => entry.version,
            _ => Version::OLD,
        }
    }

    /// Whether a row that is in the table outlives a truncate of `version` that comes from
    /// another node: the index knows it and is above. All other rows go; what is stable is older
    /// than a truncate that can still arrive.
    pub fn survives_truncate(&self, key: KeyHash, version: Version) -> bool {
        self.own(key)
            .is_some_and(|e| !e.deleted && e.version >= version)
    }

    /// Whether a row that is in the table was put there by replay behind a *local* truncate of
    /// `version` and has to go: the index knows it and is below. All other rows stay: the
    /// truncate itself has removed what was older, and what the index has forgotten is newer.
    pub fn behind_truncate(&self, key: KeyHash, version: Version) -> bool {
        // What the transaction itself has written and truncated has its version, and is gone.
        let below = |e: Entry| e.version < version || (e.deleted && e.version == version);
        self.own(key)
            .is_some_and(|e| below(e) && !self.behind(key, version))
    }

    /// Whether a decided delete has to leave now. To be asked when capture reads it, under the
    /// lock with which it stamps: not if a newer write has overtaken it (also when everybody has
    /// that one and it is forgotten), and not if another node's delete has the same outcome.
    pub fn travels(&mut self, relation: RelationHash, key: KeyHash, version: Version) -> bool {
        let truncate = self.truncates.get(&relation).copied();
        let waiting = |e: &Entry| e.version == version && e.deleted && e.source.is_none();
        let Some(entry) = self.own(key).filter(waiting) else {
            return false;
        };
        match truncate.filter(|t| t.version > version) {
            None => true,
            // The truncate carries it: they are forgotten together.
            Some(truncate) => {
                let source = truncate.source;
                self.put(relation, key, Entry { source, ..entry });
                false
            }
        }
    }

    /// Drops the entries whose source `stable` covers and that capture has durably passed
    /// (`captured`, in the local WAL): a local transaction that came before a replayed write must
    /// still find it here. Returns how many. Nothing happens until enough is likely to go.
    pub fn forget(&mut self, stable: &Vector, captured: Lsn) -> usize {
        let mut dropped = self.forget_truncates(stable, captured);
        if self.sweep_is_due(stable, captured) {
            for part in 0..PARTS {
                dropped += self.sweep(part, stable, captured);
            }
        }
        dropped
    }

    /// [`forget`](Self::forget) for the truncates, which are few.
    pub fn forget_truncates(&mut self, stable: &Vector, captured: Lsn) -> usize {
        if !self.ranked.is_empty() {
            self.settled = (stable.clone(), captured);
        }
        let before = self.truncates.len();
        let mut going = self.truncates.values();
        if !going.any(|entry| forgettable(entry, stable, captured)) {
            return 0;
        }
        // What it carries must not leave any more, see `travels`.
        let waiting = self.waiting();
        self.truncates.retain(|_, entry| {
            let carries = waiting.is_some_and(|version| version < entry.version);
            carries || !forgettable(entry, stable, captured)
        });
        before - self.truncates.len()
    }

    /// The least version of a decided delete that has not left; a walk over all keys.
    fn waiting(&self) -> Option<Version> {
        let entries = self.iter().map(|(_, entry)| entry);
        let waiting = entries.filter(|e| e.deleted && e.source.is_none());
        waiting.map(|e| e.version).min()
    }

    /// Whether [`sweep`](Self::sweep) would drop enough: then each of the [`PARTS`] has to be swept, in
    /// order. Others may use the index between two parts.
    pub fn sweep_is_due(&mut self, stable: &Vector, captured: Lsn) -> bool {
        for (origin, announced) in &mut self.announced {
            let up_to = stable.get(*origin);
            while let Some(due) = announced.front().filter(|due| due.up_to <= up_to) {
                self.due += due.count;
                announced.pop_front();
            }
        }
        let due = self.due + self.behind.passed(captured);
        // An older version of a key would come up again from a file.
        if due == 0 || self.has_spilled() || due.saturating_mul(SWEEP) < self.len() {
            return false;
        }
        self.due = 0;
        self.sweep = Behind::default();
        self.unstable = 0;
        true
    }

    /// Passes over one part in a sweep, which is then looked at the next time.
    pub fn leave(&mut self, part: usize) {
        self.due += self.shards.get(part).map_or(0, HashMap::len);
        self.swept(part);
    }

    fn swept(&mut self, part: usize) {
        if part + 1 < PARTS {
            return;
        }
        self.behind = self.sweep;
        // What was stable once may not be so now: a vector goes back when a server has lost commits.
        let queues = self.announced.iter().map(|(_, announced)| announced);
        let expected: usize = queues.flatten().map(|due| due.count).sum();
        self.due += self.unstable.saturating_sub(expected);
    }

    /// Drops what may be forgotten of one part; returns how many.
    pub fn sweep(&mut self, part: usize, stable: &Vector, captured: Lsn) -> usize {
        if self.has_spilled() {
            self.leave(part);
            return 0;
        }
        let Some(shard) = self.shards.get_mut(part) else {
            return 0;
        };
        let before = shard.len();
        let mut in_flight = Vec::new();
        let (behind, unstable) = (&mut self.sweep, &mut self.unstable);
        shard.retain(|_, slot| {
            let entry = slot.entry();
            let Some(source) = entry.source else {
                return true;
            };
            if !stable.covers(source) {
                *unstable += 1;
                return true;
            }
            if forgettable(&entry, stable, captured) {
                debug_assert!(invariants::forgets_only_stable(&entry, stable, captured).is_ok());
                return false;
            }
            match entry.in_flight() {
                // Nobody knows for how long: asked again each time.
                true => in_flight.push(source),
                false => behind.add(entry.local_lsn),
            }
            true
        });
        let dropped = before - shard.len();
        // Gives memory back after a backlog, without doing so at every ebb.
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(shard.len() * 2);
        }
        for source in in_flight {
            self.announced(source, 1);
        }
        let last = part + 1 == PARTS;
        let ranked = match last {
            true => self.sweep_ranked(stable, captured) + self.sweep_merged(stable),
            false => 0,
        };
        self.swept(part);
        dropped + ranked
    }

    /// How many rows and truncates it has in memory.
    pub fn len(&self) -> usize {
        let plain = self.shards.iter().map(HashMap::len).sum::<usize>();
        plain + self.truncates.len() + self.ranked.len() + self.merged.len()
    }

    /// Whether it knows of nothing.
    pub fn is_empty(&self) -> bool {
        self.truncates.is_empty()
            && self.ranked.is_empty()
            && self.merged.is_empty()
            && self.shards.iter().all(HashMap::is_empty)
    }

    /// The memory it holds, in bytes, nearly.
    pub fn memory_bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(HashMap::capacity).sum();
        // A map is at most seven eighths full and has a byte more for each slot.
        let ranked = self.ranked.capacity();
        slots * 8 / 7 * (size_of::<(KeyHash, Slot)>() + 1)
            + ranked * 8 / 7 * (size_of::<(KeyHash, Held)>() + 1)
            + self.merged_bytes()
    }

    /// Every row's entry that is in memory, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, Entry)> + '_ {
        self.shards
            .iter()
            .flatten()
            .map(|(key, slot)| (*key, slot.entry()))
            .chain(self.ranked.iter().map(|(key, held)| (*key, held.entry)))
    }

    fn own(&self, key: KeyHash) -> Option<Entry> {
        if let Some(held) = self.held(key) {
            return Some(held.entry);
        }
        self.plain(key)
    }

    /// The entry of a key that has no rank.
    fn plain(&self, key: KeyHash) -> Option<Entry> {
        let shard = self.shards.get(shard_of(key))?;
        shard.get(&key).map(Slot::entry)
    }

    fn shard_mut(&mut self, key: KeyHash) -> &mut HashMap<KeyHash, Slot, Identity> {
        // The shards are made once, one for each value of `shard_of`.
        &mut self.shards[shard_of(key)]
    }

    fn put(&mut self, relation: RelationHash, key: KeyHash, entry: Entry) {
        if entry.version.is_ranked() || self.held(key).is_some() {
            self.put_ranked(relation, key, entry);
            return;
        }
        let slot = Slot::new(entry);
        let old = self.shard_mut(key).insert(key, slot);
        if let Some(source) = entry.source
            && old.and_then(|o| o.entry().source) != Some(source)
        {
            self.announced(source, 1);
        }
    }

    fn announced(&mut self, source: Position, count: usize) {
        let known = self.announced.iter().position(|(n, _)| *n == source.origin);
        let at = known.unwrap_or_else(|| {
            self.announced.push((source.origin, VecDeque::new()));
            self.announced.len() - 1
        });
        let Some((_, announced)) = self.announced.get_mut(at) else {
            return;
        };
        match announced.back_mut() {
            Some(due) if due.count < DUE_COUNT => {
                due.up_to = due.up_to.max(source.lsn);
                due.count += count;
            }
            last => {
                // They stay in order even if a source comes late.
                let up_to = last.map_or(source.lsn, |due| due.up_to.max(source.lsn));
                announced.push_back(Due { up_to, count });
            }
        }
    }
}

fn forgettable(entry: &Entry, stable: &Vector, captured: Lsn) -> bool {
    entry.local_lsn <= captured && entry.source.is_some_and(|s| stable.covers(s))
}

fn shard_of(key: KeyHash) -> usize {
    // From the half that the map does not use.
    (key.0 >> (u128::BITS - SHARD_BITS)) as usize
}

/// A row's entry or its table's last truncate.
fn greater(own: Option<Entry>, truncate: Option<Entry>) -> Option<Entry> {
    match (own, truncate) {
        (Some(own), Some(truncate)) if truncate.version > own.version => Some(truncate),
        (Some(own), _) => Some(own),
        (None, truncate) => truncate,
    }
}

/// Whether the entry is on its way no more when `version` has landed: it is of that version, or of an earlier one
/// of the same origin, whose transactions land in their order. Such a one stays in flight when it was announced, and
/// came again in a group with a later write of the key that a truncate is above.
fn landed_with(entry: &Entry, version: Version) -> bool {
    let of = version.origin;
    let earlier = || entry.version.origin == of && entry.version.stamp < version.stamp;
    entry.version == version
        || (entry.in_flight() && earlier() && entry.source.is_some_and(|s| s.origin == of))
}

/// Two entries of one version.
fn merged(known: Entry, new: Entry) -> Entry {
    let local_lsn = match (known.local_lsn, new.local_lsn) {
        // In flight again, or captured before its answer was read.
        (_, Lsn::MAX) | (Lsn::MAX, Lsn::ZERO) => Lsn::MAX,
        (Lsn::MAX, landed) => landed,
        (known, new) => known.max(new),
    };
    Entry {
        version: known.version,
        source: known.source.or(new.source),
        deleted: new.deleted,
        local_lsn,
    }
}

impl Slot {
    fn new(entry: Entry) -> Self {
        let source = entry.source.unwrap_or(Position {
            origin: NodeId(0),
            lsn: Lsn::ZERO,
        });
        Slot {
            stamp: entry.version.stamp,
            source_lsn: source.lsn,
            local_lsn: entry.local_lsn,
            origin: entry.version.origin,
            source_origin: source.origin,
            deleted: entry.deleted,
        }
    }

    fn version(&self) -> Version {
        // One with a rank is in no slot.
        Version::new(self.stamp, self.origin)
    }

    fn entry(&self) -> Entry {
        let source = (self.source_origin != NodeId(0)).then_some(Position {
            origin: self.source_origin,
            lsn: self.source_lsn,
        });
        Entry {
            version: self.version(),
            source,
            deleted: self.deleted,
            local_lsn: self.local_lsn,
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
