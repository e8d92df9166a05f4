//! Messages to be sent together.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::{Bind, CopyIn};
use crate::pg::Error;

/// The longest message a server takes: MaxAllocSize, less the terminating zero it adds.
const MESSAGE_BYTES_MAX: usize = 0x3fff_fffe;

/// A buffer of protocol messages.
///
/// [`Session::send`](super::Session::send) takes the messages out and leaves the buffer's memory, so
/// one batch can be filled again and again.
///
/// Building cannot fail. What the protocol cannot express (a zero byte in a statement, a message
/// beyond 1 GiB) makes `send` return the error, and nothing of the batch is sent.
#[derive(Default)]
pub struct Batch {
    pub(super) buffer: BytesMut,
    groups: Vec<Group>,
    pub(super) open: Group,
    /// Formats of the parameters of the bind that is being built; kept for its memory.
    pub(super) formats: Vec<i16>,
    fault: Option<Error>,
}

/// What is expected in answer to the messages up to one Sync.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Parses and closes, in order.
    pub(super) names: VecDeque<Naming>,
    /// Executes.
    pub(super) statements: usize,
    /// Executes that come with data.
    pub(super) copies: usize,
    /// So many statements stand before the mark.
    pub(super) mark: Option<usize>,
    /// There is a simple query behind so many statements. It has a ReadyForQuery of its own, if the server comes to it.
    pub(super) simple: Option<usize>,
    /// There are messages without a Sync behind them.
    dirty: bool,
}

