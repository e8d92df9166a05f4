//! What writes a journal: a thread of its own, or, where that is quicker, whoever has something to write.
//!
//! It takes everything that is queued, writes it at once, syncs once and publishes the new
//! durable end; what arrives meanwhile is the next round. So the more there is to do the fewer
//! syncs a transaction costs.
//!
//! - A small round is written by the task that brings it while nobody else writes and the disk answers at
//!   once ([`try_write`]): to wake the thread, and to be woken by it, takes as long as the sync itself.
//! - A failed sync ends the process: the kernel may have dropped the pages and would report the
//!   next sync as a success (I2).
//! - A full disk or quota is not a failure: the half-written bytes are taken back, the reason is
//!   shown and the same frames are tried again each second.
//! - A new segment begins with all shapes known so far, so older ones can be deleted.
//! - While rounds are small the file is filled with zeros some way ahead: a sync of bytes that lie
//!   within the file writes them alone, and not the file's new size too. Zeros are no frame;
//!   whoever leaves a segment behind takes them away, and so does recovery.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};

use super::chain::{Chain, Note};
use super::mark::{Mark, PUT_OFF};
use super::record::{Header, encode_shape};
use super::segment::{Place, Preamble, Segment, sync_dir};
use super::shared::{Item, Recent, Shared, State};

/// How long a full journal waits before it tries again; a release wakes it earlier.
const RETRY: Duration = Duration::from_secs(1);
/// Smaller frames are gathered up to this size, larger ones written from where they are.
const GATHER_BYTES: usize = 256 << 10;

/// Larger rounds do not profit from zeros ahead: their own bytes are most of what is synced.
const SMALL_BYTES: u64 = 32 << 10;
/// So far ahead zeros are written: some hundred small rounds, and not felt by the one that does it.
const ZEROS_BYTES: usize = 128 << 10;

/// A task may wait for a sync of a small round itself while the last one took no longer. A slower disk has the
/// thread wait for it, so that the runtime's workers never do.
const QUICK: Duration = Duration::from_millis(1);

/// The process's exit code when durability can no longer be promised.
const EXIT_NOT_DURABLE: i32 = 70;

/// The newest segment, open for writing.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: File,
    pub(super) segment: Arc<Segment>,
    /// Where the zeros ahead end, and with them the file.
    pub(super) zeros_to: u64,
}

/// The journal as it is on disk; belongs to whoever writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) mark: Mark,
    /// `None`: the next frame needs a new segment.
    pub(super) active: Option<Active>,
    /// Where the journal ends; `None` while it has no segment.
    pub(super) tail: Option<Place>,
    /// The greatest sequence given to a segment.
    pub(super) sequence: u64,
    pub(super) chain: Chain,
    /// Where the unfinished large transaction began.
    pub(super) large_at: Option<Place>,
    /// Whether a shape was written since; it must outlive a cut, for a peer may know it already.
    pub(super) large_has_shapes: bool,
    pub(super) shapes: BTreeMap<u32, Bytes>,
    /// Whether the last sync of a small round took less than [`QUICK`].
    pub(super) quick: bool,
}

/// Nothing can be written now; later perhaps.
#[derive(Debug)]
pub(super) struct Full(pub(super) String);

/// The thread: writes what is queued, until the journal closes.
pub(super) fn run(writer: &Mutex<Writer>, shared: &Shared) {
    while wait(writer, shared) {
        if !writer.lock().write_queue() {
            break; // what was not written was never said to be durable
        }
    }
    let mut writer = writer.lock();
    writer.note_due();
    writer.trim();
}

/// Waits until something is queued; false when the journal closes and nothing is.
fn wait(writer: &Mutex<Writer>, shared: &Shared) -> bool {
    let mut state = shared.state.lock();
    while state.queue.is_empty() {
        if state.closing {
            return false;
        }
        if !state.note_is_due {
            shared.work.wait(&mut state);
        } else if shared.work.wait_for(&mut state, PUT_OFF).timed_out() {
            state.note_is_due = false;
            MutexGuard::unlocked(&mut state, || writer.lock().note_due());
        }
    }
    true
}

