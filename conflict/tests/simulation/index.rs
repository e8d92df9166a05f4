//! The index of a site as the daemon uses it: with files beside it, which it asks as rarely as the
//! daemon does. A second index that never spills goes along and must say the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use everywrite_conflict::policy::{Epoch, Rank};
use everywrite_conflict::{
    Announced, Bounds, Entry, First, Index, KeyHash, Lsn, PARTS, Position, RelationHash, Stamp,
    Undo, Vector, Version,
};

type File = BTreeMap<KeyHash, Entry>;

/// See the module.
#[derive(Default)]
pub(crate) struct Known(RefCell<Inner>);

#[derive(Default)]
struct Inner {
    index: Index,
    /// Oldest first.
    files: Vec<File>,
    /// If this run spills: one that never does.
    whole: Option<Box<Index>>,
    /// What could ever be forgotten: that one may have done so.
    forgettable: (Vector, Lsn),
    recalled: usize,
    spilled: usize,
}

/// Both of a decision.
pub(crate) struct BothUndo(Undo, Option<Undo>);

impl Known {
    /// Of a site that spills, or not.
    pub(crate) fn new(spills: bool) -> Self {
        let known = Known::default();
        if spills {
            known.0.borrow_mut().whole = Some(Box::default());
        }
        known
    }

    pub(crate) fn spills(&self) -> bool {
        self.0.borrow().whole.is_some()
    }

    /// (how many entries left memory, how many came back).
    pub(crate) fn moved(&self) -> (usize, usize) {
        (self.0.borrow().spilled, self.0.borrow().recalled)
    }

    // ---- what leaves memory and comes back ----

    /// What may leaves memory.
    pub(crate) fn spill(&self, may: impl Fn(&Entry) -> bool) {
        let inner = &mut *self.0.borrow_mut();
        let parts = (0..PARTS).map(|part| inner.index.spillable(part, &may));
        let leaving: Vec<_> = parts.flatten().collect();
        assert!(leaving.is_sorted_by_key(|(key, _)| *key));
        if leaving.is_empty() {
            return;
        }
        inner.files.push(leaving.iter().copied().collect());
        inner.bound();
        inner.spilled += inner.index.drop_spilled(leaving);
        (0..PARTS).for_each(|part| inner.index.shrink(part));
    }

    /// Two neighbouring files become one.
    pub(crate) fn merge_files(&self, at: usize) {
        let inner = &mut *self.0.borrow_mut();
        if inner.files.len() < 2 {
            return;
        }
        let at = at % (inner.files.len() - 1);
        let newer = inner.files.remove(at + 1);
        inner.files[at].extend(newer);
        inner.bound();
    }

    /// Puts keys back.
    pub(crate) fn recall(&self, keys: impl IntoIterator<Item = KeyHash>) {
        let inner = &mut *self.0.borrow_mut();
        keys.into_iter().for_each(|key| inner.recall(key));
    }

    pub(crate) fn group_asks(&self, position: Position, stamp: Stamp, seen: &Vector) -> bool {
        let first = First {
            position,
            stamp,
            seen,
        };
        self.0.borrow().index.group_asks(Some(first))
    }

    pub(crate) fn capture_asks(&self, position: Lsn, stamp: Stamp) -> bool {
        self.0.borrow().index.capture_asks(position, stamp)
    }

    pub(crate) fn hides_above(&self, stamp: Stamp) -> bool {
        self.0.borrow().index.hides_above(stamp)
    }

    // ---- what the index does ----

    pub(crate) fn get(&self, relation: RelationHash, key: KeyHash) -> Option<Entry> {
        let inner = &mut *self.0.borrow_mut();
        inner.recall(key);
        let entry = inner.index.get(relation, key);
        let same = |whole: &Index| inner.same(entry, whole.get(relation, key));
        let same = inner.whole.as_ref().is_none_or(|whole| same(whole));
        assert!(same, "{key:?} is {entry:?}");
        entry
    }

    /// What memory alone says: of what was asked for just before, or need not be asked for, because of
    /// what a file could have `nothing` matters to who asks.
    pub(crate) fn in_memory(
        &self,
        relation: RelationHash,
        key: KeyHash,
        nothing: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        let inner = self.0.borrow();
        let said = inner.index.get(relation, key);
        let whole = inner.whole.as_ref().map(|whole| whole.get(relation, key));
        let same = whole.is_none_or(|whole| {
            inner.same(said, whole) || said.or(whole).is_some_and(|e| nothing(&e))
        });
        assert!(same, "{key:?} is {said:?} and not {whole:?}");
        said
    }

    pub(crate) fn announce(&self, relation: RelationHash, key: KeyHash, entry: Entry) -> Announced {
        let said = self.both(|index| index.announce(relation, key, entry));
        self.told(said)
    }

    pub(crate) fn announce_ranked(
        &self,
        relation: RelationHash,
        key: KeyHash,
        entry: Entry,
        seen: &Arc<Vector>,
    ) -> Announced {
        let said = self.both(|index| index.announce_ranked(relation, key, entry, seen).1);
        self.told(said)
    }

    fn told(&self, (said, whole): (Announced, Option<Announced>)) -> Announced {
        let same = match (&said, &whole) {
            (Announced::Older(e), Some(Announced::Newest)) => self.0.borrow().same(Some(*e), None),
            (said, Some(whole)) => {
                matches!(said, Announced::Newest) == matches!(whole, Announced::Newest)
            }
            (_, None) => true,
        };
        assert!(same, "{said:?} and not {whole:?}");
        said
    }

