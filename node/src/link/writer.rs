//! The sending half of a connection: control first.
//!
//! Control messages and bulk pieces wait in queues of their own. Whenever the socket takes more,
//! all waiting control messages go out before the next piece, so that an acknowledgement waits
//! for at most one piece of 256 KiB, however much bulk there is.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::error::Error;
use super::frame::{Bulk, encode_control};
use super::message::Body;
use super::peer::PeerState;

/// Control messages that may wait for a peer. It reads all the time, so a thousand means that it
/// hangs; the connection is then given up.
pub(super) const CONTROL_QUEUE: usize = 1024;
/// Pieces that may wait: one is written while the next is read from disk.
const BULK_QUEUE: usize = 2;
/// Control messages are gathered into one write up to here.
const GATHER_BYTES: usize = 64 << 10;

/// Where the tasks of a connection put what is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    pub(super) control: mpsc::Sender<Body>,
    pub(super) bulk: mpsc::Sender<Bulk>,
}

/// The other end of an [`Outbox`].
pub(super) struct Queues {
    control: mpsc::Receiver<Body>,
    bulk: mpsc::Receiver<Bulk>,
}

pub(super) fn queues() -> (Outbox, Queues) {
    let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
    let (bulk, bulk_queue) = mpsc::channel(BULK_QUEUE);
    let queues = Queues {
        control: control_queue,
        bulk: bulk_queue,
    };
    (Outbox { control, bulk }, queues)
}

/// Writes until a goodbye is written, the queues are closed, or the connection breaks.
pub(super) async fn write_all(
    io: &mut (impl AsyncWrite + Unpin),
    mut queues: Queues,
    peer: Arc<PeerState>,
) -> Result<(), Error> {
    let broken = |source| Error::Broken {
        operation: "writing",
        source,
    };
    let mut head = BytesMut::new();
    loop {
        head.clear();
        let mut last = false;
        // Both arms are cancellation-safe (mpsc); biased, because control goes first.
        let bulk = tokio::select! {
            biased;
            Some(body) = queues.control.recv() => {
                last |= put(body, &mut head);
                None
            }
            Some(bulk) = queues.bulk.recv() => Some(bulk),
            else => return Ok(()),
        };
        while head.len() < GATHER_BYTES && !last {
            match queues.control.try_recv() {
                Ok(body) => last |= put(body, &mut head),
                Err(_) => break,
            }
        }
        let saved = bulk.as_ref().map_or(0, Bulk::saved_bytes);
        let payload = bulk.map_or_else(Bytes::new, |bulk| bulk.encode_header(&mut head));
        peer.sent((head.len() + payload.len()) as u64, saved as u64);
        // One vectored write: the payload is the journal's own bytes.
        let mut frame = (&head[..]).chain(payload);
        io.write_all_buf(&mut frame).await.map_err(broken)?;
        io.flush().await.map_err(broken)?;
        if last {
            io.shutdown().await.map_err(broken)?;
            return Ok(());
        }
    }
}

/// True when it was the last message.
fn put(body: Body, head: &mut BytesMut) -> bool {
    let last = matches!(body, Body::Goodbye(_));
    encode_control(body, head);
    last
}
