//! The columns of one row version.

use super::Error;
use super::cursor::Cursor;

/// One column's value, borrowed from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL. Also what a key-only old tuple has for the columns outside the key.
    Null,
    /// A TOASTed value that the update did not touch, and that the server did not send.
    Unchanged,
    /// The type's text output.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// A row version as it stands in a message.
///
/// It exists only after all its cells have been walked once and found whole, so reading it again
/// cannot fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    cells: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(super) fn decode(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        let count = cursor.u16("the number of columns")?;
        let start = cursor.rest();
        for _ in 0..count {
            cell(cursor)?;
        }
        let length = start.len() - cursor.rest().len();
        let cells = start.get(..length).unwrap_or_default();
        Ok(Tuple { count, cells })
    }

    /// A tuple of `count` cells as [`as_bytes`](Self::as_bytes) gave them.
    pub fn from_parts(count: u16, cells: &'a [u8]) -> Self {
        Tuple { count, cells }
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// A table may have no columns at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The cells in column order, exactly [`len`](Self::len) of them.
    pub fn iter(&self) -> Cells<'a> {
        Cells {
            left: self.count,
            cursor: Cursor::new('N', self.cells),
        }
    }

    /// The bytes of all cells as they stand in the message, after the column count.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.cells
    }
}

impl std::fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Row values do not belong into logs.
        write!(
            f,
            "Tuple({} columns, {} bytes)",
            self.count,
            self.cells.len()
        )
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Cell<'a>;
    type IntoIter = Cells<'a>;

    fn into_iter(self) -> Cells<'a> {
        self.iter()
    }
}

/// Iterator over a tuple's cells.
#[derive(Clone)]
pub struct Cells<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        cell(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for Cells<'_> {}

fn cell<'a>(cursor: &mut Cursor<'a>) -> Result<Cell<'a>, Error> {
    Ok(match cursor.u8("the kind of a column")? {
        b'n' => Cell::Null,
        b'u' => Cell::Unchanged,
        b't' => Cell::Text(value(cursor)?),
        b'b' => Cell::Binary(value(cursor)?),
        other => return Err(cursor.impossible("the kind of a column", other.into())),
    })
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Error> {
    let length = cursor.length("the length of a column")?;
    cursor.take(length, "the value of a column")
}
