//! Many transactions of one origin → one net change of each key.
//!
//! A group is replayed as one local transaction, so that only what is left of each key at its end
//! is ever seen. Folding is what makes statements for whole sets possible.
//!
//! Trap: a net change replaces several writes, and what it omits (unchanged TOAST values) belongs
//! to the row as it was before the *first* of them.

use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::Version;

/// A row's image, which may omit unchanged TOAST values.
pub trait Image {
    /// Takes what is omitted here from an older image of the row, as far as that one has it.
    fn fill_from(&mut self, older: &Self);

    /// Whether nothing is omitted.
    fn complete(&self) -> bool;
}

/// What the changes of one row have in common.
pub trait Key: Clone {
    /// Equal for equal keys only. Small: a group may have very many.
    type Id: Copy + Eq + Hash;

    /// The key, without what else is kept with it.
    fn id(&self) -> Self::Id;
}

impl<K: Copy + Eq + Hash> Key for K {
    type Id = K;

    fn id(&self) -> K {
        *self
    }
}

/// One change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<R> {
    /// A row where none was.
    Insert(R),
    /// Another image under the same key.
    Update(R),
    /// The row goes.
    Delete,
}

/// What a group does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net<R> {
    /// There was no row before the group, there is one after it.
    Insert(R),
    /// The row of before has another image; it may omit what the row of before has.
    Update(R),
    /// The row of before was deleted, and another inserted.
    Replace(R),
    /// The row of before is gone.
    Delete,
    /// Inserted and deleted: nothing to do in the table, unless the index knows the key, but a
    /// tombstone in the index.
    Nothing,
}

impl<R> Net<R> {
    /// The row that there is after the group.
    pub fn row(&self) -> Option<&R> {
        match self {
            Net::Insert(row) | Net::Update(row) | Net::Replace(row) => Some(row),
            Net::Delete | Net::Nothing => None,
        }
    }
}

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer {
    /// The version of the write. For a delete that travels, the winner's.
    pub version: Version,
    /// Which transaction of the group, counted by the caller; its vector says what it had seen.
    pub transaction: u32,
}

/// The net change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded<K, R> {
    /// The key.
    pub key: K,
    /// What the group does to it.
    pub net: Net<R>,
    /// Who wrote it first: what the net change is based on is what this one had seen.
    pub first: Writer,
    /// Who wrote it last: its version decides.
    pub last: Writer,
    /// The row came from this key (a changed primary key) and omits values: they are in the row
    /// that was there before the group.
    pub moved_from: Option<K>,
    /// A row that the group had written here has left for another key, and has taken along what the stream
    /// omits of it there.
    pub gave: bool,
}

impl<K, R> Folded<K, R> {
    /// Whether a `stored` version of the key falls between the group's writes of it. What the
    /// later ones omit may then be in the row of that version: the group has to be replayed one
    /// transaction at a time.
    pub fn spans(&self, stored: Version) -> bool {
        self.first.transaction != self.last.transaction && stored > self.first.version
    }
}

/// Folds a group. Give it the changes in the order of the stream.
#[derive(Clone, Debug)]
pub struct Fold<K: Key, R> {
    // None: taken out again by a truncate.
    folded: Vec<Option<Folded<K, R>>>,
    at: FxHashMap<K::Id, usize>,
}

impl<K: Key, R> Default for Fold<K, R> {
    fn default() -> Self {
        Fold {
            folded: Vec::new(),
            at: FxHashMap::default(),
        }
    }
}

impl<K: Key, R: Image> Fold<K, R> {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys the group has touched.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether the group has touched no key.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// What the group has done to a key so far.
    pub fn get(&self, key: &K) -> Option<&Folded<K, R>> {
        self.folded.get(*self.at.get(&key.id())?)?.as_ref()
    }

    /// The next change of a key. One of a lower version than the last changes nothing (in a
    /// stream the versions of a key only grow, but for what a policy puts below what it has seen).
    pub fn push(&mut self, key: K, change: Change<R>, writer: Writer) {
        self.add(key, change, writer, None);
    }

