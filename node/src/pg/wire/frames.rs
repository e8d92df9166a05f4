//! Messages from the server, cut out of the byte stream without copying them.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::socket::ReadHalf;
use crate::pg::Error;

/// Tag and length.
const HEADER: usize = 5;
/// How much room a read offers: as much as a busy walsender has ready at once.
const READ_BYTES: usize = 128 * 1024;
/// A read with less room than this would cost a system call for little.
const READ_BYTES_MIN: usize = 16 * 1024;
/// No message of PostgreSQL is longer (MaxAllocSize).
const LIMIT: usize = 1 << 30;
/// Before login nobody may make us reserve memory; libpq draws the line here, too.
const LIMIT_BEFORE_LOGIN: usize = 30_000;
/// A message longer than this leaves no buffer of its size behind.
const LARGE: usize = 1 << 20;

/// One message.
#[derive(Debug, Clone)]
pub(in crate::pg) struct Frame {
    pub(in crate::pg) tag: u8,
    /// What follows the length: a slice of the read buffer, which lives as long as this does.
    pub(in crate::pg) body: Bytes,
}

/// The reading side of a connection.
///
/// Invariant: `buffer` starts at the first byte of a message. All methods may be cancelled, nothing
/// that was received is lost.
pub(in crate::pg) struct Frames {
    half: ReadHalf,
    buffer: BytesMut,
    limit: usize,
    /// A large message was handed out; its memory should go with it.
    large: bool,
}

impl Frames {
    pub(super) fn new(half: ReadHalf) -> Self {
        Frames {
            half,
            buffer: BytesMut::new(),
            limit: LIMIT_BEFORE_LOGIN,
            large: false,
        }
    }

    pub(super) fn logged_in(&mut self) {
        self.limit = LIMIT;
    }

    /// The next message, if all of it has been received. Reads nothing.
    pub(in crate::pg) fn buffered(&mut self) -> Result<Option<Frame>, Error> {
        let Some((tag, length)) = self.header()? else {
            return Ok(None);
        };
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.large |= length > LARGE;
        self.buffer.advance(HEADER);
        let body = self.buffer.split_to(length).freeze();
        Ok(Some(Frame { tag, body }))
    }

    /// The next message, borrowed, if all of it has been received. [`skip`](Self::skip) ends it.
    pub(in crate::pg) fn peek(&self) -> Result<Option<(u8, &[u8])>, Error> {
        let Some((tag, length)) = self.header()? else {
            return Ok(None);
        };
        let body = self.buffer.get(HEADER..HEADER + length);
        Ok(body.map(|body| (tag, body)))
    }

    /// Drops the message that [`peek`](Self::peek) showed.
    pub(in crate::pg) fn skip(&mut self) {
        if let Ok(Some((_, length))) = self.header() {
            let whole = (HEADER + length).min(self.buffer.len());
            self.large |= length > LARGE;
            self.buffer.advance(whole);
        }
    }

    /// The next message. May be cancelled.
    pub(in crate::pg) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Waits until more bytes are here. May be cancelled.
    pub(in crate::pg) async fn fill(&mut self) -> Result<(), Error> {
        self.make_room()?;
        let read = self
            .half
            .read_buf(&mut self.buffer)
            .await
            .map_err(Error::io("reading"))?;
        if read == 0 {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    fn make_room(&mut self) -> Result<(), Error> {
        if self.large && self.buffer.len() < READ_BYTES {
            // Else the buffer would keep the size of the largest message for ever.
            let mut small = BytesMut::with_capacity(READ_BYTES + self.buffer.len());
            small.extend_from_slice(&self.buffer);
            self.buffer = small;
            self.large = false;
        }
        let missing = match self.header()? {
            Some((_, length)) => (HEADER + length).saturating_sub(self.buffer.len()),
            None => HEADER,
        };
        let room = self.buffer.capacity() - self.buffer.len();
        if room < missing.max(READ_BYTES_MIN) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
        Ok(())
    }

    /// Tag and length of the body.
    fn header(&self) -> Result<Option<(u8, usize)>, Error> {
        let Some([tag, length @ ..]) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        // The length counts itself.
        let body = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(4));
        match body {
            Some(body) if body <= self.limit => Ok(Some((*tag, body))),
            _ => Err(Error::Protocol(format!(
                "message {:?} of {length} bytes; is this a PostgreSQL server?",
                char::from(*tag)
            ))),
        }
    }
}
