//! A row as the stream gives it: slices of the journal, never copied.

use bytes::{BufMut, Bytes, BytesMut};

use crate::pg::pgoutput::{Cell, Tuple};

/// A row's cells in the origin's column order.
#[derive(Clone, Debug)]
pub struct Image {
    count: u16,
    cells: Bytes,
    incomplete: bool,
    text: bool,
    filled: bool,
}

impl Image {
    /// The row of `tuple`, which was decoded from `message`.
    pub fn new(message: &Bytes, tuple: &Tuple<'_>) -> Self {
        let (mut incomplete, mut text) = (false, false);
        for cell in *tuple {
            incomplete |= matches!(cell, Cell::Unchanged);
            text |= matches!(cell, Cell::Text(_));
        }
        Image {
            count: u16::try_from(tuple.len()).unwrap_or(u16::MAX),
            cells: message.slice_ref(tuple.as_bytes()),
            incomplete,
            text,
            filled: false,
        }
    }

    /// A row of these cells.
    pub fn from_cells<'a>(cells: impl ExactSizeIterator<Item = Cell<'a>>) -> Self {
        let count = u16::try_from(cells.len()).unwrap_or(u16::MAX);
        let mut out = BytesMut::new();
        let (mut incomplete, mut text) = (false, false);
        for cell in cells {
            incomplete |= cell == Cell::Unchanged;
            text |= matches!(cell, Cell::Text(_));
            put(&mut out, cell);
        }
        Image {
            count,
            cells: out.freeze(),
            incomplete,
            text,
            filled: false,
        }
    }

    /// The key of no row: nothing equals NULL.
    pub(super) fn nowhere(columns: usize) -> Self {
        Image::from_cells(vec![Cell::Null; columns].into_iter())
    }

    /// Its cells.
    pub fn tuple(&self) -> Tuple<'_> {
        Tuple::from_parts(self.count, &self.cells)
    }

    /// Whether TOAST values are missing because the writer did not touch them.
    pub fn incomplete(&self) -> bool {
        self.incomplete
    }

    /// Whether a type without binary form is among its cells: it cannot go into arrays or COPY.
    pub fn has_text(&self) -> bool {
        self.text
    }

    /// Whether values that its writer left out were taken from an earlier image of the same group.
    pub(super) fn filled(&self) -> bool {
        self.filled
    }

    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// The cells that are missing, by column: part of a statement's identity.
    pub fn missing(&self) -> Vec<usize> {
        self.tuple()
            .iter()
            .enumerate()
            .filter(|(_, c)| *c == Cell::Unchanged)
            .map(|(i, _)| i)
            .collect()
    }

    /// This row with `values` in the place of the cells that are missing, in their order.
    pub fn completed<'a>(&self, values: impl IntoIterator<Item = Option<&'a [u8]>>) -> Self {
        let mut values = values.into_iter();
        let cells: Vec<Cell<'_>> = self
            .tuple()
            .iter()
            .map(|cell| match cell {
                Cell::Unchanged => match values.next() {
                    Some(Some(bytes)) => Cell::Binary(bytes),
                    Some(None) => Cell::Null,
                    None => Cell::Unchanged,
                },
                cell => cell,
            })
            .collect();
        Image::from_cells(cells.into_iter())
    }
}

impl everywrite_conflict::Image for Image {
    fn complete(&self) -> bool {
        !self.incomplete
    }

    fn fill_from(&mut self, older: &Self) {
        if self.incomplete && self.count == older.count {
            let cells: Vec<Cell<'_>> = self
                .tuple()
                .iter()
                .zip(older.tuple().iter())
                .map(|(new, old)| if new == Cell::Unchanged { old } else { new })
                .collect();
            *self = Image::from_cells(cells.into_iter());
            self.filled = true;
        }
    }
}

fn put(out: &mut BytesMut, cell: Cell<'_>) {
    let mut value = |tag, bytes: &[u8]| {
        out.put_u8(tag);
        out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(bytes);
    };
    match cell {
        Cell::Text(bytes) => value(b't', bytes),
        Cell::Binary(bytes) => value(b'b', bytes),
        Cell::Null => out.put_u8(b'n'),
        Cell::Unchanged => out.put_u8(b'u'),
    }
}