    /// An update that changed the primary key: a delete of `old` and an insert of `new`, whose
    /// row may omit what the row of `old` has. Each with its writer: ranks belong to keys.
    pub fn push_move(&mut self, old: (K, Writer), new: (K, Writer), mut row: R) {
        let ((old, leaves), (new, comes)) = (old, new);
        let mut from = Some(old.clone());
        let mut gave = false;
        if let Some(before) = self.get(&old) {
            if let Some(image) = before.net.row() {
                gave = !row.complete();
                row.fill_from(image);
            }
            from = match before.net {
                Net::Update(_) => from,
                _ => before.moved_from.clone(),
            };
        }
        let from = from.filter(|_| !row.complete());
        self.add(old.clone(), Change::Delete, leaves, None);
        if gave
            && let Some(slot) = self.at.get(&old.id()).and_then(|i| self.folded.get_mut(*i))
            && let Some(folded) = slot
        {
            folded.gave = true;
        }
        self.add(new, Change::Insert(row), comes, from);
    }

    /// A truncate: what the group has done so far to the keys it `concerns` does not matter any
    /// more, and later changes of them start from an empty table.
    pub fn truncate(&mut self, concerns: impl Fn(&K) -> bool) {
        for slot in &mut self.folded {
            if let Some(folded) = slot.take_if(|f| concerns(&f.key)) {
                self.at.remove(&folded.key.id());
            }
        }
    }

    /// The net changes, in the order in which the group first touched the keys.
    pub fn finish(self) -> Vec<Folded<K, R>> {
        self.into_changes().collect()
    }

    /// [`finish`](Self::finish) for who puts them elsewhere: a group may have many of them.
    pub fn into_changes(self) -> impl Iterator<Item = Folded<K, R>> {
        self.folded.into_iter().flatten()
    }

    fn add(&mut self, key: K, change: Change<R>, writer: Writer, from: Option<K>) {
        let Some(folded) = self.at.get(&key.id()).and_then(|i| self.folded.get_mut(*i)) else {
            let net = match change {
                Change::Insert(row) => Net::Insert(row),
                Change::Update(row) => Net::Update(row),
                Change::Delete => Net::Delete,
            };
            self.at.insert(key.id(), self.folded.len());
            self.folded.push(Some(Folded {
                key,
                net,
                first: writer,
                last: writer,
                moved_from: from,
                gave: false,
            }));
            return;
        };
        let Some(folded) = folded else { return };
        // A later transaction has seen the earlier ones, and under a policy that decides.
        if writer.version < folded.last.version
            && !(writer.version.is_ranked() && writer.transaction > folded.last.transaction)
        {
            return;
        }
        folded.last = writer;
        if !matches!(change, Change::Update(_)) {
            folded.moved_from = from;
        }
        let before = std::mem::replace(&mut folded.net, Net::Nothing);
        folded.net = then(before, change);
        if folded.net.row().is_some_and(Image::complete) {
            folded.moved_from = None;
        }
    }
}

fn filled<R: Image>(mut row: R, older: &R) -> R {
    row.fill_from(older);
    row
}

fn then<R: Image>(before: Net<R>, change: Change<R>) -> Net<R> {
    match (before, change) {
        (Net::Insert(old), Change::Update(row)) => Net::Insert(filled(row, &old)),
        (Net::Update(old), Change::Update(row)) => Net::Update(filled(row, &old)),
        (Net::Replace(old), Change::Update(row)) => Net::Replace(filled(row, &old)),
        // An update of a row that the group says is gone: it re-creates the row.
        (Net::Delete, Change::Update(row) | Change::Insert(row)) => Net::Replace(row),
        (Net::Nothing, Change::Update(row) | Change::Insert(row)) => Net::Insert(row),
        // An insert of a row that the group says is there: it replaces it.
        (Net::Insert(_), Change::Insert(row)) => Net::Insert(row),
        (Net::Update(_) | Net::Replace(_), Change::Insert(row)) => Net::Replace(row),
        (Net::Insert(_) | Net::Nothing, Change::Delete) => Net::Nothing,
        (Net::Update(_) | Net::Replace(_) | Net::Delete, Change::Delete) => Net::Delete,
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
