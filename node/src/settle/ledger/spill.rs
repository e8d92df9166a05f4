//! Entries of the index that leave memory, and come back when somebody has to ask for them
//! ([ADR 17](../../../docs/adr/0017-what-waits-for-the-absent-goes-to-disk.md)).
//!
//! A key that is not in memory may be in a file. Whoever has to know it takes the lock by
//! [`Ledger::lock_with`] or [`Ledger::recalled`]: the files are read without the lock, what was found is put
//! back, and under the lock that is returned all keys that were named are as if they had never left.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use everywrite_conflict::{
    Bounds, Entry, First, Index, KeyHash, Lsn, PARTS, Position, RelationHash, Stamp, Vector,
};
use parking_lot::{Mutex, MutexGuard};

use super::{Inner, Ledger, Merged, Touched};
use crate::settle::spilled::{Attempts, Failed, File, Files, Folder, die};

/// A key takes at most so many bytes of memory.
const KEY_BYTES: u64 = 112;
/// One key in so many has to leave, or a file is not worth it.
const WORTH: usize = 4;
/// So long nothing is tried after too little could leave.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between attempts to write entries to a disk that is full: memory grows meanwhile.
const WRITTEN_AGAIN: Duration = Duration::from_secs(10);
/// The same for merging, which is for speed alone, and takes the last room from the journals while it lasts.
const MERGED_AGAIN: Duration = Duration::from_secs(300);
/// What a person can do.
const HINT: &str = "make room on this disk; it is tried again by itself";
/// So many entries are dropped at once under the lock.
const DROPPED: usize = 1024;

/// Where entries go, and when.
#[derive(Debug)]
pub(super) struct Spilling {
    folder: Folder,
    /// So many keys stay in memory.
    most: usize,
    /// One at a time lets entries leave or forgets files.
    turn: Mutex<Option<Instant>>,
    writes: Attempts,
    /// Files are being merged.
    merging: AtomicBool,
    merges: Attempts,
}

/// What is outside of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Entries, those that are hidden by newer ones included.
    pub keys: u64,
    /// Files they are in.
    pub files: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Keys that files were ever asked for.
    pub asked: u64,
    /// How many of these they had.
    pub found: u64,
}

