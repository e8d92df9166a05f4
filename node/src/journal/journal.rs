//! The handle of one origin's journal.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId, Stamp};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::chain::Note;
use super::record::{Frame, Header, decode};
use super::recovery::recover;
use super::released::Note as ReleasedNote;
use super::segment::sync_dir;
use super::shared::{Item, Shared, State};
use super::writer::{Writer, run, try_write};
use super::{Error, Options, Reader};

/// Appends wait while more than this is queued. With as much on its way to the disk it bounds
/// what a journal holds in memory.
const QUEUE_BYTES: usize = 16 << 20;

/// One origin's transactions, durable here. A cheap handle; the journal closes with the last one,
/// and then writes what is queued unless the disk is full.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(super) handle: Arc<Handle>,
}

#[derive(Debug)]
pub(super) struct Handle {
    shared: Arc<Shared>,
    /// Held by whoever writes: the thread, or a task for a small round.
    pub(super) writer: Arc<Mutex<Writer>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held so that no other process opens the folder.
    _lock: std::fs::File,
}

impl Journal {
    /// Opens the journal of `origin` in `dir`, or makes it. Cuts off what a crash left behind: a
    /// torn tail and an unfinished large transaction. Blocks while it reads the newest segment.
    pub fn open(dir: &Path, origin: NodeId, options: Options) -> Result<Self, Error> {
        let (lock, writer) = recover(dir, origin, options)?;
        let shared = Arc::clone(&writer.shared);
        let writer = Arc::new(Mutex::new(writer));
        let of_thread = (Arc::clone(&writer), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name(format!("journal-{origin}"))
            .spawn(move || run(&of_thread.0, &of_thread.1))
            .map_err(Error::io("start the writer of", dir))?;
        Ok(Journal {
            handle: Arc::new(Handle {
                shared,
                writer,
                thread: Mutex::new(Some(thread)),
                _lock: lock,
            }),
        })
    }

    /// Whose transactions these are.
    pub fn origin(&self) -> NodeId {
        self.shared().origin
    }

    /// The position of the last whole durable transaction.
    pub fn end(&self) -> Lsn {
        *self.shared().end.borrow()
    }

    /// Follows [`Journal::end`].
    pub fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.shared().end.subscribe()
    }

    /// The header of the last whole durable transaction; a large one's with its true number of
    /// changes. It is still known when that transaction has been released.
    pub fn last_header(&self) -> Option<Header> {
        self.shared().state.lock().durable.last.clone()
    }

    /// Transactions behind this position are still here.
    pub fn first(&self) -> Lsn {
        self.shared().state.lock().first()
    }

    /// (Everything up to here was released, as far as that is known: what of it is still here nobody needs; no stamp
    /// of what was released is above this one).
    pub fn released(&self) -> (Lsn, Stamp) {
        let known = self.shared().released.lock().known();
        let position = known.position.min(self.end()).max(self.first());
        (position, known.stamp)
    }

    /// Every durable shape.
    pub fn shapes(&self) -> Vec<(u32, Bytes)> {
        let state = self.shared().state.lock();
        let shapes = state.shapes.iter();
        shapes.map(|(id, bytes)| (*id, bytes.clone())).collect()
    }

