//! How far the journal is released, in a file of its own.
//!
//! Segments go as wholes, so the oldest one left, tens of megabytes, may be released almost to its end. Whoever
//! builds the index again at start needs nothing of that. The file is not synced: an old note only means that
//! more is read, and a new one says no more than what a deleted segment would.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use everywrite_conflict::Lsn;

use super::Error;

/// The file `released` in a journal's folder: `u64 position | u32 crc32c of it`.
#[derive(Debug)]
pub(super) struct Released {
    file: File,
    known: Lsn,
}

impl Released {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("released");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let known = read(&file).unwrap_or(Lsn::ZERO);
        Ok(Released { file, known })
    }

    /// What was noted last; zero if nothing was, or the note itself was torn.
    pub(super) fn known(&self) -> Lsn {
        self.known
    }

    /// Notes that everything up to `position` is released.
    pub(super) fn note(&mut self, position: Lsn) -> io::Result<()> {
        if position <= self.known {
            return Ok(());
        }
        self.known = position;
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&position.0.to_be_bytes());
        bytes[8..].copy_from_slice(&crc(position).to_be_bytes());
        self.file.write_all_at(&bytes, 0)
    }
}

fn read(file: &File) -> Option<Lsn> {
    let mut bytes = [0; 12];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (position, noted) = bytes.split_first_chunk::<8>()?;
    let position = Lsn(u64::from_be_bytes(*position));
    (noted == crc(position).to_be_bytes()).then_some(position)
}

fn crc(position: Lsn) -> u32 {
    crc32c::crc32c(&position.0.to_be_bytes())
}
