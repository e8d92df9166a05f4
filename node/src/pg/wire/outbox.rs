//! Bytes on their way to the server.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::socket::WriteHalf;
use crate::pg::Error;

/// The writing side of a connection.
///
/// What was pushed is written exactly once and in order, however often writing is cancelled: the
/// part that has not been written stays here.
pub(in crate::pg) struct Outbox {
    /// `None` while it is lent to the task that writes in the background.
    half: Option<WriteHalf>,
    lent: Option<JoinHandle<(WriteHalf, io::Result<()>)>>,
    queue: VecDeque<BytesMut>,
    /// What that task has still to write; `None` when it has seen the end of it.
    behind: Arc<Mutex<Option<VecDeque<BytesMut>>>>,
    /// TLS keeps bytes of its own until it is flushed.
    flushed: bool,
}

impl Outbox {
    pub(super) fn new(half: WriteHalf) -> Self {
        Outbox {
            half: Some(half),
            lent: None,
            queue: VecDeque::new(),
            behind: Arc::default(),
            flushed: true,
        }
    }

    pub(in crate::pg) fn push(&mut self, bytes: BytesMut) {
        if bytes.is_empty() {
            return;
        }
        match &mut *self.behind.lock() {
            // Nothing of the own queue is before it: it was taken over when the task began.
            Some(behind) => behind.push_back(bytes),
            None => self.queue.push_back(bytes),
        }
    }

    pub(in crate::pg) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.flushed && self.lent.is_none()
    }

    /// Writes all of it. May be cancelled, and called again.
    pub(in crate::pg) async fn flush(&mut self) -> Result<(), Error> {
        if let Some(lent) = &mut self.lent {
            let done = lent.await;
            self.lent = None;
            let (half, written) =
                done.map_err(|e| Error::io("writing")(io::Error::other(e.to_string())))?;
            self.half = Some(half);
            written.map_err(Error::io("writing"))?;
        }
        let Some(half) = &mut self.half else {
            return Err(Error::Closed);
        };
        while let Some(front) = self.queue.front_mut() {
            self.flushed = false;
            while !front.is_empty() {
                half.write_buf(front).await.map_err(Error::io("writing"))?;
            }
            self.queue.pop_front();
        }
        if !self.flushed {
            half.flush().await.map_err(Error::io("writing"))?;
            self.flushed = true;
        }
        Ok(())
    }

    /// Writes what the system takes at once; a task of its own writes the rest, so that whoever
    /// calls can go on with something else. Little is written without a task.
    pub(in crate::pg) fn flush_behind(&mut self) -> Result<(), Error> {
        if self.lent.is_some() {
            return Ok(());
        }
        if let Some(flushed) = self.flush().now_or_never() {
            return flushed;
        }
        let Some(half) = self.half.take() else {
            return Err(Error::Closed);
        };
        *self.behind.lock() = Some(std::mem::take(&mut self.queue));
        self.flushed = true;
        self.lent = Some(tokio::spawn(write_behind(half, Arc::clone(&self.behind))));
        Ok(())
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // The connection ends with its owner, not when all is written.
        if let Some(lent) = &self.lent {
            lent.abort();
        }
    }
}

/// Writes until nothing is left, and gives the half back.
async fn write_behind(
    mut half: WriteHalf,
    behind: Arc<Mutex<Option<VecDeque<BytesMut>>>>,
) -> (WriteHalf, io::Result<()>) {
    let written = async {
        loop {
            let next = behind.lock().as_mut().and_then(VecDeque::pop_front);
            match next {
                Some(mut bytes) => half.write_all_buf(&mut bytes).await?,
                None => {
                    half.flush().await?;
                    let mut behind = behind.lock();
                    if behind.as_ref().is_none_or(VecDeque::is_empty) {
                        *behind = None;
                        return Ok(());
                    }
                }
            }
        }
    }
    .await;
    if written.is_err() {
        *behind.lock() = None;
    }
    (half, written)
}