/// Writes what is queued here and now; false if that is the thread's: somebody writes already, it is much, it
/// needs a new segment or cuts something off, the journal is full, or the disk is slow.
pub(super) fn try_write(writer: &Mutex<Writer>) -> bool {
    let Some(mut writer) = writer.try_lock() else {
        return false;
    };
    let shared = Arc::clone(&writer.shared);
    let items = {
        let mut state = shared.state.lock();
        if !writer.is_quick(&state) {
            return false;
        }
        state.take()
    };
    shared.room.notify_waiters();
    let mut items = VecDeque::from(items);
    while !items.is_empty() {
        if writer.step(&mut items).is_err() {
            // The thread meets what is in the way once more, tells it and tries again.
            shared.state.lock().put_back(items);
            return false;
        }
    }
    true
}

impl Writer {
    /// Whether what is queued is written as soon as the thread would be awake.
    fn is_quick(&self, state: &State) -> bool {
        let size = self.shared.options.segment_size();
        let simple = |item: &Item| matches!(item.note, Note::Whole(_) | Note::Shape { .. });
        self.quick
            && state.full.is_none()
            && state.queued_bytes as u64 <= SMALL_BYTES
            && self.chain.large.is_none()
            && self.active.is_some()
            && self.tail.is_some_and(|tail| tail.offset < size)
            && state.queue.iter().all(simple)
    }

    /// Writes until nothing is queued; false if the journal closes while it is full.
    fn write_queue(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        loop {
            let items = shared.state.lock().take();
            if items.is_empty() {
                return true;
            }
            shared.room.notify_waiters();
            let mut items = VecDeque::from(items);
            drop_doomed(&mut items, self.chain.large.is_some());
            while !items.is_empty() {
                match self.step(&mut items) {
                    Ok(()) => self.tell_full(None),
                    Err(Full(reason)) => {
                        self.tell_full(Some(reason));
                        if self.pause(&mut items) {
                            return false;
                        }
                    }
                }
            }
        }
    }

    /// Waits a while; true if the journal closes.
    ///
    /// What fills the disk may be a large transaction that was begun anew (its link broke). Then
    /// the rest of the old one must not stand in the way of what cuts it off.
    fn pause(&self, items: &mut VecDeque<Item>) -> bool {
        let mut state = self.shared.state.lock();
        if !state.closing {
            self.shared.work.wait_for(&mut state, RETRY);
        }
        let closing = state.closing;
        if state.queue.iter().any(|item| item.note.cuts()) {
            let mut all: VecDeque<Item> = items.iter().chain(&state.queue).cloned().collect();
            if drop_doomed(&mut all, self.chain.large.is_some()) {
                *items = all;
                state.queue.clear();
                state.queued_bytes = 0;
                drop(state);
                self.shared.room.notify_waiters();
            }
        }
        closing
    }

    fn tell_full(&self, reason: Option<String>) {
        let mut state = self.shared.state.lock();
        if state.full == reason {
            return;
        }
        let origin = self.shared.origin.0;
        match (&state.full, &reason) {
            (None, Some(reason)) => {
                tracing::warn!(
                    origin,
                    reason,
                    "journal is full, nothing is written until there is room"
                );
            }
            (Some(_), None) => tracing::info!(origin, "journal has room again"),
            _ => {}
        }
        state.full = reason;
    }