impl Ledger {
    /// Lets entries go to files in `folder`, which is emptied, when the index takes more memory than that.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn spilling(mut self, folder: &Path, memory_bytes: u64) -> io::Result<Self> {
        self.spilling = Some(Spilling {
            folder: Folder::empty(folder)?,
            most: usize::try_from(memory_bytes / KEY_BYTES).unwrap_or(usize::MAX),
            turn: Mutex::new(None),
            writes: Attempts::new(WRITTEN_AGAIN),
            merging: AtomicBool::new(false),
            merges: Attempts::new(MERGED_AGAIN),
        });
        Ok(self)
    }

    /// The lock, with these keys as if nothing had ever left memory.
    pub(super) fn lock_with(&self, keys: impl Iterator<Item = KeyHash>) -> MutexGuard<'_, Inner> {
        let inner = self.inner.lock();
        match inner.index.has_spilled() {
            false => inner,
            true => self.recalled(inner, keys.collect()),
        }
    }

    /// The same where the lock is held already: it is given back if a file has to be read.
    #[cold]
    #[inline(never)]
    pub(super) fn recalled<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        keys: Vec<KeyHash>,
    ) -> MutexGuard<'a, Inner> {
        // What was looked for, in order, and where.
        let mut looked: (Vec<KeyHash>, Option<Arc<Files>>) = (Vec::new(), None);
        loop {
            let index = &inner.index;
            let missing = keys.iter().copied().filter(|key| !index.is_here(*key));
            let missing: Vec<KeyHash> = missing.collect();
            let same = |files: &Arc<Files>| Arc::ptr_eq(files, &inner.files);
            let known = |key: &KeyHash| looked.0.binary_search(key).is_ok();
            if missing.is_empty()
                || (looked.1.as_ref().is_some_and(same) && missing.iter().all(known))
            {
                return inner;
            }
            let files = Arc::clone(&inner.files);
            drop(inner);
            let mut asked = missing.clone();
            let found = files.find(missing).unwrap_or_else(|err| die(&err));
            asked.sort_unstable();
            inner = self.inner.lock();
            // Else something has left memory, or was forgotten, since.
            if Arc::ptr_eq(&files, &inner.files) {
                for (key, entry) in found {
                    inner.index.recall(key, entry);
                }
            }
            looked = (asked, Some(files));
        }
    }

    /// The lock for a local transaction, what it may have seen taken in, with the keys that it has to know.
    #[cold]
    #[inline(never)]
    pub(super) fn lock_to_capture<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        position: Lsn,
        stamp: impl Fn(&Inner) -> Stamp,
        (touched, travelling, merged): (&[Touched], &[Touched], &[Merged]),
    ) -> MutexGuard<'a, Inner> {
        loop {
            let all = inner.index.capture_asks(position, stamp(&inner));
            let travelling = travelling.iter().chain(touched);
            // A delete that travels has another version than the rest.
            let travelling = travelling.filter(|t| all || t.version.is_some());
            let keys = travelling.filter_map(|t| t.key);
            let keys = keys.chain(merged.iter().map(|m| m.key)).collect();
            inner = self.recalled(inner, keys);
            inner.see_before(position);
            // The lock may have been away.
            if all || !inner.index.capture_asks(position, stamp(&inner)) {
                return inner;
            }
        }
    }

    /// [`Ledger::rebuild`] while there are files. The journals are read one after the other: what is in a file may be newer.
    pub(super) fn rebuild_below<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        vector: &Arc<Vector>,
        touched: Vec<(Touched, Entry)>,
    ) {
        let below = |e: &Entry| inner.index.hides_above(e.version.stamp);
        let below = touched.iter().filter(|(_, entry)| below(entry));
        let keys = below.filter_map(|(t, _)| t.key).collect();
        inner = self.recalled(inner, keys);
        for (t, entry) in touched {
            inner.announce_again(&t, entry, vector);
        }
    }

    /// What is known of a key.
    pub fn known(&self, relation: RelationHash, key: KeyHash) -> Option<Entry> {
        let inner = self.lock_with(std::iter::once(key));
        inner.index.get(relation, key)
    }

    /// Whether the transaction at a position has truncated a table, and nothing that is known has since.
    pub fn truncated_at(&self, relation: RelationHash, at: Position) -> bool {
        self.inner.lock().index.truncated_at(relation) == Some(at)
    }

    /// Runs `f` on the index under the lock, where these keys are as if nothing had ever left memory.
    pub fn with_keys<T>(
        &self,
        keys: impl Iterator<Item = KeyHash>,
        f: impl FnOnce(&Index) -> T,
    ) -> T {
        f(&self.lock_with(keys).index)
    }

    /// Runs `f` on what is in memory; `None` if a transaction has to know more than that.
    pub fn in_memory<T>(&self, first: First<'_>, f: impl FnOnce(&Index) -> T) -> Option<T> {
        let inner = self.inner.lock();
        let asks = inner.index.group_asks(Some(first));
        (!asks).then(|| f(&inner.index))
    }

    /// Whether more is in memory than should be.
    pub fn is_full(&self) -> bool {
        let Some(spilling) = &self.spilling else {
            return false;
        };
        self.inner.lock().index.len() > spilling.most
    }

    /// Lets entries leave memory if there are too many: those whose source the first of `nearly` covers
    /// that makes a file worth it, and that capture has passed. `None` stands for all that are committed.
    /// It is for speed alone what is chosen: whatever leaves can be asked for. `now`: for the pauses between attempts.
    pub fn spill(&self, nearly: &[Option<Vector>], captured: Lsn, now: Instant) {
        let Some(spilling) = &self.spilling else {
            return;
        };
        let mut turn = spilling.turn.lock();
        if !self.is_full() || turn.is_some_and(|until| now < until) || !spilling.writes.due(now) {
            return;
        }
        *turn = Some(now + PAUSE);
        for nearly in nearly {
            let may = |e: &Entry| {
                nearly.as_ref().is_none_or(|nearly| {
                    e.local_lsn <= captured && e.source.is_some_and(|s| nearly.covers(s))
                })
            };
            let count = |part| self.inner.lock().index.count_spillable(part, may);
            let leave: usize = (0..PARTS).map(count).sum();
            if leave.saturating_mul(WORTH) < spilling.most {
                continue;
            }
            match self.write(spilling, may) {
                Ok(Some(file)) => {
                    self.leave(file);
                    *turn = None;
                    spilling.writes.succeeded(|| {
                        tracing::info!("entries of the conflict index go to files again");
                    });
                }
                Ok(None) => {}
                Err(err) => {
                    let folder = spilling.folder.path().display();
                    spilling.writes.failed(now, &err, || {
                        tracing::warn!(%folder, error = %err, hint = HINT, "entries of the conflict index cannot be written to a file, they stay in memory, which grows");
                    });
                }
            }
            return;
        }
    }

    /// A file of all that may leave. Nothing leaves yet.
    fn write(
        &self,
        spilling: &Spilling,
        may: impl Fn(&Entry) -> bool + Copy,
    ) -> io::Result<Option<File>> {
        let mut writer = spilling.folder.begin(0)?;
        // Part by part, because capture and replay are waiting.
        for part in 0..PARTS {
            let leaving = self.inner.lock().index.spillable(part, may);
            for (key, entry) in leaving {
                writer.push(key, entry)?;
            }
        }
        writer.finish()
    }

    /// What a file has leaves memory, unless it was written again meanwhile.
    fn leave(&self, file: File) {
        let mut inner = self.inner.lock();
        let files = inner.files.with(file);
        inner.set_files(files);
        let files = Arc::clone(&inner.files);
        drop(inner);
        let Some(file) = files.newest() else { return };
        let mut entries = file.entries().map(|e| e.unwrap_or_else(|err| die(&err)));
        loop {
            let piece: Vec<_> = entries.by_ref().take(DROPPED).collect();
            if piece.is_empty() {
                break;
            }
            self.inner.lock().index.drop_spilled(piece);
        }
        for part in 0..PARTS {
            self.inner.lock().index.shrink(part);
        }
        let (keys, files) = (file.bounds().keys(), files.sizes().0);
        tracing::debug!(
            keys,
            files,
            "a part of the conflict index has gone to a file"
        );
    }

    /// Makes one file of many, if there are; `stop` ends that. One at a time.
    pub fn merge_files(&self, stop: impl Fn() -> bool) {
        let Some(spilling) = &self.spilling else {
            return;
        };
        let files = || Arc::clone(&self.inner.lock().files);
        if !self.may_merge() || spilling.merging.swap(true, Ordering::Acquire) {
            return;
        }
        while let Some(run) = files().to_merge() {
            match run.merge(|level| spilling.folder.begin(level), &stop) {
                Ok(Some(file)) => {
                    let mut inner = self.inner.lock();
                    // Those of them that were forgotten meanwhile need not be merged.
                    if let Some(files) = inner.files.replaced(&run, file) {
                        inner.set_files(files);
                    }
                    drop(inner);
                    spilling.merges.succeeded(|| {
                        tracing::info!("files of the conflict index are merged again");
                    });
                }
                Ok(None) => break,
                Err(Failed::Read(err)) => die(&err),
                Err(Failed::Write(err)) => {
                    let folder = spilling.folder.path().display();
                    spilling.merges.failed(Instant::now(), &err, || {
                        tracing::warn!(%folder, error = %err, hint = HINT, "files of the conflict index cannot be merged, they stay many, which makes them slow to ask");
                    });
                    break;
                }
            }
        }
        spilling.merging.store(false, Ordering::Release);
    }

    /// Whether files wait to be merged, and it is time for it.
    pub fn may_merge(&self) -> bool {
        let Some(spilling) = &self.spilling else {
            return false;
        };
        !spilling.merging.load(Ordering::Acquire)
            && spilling.merges.due(Instant::now())
            && self.inner.lock().files.to_merge().is_some()
    }

    /// What is outside of memory.
    pub fn outside(&self) -> Outside {
        let inner = self.inner.lock();
        let keys = inner.index.spilled().map_or(0, Bounds::keys);
        let (files, bytes) = inner.files.sizes();
        drop(inner);
        let asked = self.spilling.as_ref().map(|s| s.folder.asked());
        let (asked, found) = asked.map_or((0, 0), |a| {
            (
                a.keys.load(Ordering::Relaxed),
                a.found.load(Ordering::Relaxed),
            )
        });
        Outside {
            keys,
            files,
            bytes,
            asked,
            found,
        }
    }
}

impl Inner {
    pub(super) fn set_files(&mut self, files: Files) {
        self.index.set_spilled(files.bounds());
        self.files = Arc::new(files);
    }
}

#[cfg(test)]
#[path = "spill_tests.rs"]
mod tests;
