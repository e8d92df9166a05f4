//! Bytes on their way to the server.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::socket::WriteHalf;
use crate::pg::Error;

/// The writing side of a connection.
///
/// What was pushed is written exactly once and in order, however often writing is cancelled: the
/// part that has not been written stays here.
pub(in crate::pg) struct Outbox {
    half: WriteHalf,
    queue: VecDeque<BytesMut>,
    /// TLS keeps bytes of its own until it is flushed.
    flushed: bool,
}

impl Outbox {
    pub(super) fn new(half: WriteHalf) -> Self {
        Outbox {
            half,
            queue: VecDeque::new(),
            flushed: true,
        }
    }

    pub(in crate::pg) fn push(&mut self, bytes: BytesMut) {
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
    }

    pub(in crate::pg) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.flushed
    }

    /// Writes all of it. May be cancelled, and called again.
    pub(in crate::pg) async fn flush(&mut self) -> Result<(), Error> {
        while let Some(front) = self.queue.front_mut() {
            self.flushed = false;
            while !front.is_empty() {
                self.half
                    .write_buf(front)
                    .await
                    .map_err(Error::io("writing"))?;
            }
            self.queue.pop_front();
        }
        if !self.flushed {
            self.half.flush().await.map_err(Error::io("writing"))?;
            self.flushed = true;
        }
        Ok(())
    }
}