    /// Writes as many of `items` as go into one segment, and takes them off.
    fn step(&mut self, items: &mut VecDeque<Item>) -> Result<(), Full> {
        let _whole = OrEnd;
        if let Some(Item {
            note: Note::Start(at),
            ..
        }) = items.front()
        {
            self.chain.end = *at;
            self.make_segment()?;
            items.pop_front();
            self.publish(self.tail.map_or(0, |tail| tail.offset), None);
            return Ok(());
        }
        // Before the shapes that stand in front, too: there may be no room for them otherwise.
        let mut others = items
            .iter()
            .skip_while(|item| matches!(item.note, Note::Shape { .. }));
        if self.chain.large.is_some() && others.next().is_some_and(|item| item.note.cuts()) {
            self.cut()?;
        }
        let size = self.shared.options.segment_size();
        if self.active.is_none() || self.tail.is_none_or(|tail| tail.offset >= size) {
            self.make_segment()?;
        }
        let (Some(active), Some(tail)) = (&mut self.active, self.tail) else {
            return Err(Full("no segment to write to".to_owned()));
        };

        // How far: until the segment is large enough, or something has to be cut off first.
        let mut chain = self.chain.clone();
        let mut large_at = self.large_at;
        let mut large_has_shapes = self.large_has_shapes;
        let mut count = 0;
        let mut end = tail.offset;
        let mut starts = Vec::new();
        for item in items.iter() {
            if count > 0 && (end >= size || (chain.large.is_some() && item.note.cuts())) {
                break;
            }
            match item.note {
                Note::Start(_) => break,
                Note::Shape { .. } => large_has_shapes = true,
                Note::Whole(_) => starts.push((chain.end, end)),
                Note::Begin(_) => {
                    starts.push((chain.end, end));
                    large_has_shapes = false;
                    large_at = Some(Place {
                        sequence: tail.sequence,
                        offset: end,
                    });
                }
                Note::Part | Note::End { .. } => {}
            }
            chain.apply(&item.note);
            end += item.bytes.len() as u64;
            count += 1;
        }

        check_quota(&self.shared, end - tail.offset)?;
        let taken = items.iter().take(count).map(|item| &item.bytes[..]);
        let written = write(&active.file, tail.offset, taken);
        if let Err(err) = written {
            let full = full_or_die(err, &active.segment.path);
            // Readers never look there, but the blocks are wanted back.
            let _ = active.file.set_len(tail.offset);
            active.zeros_to = tail.offset;
            return Err(full);
        }
        let recent = written
            .ok()
            .flatten()
            .map(|bytes| Recent { from: tail, bytes });
        if end > active.zeros_to {
            active.zeros_to = end;
            if end - tail.offset <= SMALL_BYTES && end < size {
                let zeros = [0; ZEROS_BYTES];
                let (zeros, _) = zeros.split_at((size - end).min(ZEROS_BYTES as u64) as usize);
                // Without room for them there are fewer or none.
                let _ = active.file.write_all_at(zeros, end);
                active.zeros_to += zeros.len() as u64;
            }
        }
        let begun = Instant::now();
        if let Err(err) = active.file.sync_data() {
            die(&err, &active.segment.path);
        }
        if end - tail.offset <= SMALL_BYTES {
            self.quick = begun.elapsed() < QUICK;
        }

        for (previous, offset) in starts {
            active.segment.note(previous, offset);
        }
        for item in items.drain(..count) {
            if let Note::Shape { id, relation } = item.note {
                self.shapes.insert(id, relation);
            }
        }
        self.chain = chain;
        self.large_at = large_at;
        self.large_has_shapes = large_has_shapes;
        self.tail = Some(Place {
            offset: end,
            ..tail
        });
        self.publish(end, recent);
        Ok(())
    }

    /// Shows readers and waiters what has become durable, and `recent`, the last of it.
    fn publish(&mut self, end: u64, recent: Option<Recent>) {
        let mut state = self.shared.state.lock();
        if let Some(active) = &self.active {
            active.segment.set_durable(end);
        }
        state.durable = self.chain.clone();
        state.recent = recent;
        if state.shapes.len() != self.shapes.len() {
            state.shapes.clone_from(&self.shapes);
        }
        // Under the lock: a reader that has just come by must not be ahead of the end.
        self.shared.end.send_if_modified(|end| {
            let changed = *end != self.chain.end;
            *end = self.chain.end;
            changed
        });
        drop(state);
        self.shared.written.send_modify(|n| *n += 1);
        // Whoever waits for these bytes does not wait for this.
        if let Some(tail) = self.tail {
            let noted = self.mark.note_at_times(tail);
            self.tell_not_noted(noted);
            if self.mark.is_due() {
                self.shared.see_to_the_note();
            }
        }
    }

    fn note_durable(&mut self) {
        if let Some(tail) = self.tail {
            let noted = self.mark.note(tail);
            self.tell_not_noted(noted);
        }
    }

    fn note_due(&mut self) {
        let noted = self.mark.note_due();
        self.tell_not_noted(noted);
    }

    fn tell_not_noted(&self, noted: io::Result<()>) {
        if let Err(err) = noted {
            // An old note only sees less damage.
            let path = self.mark.path().display();
            tracing::warn!(%path, error = %err, "cannot note the durable end");
        }
    }