/// A change to the set of prepared statements.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// The unnamed statement: replaced by the next one, of no further interest.
    Unnamed,
    Parse(Box<str>),
    Close(Box<str>),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Prepares a statement under a name (`""` is the unnamed one). Parameter types that are missing
    /// or 0 are left for the server to find out.
    ///
    /// A name that is in use is an error: see [`Session::is_prepared`](super::Session::is_prepared)
    /// and [`Batch::parses`].
    pub fn parse(&mut self, name: &str, sql: &str, parameter_types: &[u32]) {
        let Ok(count) = u16::try_from(parameter_types.len()) else {
            self.fail(Error::TooManyParameters {
                count: parameter_types.len(),
            });
            return;
        };
        let start = self.begin_message(b'P');
        self.put_text(name, "the name of a statement");
        self.put_text(sql, "a statement");
        self.buffer.put_u16(count);
        for oid in parameter_types {
            self.buffer.put_u32(*oid);
        }
        self.end_message(start);
        self.open.names.push_back(match name {
            "" => Naming::Unnamed,
            name => Naming::Parse(name.into()),
        });
    }

    /// This batch prepares the name.
    pub fn parses(&self, name: &str) -> bool {
        let groups = self.groups.iter().chain([&self.open]);
        groups.fold(false, |known, group| group.prepares(name, known))
    }

    /// Forgets a prepared statement; no error if there is none of that name.
    pub fn close(&mut self, name: &str) {
        let start = self.begin_message(b'C');
        self.buffer.put_u8(b'S');
        self.put_text(name, "the name of a statement");
        self.end_message(start);
        self.open.names.push_back(Naming::Close(name.into()));
    }

    /// Starts to bind parameters to a prepared statement; [`Bind::execute`] ends it.
    pub fn bind(&mut self, name: &str) -> Bind<'_> {
        Bind::begin(self, name)
    }

    /// Runs a statement without parameters. Its rows come in text format.
    ///
    /// Gives the index of its [`Outcome`](super::Outcome) among those of its Sync.
    pub fn execute_sql(&mut self, sql: &str) -> usize {
        self.parse("", sql, &[]);
        self.bind("").text_rows().execute()
    }

    /// Runs `COPY … FROM STDIN`. The data is appended to the builder; [`CopyIn::finish`] ends it.
    ///
    /// In binary format the caller appends the rows; header and trailer are written by
    /// [`CopyIn::binary`].
    pub fn copy_in(&mut self, sql: &str) -> CopyIn<'_> {
        CopyIn::begin(self, sql)
    }

    /// Ends a group: the server answers for all of it, and commits if no transaction was begun.
    ///
    /// `send` does so itself for messages that have no Sync behind them.
    pub fn sync(&mut self) {
        self.buffer.put_slice(&[b'S', 0, 0, 0, 4]);
        self.groups.push(std::mem::take(&mut self.open));
    }

    /// Errors of statements behind this place of the group say so.
    pub fn mark(&mut self) {
        self.open.mark = Some(self.open.statements);
    }

    /// Runs so many statements (with `;` between) as one simple query, which is one message: the server has
    /// either heard of none of them or of all. If something before them in the group fails, it runs none of them, because it discards
    /// what comes up to the next Sync. Once in a group. Their rows come in text format.
    pub fn simple(&mut self, sql: &str, statements: usize) {
        let start = self.begin_message(b'Q');
        self.put_text(sql, "a statement");
        self.end_message(start);
        self.open.simple = Some(self.open.statements);
        self.open.statements += statements;
    }

    /// Bytes to be sent.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Statements since the last Sync: the index that the next one's outcome will have.
    pub fn statements(&self) -> usize {
        self.open.statements
    }

    /// Throws all messages away and keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.groups.clear();
        self.open = Group::default();
        self.fault = None;
    }

    /// Takes messages and expectations out.
    pub(super) fn take(&mut self) -> Result<(BytesMut, std::vec::Drain<'_, Group>), Error> {
        if let Some(fault) = self.fault.take() {
            self.clear();
            return Err(fault);
        }
        if self.open.dirty {
            self.sync();
        }
        Ok((self.buffer.split(), self.groups.drain(..)))
    }

    /// Writes a tag and room for the length; gives the place of the length.
    pub(super) fn begin_message(&mut self, tag: u8) -> usize {
        self.open.dirty = true;
        self.buffer.put_u8(tag);
        let start = self.buffer.len();
        self.buffer.put_u32(0);
        start
    }

    pub(super) fn end_message(&mut self, start: usize) {
        let bytes = self.buffer.len().saturating_sub(start);
        if bytes > MESSAGE_BYTES_MAX {
            self.fail(Error::TooLarge { bytes });
            return;
        }
        self.patch(
            start,
            &u32::try_from(bytes).unwrap_or_default().to_be_bytes(),
        );
    }

    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn put_text(&mut self, text: &str, what: &'static str) {
        if text.as_bytes().contains(&0) {
            self.fail(Error::ZeroByte { what });
            return;
        }
        self.buffer.put_slice(text.as_bytes());
        self.buffer.put_u8(0);
    }

    /// Appends a value with its length; -1 says NULL.
    pub(super) fn put_value(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else {
            self.buffer.put_i32(-1);
            return;
        };
        match i32::try_from(value.len()) {
            Ok(length) => {
                self.buffer.put_i32(length);
                self.buffer.put_slice(value);
            }
            Err(_) => self.fail(Error::TooLarge { bytes: value.len() }),
        }
    }

    /// Appends what a closure writes, with its length.
    pub(super) fn put_written(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.buffer.len();
        self.buffer.put_i32(0);
        write(&mut self.buffer);
        let bytes = self.buffer.len().saturating_sub(start + 4);
        match i32::try_from(bytes) {
            Ok(length) => self.patch(start, &length.to_be_bytes()),
            Err(_) => self.fail(Error::TooLarge { bytes }),
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.open.dirty
    }

    /// Takes back an unfinished builder's messages.
    pub(super) fn truncate(&mut self, start: usize, dirty: bool) {
        self.buffer.truncate(start);
        self.open.dirty = dirty;
    }

    /// The first problem is the one to report.
    pub(super) fn fail(&mut self, error: Error) {
        self.fault.get_or_insert(error);
    }
}

impl Group {
    /// Whether the name is prepared after this group succeeds, if it was (or not) before.
    pub(super) fn prepares(&self, name: &str, before: bool) -> bool {
        self.names
            .iter()
            .fold(before, |known, naming| match naming {
                Naming::Parse(other) if **other == *name => true,
                Naming::Close(other) if **other == *name => false,
                _ => known,
            })
    }
}
