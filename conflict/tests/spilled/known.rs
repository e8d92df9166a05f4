//! An index with files beside it, which it asks as rarely as the daemon does. A second one that keeps all in
//! memory goes along and must say the same.

use std::collections::BTreeMap;

use everywrite_conflict::{
    Announced, Bounds, Entry, First, Index, KeyHash, Lsn, PARTS, RelationHash, Stamp, Undo, Vector,
    Version,
};

/// There is one table.
pub(crate) const TABLE: RelationHash = RelationHash(7);

type File = BTreeMap<KeyHash, Entry>;

/// See the module.
#[derive(Default)]
pub(crate) struct Known {
    index: Index,
    /// Oldest first.
    files: Vec<File>,
    /// The one that keeps all.
    whole: Index,
    /// What could ever be forgotten: one of the two may have done so.
    forgettable: (Vector, Lsn),
    /// How many entries left memory, and how many came back.
    pub(crate) spilled: usize,
    pub(crate) recalled: usize,
}

/// Both of a decision.
pub(crate) struct BothUndo(Undo, Undo);

impl Known {
    // ---- what leaves memory and comes back ----

    /// What may leaves memory.
    pub(crate) fn spill(&mut self, may: impl Fn(&Entry) -> bool) {
        let parts = (0..PARTS).map(|part| self.index.spillable(part, &may));
        let leaving: Vec<_> = parts.flatten().collect();
        assert!(leaving.is_sorted_by_key(|(key, _)| *key));
        if leaving.is_empty() {
            return;
        }
        self.files.push(leaving.iter().copied().collect());
        self.bound();
        self.spilled += self.index.drop_spilled(leaving);
        (0..PARTS).for_each(|part| self.index.shrink(part));
    }

    /// Two neighbouring files become one.
    pub(crate) fn merge_files(&mut self, at: usize) {
        if self.files.len() < 2 {
            return;
        }
        let at = at % (self.files.len() - 1);
        let newer = self.files.remove(at + 1);
        self.files[at].extend(newer);
        self.bound();
    }

    /// Puts keys back.
    pub(crate) fn recall(&mut self, keys: impl IntoIterator<Item = KeyHash>) {
        for key in keys {
            let mut files = self.files.iter().rev();
            if !self.index.is_here(key)
                && let Some(entry) = files.find_map(|file| file.get(&key))
            {
                self.recalled += 1;
                self.index.recall(key, *entry);
            }
        }
    }

    pub(crate) fn group_asks(&self, first: Option<First<'_>>) -> bool {
        self.index.group_asks(first)
    }

    pub(crate) fn capture_asks(&self, position: Lsn, stamp: Stamp) -> bool {
        self.index.capture_asks(position, stamp)
    }

    pub(crate) fn hides_above(&self, stamp: Stamp) -> bool {
        self.index.hides_above(stamp)
    }

    // ---- what the index does ----

    pub(crate) fn get(&mut self, key: KeyHash) -> Option<Entry> {
        self.recall([key]);
        self.in_memory(key, |_| false)
    }

    /// What memory alone says: of what was asked for just before, or need not be asked for, because of
    /// what a file could have `nothing` matters to who asks.
    pub(crate) fn in_memory(
        &self,
        key: KeyHash,
        nothing: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        let (said, whole) = (self.index.get(TABLE, key), self.whole.get(TABLE, key));
        let same = self.same(said, whole) || said.or(whole).is_some_and(|e| nothing(&e));
        assert!(same, "{key:?} is {said:?} and not {whole:?}");
        said
    }

    pub(crate) fn announce(&mut self, key: KeyHash, entry: Entry) {
        let said = self.index.announce(TABLE, key, entry);
        let whole = self.whole.announce(TABLE, key, entry);
        let newer = |announced| match announced {
            Announced::Newest => None,
            Announced::Older(newer) => Some(newer),
        };
        let same = match (newer(said), newer(whole)) {
            (Some(_), Some(_)) => true,
            (said, whole) => self.same(said, whole),
        };
        assert!(same, "{key:?}: {said:?} and not {whole:?}");
    }

    pub(crate) fn announce_truncate(&mut self, entry: Entry) {
        self.index.announce_truncate(TABLE, entry);
        self.whole.announce_truncate(TABLE, entry);
    }

    pub(crate) fn lose(&mut self, key: KeyHash, version: Version) -> BothUndo {
        self.recall([key]);
        let said = self.index.lose(TABLE, key, version);
        BothUndo(said, self.whole.lose(TABLE, key, version))
    }

    pub(crate) fn undo(&mut self, BothUndo(said, whole): BothUndo) {
        self.index.undo(said);
        self.whole.undo(whole);
    }

    pub(crate) fn landed(&mut self, key: KeyHash, version: Version, at: Lsn) {
        self.recall([key]);
        let said = self.index.landed(TABLE, key, version, at);
        let whole = self.whole.landed(TABLE, key, version, at);
        assert!(self.same(said, whole), "{said:?} and not {whole:?}");
    }

    pub(crate) fn truncate_landed(&mut self, version: Version, at: Lsn) {
        self.index.truncate_landed(TABLE, version, at);
        self.whole.truncate_landed(TABLE, version, at);
    }

    pub(crate) fn travels(&mut self, key: KeyHash, version: Version) -> bool {
        self.recall([key]);
        let said = self.index.travels(TABLE, key, version);
        assert_eq!(said, self.whole.travels(TABLE, key, version));
        said
    }

    /// Files go, oldest first, and then what is in memory.
    pub(crate) fn forget(&mut self, stable: &Vector, captured: Lsn) {
        self.forgettable.0.merge(stable);
        self.forgettable.1 = self.forgettable.1.max(captured);
        let stays = |file: &File| !bounds(file).forgettable(stable, captured);
        let gone = self.files.iter().position(stays);
        self.files.drain(..gone.unwrap_or(self.files.len()));
        self.bound();
        self.whole.forget(stable, captured);
        self.index.forget(stable, captured);
    }

    /// How many entries there are, wherever.
    pub(crate) fn len(&self) -> usize {
        self.index.len() + self.files.iter().map(BTreeMap::len).sum::<usize>()
    }

    fn bound(&mut self) {
        let mut all = Bounds::default();
        self.files.iter().for_each(|file| all.merge(&bounds(file)));
        let some = !self.files.is_empty();
        self.index.set_spilled(some.then_some(all));
    }

    /// Whether two answers are the same, but for what one of the two may have forgotten.
    fn same(&self, said: Option<Entry>, whole: Option<Entry>) -> bool {
        let (stable, captured) = &self.forgettable;
        let gone =
            |e: &Entry| e.local_lsn <= *captured && e.source.is_some_and(|s| stable.covers(s));
        let greater = said.into_iter().chain(whole).max_by_key(|e| e.version);
        said == whole || greater.is_some_and(|e| gone(&e))
    }
}

fn bounds(file: &File) -> Bounds {
    let mut bounds = Bounds::default();
    file.values().for_each(|entry| bounds.add(entry));
    bounds
}