    /// Takes the zeros behind the tail away. Where a crash comes first, recovery does it.
    fn trim(&self) {
        if let (Some(active), Some(tail)) = (&self.active, self.tail)
            && active.zeros_to > tail.offset
        {
            warn_if(
                active.file.set_len(tail.offset),
                "shorten",
                &active.segment.path,
            );
        }
    }

    /// Makes a segment that goes on at the tail, and makes it the active one.
    fn make_segment(&mut self) -> Result<(), Full> {
        let large = self.large_at.zip(self.chain.large.clone());
        self.make_segment_after(self.tail, large)
    }

    fn make_segment_after(
        &mut self,
        follows: Option<Place>,
        large: Option<(Place, Header)>,
    ) -> Result<(), Full> {
        let preamble = Preamble {
            origin: self.shared.origin,
            sequence: self.sequence + 1,
            follows,
            previous: self.chain.end,
            last: self.chain.last.clone(),
            large,
        };
        let mut bytes = preamble.encode();
        let body = bytes.len() as u64;
        for (id, relation) in &self.shapes {
            encode_shape(&mut bytes, *id, relation);
        }
        let dir = &self.shared.dir;
        let path = dir.join(preamble.file_name());
        let unfinished = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unfinished)
            .map_err(|err| Full(format!("make {}: {err}", unfinished.display())))?;
        if let Err(err) = write(&file, 0, [&bytes[..]]) {
            let full = full_or_die(err, &unfinished);
            let _ = std::fs::remove_file(&unfinished);
            return Err(full);
        }
        if let Err(err) = file.sync_all() {
            die(&err, &unfinished);
        }
        std::fs::rename(&unfinished, &path)
            .map_err(|err| Full(format!("rename {}: {err}", unfinished.display())))?;
        if let Err(err) = sync_dir(dir) {
            die(&err, dir);
        }

        let sequence = preamble.sequence;
        let segment = Arc::new(Segment::made(preamble, path, body, bytes.len() as u64));
        self.trim();
        self.sequence = sequence;
        self.tail = Some(Place {
            sequence,
            offset: bytes.len() as u64,
        });
        self.active = Some(Active {
            file,
            segment: Arc::clone(&segment),
            zeros_to: bytes.len() as u64,
        });
        self.shared.state.lock().segments.push_back(segment);
        self.note_durable();
        Ok(())
    }

    /// Takes the unfinished large transaction away. Whatever happens meanwhile, shapes that were
    /// durable stay: the id of a lost shape would be given to another one.
    ///
    /// New bytes never go where the old ones were, but into a new segment: a reader that is in
    /// the middle of the old ones reads them or the end of the file, never a mixture.
    pub(super) fn cut(&mut self) -> Result<(), Full> {
        let Some(at) = self.large_at else {
            self.chain.large = None;
            return Ok(());
        };
        if self.large_has_shapes {
            // From here on the chain of preambles leaves the region out.
            self.make_segment_after(Some(at), None)?;
            let kept = self.tail.map(|tail| tail.sequence);
            self.drop_region(at, kept)?;
        } else {
            // The space of the region comes first: it may be what fills the disk.
            self.drop_region(at, None)?;
            self.tail = Some(at);
            self.active = None;
        }
        Ok(())
    }

    /// Deletes everything from `at` on but segment `kept`.
    fn drop_region(&mut self, at: Place, kept: Option<u64>) -> Result<(), Full> {
        let mark = self.tail.filter(|_| kept.is_some()).unwrap_or(at);
        self.mark
            .note_durably(mark)
            .map_err(|err| Full(format!("note the durable end: {err}")))?;
        self.chain.large = None;
        self.large_at = None;
        self.large_has_shapes = false;

        let mut dropped = Vec::new();
        let mut shortened = None;
        let mut state = self.shared.state.lock();
        state.segments.retain(|segment| {
            let sequence = segment.preamble.sequence;
            if sequence == at.sequence {
                segment.set_durable(at.offset);
                shortened = Some(segment.path.clone());
            }
            let keep = sequence <= at.sequence || Some(sequence) == kept;
            if !keep {
                dropped.push(segment.path.clone());
            }
            keep
        });
        state.cuts += 1;
        state.durable.large = None;
        state.recent = None;
        drop(state);
        tracing::info!(
            origin = self.shared.origin.0,
            segments = dropped.len(),
            "an unfinished large transaction was cut off"
        );

        // Newest first, so that what is left is a chain at every moment. What cannot be deleted
        // now is found by the next start.
        for path in dropped.iter().rev() {
            warn_if(std::fs::remove_file(path), "delete", path);
        }
        if let Err(err) = sync_dir(&self.shared.dir) {
            die(&err, &self.shared.dir);
        }
        if let Some(path) = shortened {
            let cut = OpenOptions::new().write(true).open(&path).and_then(|file| {
                file.set_len(at.offset)?;
                file.sync_all()
            });
            if let Err(err) = cut {
                die(&err, &path);
            }
        }
        self.shared.written.send_modify(|n| *n += 1);
        Ok(())
    }
}

