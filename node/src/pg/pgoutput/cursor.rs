//! Checked reading from the front of a message.

use everywrite_conflict::{Lsn, Stamp};

use super::Error;

/// What of a message is still to be read. No method can panic.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    message: char,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: char, rest: &'a [u8]) -> Self {
        Cursor { rest, message }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn message(&self) -> char {
        self.message
    }

    pub(super) fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(Error::Truncated {
            message: self.message,
            field,
        })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated {
            message: self.message,
            field,
        })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.array::<1>(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, Error> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, Error> {
        self.array(field)
            .map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    pub(super) fn stamp(&mut self, field: &'static str) -> Result<Stamp, Error> {
        self.array(field)
            .map(|bytes| Stamp(i64::from_be_bytes(bytes)))
    }

    /// A length that PostgreSQL sends as a signed number.
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, Error> {
        let value = self.i32(field)?;
        usize::try_from(value).map_err(|_| self.impossible(field, value.into()))
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, Error> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Error::Truncated {
                message: self.message,
                field,
            })?;
        let text = self.take(end, field)?;
        self.take(1, field)?;
        std::str::from_utf8(text).map_err(|_| Error::NotUtf8 {
            message: self.message,
            field,
        })
    }

    /// The message must be read to its last byte.
    pub(super) fn end(&self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::Trailing {
                message: self.message,
                bytes: self.rest.len(),
            })
        }
    }

    pub(super) fn impossible(&self, field: &'static str, value: i64) -> Error {
        Error::Impossible {
            message: self.message,
            field,
            value,
        }
    }
}
