//! How far the journal is known to be durable, in a file of its own.
//!
//! A torn tail and a damaged middle look alike in the newest segment: a frame whose checksum is
//! wrong. The first must be cut off silently, the second must never be. So the writer notes the
//! durable end here after an fdatasync, ten times a second at most. The note itself is not synced (that
//! would cost a second fdatasync per commit): after a crash it may be old, never too new, so it can
//! miss damage in the last seconds but never accuse a torn tail. Before something durable is
//! cut off on purpose, the note is moved back and synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;
use super::segment::Place;

/// So long a note may be put off: damage is not done to what was written so lately, and a small round of
/// the writer would cost a third more.
pub(super) const PUT_OFF: Duration = Duration::from_millis(100);

/// The file `durable` in a journal's folder: `u64 sequence | u64 offset | u32 crc32c of both`.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    noted_at: Option<Instant>,
    /// What is to be noted.
    due: Option<Place>,
}

impl Mark {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("durable");
        let file = open_note(&path)?;
        Ok(Mark {
            file,
            path,
            noted_at: None,
            due: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was noted last; `None` if nothing was, or the note itself was torn.
    pub(super) fn read(&self) -> Option<Place> {
        let mut bytes = [0; 20];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (sequence, rest) = bytes.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (noted, _) = rest.split_first_chunk::<4>()?;
        let place = Place {
            sequence: u64::from_be_bytes(*sequence),
            offset: u64::from_be_bytes(*offset),
        };
        (noted == &crc(place).to_be_bytes()).then_some(place)
    }

    /// Notes `place`, or puts that off because the last note is young.
    pub(super) fn note_at_times(&mut self, place: Place) -> io::Result<()> {
        self.due = Some(place);
        match self.noted_at {
            Some(at) if at.elapsed() < PUT_OFF => Ok(()),
            _ => self.note_due(),
        }
    }

    /// Whether a note was put off.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Notes what was put off.
    pub(super) fn note_due(&mut self) -> io::Result<()> {
        self.due.map_or(Ok(()), |place| self.note(place))
    }

    /// Notes `place`, soon on disk.
    pub(super) fn note(&mut self, place: Place) -> io::Result<()> {
        self.due = None;
        self.noted_at = Some(Instant::now());
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(place.sequence.to_be_bytes());
        bytes.extend(place.offset.to_be_bytes());
        bytes.extend(crc(place).to_be_bytes());
        self.file.write_all_at(&bytes, 0)
    }

    /// Notes `place`, on disk when this returns.
    pub(super) fn note_durably(&mut self, place: Place) -> io::Result<()> {
        self.note(place)?;
        self.file.sync_all()
    }
}

/// Opens a note beside the segments, or makes an empty one.
pub(super) fn open_note(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::io("open", path))
}

fn crc(place: Place) -> u32 {
    let crc = crc32c::crc32c(&place.sequence.to_be_bytes());
    crc32c::crc32c_append(crc, &place.offset.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_off_is_noted_later_and_never_something_newer() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::open(dir.path()).unwrap();
        let place = |offset| Place {
            sequence: 1,
            offset,
        };
        for offset in 1..1_000 {
            mark.note_at_times(place(offset)).unwrap();
            assert!(mark.read().unwrap() <= place(offset));
        }
        mark.note_due().unwrap();
        assert!(!mark.is_due());
        assert_eq!(mark.read(), Some(place(999)));
        // A place that was moved back stays so.
        mark.note_at_times(place(1_000)).unwrap();
        mark.note_durably(place(500)).unwrap();
        mark.note_due().unwrap();
        assert_eq!(mark.read(), Some(place(500)));
    }
}
