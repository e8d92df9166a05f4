//! A logged-in connection.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;

use super::frames::{Frame, Frames};
use super::login::{self, Binding};
use super::outbox::Outbox;
use super::socket::Socket;
use crate::pg::{Error, ServerError, Target, tls};

/// A connection to a server that is ready for a command.
///
/// [`pipeline::Session`](crate::pg::pipeline::Session) and
/// [`replication::start`](crate::pg::replication::start) are built on it.
pub struct Connection {
    pub(in crate::pg) frames: Frames,
    pub(in crate::pg) outbox: Outbox,
    parameters: HashMap<String, String>,
    cancel_key: Option<CancelKey>,
    target: Target,
}

impl Connection {
    /// Connects and logs in, within the target's timeout.
    ///
    /// `extra` are startup parameters: any setting by its name, or `replication`.
    pub async fn connect(target: &Target, extra: &[(&str, &str)]) -> Result<Self, Error> {
        within(target, Self::connect_at_leisure(target, extra)).await
    }

    async fn connect_at_leisure(target: &Target, extra: &[(&str, &str)]) -> Result<Self, Error> {
        let socket = Socket::connect(target).await?;
        let binding = match socket.is_tls() {
            true => Binding::Tls(socket.certificate().and_then(|c| tls::server_end_point(&c))),
            false => Binding::Plain,
        };
        let (read, write) = socket.split();
        let mut frames = Frames::new(read);
        let mut outbox = Outbox::new(write);
        let welcome = login::log_in(&mut frames, &mut outbox, target, extra, binding).await?;
        Ok(Connection {
            frames,
            outbox,
            parameters: welcome.parameters,
            cancel_key: welcome.cancel_key,
            target: target.clone(),
        })
    }

    /// A setting that the server reports: `server_version`, `in_hot_standby`, ….
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's major version, 0 if it does not say.
    pub fn server_version(&self) -> u32 {
        let version = self.parameter("server_version").unwrap_or_default();
        // "15.20 (Debian …)", "19devel", "18beta1"
        let digits = version
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(version.len());
        version
            .get(..digits)
            .and_then(|major| major.parse().ok())
            .unwrap_or(0)
    }

    /// The server process behind this connection.
    pub fn process_id(&self) -> Option<i32> {
        self.cancel_key.as_ref().map(|key| key.process_id)
    }

    /// What it takes to cancel the running statement from elsewhere.
    pub fn canceller(&self) -> Option<Canceller> {
        let key = self.cancel_key.clone()?;
        Some(Canceller {
            key,
            target: self.target.clone(),
        })
    }

    /// Sends one simple query, which may hold several statements, and gives the rows of all of them.
    ///
    /// Not to be cancelled: the answer of a cancelled query would be taken for the next one's.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<Bytes>>>, Error> {
        self.send_query(sql).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let frame = self.next().await?;
            match frame.tag {
                b'D' => rows.push(cells(&frame.body)?),
                b'E' => {
                    let error = ServerError::decode(&frame.body);
                    if error.is_fatal() {
                        return Err(error.into());
                    }
                    failure = Some(error);
                }
                b'Z' => return failure.map_or(Ok(rows), |error| Err(error.into())),
                b'C' | b'I' | b'T' => {}
                other => return Err(unexpected(other, "a query")),
            }
        }
    }

    pub(in crate::pg) async fn send_query(&mut self, sql: &str) -> Result<(), Error> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|_| Error::ZeroByte {
            what: "a statement",
        })?;
        self.outbox.push(out);
        self.outbox.flush().await
    }

    /// The next message that is not out of band. May be cancelled.
    pub(in crate::pg) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let frame = self.frames.next().await?;
            if !super::is_aside(frame.tag, &frame.body) {
                return Ok(frame);
            }
        }
    }
}

/// Ends what runs too long while connecting.
async fn within<T>(
    target: &Target,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let after: Duration = target.connect_timeout;
    tokio::time::timeout(after, work).await.unwrap_or_else(|_| {
        Err(Error::ConnectTimeout {
            address: target.address(),
            after,
        })
    })
}

/// The cells of a DataRow, as slices of it.
pub(in crate::pg) fn cells(body: &Bytes) -> Result<Vec<Option<Bytes>>, Error> {
    let broken = || Error::Protocol("a row that ends early".to_owned());
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(broken)?;
    let mut cells = Vec::with_capacity(u16::from_be_bytes(*count).into());
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        // -1 is NULL.
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            cells.push(None);
            rest = tail;
            continue;
        };
        let (value, tail) = tail.split_at_checked(length).ok_or_else(broken)?;
        cells.push(Some(body.slice_ref(value)));
        rest = tail;
    }
    Ok(cells)
}

pub(in crate::pg) fn unexpected(tag: u8, during: &str) -> Error {
    Error::Protocol(format!(
        "message {:?} in answer to {during}",
        char::from(tag)
    ))
}

/// Names a server process and proves that we may cancel its work.
#[derive(Clone)]
pub(super) struct CancelKey {
    pub(super) process_id: i32,
    pub(super) secret: Bytes,
}

/// Cancels the statement that another connection is running. Cheap to clone.
#[derive(Clone)]
pub struct Canceller {
    key: CancelKey,
    target: Target,
}

impl Canceller {
    /// Asks the server to cancel the running statement. It may be over by then: the request hits
    /// whatever the connection is doing when it arrives.
    pub async fn cancel(&self) -> Result<(), Error> {
        within(&self.target, async {
            let (_read, write) = Socket::connect(&self.target).await?.split();
            let mut out = BytesMut::new();
            let length = 12 + self.key.secret.len();
            out.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
            out.put_i32(CANCEL_REQUEST);
            out.put_i32(self.key.process_id);
            out.put_slice(&self.key.secret);
            let mut outbox = Outbox::new(write);
            outbox.push(out);
            outbox.flush().await
        })
        .await
    }
}

/// Code of the CancelRequest message, in the place of a protocol version.
const CANCEL_REQUEST: i32 = 80_877_102;
