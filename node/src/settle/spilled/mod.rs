//! Files with entries of the conflict index that only an absent member can still ask for.
//!
//! ```text
//!  ledger ── spill ──► Writer ──► File ──┐
//!                                        ├──► Files, oldest first ──► find (newest first) ──► ledger
//!         merged ◄── eight neighbours ◄──┘
//! ```
//!
//! What may leave memory and who has to ask is decided by the crate `conflict` (`index/spilled.rs`); here
//! is how it is kept. The files are a cache: nothing is synced, whatever a run finds at start is
//! removed, and the index is rebuilt from the journals. But while they are there they are part of
//! the authority on every key. So a file that cannot be read ends the process; the next one begins
//! with the journals. One that cannot be written changes nothing: its entries stay where they are, and it is
//! tried again. The bytes are described in `docs/formats/spilled.md`.

mod attempts;
mod file;
mod files;
mod page;
mod writer;

pub(super) use attempts::Attempts;
pub(super) use file::File;
pub(super) use files::{Failed, Files};
pub(super) use writer::Writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The process's exit code when it cannot read what it has to know; that of a failed sync.
const EXIT_UNREADABLE: i32 = 70;

/// Where files are made.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    next: AtomicU64,
    /// What is asked of all files.
    asked: Arc<Asked>,
}

/// Counts what is read.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Keys that a file was asked for.
    pub(super) keys: AtomicU64,
    /// Of these how many it had.
    pub(super) found: AtomicU64,
}

impl Folder {
    /// An empty folder: what an earlier run has left there goes.
    pub(super) fn empty(path: &Path) -> io::Result<Self> {
        // The folder itself stays: a disk that is full may have no room for another one.
        match std::fs::read_dir(path) {
            Ok(left) => {
                for file in left {
                    std::fs::remove_file(file?.path())?;
                }
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(path)?,
            Err(err) => return Err(err),
        }
        Ok(Folder {
            path: path.to_owned(),
            next: AtomicU64::new(1),
            asked: Arc::default(),
        })
    }

    /// Begins a file that is made of so many generations of others.
    pub(super) fn begin(&self, level: u32) -> io::Result<Writer> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number:08}.index"));
        Writer::new(path, level, Arc::clone(&self.asked))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }
}

/// A key may have been written, and nobody can tell: nothing may be decided after this.
pub(super) fn die(err: &io::Error) -> ! {
    tracing::error!(error = %err, "cannot read back a part of the conflict index, the process ends; the next one rebuilds it from the journals");
    std::process::exit(EXIT_UNREADABLE)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
