//! Opening a journal: what of the files counts, and where it goes on.
//!
//! 1. The segments' preambles form a chain from the newest back; what it leaves out was cut off
//!    and is deleted now if a crash came in between. A hole in it is an error.
//! 2. The newest segment is read whole. At the first frame that is not sound it is cut: a write
//!    that was never synced. If that frame lies before the noted durable end ([`super::mark`])
//!    it is damage, and an error.
//! 3. What remains behind the noted durable end is written once more and synced: it may have
//!    been written but not synced before the crash, or a sync of it may have failed, after which
//!    the kernel takes it for clean although it never reached the disk.
//! 4. An unfinished large transaction at the end is cut off.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use everywrite_conflict::NodeId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

use super::chain::{Chain, Note};
use super::mark::Mark;
use super::record::Frame;
use super::released::Released;
use super::segment::{Place, Preamble, Segment, sync_dir};
use super::shared::{Shared, State};
use super::walk::{WalkError, read, walk};
use super::writer::{Active, Full, Writer};
use super::{Error, Options};

/// A segment file whose preamble was read.
struct Found {
    preamble: Preamble,
    path: PathBuf,
    body: u64,
    length: u64,
}

/// Opens the journal in `dir`; also the lock that keeps other processes out.
pub(super) fn recover(
    dir: &Path,
    origin: NodeId,
    options: Options,
) -> Result<(File, Writer), Error> {
    make_dir(dir)?;
    let lock = lock(dir)?;
    let mark = Mark::open(dir)?;
    let found = chain_of_segments(dir, find_segments(dir, origin)?)?;
    if let Some(noted) = mark.read()
        && found
            .last()
            .is_none_or(|newest| newest.preamble.sequence < noted.sequence)
    {
        return Err(Error::Damaged {
            path: dir.to_owned(),
            offset: 0,
            what: format!("segment {:08X} is missing", noted.sequence),
        });
    }

    let shared = Arc::new(Shared {
        origin,
        dir: dir.to_owned(),
        options,
        state: Mutex::new(State {
            queue: Vec::new(),
            queued_bytes: 0,
            accepted: Chain::default(),
            accepted_shapes: BTreeMap::new(),
            closing: false,
            segments: VecDeque::new(),
            durable: Chain::default(),
            recent: None,
            shapes: BTreeMap::new(),
            cuts: 0,
            full: None,
            note_is_due: false,
        }),
        work: Condvar::new(),
        room: Notify::new(),
        end: watch::Sender::default(),
        written: watch::Sender::default(),
        released: Mutex::new(Released::open(dir)?),
    });
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        mark,
        active: None,
        tail: None,
        sequence: 0,
        chain: Chain::default(),
        large_at: None,
        large_has_shapes: false,
        shapes: BTreeMap::new(),
        quick: true,
    };
    go_on_at_newest(&mut writer, found)?;
    sync_dir(dir)?;
    if writer.chain.large.is_some()
        && let Err(Full(reason)) = writer.cut()
    {
        // The writer does it before the next transaction.
        tracing::warn!(
            origin = origin.0,
            reason,
            "cannot cut off an unfinished large transaction yet"
        );
    }

    let finished = Chain {
        large: None,
        ..writer.chain.clone()
    };
    let mut state = shared.state.lock();
    state.accepted = finished.clone();
    state.accepted_shapes.clone_from(&writer.shapes);
    state.durable = finished;
    state.shapes.clone_from(&writer.shapes);
    drop(state);
    shared.end.send_replace(writer.chain.end);
    Ok((lock, writer))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir).map_err(Error::io("make the folder", dir))?;
    dir.parent().map_or(Ok(()), sync_dir)
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(err)) => Err(Error::io("lock", &path)(err)),
    }
}

/// Every segment file, in the order of their sequence numbers.
fn find_segments(dir: &Path, origin: NodeId) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            // A crash came while it was made; nothing in it was ever shown to anybody.
            Some("new") => std::fs::remove_file(&path).map_err(Error::io("delete", &path))?,
            Some("seg") => {
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                let (preamble, body) = Preamble::read(&file, &path)?;
                let length = file.metadata().map_err(Error::io("read", &path))?.len();
                let named = path.file_name().and_then(|name| name.to_str());
                if named != Some(preamble.file_name().as_str()) || preamble.origin != origin {
                    return Err(Error::Damaged {
                        path,
                        offset: 0,
                        what: format!(
                            "it says that it is {} of node {}",
                            preamble.file_name(),
                            preamble.origin
                        ),
                    });
                }
                found.push(Found {
                    preamble,
                    path,
                    body,
                    length,
                });
            }
            _ => {}
        }
    }
    found.sort_by_key(|found| found.preamble.sequence);
    Ok(found)
}

