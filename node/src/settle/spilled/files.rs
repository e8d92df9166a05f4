//! All files, oldest first: a newer one hides what an older one has of a key.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use everywrite_conflict::{Bounds, Entry, KeyHash, Lsn, Vector};

use super::{File, Writer};

/// So many neighbours of one level become one of the next: a key is asked for in at most so many
/// files of each level, and written once for each level.
const MERGED: usize = 8;

/// Why files could not be merged.
#[derive(Debug)]
pub(in crate::settle) enum Failed {
    /// One that is there cannot be read: nobody knows what it holds.
    Read(io::Error),
    /// The new one cannot be written: those that are there stay.
    Write(io::Error),
}

/// See the module. Never changed: another one takes its place.
#[derive(Clone, Debug, Default)]
pub(in crate::settle) struct Files(Vec<Arc<File>>);

impl Files {
    /// With one more, newer than all.
    pub(in crate::settle) fn with(&self, file: File) -> Self {
        let new = std::iter::once(Arc::new(file));
        Files(self.0.iter().cloned().chain(new).collect())
    }

    /// Without those, oldest first, that may be forgotten whole. Behind one that stays nothing goes: what
    /// it has of a key would not be hidden any more.
    pub(in crate::settle) fn without_stable(&self, stable: &Vector, captured: Lsn) -> Option<Self> {
        let goes = |f: &&Arc<File>| f.bounds().forgettable(stable, captured);
        let gone = self.0.iter().take_while(goes).count();
        (gone > 0).then(|| Files(self.0.iter().skip(gone).cloned().collect()))
    }

    /// The one that came last.
    pub(in crate::settle) fn newest(&self) -> Option<&File> {
        self.0.last().map(AsRef::as_ref)
    }

    /// What all of them can hold at most, if there are any.
    pub(in crate::settle) fn bounds(&self) -> Option<Bounds> {
        let mut all = Bounds::default();
        self.0.iter().for_each(|file| all.merge(file.bounds()));
        (!self.0.is_empty()).then_some(all)
    }

    /// (how many files, their bytes).
    pub(in crate::settle) fn sizes(&self) -> (u64, u64) {
        let bytes = self.0.iter().map(|file| file.bytes()).sum();
        (self.0.len() as u64, bytes)
    }

    /// What they have of these keys.
    pub(in crate::settle) fn find(
        &self,
        mut keys: Vec<KeyHash>,
    ) -> io::Result<Vec<(KeyHash, Entry)>> {
        keys.sort_unstable();
        keys.dedup();
        let mut found = Vec::new();
        for file in self.0.iter().rev() {
            if keys.is_empty() {
                break;
            }
            file.find(&mut keys, &mut found)?;
        }
        Ok(found)
    }

    /// The oldest neighbours that should become one.
    pub(in crate::settle) fn to_merge(&self) -> Option<Files> {
        let mut run = 0..0;
        for (at, file) in self.0.iter().enumerate() {
            let level = |file: &Arc<File>| file.level();
            let same = self.0.get(run.start).map(level) == Some(file.level());
            run.start = if same { run.start } else { at };
            run.end = at + 1;
            if run.len() == MERGED {
                return Some(Files(self.0.get(run)?.to_vec()));
            }
        }
        None
    }

    /// Writes what they have, of each key the newest; `stop` ends it with nothing.
    pub(in crate::settle) fn merge(
        &self,
        begin: impl FnOnce(u32) -> io::Result<Writer>,
        stop: impl Fn() -> bool,
    ) -> Result<Option<File>, Failed> {
        let level = self.0.iter().map(|file| file.level()).max().unwrap_or(0);
        let mut writer = begin(level + 1).map_err(Failed::Write)?;
        let mut inputs: Vec<_> = self
            .0
            .iter()
            .map(|file| file.entries().peekable())
            .collect();
        let mut written = 0_u64;
        loop {
            // A few files: looking through them is as fast as anything.
            let mut least: Option<KeyHash> = None;
            for input in &mut inputs {
                match input.peek() {
                    Some(Ok((key, _))) => least = Some(least.map_or(*key, |l| l.min(*key))),
                    Some(Err(_)) => {
                        let failed = input.next().and_then(Result::err);
                        let failed = failed.unwrap_or_else(|| io::ErrorKind::InvalidData.into());
                        return Err(Failed::Read(failed));
                    }
                    None => {}
                }
            }
            let Some(least) = least else {
                return writer.finish().map_err(Failed::Write);
            };
            let mut newest = None;
            for input in &mut inputs {
                if let Some(Ok((_, entry))) =
                    input.next_if(|next| next.as_ref().is_ok_and(|(key, _)| *key == least))
                {
                    newest = Some(entry);
                }
            }
            if let Some(entry) = newest {
                writer.push(least, entry).map_err(Failed::Write)?;
            }
            written += 1;
            if written.is_multiple_of(4096) && stop() {
                return Ok(None);
            }
        }
    }

    /// With `merged` in the place of `run`; `None` if that is not here as it was.
    pub(in crate::settle) fn replaced(&self, run: &Files, merged: File) -> Option<Self> {
        let first = run.0.first()?;
        let at = self.0.iter().position(|file| Arc::ptr_eq(file, first))?;
        let place: Range<usize> = at..at + run.0.len();
        let here = self.0.get(place.clone())?;
        let same = here.iter().zip(&run.0).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            return None;
        }
        let mut files = self.0.clone();
        files.splice(place, std::iter::once(Arc::new(merged)));
        Some(Files(files))
    }
}