fn check_quota(shared: &Shared, more: u64) -> Result<(), Full> {
    let Some(quota) = shared.options.quota_bytes else {
        return Ok(());
    };
    let bytes = shared.state.lock().bytes();
    if bytes + more <= quota {
        return Ok(());
    }
    Err(Full(format!(
        "the journal of node {} holds {bytes} bytes and its quota is {quota}: it waits until \
         peers have caught up and segments are deleted; raise the quota if they cannot",
        shared.origin
    )))
}

/// Takes out the large transactions that a later item cuts off, shapes excepted; true if there
/// were any. `large`: one was unfinished before these items.
fn drop_doomed(items: &mut VecDeque<Item>, mut large: bool) -> bool {
    let mut doomed = vec![false; items.len()];
    let mut unfinished = Vec::new();
    for (n, item) in items.iter().enumerate() {
        if large && item.note.cuts() {
            for n in unfinished.drain(..) {
                if let Some(doomed) = doomed.get_mut(n) {
                    *doomed = true;
                }
            }
        }
        match item.note {
            Note::Begin(_) => {
                large = true;
                unfinished.push(n);
            }
            Note::Part => unfinished.push(n),
            Note::Whole(_) | Note::End { .. } => {
                large = false;
                unfinished.clear();
            }
            Note::Start(_) | Note::Shape { .. } => {}
        }
    }
    let mut is_doomed = doomed.iter();
    let before = items.len();
    items.retain(|_| is_doomed.next() != Some(&true));
    items.len() < before
}

fn warn_if(result: io::Result<()>, action: &str, path: &Path) {
    if let Err(err) = result {
        tracing::warn!(path = %path.display(), error = %err, "cannot {action}");
    }
}

/// Writes `pieces` one behind the other, small ones together; all of it in one piece if it is small.
fn write<'a>(
    file: &File,
    mut offset: u64,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<Option<Bytes>> {
    let begin = offset;
    let mut gathered = BytesMut::new();
    for piece in pieces {
        if gathered.len() + piece.len() > GATHER_BYTES && !gathered.is_empty() {
            file.write_all_at(&gathered, offset)?;
            offset += gathered.len() as u64;
            gathered.clear();
        }
        if piece.len() > GATHER_BYTES {
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        } else {
            gathered.extend_from_slice(piece);
        }
    }
    file.write_all_at(&gathered, offset)?;
    let small = offset == begin && gathered.len() as u64 <= SMALL_BYTES;
    Ok(small.then(|| gathered.freeze()))
}

fn full_or_die(err: io::Error, path: &Path) -> Full {
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Full(format!(
            "write {}: {err}; it waits until there is space",
            path.display()
        )),
        _ => die(&err, path),
    }
}

/// A panic in the middle of a round ends the process: whoever writes next would leave out what was taken.
struct OrEnd;

impl Drop for OrEnd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the journal's writer panicked, the process ends");
            std::process::exit(EXIT_NOT_DURABLE);
        }
    }
}

/// Durability cannot be promised any more, so nothing may be said or done after this.
fn die(err: &dyn std::error::Error, path: &Path) -> ! {
    tracing::error!(path = %path.display(), error = %err, "cannot make the journal durable, the process ends");
    std::process::exit(EXIT_NOT_DURABLE)
}
