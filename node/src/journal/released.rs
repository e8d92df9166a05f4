//! How far the journal is released, in a file of its own.
//!
//! Segments go as wholes, so the oldest one left, tens of megabytes, may be released almost to its end. Whoever
//! builds the index again at start needs nothing of that but how high its stamps are (I6). The file is synced only
//! before a segment goes: an old note means that more is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use everywrite_conflict::{Lsn, Stamp};

use super::Error;
use super::mark::open_note;

/// The file `released` in a journal's folder: `u64 position | i64 stamp | u32 crc32c of both`.
#[derive(Debug)]
pub(super) struct Released {
    file: File,
    known: Note,
    synced: bool,
}

/// Everything up to a position is released, and no stamp of it is above this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) position: Lsn,
    pub(super) stamp: Stamp,
}

const NOTHING: Note = Note {
    position: Lsn::ZERO,
    stamp: Stamp::MIN,
};

impl Released {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("released");
        let file = open_note(&path)?;
        let known = read(&file).unwrap_or(NOTHING);
        // Room for the note, before a full disk makes it necessary to delete segments.
        if known == NOTHING {
            let _ = file.write_all_at(&NOTHING.encoded(), 0);
        }
        Ok(Released {
            file,
            known,
            synced: false,
        })
    }

    /// What was noted last; nothing if the note itself was torn.
    pub(super) fn known(&self) -> Note {
        self.known
    }

    /// Notes that more is released.
    pub(super) fn note(&mut self, note: Note) -> io::Result<()> {
        if note.position <= self.known.position {
            return Ok(());
        }
        self.known = Note {
            stamp: note.stamp.max(self.known.stamp),
            ..note
        };
        self.synced = false;
        self.file.write_all_at(&self.known.encoded(), 0)
    }

    /// What was noted is on disk when this returns.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.synced {
            self.file.write_all_at(&self.known.encoded(), 0)?;
            self.file.sync_all()?;
            self.synced = true;
        }
        Ok(())
    }
}

fn read(file: &File) -> Option<Note> {
    let mut bytes = [0; 20];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (position, rest) = bytes.split_first_chunk::<8>()?;
    let (stamp, _) = rest.split_first_chunk::<8>()?;
    let note = Note {
        position: Lsn(u64::from_be_bytes(*position)),
        stamp: Stamp(i64::from_be_bytes(*stamp)),
    };
    (bytes == note.encoded()).then_some(note)
}

impl Note {
    fn encoded(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.position.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.stamp.0.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..16]);
        bytes[16..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}
