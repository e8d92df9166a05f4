//! A session that is fed batches.

use std::collections::VecDeque;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustc_hash::FxHashSet;

use super::batch::{Group, Naming};
use super::{Batch, Outcome, outcome};
use crate::pg::wire::{Canceller, Connection, cells, is_aside, unexpected};
use crate::pg::{Error, ServerError, Target};

/// Where a session stands after a Sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No transaction.
    Idle,
    /// In an explicit transaction.
    Open,
    /// In an explicit transaction that failed: only `ROLLBACK` (or `ROLLBACK TO`) works.
    Failed,
}

/// An ordinary SQL session with batches on their way.
///
/// [`send`](Self::send) and [`receive`](Self::receive) may be cancelled. What a cancelled [`send`](Self::send) has left unsent goes out with
/// the next call.
pub struct Session {
    connection: Connection,
    prepared: FxHashSet<Box<str>>,
    /// Sent, or about to be, and not yet answered by ReadyForQuery.
    in_flight: VecDeque<Group>,
    /// Outcomes of the first group in flight.
    outcomes: Vec<Outcome>,
    /// Rows of the statement that is being answered.
    rows: Vec<super::Row>,
    /// Why the first group in flight failed, or why the server ended the session.
    failure: Option<Error>,
    /// Answered and not yet received by the caller.
    finished: VecDeque<Result<Vec<Outcome>, Error>>,
    status: TransactionStatus,
    broken: bool,
}

impl Session {
    /// Connects; `extra` are settings for the session, such as `session_replication_role`.
    pub async fn connect(target: &Target, extra: &[(&str, &str)]) -> Result<Self, Error> {
        Connection::connect(target, extra).await.map(Self::new)
    }

    /// Takes over a connection that is ready.
    pub fn new(connection: Connection) -> Self {
        Session {
            connection,
            prepared: FxHashSet::default(),
            in_flight: VecDeque::new(),
            outcomes: Vec::new(),
            rows: Vec::new(),
            failure: None,
            finished: VecDeque::new(),
            status: TransactionStatus::Idle,
            broken: false,
        }
    }

    /// Sends all messages of a batch and empties it; adds a Sync if there is none at its end.
    ///
    /// Returns when everything is handed to the system. Call [`receive`](Self::receive) once for
    /// each Sync, now or after more batches.
    pub async fn send(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let (messages, groups) = batch.take()?;
        self.in_flight.extend(groups);
        self.connection.outbox.push(messages);
        while !self.connection.outbox.is_empty() {
            self.progress().await?;
        }
        Ok(())
    }

    /// Like [`send`](Self::send), but waits for nothing: what the system does not take at once is
    /// written by a task of its own, while the caller makes the next batch ready.
    pub fn send_behind(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let (messages, groups) = batch.take()?;
        if self.broken {
            return Err(Error::Closed);
        }
        self.in_flight.extend(groups);
        self.connection.outbox.push(messages);
        // Why writing failed is said, or known, on the other half: `receive` tells.
        let _ = self.connection.outbox.flush_behind();
        Ok(())
    }

    /// Waits for the outcomes of the next Sync: one for each statement, in order, or the error of
    /// the one that failed.
    ///
    /// After [`Error::Statement`] the session goes on; after any other error it is broken.
    pub async fn receive(&mut self) -> Result<Vec<Outcome>, Error> {
        loop {
            if let Some(result) = self.finished.pop_front() {
                return result;
            }
            if self.in_flight.is_empty() && !self.broken {
                return Err(Error::Protocol("nothing was asked".to_owned()));
            }
            match self.progress().await {
                Err(error) if !self.finished.is_empty() => self.finished.push_back(Err(error)),
                moved => moved?,
            }
        }
    }

    /// [`send`](Self::send), then [`receive`](Self::receive) until nothing is in flight: the
    /// outcomes of all statements, or the first error. If it is cancelled, outcomes are lost.
    pub async fn run(&mut self, batch: &mut Batch) -> Result<Vec<Outcome>, Error> {
        self.send(batch).await?;
        let mut all = Ok(Vec::new());
        while self.in_flight() > 0 {
            match (self.receive().await, &mut all) {
                (Ok(outcomes), Ok(all)) if all.is_empty() => *all = outcomes,
                (Ok(outcomes), Ok(all)) => all.extend(outcomes),
                (Ok(_), Err(_)) => {}
                (Err(error), _) if self.broken => return Err(error),
                (Err(error), Ok(_)) => all = Err(error),
                (Err(_), Err(_)) => {}
            }
        }
        all
    }

