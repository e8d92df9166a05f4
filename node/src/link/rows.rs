//! Asking another node for a row: for values that the stream leaves out.
//!
//! A request is a control message; the answer travels in pieces like bulk, because a value may be
//! huge. The other side answers only once the version that is asked about is applied there, so
//! answers may take long and come in any order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::{Lsn, Position};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Semaphore, oneshot};

use super::error::Error;
use super::frame::{Bulk, Piece, Whole, malformed, pieces};
use super::message::{self, KeyColumn, RowAnswer, RowCell, RowRequest};
use super::session::Session;

/// Answers being worked on for one connection; more requests wait. Bounds sessions and memory.
pub(super) const ANSWERS_AT_ONCE: usize = 8;
/// Requests that may wait for their turn on one connection.
pub(super) const REQUESTS_WAITING: usize = 1024;

/// Which row, and as of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRow {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The replica identity: column names and binary values.
    pub key: Vec<(String, Bytes)>,
    /// The columns wanted, in this order.
    pub columns: Vec<String>,
    /// Answer only once this transaction is applied there (or is that node's own).
    pub at: Position,
}

/// The columns asked for, in that order, binary; `None` is NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedRow {
    /// One per column.
    pub values: Vec<Option<Bytes>>,
}

/// What answers other nodes' requests: reads the local server.
pub trait RowSource: Send + Sync {
    /// The row, or `None` if there is none. Waits until `at` is applied here. The error is one
    /// line for a person at the other node.
    fn fetch(
        &self,
        row: FetchRow,
    ) -> BoxFuture<'static, Result<Option<Vec<Option<Bytes>>>, String>>;
}

/// The requests of this node on one connection that are not answered yet: of rows and of questions.
#[derive(Default)]
pub(super) struct PendingRows {
    inner: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    last: u32,
    /// The connection has ended: nobody will answer.
    closed: bool,
    waiting: HashMap<u32, (Whole, oneshot::Sender<Bytes>)>,
}

impl PendingRows {
    pub(super) fn register(&self) -> (Waiting<'_>, oneshot::Receiver<Bytes>) {
        let (answer, wait) = oneshot::channel();
        let mut pending = self.inner.lock();
        pending.last = pending.last.wrapping_add(1);
        let request = pending.last;
        // Otherwise the sender is dropped here, which tells the waiter at once.
        if !pending.closed {
            pending.waiting.insert(request, (Whole::default(), answer));
        }
        let waiting = Waiting {
            rows: self,
            request,
        };
        (waiting, wait)
    }

    /// Takes a piece of an answer. Nobody may wait for it any more: then it is dropped.
    pub(super) fn push(&self, piece: Piece) -> Result<(), Error> {
        let mut pending = self.inner.lock();
        let request = piece.number;
        let Some((whole, _)) = pending.waiting.get_mut(&request) else {
            return Ok(());
        };
        let Some(bytes) = whole.push(piece)? else {
            return Ok(());
        };
        if let Some((_, waiter)) = pending.waiting.remove(&request) {
            let _ = waiter.send(bytes);
        }
        Ok(())
    }

    /// The connection is gone: whoever waits is told by the dropped channel.
    pub(super) fn clear(&self) {
        let mut pending = self.inner.lock();
        pending.closed = true;
        pending.waiting.clear();
    }
}

/// A request that is forgotten when nobody waits for it any more.
pub(super) struct Waiting<'a> {
    rows: &'a PendingRows,
    pub(super) request: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.rows.inner.lock().waiting.remove(&self.request);
    }
}

/// To the wire.
pub(super) fn request(number: u32, row: FetchRow) -> RowRequest {
    RowRequest {
        request: number,
        schema: row.schema,
        table: row.table,
        key: row
            .key
            .into_iter()
            .map(|(name, value)| KeyColumn { name, value })
            .collect(),
        columns: row.columns,
        at_origin: u32::from(row.at.origin.0),
        at_lsn: row.at.lsn.0,
    }
}

/// From the wire.
pub(super) fn result(
    node: everywrite_conflict::NodeId,
    answer: Bytes,
    columns: usize,
) -> Result<Option<FetchedRow>, Error> {
    let answer =
        RowAnswer::decode(answer).map_err(|err| malformed(format!("row answer: {err}")))?;
    if let Some(reason) = answer.error {
        return Err(Error::FetchFailed { node, reason });
    }
    if !answer.found {
        return Ok(None);
    }
    if answer.cells.len() != columns {
        return Err(Error::FetchFailed {
            node,
            reason: format!("{} values for {columns} columns", answer.cells.len()),
        });
    }
    Ok(Some(FetchedRow {
        values: answer.cells.into_iter().map(|cell| cell.value).collect(),
    }))
}

/// Answers one request; ends quietly when the connection does.
/// A turn ends after `limit`, when the asking side has long given up: an answer that waits for a
/// transaction that cannot be applied must not keep the others from theirs.
pub(super) async fn answer(
    session: Arc<Session>,
    source: Arc<dyn RowSource>,
    turns: Arc<Semaphore>,
    asked: RowRequest,
    limit: Duration,
) {
    let Ok(_turn) = turns.acquire().await else {
        return;
    };
    let number = asked.request;
    let answer = match message::node(asked.at_origin) {
        None => Err("the request names no origin".to_owned()),
        Some(origin) => {
            let row = FetchRow {
                schema: asked.schema,
                table: asked.table,
                key: asked.key.into_iter().map(|k| (k.name, k.value)).collect(),
                columns: asked.columns,
                at: Position {
                    origin,
                    lsn: Lsn(asked.at_lsn),
                },
            };
            tokio::time::timeout(limit, source.fetch(row))
                .await
                .unwrap_or_else(|_| Err(format!("not answered within {limit:?}")))
        }
    };
    let answer = match answer {
        Ok(row) => RowAnswer {
            error: None,
            found: row.is_some(),
            cells: row
                .into_iter()
                .flatten()
                .map(|value| RowCell { value })
                .collect(),
        },
        Err(reason) => RowAnswer {
            error: Some(reason),
            ..RowAnswer::default()
        },
    };
    send(&session, number, answer.encode_to_vec().into()).await;
}

/// Sends a whole answer in pieces; ends quietly when the connection does.
pub(super) async fn send(session: &Session, number: u32, answer: Bytes) {
    for piece in pieces(number, answer) {
        if session.outbox.bulk.send(Bulk::Row(piece)).await.is_err() {
            return;
        }
    }
}