    /// What the journal takes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared().state.lock().bytes()
    }

    /// Why nothing can be written at the moment: no disk space, or the quota is used up.
    pub fn full(&self) -> Option<String> {
        self.shared().state.lock().full.clone()
    }

    /// Lets an empty journal begin behind `at`: a node that starts from a copy of another one's
    /// rows has no use for the transactions in that copy. Returns when that is durable.
    pub async fn begin(&self, at: Lsn) -> Result<(), Error> {
        let mut end = self.subscribe();
        {
            let mut state = self.shared().state.lock();
            let untouched = state.segments.is_empty() && state.queue.is_empty();
            if !untouched || state.accepted.end != Lsn::ZERO {
                return Err(Error::NotEmpty {
                    origin: self.origin(),
                    at,
                    end: state.accepted.end,
                });
            }
            self.enqueue(&mut state, Bytes::new(), Note::Start(at));
        }
        self.shared().work.notify_one();
        let reached = end.wait_for(|end| *end >= at).await;
        reached.map(|_| ()).map_err(|_| self.closed())
    }

    /// Queues one or more whole frames. They are checked first, and all or none are taken:
    /// checksums, and that each transaction follows the one before it. Duplicates and known
    /// shapes are skipped. A transaction that comes while a large one is unfinished cuts that
    /// one off.
    ///
    /// Returns when the frames are queued, not when they are durable ([`Journal::subscribe`]
    /// tells that), though few are often durable by then: they are written by the caller, who is held up for a
    /// millisecond or less. Waits only while the queue is full; may be dropped while it waits.
    pub async fn append(&self, frames: Bytes) -> Result<(), Error> {
        self.queue(frames).await?;
        if !try_write(&self.handle.writer) {
            self.shared().work.notify_one();
        }
        Ok(())
    }

    /// [`Journal::append`] where more is at hand: it may be written and synced together with that.
    pub async fn append_with_more(&self, frames: Bytes) -> Result<(), Error> {
        self.queue(frames).await?;
        self.shared().work.notify_one();
        Ok(())
    }

    async fn queue(&self, frames: Bytes) -> Result<(), Error> {
        let frames = self.split(frames)?;
        loop {
            let room = self.shared().room.notified();
            {
                let mut state = self.shared().state.lock();
                if state.closing {
                    return Err(self.closed());
                }
                if state.queued_bytes <= QUEUE_BYTES {
                    return self.accept(&mut state, frames);
                }
            }
            room.await;
        }
    }

    /// Cuts `bytes` into frames, with their bytes as they are.
    fn split(&self, mut bytes: Bytes) -> Result<Vec<(Bytes, Frame)>, Error> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let whole = bytes.clone();
            let Some(frame) = decode(&mut bytes)? else {
                return Err(Error::NotWhole {
                    origin: self.origin(),
                });
            };
            frames.push((whole.slice(..whole.len() - bytes.len()), frame));
        }
        Ok(frames)
    }

    fn accept(&self, state: &mut State, frames: Vec<(Bytes, Frame)>) -> Result<(), Error> {
        let mut chain = state.accepted.clone();
        let mut items: Vec<Item> = Vec::with_capacity(frames.len());
        let mut shapes = Vec::new();
        let accepted = frames.into_iter().try_for_each(|(bytes, frame)| {
            if !chain.admits(self.origin(), &frame)? {
                return Ok(());
            }
            let note = Note::from(frame);
            if let Note::Shape { id, relation } = &note {
                match state.accepted_shapes.get(id) {
                    Some(known) if known == relation => return Ok(()),
                    Some(_) => {
                        return Err(Error::ShapeChanged {
                            origin: self.origin(),
                            id: *id,
                        });
                    }
                    None => {
                        state.accepted_shapes.insert(*id, relation.clone());
                        shapes.push(*id);
                    }
                }
            }
            chain.apply(&note);
            items.push(Item { bytes, note });
            Ok(())
        });
        if let Err(err) = accepted {
            for id in shapes {
                state.accepted_shapes.remove(&id);
            }
            return Err(err);
        }
        state.accepted = chain;
        state.queued_bytes += items.iter().map(|item| item.bytes.len()).sum::<usize>();
        state.queue.append(&mut items);
        Ok(())
    }

    fn enqueue(&self, state: &mut State, bytes: Bytes, note: Note) {
        state.accepted.apply(&note);
        state.queued_bytes += bytes.len();
        state.queue.push(Item { bytes, note });
    }

    /// Reads the transactions behind `after`, those that are still to come too.
    pub fn reader(&self, after: Lsn) -> Result<Reader, Error> {
        let first = self.first();
        if after < first {
            return Err(Error::Released {
                origin: self.origin(),
                after,
                first,
            });
        }
        Ok(Reader::new(Arc::clone(self.shared()), after))
    }

    /// Deletes the segments whose every transaction is at or before `up_to`, never the active
    /// one. Returns how many bytes that freed. Readers that are inside of one finish it. `stamp`: none of these
    /// transactions has a higher one.
    pub fn release(&self, up_to: Lsn, stamp: Stamp) -> Result<u64, Error> {
        let shared = self.shared();
        let mut released = shared.released.lock();
        let mut freed = 0;
        let position = up_to.min(shared.state.lock().durable.end);
        // Until a segment goes it is for speed alone, at the next start.
        if let Err(err) = released.note(ReleasedNote { position, stamp }) {
            tracing::debug!(origin = self.origin().0, error = %err, "how far the journal is released could not be noted");
        }
        loop {
            let segment = {
                let mut state = shared.state.lock();
                // A large transaction that is not finished yet may be cut off again.
                let up_to = up_to.min(state.durable.end);
                // What comes next may be the middle of a large transaction, which then must be
                // at or before `up_to` too.
                let next = state.segments.get(1).map(|next| next.preamble.first());
                if next.is_none_or(|first| first > up_to) {
                    break;
                }
                state.segments.pop_front()
            };
            let Some(segment) = segment else { break };
            if let Err(err) = released.sync() {
                // A disk that stays full would be worse than a clock that may have to be raised later.
                tracing::warn!(origin = self.origin().0, error = %err, "how far the journal is released could not be synced");
            }
            if let Err(err) = std::fs::remove_file(&segment.path) {
                let path = segment.path.clone();
                shared.state.lock().segments.push_front(segment);
                return Err(Error::io("delete", &path)(err));
            }
            freed += segment.durable();
        }
        if freed > 0 {
            sync_dir(&shared.dir)?;
            shared.work.notify_one(); // a full writer may try again
        }
        Ok(freed)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    fn closed(&self) -> Error {
        Error::Closed {
            origin: self.origin(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(
                origin = self.shared.origin.0,
                "the journal's writer panicked"
            );
        }
        self.shared.room.notify_waiters();
        self.shared.written.send_modify(|n| *n += 1);
    }
}