    /// Runs one or more statements (with `;` between) as one simple query, after all that is in
    /// flight was received. One outcome for each; rows in text format. If it is cancelled, outcomes
    /// are lost.
    pub async fn query_simple(&mut self, sql: &str) -> Result<Vec<Outcome>, Error> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|_| Error::ZeroByte {
            what: "a statement",
        })?;
        self.connection.outbox.push(out);
        self.in_flight.push_back(Group::default());
        self.run(&mut Batch::new()).await
    }

    /// The server knows the name, or will once all in flight has succeeded.
    ///
    /// If what is in flight fails before its Parse, later uses of the name fail too; after the
    /// errors were received this says again what is true.
    pub fn is_prepared(&self, name: &str) -> bool {
        let known = self.prepared.contains(name);
        self.in_flight
            .iter()
            .fold(known, |known, group| group.prepares(name, known))
    }

    /// Syncs that were sent and not yet received.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len() + self.finished.len()
    }

    /// Where the session stood at the last Sync that was answered.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// The connection is lost: make a new session.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The server's major version.
    pub fn server_version(&self) -> u32 {
        self.connection.server_version()
    }

    /// A setting that the server reported at login.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.connection.parameter(name)
    }

    /// The server process behind this session.
    pub fn process_id(&self) -> Option<i32> {
        self.connection.process_id()
    }

    /// What it takes to cancel the running statement from elsewhere.
    pub fn canceller(&self) -> Option<Canceller> {
        self.connection.canceller()
    }

    /// Reads or writes a little, whichever is possible, and digests what came.
    ///
    /// Reading comes first: a server that cannot get rid of its answers stops taking messages.
    async fn progress(&mut self) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Closed);
        }
        let (frames, outbox) = (&mut self.connection.frames, &mut self.connection.outbox);
        let moved = if outbox.is_empty() {
            frames.fill().await
        } else {
            // Both may be dropped at any time: what was read or written is accounted for.
            tokio::select! {
                biased;
                read = frames.fill() => read,
                written = outbox.flush() => match written {
                    Ok(()) => Ok(()),
                    Err(error) => Err(self.hear_out(error).await),
                },
            }
        };
        moved
            .and_then(|()| self.answers())
            .map_err(|error| self.break_with(error))
    }

    /// Writing failed: reads what the server had said before it hung up. That is why it did, and the
    /// outcomes of groups that it had finished.
    async fn hear_out(&mut self, error: Error) -> Error {
        // Bounded: a half-dead network must not hold us.
        let wait = std::time::Duration::from_secs(1);
        while let Ok(Ok(())) = tokio::time::timeout(wait, self.connection.frames.fill()).await {
            if let Err(nonsense) = self.answers() {
                return nonsense;
            }
        }
        error
    }

    /// What a server said before it hung up explains more than that it did.
    fn break_with(&mut self, error: Error) -> Error {
        self.broken = true;
        self.in_flight.clear();
        match (error, self.failure.take()) {
            (Error::Closed | Error::Io { .. }, Some(reason @ Error::Server(_))) => reason,
            (error, _) => error,
        }
    }

    /// Digests every answer that has been received.
    fn answers(&mut self) -> Result<(), Error> {
        while let Some((tag, body)) = self.connection.frames.peek()? {
            match tag {
                // BindComplete, NoData, RowDescription, ParameterDescription
                b'2' | b'n' | b'T' | b't' => {}
                b'1' | b'3' => {
                    let group = self.in_flight.front_mut();
                    match group.and_then(|group| group.names.pop_front()) {
                        Some(Naming::Unnamed) => {}
                        Some(Naming::Parse(name)) => drop(self.prepared.insert(name)),
                        Some(Naming::Close(name)) => drop(self.prepared.remove(&name)),
                        None => return Err(unexpected(tag, "a batch")),
                    }
                }
                b'C' | b'I' => self.outcomes.push(Outcome {
                    affected: outcome::affected(body),
                    rows: std::mem::take(&mut self.rows),
                }),
                b'D' => {
                    if let Some(frame) = self.connection.frames.buffered()? {
                        self.rows.push(cells(&frame.body)?);
                    }
                    continue;
                }
                b'G' => self.copy_begins()?,
                b'E' => {
                    let error = Box::new(ServerError::decode(body));
                    let index = self.outcomes.len();
                    let mark = self.in_flight.front().and_then(|group| group.mark);
                    let statement = |error| Error::Statement {
                        index,
                        behind_mark: mark.and_then(|before| index.checked_sub(before)),
                        error,
                    };
                    match error.is_fatal() {
                        true => self.failure = Some(Error::Server(error)),
                        // What stands behind a simple query that has failed may fail for that.
                        false => {
                            self.failure.get_or_insert_with(|| statement(error));
                        }
                    }
                }
                b'Z' => {
                    self.status = match body.first() {
                        Some(b'T') => TransactionStatus::Open,
                        Some(b'E') => TransactionStatus::Failed,
                        _ => TransactionStatus::Idle,
                    };
                    self.ready()?;
                }
                _ if is_aside(tag, body) => {}
                other => return Err(unexpected(other, "a batch")),
            }
            self.connection.frames.skip();
        }
        Ok(())
    }

    fn copy_begins(&mut self) -> Result<(), Error> {
        match self
            .in_flight
            .front_mut()
            .and_then(|group| group.copies.checked_sub(1))
        {
            Some(left) => {
                if let Some(group) = self.in_flight.front_mut() {
                    group.copies = left;
                }
                Ok(())
            }
            None => Err(Error::Protocol(
                "a COPY FROM STDIN without data; it must go through Batch::copy_in".to_owned(),
            )),
        }
    }

    /// The group is over. Names it did not get to were not prepared.
    fn ready(&mut self) -> Result<(), Error> {
        let Some(group) = self.in_flight.front_mut() else {
            return Err(unexpected(b'Z', "nothing"));
        };
        self.rows.clear();
        // After an error before it the server has discarded the simple query, and this answers the Sync.
        let simple = group.simple.take();
        if simple.is_some_and(|before| self.outcomes.len() >= before) {
            return Ok(());
        }
        self.in_flight.pop_front();
        let outcomes = std::mem::take(&mut self.outcomes);
        self.finished.push_back(match self.failure.take() {
            None => Ok(outcomes),
            Some(error) => Err(error),
        });
        Ok(())
    }
}
