//! What a journal's handles, its writer and its readers have in common.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

use super::Options;
use super::chain::{Chain, Note};
use super::released::Released;
use super::segment::{Place, Segment};

/// One frame on its way to the disk.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) bytes: Bytes,
    pub(super) note: Note,
}

/// What the writer has written last, if that was little.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) from: Place,
    pub(super) bytes: Bytes,
}

/// The lock is held for moments only, never while a file is read, written or synced.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) origin: NodeId,
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) state: Mutex<State>,
    /// The writer has something to do, or should try again.
    pub(super) work: Condvar,
    /// The queue was taken.
    pub(super) room: Notify,
    /// The last whole durable transaction.
    pub(super) end: watch::Sender<Lsn>,
    /// Changes with every durable byte, and when the journal closes.
    pub(super) written: watch::Sender<u64>,
    /// How far it is released; one release at a time.
    pub(super) released: Mutex<Released>,
}

#[derive(Debug)]
pub(super) struct State {
    // What has been accepted.
    pub(super) queue: Vec<Item>,
    pub(super) queued_bytes: usize,
    /// Where the journal will be when the queue is written.
    pub(super) accepted: Chain,
    pub(super) accepted_shapes: BTreeMap<u32, Bytes>,
    pub(super) closing: bool,

    // What is durable.
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) durable: Chain,
    /// Its end once more, for readers that have everything before it: each peer and replay are such.
    pub(super) recent: Option<Recent>,
    pub(super) shapes: BTreeMap<u32, Bytes>,
    /// Grows when durable bytes of an unfinished transaction are cut off.
    pub(super) cuts: u64,
    /// Why nothing can be written at the moment.
    pub(super) full: Option<String>,
    /// A note of the durable end was put off; the thread makes it.
    pub(super) note_is_due: bool,
}

impl Shared {
    /// The thread is to make a note in a while.
    pub(super) fn see_to_the_note(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.note_is_due, true) {
            self.work.notify_one();
        }
    }
}

impl State {
    /// Everything that is queued.
    pub(super) fn take(&mut self) -> Vec<Item> {
        self.queued_bytes = 0;
        std::mem::take(&mut self.queue)
    }

    /// What was taken and could not be written stands before everything else again.
    pub(super) fn put_back(&mut self, items: VecDeque<Item>) {
        self.queued_bytes += items.iter().map(|item| item.bytes.len()).sum::<usize>();
        self.queue.splice(0..0, items);
    }

    /// Transactions behind this are still here.
    pub(super) fn first(&self) -> Lsn {
        self.segments
            .front()
            .map_or(self.durable.end, |segment| segment.preamble.first())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.durable()).sum()
    }
}