/// Follows the preambles from the newest segment back and deletes what they leave out.
fn chain_of_segments(dir: &Path, mut found: Vec<Found>) -> Result<Vec<Found>, Error> {
    let mut chain: Vec<Found> = Vec::with_capacity(found.len());
    while let Some(mut segment) = found.pop() {
        let sequence = segment.preamble.sequence;
        if let Some(next) = chain.last() {
            let Some(end) = next.preamble.follows else {
                return Err(next_to_nothing(next, &segment));
            };
            if sequence > end.sequence {
                tracing::info!(path = %segment.path.display(), "deleting a segment that was cut off");
                std::fs::remove_file(&segment.path).map_err(Error::io("delete", &segment.path))?;
                continue;
            }
            if sequence < end.sequence {
                return Err(Error::Damaged {
                    path: dir.to_owned(),
                    offset: 0,
                    what: format!("segment {:08X} is missing", end.sequence),
                });
            }
            if segment.length < end.offset || segment.preamble.previous > next.preamble.previous {
                return Err(next_to_nothing(next, &segment));
            }
            if segment.length > end.offset {
                tracing::info!(path = %segment.path.display(), "shortening a segment that was cut off");
                shorten(&segment.path, end.offset)?;
                segment.length = end.offset;
            }
        }
        chain.push(segment);
    }
    chain.reverse();
    Ok(chain)
}

fn next_to_nothing(next: &Found, segment: &Found) -> Error {
    Error::Damaged {
        path: segment.path.clone(),
        offset: segment.length,
        what: format!("{} does not follow it", next.path.display()),
    }
}

fn shorten(path: &Path, length: u64) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| {
        file.set_len(length)?;
        file.sync_all()
    })
    .map_err(Error::io("shorten", path))
}

/// Reads the newest segment and makes `writer` go on behind its last sound frame.
fn go_on_at_newest(writer: &mut Writer, mut found: Vec<Found>) -> Result<(), Error> {
    let Some(newest) = found.pop() else {
        return Ok(());
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&newest.path)
        .map_err(Error::io("open", &newest.path))?;
    let sequence = newest.preamble.sequence;
    let segment = Segment::found(newest.preamble, newest.path, newest.body, newest.body, true);
    writer.sequence = sequence;
    writer.chain = Chain {
        end: segment.preamble.previous,
        last: segment.preamble.last.clone(),
        large: None,
    };
    if let Some((at, header)) = &segment.preamble.large {
        writer.large_at = Some(*at);
        writer.chain.large = Some(header.clone());
        // Perhaps not, but only the segments before this one know.
        writer.large_has_shapes = true;
    }
    let end = read_newest(writer, &segment, &file, newest.length)?;
    if end < newest.length {
        tracing::info!(path = %segment.path.display(), bytes = newest.length - end, "cutting a torn tail");
        shorten(&segment.path, end)?;
    }
    let from = noted(writer, sequence).map_or(segment.body, |noted| noted.offset);
    if from < end {
        let written =
            read(&file, from, end, end - from).and_then(|bytes| file.write_all_at(&bytes, from));
        written.map_err(Error::io("write once more", &segment.path))?;
    }
    file.sync_all().map_err(Error::io("sync", &segment.path))?;
    segment.set_durable(end);
    let segment = Arc::new(segment);
    writer.tail = Some(Place {
        sequence,
        offset: end,
    });
    writer.active = Some(Active {
        file,
        segment: Arc::clone(&segment),
        zeros_to: end,
    });

    let mut state = writer.shared.state.lock();
    for found in found {
        state.segments.push_back(Arc::new(Segment::found(
            found.preamble,
            found.path,
            found.body,
            found.length,
            false,
        )));
    }
    state.segments.push_back(segment);
    Ok(())
}

/// The durable end that was noted, if it lies in segment `sequence`.
fn noted(writer: &Writer, sequence: u64) -> Option<Place> {
    writer.mark.read().filter(|at| at.sequence == sequence)
}

/// Brings `writer` to the state after the last sound frame; where that ends.
fn read_newest(
    writer: &mut Writer,
    segment: &Segment,
    file: &File,
    length: u64,
) -> Result<u64, Error> {
    let sequence = segment.preamble.sequence;
    let origin = writer.shared.origin;
    let noted = noted(writer, sequence);
    let walked = walk(file, segment.body, length, |frame, offset, _| {
        // A sound frame that cannot stand here was never written here.
        if !writer.chain.admits(origin, &frame)? {
            return Err(segment.damaged(offset, "a transaction stands here twice".to_owned()));
        }
        if let Frame::Transaction { header, .. } | Frame::LargeBegin { header } = &frame {
            segment.note(header.previous, offset);
        }
        if let Frame::LargeBegin { .. } = &frame {
            writer.large_at = Some(Place { sequence, offset });
            writer.large_has_shapes = false;
        }
        let note = Note::from(frame);
        writer.chain.apply(&note);
        if let Note::Shape { id, relation } = note {
            writer.large_has_shapes = true;
            writer.shapes.insert(id, relation);
        }
        Ok(())
    });
    let stop = match walked {
        Ok(stop) => stop,
        Err(WalkError::Io(source)) => return Err(Error::io("read", &segment.path)(source)),
        Err(WalkError::Visit(err @ Error::Damaged { .. })) => return Err(err),
        Err(WalkError::Visit(err)) => return Err(segment.damaged(segment.body, err.to_string())),
    };
    match noted {
        Some(noted) if stop.offset < noted.offset => {
            let reason = stop.reason.map_or_else(
                || "it ends before its durable end".to_owned(),
                |reason| reason.to_string(),
            );
            Err(segment.damaged(stop.offset, reason))
        }
        _ => Ok(stop.offset),
    }
}
