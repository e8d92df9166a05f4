//! The receiving side of a subscription: connection → journal.
//!
//! The connection's reader never waits: it hands whole chunks to the subscription's [`Feed`],
//! which unpacks and appends them and gives credit for what the journal has taken. The queue between them
//! is bounded by the credit, so a full journal stops one sender and nothing else.
//!
//! A feed's task has ended before the next feed of the same origin begins: bytes of two senders
//! are never mixed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;

use super::error::Error;
use super::frame::{Piece, WHOLE_BYTES_MAX, malformed};
use super::hub::Event;
use super::message::{Body, Credit, Subscribe, Unsubscribe};
use super::node::Node;
use super::pack::Unpacker;
use super::serve::PIECE_COST;
use super::session::Session;
use crate::journal::Journal;

/// A chunk of tiny pieces is bounded, too. Senders cut full ones.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// The ends of a connection's subscriptions where its reader puts what comes.
#[derive(Default)]
pub(super) struct Inlets {
    by_number: Mutex<HashMap<u32, Inlet>>,
}

struct Inlet {
    /// The chunk that is being received, as it came: it is unpacked when the journal's turn comes.
    pieces: Vec<Piece>,
    /// What they are unpacked; each counts as [`PIECE_BYTES_MIN`] at least.
    plain_bytes: usize,
    /// Bounded by `unpaid`: a sender that goes beyond its window breaks the protocol.
    chunks: mpsc::UnboundedSender<(Vec<Piece>, u32)>,
    unpaid: Arc<AtomicU64>,
    window_bytes: u32,
    /// What the chunk that is being received has cost and is not paid for yet.
    chunk_cost: u32,
}

impl Inlets {
    /// Takes a piece; for one of an ended subscription there is nobody, and it is dropped.
    /// `Some` is credit to be given at once.
    pub(super) fn push(&self, piece: Piece) -> Result<Option<Credit>, Error> {
        let number = piece.number;
        let mut inlets = self.by_number.lock();
        let Some(inlet) = inlets.get_mut(&number) else {
            return Ok(None);
        };
        // At most a piece and its cost: fits in 32 bits.
        let cost = (piece.bytes.len() + PIECE_COST) as u32;
        let unpaid = inlet.unpaid.fetch_add(u64::from(cost), Ordering::Relaxed) + u64::from(cost);
        if unpaid > u64::from(inlet.window_bytes) {
            return Err(malformed("data beyond the window".to_owned()));
        }
        inlet.chunk_cost += cost;
        inlet.plain_bytes += piece.plain_bytes().max(PIECE_BYTES_MIN);
        if inlet.plain_bytes > WHOLE_BYTES_MAX {
            return Err(malformed(format!(
                "pieces of more than {WHOLE_BYTES_MAX} bytes together"
            )));
        }
        let last = !piece.more;
        inlet.pieces.push(piece);
        if last {
            inlet.plain_bytes = 0;
            let chunk = std::mem::take(&mut inlet.pieces);
            // A closed channel belongs to a feed that is just ending.
            let _ = inlet
                .chunks
                .send((chunk, std::mem::take(&mut inlet.chunk_cost)));
        } else if inlet.chunk_cost > inlet.window_bytes / 2 {
            // A chunk larger than the window must come through, too.
            inlet.chunk_cost -= cost;
            inlet.unpaid.fetch_sub(u64::from(cost), Ordering::Relaxed);
            return Ok(Some(Credit {
                subscription: number,
                bytes: cost,
            }));
        }
        Ok(None)
    }

    pub(super) fn close(&self, number: u32) {
        self.by_number.lock().remove(&number);
    }
}

/// One origin's subscription at one peer.
pub(super) struct Feed {
    pub(super) number: u32,
    pub(super) session: Arc<Session>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Subscribes from the end of the own journal.
    pub(super) fn start(
        node: &Arc<Node>,
        session: Arc<Session>,
        origin: NodeId,
        journal: Journal,
        number: u32,
    ) -> Feed {
        let window_bytes = node
            .options
            .window_bytes
            .max(super::Options::WINDOW_BYTES_MIN);
        let (chunks, queue) = mpsc::unbounded_channel();
        let unpaid = Arc::new(AtomicU64::new(0));
        session.inlets.by_number.lock().insert(
            number,
            Inlet {
                pieces: Vec::new(),
                plain_bytes: 0,
                chunks,
                unpaid: Arc::clone(&unpaid),
                window_bytes,
                chunk_cost: 0,
            },
        );
        // What is queued and not durable yet comes a second time; the journal skips it.
        let from = journal.end();
        session.post(Body::Subscribe(Subscribe {
            subscription: number,
            origin: u32::from(origin.0),
            from: from.0,
            window_bytes,
        }));
        info!(%origin, via = %session.via.node, %from, "subscribed");
        let store = store(
            Arc::clone(node),
            Arc::clone(&session),
            origin,
            number,
            journal,
            Queue {
                chunks: queue,
                unpaid,
                pay_from: window_bytes / 8,
            },
        );
        Feed {
            number,
            session,
            task: node.tasks.spawn(store),
        }
    }

    /// Ends it here and tells the sender. Nothing of it is appended after this returns.
    pub(super) async fn stop(self) {
        self.session.inlets.close(self.number);
        self.session.post(Body::Unsubscribe(Unsubscribe {
            subscription: self.number,
        }));
        self.task.abort();
        // Cancelled or ended: both are what is wanted.
        let _ = self.task.await;
    }
}

struct Queue {
    chunks: mpsc::UnboundedReceiver<(Vec<Piece>, u32)>,
    unpaid: Arc<AtomicU64>,
    /// Credit is given in portions, not for every transaction: an eighth of the window, so that
    /// half a window of an unfinished chunk and this leave room for a piece.
    pay_from: u32,
}

async fn store(
    node: Arc<Node>,
    session: Arc<Session>,
    origin: NodeId,
    number: u32,
    journal: Journal,
    mut queue: Queue,
) {
    let mut stored: u32 = 0;
    let mut unpacker = Unpacker::default();
    while let Some((pieces, cost)) = queue.chunks.recv().await {
        let chunk = match unpacker.whole(pieces) {
            Ok(chunk) => chunk,
            Err(error) => {
                session.inlets.close(number);
                session.close(error);
                return;
            }
        };
        let appended = if queue.chunks.is_empty() {
            journal.append(chunk).await
        } else {
            journal.append_with_more(chunk).await
        };
        if let Err(source) = appended {
            let error = Error::Store {
                node: session.via.node,
                origin,
                source,
            };
            session.inlets.close(number);
            node.tell(Event::FeedFailed {
                session: session.id,
                number,
                error,
            })
            .await;
            return;
        }
        stored += cost;
        if stored >= queue.pay_from {
            queue.unpaid.fetch_sub(u64::from(stored), Ordering::Relaxed);
            session.post(Body::Credit(Credit {
                subscription: number,
                bytes: stored,
            }));
            stored = 0;
        }
    }
}
