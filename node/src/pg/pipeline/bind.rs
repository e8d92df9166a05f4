//! One execution of a prepared statement, written straight into the batch.

use bytes::{BufMut, BytesMut};

use super::{Array, Batch};
use crate::pg::Error;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The type's text form.
    Text,
    /// The type's binary form.
    Binary,
}

/// Builder of a Bind and its Execute. Dropped before [`execute`](Self::execute), it leaves no trace.
///
/// Rows that the statement returns come in binary format unless [`text_rows`](Self::text_rows) is
/// asked for.
#[must_use = "only execute() puts it into the batch"]
pub struct Bind<'a> {
    batch: &'a mut Batch,
    /// Where the message starts, tag included.
    start: usize,
    /// Was the batch free of unsynced messages?
    dirty: bool,
    /// Where the parameters' formats stand: a count, then (for now) one format.
    formats: usize,
    rows: Format,
    executed: bool,
}

impl<'a> Bind<'a> {
    pub(super) fn begin(batch: &'a mut Batch, name: &str) -> Self {
        let start = batch.buffer.len();
        let dirty = batch.is_dirty();
        batch.begin_message(b'B');
        batch.buffer.put_u8(0);
        batch.put_text(name, "the name of a statement");
        let formats = batch.buffer.len();
        // One format for all parameters, which is the usual case; then the number of parameters.
        batch.buffer.put_slice(&[0, 1, 0, 0, 0, 0]);
        batch.formats.clear();
        Bind {
            batch,
            start,
            dirty,
            formats,
            rows: Format::Binary,
            executed: false,
        }
    }

    /// The next parameter, in binary format; `None` is NULL.
    pub fn binary(self, value: Option<&[u8]>) -> Self {
        self.param(Format::Binary, value)
    }

    /// The next parameter, in text format; `None` is NULL.
    pub fn text(self, value: Option<&[u8]>) -> Self {
        self.param(Format::Text, value)
    }

    /// The next parameter, an array.
    pub fn array(self, array: Array) -> Self {
        self.binary(Some(&array.finish()))
    }

    /// The next parameter; `None` is NULL.
    pub fn param(self, format: Format, value: Option<&[u8]>) -> Self {
        self.batch.formats.push(code(format));
        self.batch.put_value(value);
        self
    }

    /// The next parameter, written by a closure that only appends.
    pub fn param_with(self, format: Format, write: impl FnOnce(&mut BytesMut)) -> Self {
        self.batch.formats.push(code(format));
        self.batch.put_written(write);
        self
    }

    /// Rows in text format.
    pub fn text_rows(mut self) -> Self {
        self.rows = Format::Text;
        self
    }

    /// Ends the Bind and executes it.
    ///
    /// Gives the index of its [`Outcome`](super::Outcome) among those of its Sync.
    pub fn execute(mut self) -> usize {
        self.executed = true;
        let (start, rows) = (self.start, code(self.rows));
        self.write_formats();
        let batch = &mut *self.batch;
        batch.buffer.put_i16(1);
        batch.buffer.put_i16(rows);
        batch.end_message(start + 1);
        // Execute: the unnamed portal, all rows.
        batch.buffer.put_slice(&[b'E', 0, 0, 0, 9, 0, 0, 0, 0, 0]);
        batch.open.statements += 1;
        batch.open.statements - 1
    }

    fn write_formats(&mut self) {
        let batch = &mut *self.batch;
        let count = batch.formats.len();
        let Ok(count_u16) = u16::try_from(count) else {
            batch.fail(Error::TooManyParameters { count });
            return;
        };
        let first = batch.formats.first().copied().unwrap_or_default();
        if batch.formats.iter().all(|format| *format == first) {
            batch.patch(self.formats + 2, &first.to_be_bytes());
            batch.patch(self.formats + 4, &count_u16.to_be_bytes());
            return;
        }
        // Mixed formats need more room: one for each, in front of the values.
        let values = self.formats + 6;
        let more = 2 * (count - 1);
        let end = batch.buffer.len();
        batch.buffer.put_bytes(0, more);
        batch.buffer.copy_within(values..end, values + more);
        let formats = std::mem::take(&mut batch.formats);
        batch.patch(self.formats, &count_u16.to_be_bytes());
        for (index, format) in formats.iter().enumerate() {
            batch.patch(self.formats + 2 + 2 * index, &format.to_be_bytes());
        }
        batch.patch(values + more - 2, &count_u16.to_be_bytes());
        batch.formats = formats;
    }
}

impl Drop for Bind<'_> {
    fn drop(&mut self) {
        if !self.executed {
            self.batch.truncate(self.start, self.dirty);
        }
    }
}

fn code(format: Format) -> i16 {
    match format {
        Format::Text => 0,
        Format::Binary => 1,
    }
}
