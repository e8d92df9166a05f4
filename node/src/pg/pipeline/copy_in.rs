//! A COPY into the server, with its data, written straight into the batch.

use bytes::{BufMut, BytesMut};

use super::Batch;
use super::batch::Naming;

/// Size of a CopyData message. Messages need not end where rows end; the server reads each one
/// whole, so huge ones would only cost it memory.
const MESSAGE_BYTES: usize = 64 * 1024;

/// <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format": signature, no flags, no
/// header extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A row of -1 columns.
const BINARY_TRAILER: &[u8] = &[0xff, 0xff];

/// Builder of a `COPY … FROM STDIN`. Dropped before [`finish`](Self::finish), it leaves no trace.
///
/// For `WITH (FORMAT binary)`: [`binary`](Self::binary) first, then for each row
/// [`row`](Self::row) and as many fields. For other formats: [`raw`](Self::raw).
#[must_use = "only finish() puts it into the batch"]
pub struct CopyIn<'a> {
    batch: &'a mut Batch,
    /// Where the Parse starts.
    start: usize,
    dirty: bool,
    /// Where the length of the CopyData message that is being filled stands.
    message: usize,
    binary: bool,
    finished: bool,
}

impl<'a> CopyIn<'a> {
    pub(super) fn begin(batch: &'a mut Batch, sql: &str) -> Self {
        let start = batch.buffer.len();
        let dirty = batch.is_dirty();
        batch.execute_sql(sql);
        batch.open.copies += 1;
        let message = batch.begin_message(b'd');
        CopyIn {
            batch,
            start,
            dirty,
            message,
            binary: false,
            finished: false,
        }
    }

    /// Binary format: writes the header now and the trailer in [`finish`](Self::finish).
    pub fn binary(mut self) -> Self {
        self.binary = true;
        self.raw(BINARY_HEADER);
        self
    }

    /// Starts a row of the binary format.
    pub fn row(&mut self, columns: u16) {
        self.raw(&columns.to_be_bytes());
    }

    /// The next field of the row; `None` is NULL.
    pub fn field(&mut self, value: Option<&[u8]>) {
        self.cut();
        self.batch.put_value(value);
    }

    /// The next field of the row, written by a closure that only appends.
    pub fn field_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.cut();
        self.batch.put_written(write);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.cut();
        self.batch.buffer.put_slice(bytes);
    }

    /// Ends the data.
    ///
    /// Gives the index of its [`Outcome`](super::Outcome) among those of its Sync.
    pub fn finish(mut self) -> usize {
        if self.binary {
            self.raw(BINARY_TRAILER);
        }
        self.finished = true;
        self.batch.end_message(self.message);
        self.batch.buffer.put_slice(&[b'c', 0, 0, 0, 4]);
        self.batch.open.statements - 1
    }

    /// Starts another message if this one is full.
    fn cut(&mut self) {
        if self.batch.buffer.len() - self.message >= MESSAGE_BYTES {
            self.batch.end_message(self.message);
            self.message = self.batch.begin_message(b'd');
        }
    }
}

impl Drop for CopyIn<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.batch.truncate(self.start, self.dirty);
            self.batch.open.copies -= 1;
            self.batch.open.statements -= 1;
            let parse = self.batch.open.names.pop_back();
            debug_assert_eq!(parse, Some(Naming::Unnamed), "the COPY's own");
        }
    }
}