    pub(crate) fn announce_truncate(&self, relation: RelationHash, entry: Entry) {
        self.both(|index| index.announce_truncate(relation, entry));
    }

    pub(crate) fn lose(&self, relation: RelationHash, key: KeyHash, version: Version) -> BothUndo {
        self.recall([key]);
        let (undo, whole) = self.both(|index| index.lose(relation, key, version));
        BothUndo(undo, whole)
    }

    pub(crate) fn undo(&self, BothUndo(undo, whole): BothUndo) {
        let inner = &mut *self.0.borrow_mut();
        inner.index.undo(undo);
        if let (Some(index), Some(undo)) = (&mut inner.whole, whole) {
            index.undo(undo);
        }
    }

    pub(crate) fn landed(
        &self,
        relation: RelationHash,
        key: KeyHash,
        version: Version,
        at: Lsn,
    ) -> Option<Entry> {
        self.recall([key]);
        let (said, whole) = self.both(|index| index.landed(relation, key, version, at));
        let same = |whole| self.0.borrow().same(said, whole);
        assert!(whole.is_none_or(same), "{said:?} and not {whole:?}");
        said
    }

    pub(crate) fn truncate_landed(&self, relation: RelationHash, version: Version, at: Lsn) {
        self.both(|index| index.truncate_landed(relation, version, at));
    }

    pub(crate) fn standing(
        &self,
        relation: RelationHash,
        key: KeyHash,
        here: impl Fn(&Entry) -> bool,
    ) -> Version {
        self.recall([key]);
        self.both(|index| index.standing(relation, key, &here)).0
    }

    pub(crate) fn survives_truncate(&self, key: KeyHash, version: Version) -> bool {
        self.recall([key]);
        self.both(|index| index.survives_truncate(key, version)).0
    }

    pub(crate) fn behind_truncate(&self, key: KeyHash, version: Version) -> bool {
        self.recall([key]);
        self.both(|index| index.behind_truncate(key, version)).0
    }

    pub(crate) fn travels(&self, relation: RelationHash, key: KeyHash, version: Version) -> bool {
        let (said, whole) = self.both(|index| index.travels(relation, key, version));
        assert!(whole.is_none_or(|whole| whole == said));
        said
    }

    pub(crate) fn inherited(
        &self,
        relation: RelationHash,
        key: KeyHash,
        covers: impl Fn(Position) -> bool,
    ) -> Rank {
        let (said, whole) = self.both(|index| index.inherited(relation, key, &covers));
        assert!(
            whole.is_none_or(|whole| whole == said),
            "{said:?} and not {whole:?}"
        );
        said
    }

    pub(crate) fn inherited_by_truncate(&self, relation: RelationHash) -> Epoch {
        self.both(|index| index.inherited_by_truncate(relation)).0
    }

    /// Files go, oldest first, and then what is in memory.
    pub(crate) fn forget(&self, stable: &Vector, captured: Lsn) -> usize {
        let inner = &mut *self.0.borrow_mut();
        inner.forgettable.0.merge(stable);
        inner.forgettable.1 = inner.forgettable.1.max(captured);
        let stays = |file: &File| !bounds(file).forgettable(stable, captured);
        let gone = inner.files.iter().position(stays);
        let gone = gone.unwrap_or(inner.files.len());
        let dropped: usize = inner.files.drain(..gone).map(|file| file.len()).sum();
        inner.bound();
        if let Some(whole) = &mut inner.whole {
            whole.forget(stable, captured);
        }
        dropped + inner.index.forget(stable, captured)
    }

    /// How many entries there are, wherever.
    pub(crate) fn len(&self) -> usize {
        let inner = self.0.borrow();
        inner.index.len() + inner.files.iter().map(BTreeMap::len).sum::<usize>()
    }

    /// What is known of each key, wherever.
    pub(crate) fn all(&self) -> BTreeMap<KeyHash, Entry> {
        let inner = self.0.borrow();
        let mut all: BTreeMap<_, _> = inner
            .files
            .iter()
            .flatten()
            .map(|(k, e)| (*k, *e))
            .collect();
        all.extend(inner.index.iter());
        all
    }

    fn both<T>(&self, mut f: impl FnMut(&mut Index) -> T) -> (T, Option<T>) {
        let inner = &mut *self.0.borrow_mut();
        let said = f(&mut inner.index);
        (said, inner.whole.as_mut().map(|whole| f(whole)))
    }
}

impl Inner {
    fn recall(&mut self, key: KeyHash) {
        if self.index.is_here(key) {
            return;
        }
        let mut files = self.files.iter().rev();
        if let Some(entry) = files.find_map(|file| file.get(&key)) {
            self.recalled += 1;
            self.index.recall(key, *entry);
        }
    }

    fn bound(&mut self) {
        let mut all = Bounds::default();
        self.files.iter().for_each(|file| all.merge(&bounds(file)));
        self.index
            .set_spilled((!self.files.is_empty()).then_some(all));
    }

    /// Whether two answers are the same, but for what one of them may have forgotten.
    fn same(&self, said: Option<Entry>, whole: Option<Entry>) -> bool {
        let (stable, captured) = &self.forgettable;
        let gone =
            |e: &Entry| e.local_lsn <= *captured && e.source.is_some_and(|s| stable.covers(s));
        said == whole || said.or(whole).is_some_and(|e| gone(&e))
    }
}

fn bounds(file: &File) -> Bounds {
    let mut bounds = Bounds::default();
    file.values().for_each(|entry| bounds.add(entry));
    bounds
}
