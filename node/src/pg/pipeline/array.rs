//! Arrays as parameters, in their binary form: how a set of rows goes into one statement.
//!
//! <https://www.postgresql.org/docs/current/arrays.html>; `array_recv` reads dimensions, "has nulls",
//! the element type, length and lower bound of each dimension, then the elements.

use bytes::{BufMut, Bytes, BytesMut};

/// An array of one dimension that grows by one element at a time.
#[derive(Debug)]
pub struct Array {
    bytes: BytesMut,
    count: i32,
}

/// Where the header says how many elements there are.
const COUNT_AT: std::ops::Range<usize> = 12..16;
/// What most elements take, with their length: a guess that only saves growing.
const ELEMENT_BYTES: usize = 12;

impl Array {
    /// An empty one of elements of this type, with room for `count`.
    pub fn new(element_oid: u32, count: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(20 + count * ELEMENT_BYTES);
        bytes.put_i32(1);
        bytes.put_i32(1);
        bytes.put_u32(element_oid);
        bytes.put_i32(0);
        bytes.put_i32(1);
        Array { bytes, count: 0 }
    }

    /// One of all these, none of them NULL.
    pub fn of<'a>(element_oid: u32, values: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let mut array = Array::new(element_oid, values.len());
        values.for_each(|value| array.push(Some(value)));
        array
    }

    /// Adds an element in the type's binary form; `None` is NULL.
    pub fn push(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
                self.bytes.put_i32(length);
                self.bytes.extend_from_slice(value);
            }
            None => self.bytes.put_i32(-1),
        }
        self.count = self.count.saturating_add(1);
    }

    /// The parameter's value.
    pub fn finish(mut self) -> Bytes {
        if let Some(count) = self.bytes.get_mut(COUNT_AT) {
            count.copy_from_slice(&self.count.to_be_bytes());
        }
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_server_writes_it() {
        let mut array = Array::new(23, 3);
        array.push(Some(&7i32.to_be_bytes()));
        array.push(None);
        // select array_send(array[7, null])
        let server = [
            0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7,
            255, 255, 255, 255,
        ];
        assert_eq!(array.finish().as_ref(), server);
    }
}
