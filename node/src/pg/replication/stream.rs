//! The stream of a slot.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use everywrite_conflict::{Lsn, Stamp};
use tokio::sync::Mutex;

use super::options::Options;
use crate::pg::quote::identifier;
use crate::pg::wire::{Connection, Frames, Outbox, is_aside, unexpected};
use crate::pg::{Error, ServerError, Target};

/// What a walsender sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One message of the output plugin.
    Data {
        /// Where its change is in the WAL; zero for messages about no change (Relation, …).
        wal_start: Lsn,
        /// The same, with pgoutput.
        wal_end: Lsn,
        /// The server's clock when it was sent.
        sent_at: Stamp,
        /// The message: a slice of the read buffer.
        payload: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// The server has sent everything it wants to send up to here.
        wal_end: Lsn,
        /// The server's clock when it was sent.
        sent_at: Stamp,
        /// Answer at once, or be cut off.
        reply_requested: bool,
    },
}

/// The reading half.
pub struct Stream {
    frames: Frames,
    server_version: u32,
    ended: bool,
}

/// The writing half. Clones share one connection; whole messages go out in the order of the calls.
#[derive(Clone)]
pub struct Feedback {
    outbox: Arc<Mutex<Outbox>>,
}

/// Connects and starts the stream of a slot.
///
/// It starts at `from` or at what the slot has confirmed, whichever is later. A slot that is still
/// in use by a connection the server has not noticed is dead gives SQLSTATE 55006: try again.
pub async fn start(
    target: &Target,
    slot: &str,
    from: Lsn,
    options: &Options,
) -> Result<(Stream, Feedback), Error> {
    let mut connection = connect(target).await?;
    let server_version = connection.server_version();
    connection.simple_query(&options.decoding_memory()).await?;
    let sql = format!(
        "START_REPLICATION SLOT {} LOGICAL {from} ({})",
        identifier(slot),
        options.sql(server_version)
    );
    connection.send_query(&sql).await?;
    let answer = connection.next().await?;
    match answer.tag {
        b'W' => {}
        b'E' => return Err(ServerError::decode(&answer.body).into()),
        other => return Err(unexpected(other, "START_REPLICATION")),
    }
    let Connection { frames, outbox, .. } = connection;
    Ok((
        Stream {
            frames,
            server_version,
            ended: false,
        },
        Feedback {
            outbox: Arc::new(Mutex::new(outbox)),
        },
    ))
}

/// A connection that takes replication commands, and plain SQL as simple queries.
pub(super) async fn connect(target: &Target) -> Result<Connection, Error> {
    // Types such as regclass print names relative to the search path: an empty one gives whole names.
    Connection::connect(target, &[("replication", "database"), ("search_path", "")]).await
}

impl Stream {
    /// The next event; `None` once the server has ended the stream, because it was asked to or
    /// because it shuts down. May be cancelled.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.buffered()? {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            self.frames.fill().await?;
        }
    }

    /// The next event, if it has been received already: for draining without waiting.
    pub fn buffered(&mut self) -> Result<Option<Event>, Error> {
        while !self.ended
            && let Some(frame) = self.frames.buffered()?
        {
            match frame.tag {
                b'd' => return event(frame.body).map(Some),
                // CopyDone; a server that shuts down sends only CommandComplete.
                b'c' | b'C' => self.ended = true,
                b'E' => return Err(ServerError::decode(&frame.body).into()),
                tag if is_aside(tag, &frame.body) => {}
                other => return Err(unexpected(other, "the stream of a slot")),
            }
        }
        Ok(None)
    }

    /// The server's major version.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }
}

fn event(mut body: Bytes) -> Result<Event, Error> {
    let short = || Error::Protocol("a replication message that ends early".to_owned());
    let kind = body.try_get_u8().map_err(|_| short())?;
    match kind {
        b'w' if body.len() >= 24 => {
            let wal_start = Lsn(body.get_u64());
            let wal_end = Lsn(body.get_u64());
            let sent_at = Stamp(body.get_i64());
            Ok(Event::Data {
                wal_start,
                wal_end,
                sent_at,
                payload: body,
            })
        }
        b'k' if body.len() >= 17 => Ok(Event::Keepalive {
            wal_end: Lsn(body.get_u64()),
            sent_at: Stamp(body.get_i64()),
            reply_requested: body.get_u8() != 0,
        }),
        b'w' | b'k' => Err(short()),
        other => Err(unexpected(other, "the stream of a slot")),
    }
}

impl Feedback {
    /// Tells the server how far this node is: received (`write`), durable (`flush`), applied
    /// (`apply`). Each is the position up to which everything is done.
    ///
    /// `reply` asks for a keepalive in return. May be cancelled: the message is then sent in full
    /// or with the next one.
    pub async fn send(&self, write: Lsn, flush: Lsn, apply: Lsn, reply: bool) -> Result<(), Error> {
        const BODY: u8 = 34;
        let mut out = BytesMut::with_capacity(1 + 4 + usize::from(BODY));
        out.put_u8(b'd');
        out.put_u32(u32::from(BODY) + 4);
        out.put_u8(b'r');
        out.put_u64(write.0);
        out.put_u64(flush.0);
        out.put_u64(apply.0);
        out.put_i64(now().0);
        out.put_u8(reply.into());
        self.push(out).await
    }

    /// Asks the server to end the stream; [`Stream::next`] gives what was on the way, then `None`.
    pub async fn finish(&self) -> Result<(), Error> {
        self.push(BytesMut::from(&[b'c', 0, 0, 0, 4][..])).await
    }

    async fn push(&self, message: BytesMut) -> Result<(), Error> {
        let mut outbox = self.outbox.lock().await;
        outbox.push(message);
        outbox.flush().await
    }
}

/// This machine's clock. The server only shows it.
fn now() -> Stamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Stamp::from_unix_us(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
