//! What the index forgets because it is stable.

use everywrite_conflict::{Bounds, Lsn, PARTS, Vector};

use super::{Inner, Ledger};

impl Ledger {
    /// Forgets what is stable; returns how many keys that were. `captured`: local WAL up to here is
    /// durable in the own journal.
    pub fn forget(&self, stable: &Vector, captured: Lsn) -> usize {
        let mut forgotten = 0;
        let mut inner = self.inner.lock();
        inner.settle_policies(stable, captured);
        if inner.repairs == 0 {
            forgotten = inner.forget_files(stable, captured);
            forgotten += inner.index.forget_truncates(stable, captured);
        }
        // Part by part, because capture and replay are waiting.
        let due = inner.repairs == 0 && inner.index.sweep_is_due(stable, captured);
        drop(inner);
        for part in (0..PARTS).filter(|_| due) {
            let mut inner = self.inner.lock();
            // What is looked at again is asked of the index.
            if inner.repairs == 0 {
                forgotten += inner.index.sweep(part, stable, captured);
            } else {
                inner.index.leave(part);
            }
        }
        self.inner.lock().forgotten += forgotten as u64;
        forgotten
    }

    /// (keys in memory, keys forgotten since start).
    pub fn sizes(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.index.len() as u64, inner.forgotten)
    }
}

impl Inner {
    /// Files go in which all is stable; returns how many entries they had.
    fn forget_files(&mut self, stable: &Vector, captured: Lsn) -> usize {
        if !self.index.has_spilled() {
            return 0;
        }
        let Some(files) = self.files.without_stable(stable, captured) else {
            return 0;
        };
        let keys = |inner: &Inner| inner.index.spilled().map_or(0, Bounds::keys);
        let before = keys(self);
        self.set_files(files);
        usize::try_from(before - keys(self)).unwrap_or(usize::MAX)
    }
}
