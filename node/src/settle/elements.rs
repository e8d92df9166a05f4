//! The elements of a column that is a set: an array, or the keys of a jsonb object.
//!
//! They are found in the binary form that pgoutput sends, and are the same bytes at every site: an
//! array's elements in their binary form, an object's keys and values as jsonb writes them. An array must
//! be written as `everywrite.as_set` writes it: each site puts what it merges in that order, and the row
//! of the site that wrote it is as its application left it.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::pg::oid;
use crate::pg::pgoutput::Cell;

/// What a column holds: each element, and for keys the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Elements<'a> {
    of: FxHashMap<&'a [u8], &'a [u8]>,
}

impl<'a> Elements<'a> {
    /// The elements in a cell of that type; `None` if it is no set.
    pub(crate) fn of(type_oid: u32, cell: Cell<'a>) -> Option<Self> {
        let Cell::Binary(bytes) = cell else {
            return None;
        };
        let of = match type_oid {
            oid::JSONB => object(bytes)?,
            _ => array(type_oid, bytes)?,
        };
        Some(Elements { of })
    }

    /// What is in one of the two and not in the other, or with another value.
    pub(crate) fn differences(&self, other: &Elements<'a>) -> Vec<&'a [u8]> {
        let here = self.of.iter();
        let here = here.filter(|(element, value)| other.of.get(*element) != Some(value));
        let there = other.of.keys();
        let there = there.filter(|element| !self.of.contains_key(*element));
        here.map(|(element, _)| *element)
            .chain(there.copied())
            .collect()
    }

    /// The value of an element that is there; nothing, for those of arrays.
    pub(crate) fn get(&self, element: &[u8]) -> Option<&'a [u8]> {
        self.of.get(element).copied()
    }
}

/// A jsonb object of these keys and values, in binary, as [`Elements`] names them.
pub(crate) fn object_of<'a>(elements: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = vec![JSONB_VERSION, b'{'];
    for (n, (key, value)) in elements.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out
}

/// The first byte of jsonb in binary.
const JSONB_VERSION: u8 = 1;

/// Keys, with their quotation marks, and values.
fn object(bytes: &[u8]) -> Option<FxHashMap<&[u8], &[u8]>> {
    let (version, mut rest) = bytes.split_first()?;
    if *version != JSONB_VERSION {
        return None;
    }
    let mut found = FxHashMap::default();
    rest = rest.strip_prefix(b"{")?.strip_suffix(b"}")?;
    while !rest.is_empty() {
        let (key, behind) = rest.split_at_checked(string(rest)?)?;
        let behind = behind.strip_prefix(b": ")?;
        let (value, behind) = behind.split_at_checked(value(behind))?;
        found.insert(key, value);
        rest = match behind.strip_prefix(b", ") {
            Some(more) if !more.is_empty() => more,
            None if behind.is_empty() => behind,
            _ => return None,
        };
    }
    Some(found)
}

/// Where the string ends that begins here.
fn string(text: &[u8]) -> Option<usize> {
    let mut bytes = text.iter().enumerate();
    if bytes.next()?.1 != &b'"' {
        return None;
    }
    while let Some((n, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()?),
            b'"' => return Some(n + 1),
            _ => {}
        }
    }
    None
}

/// Where the value ends that begins here: before a comma outside of brackets and strings, or at the end.
fn value(text: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut n = 0;
    while let Some(byte) = text.get(n) {
        match byte {
            b'"' => n += string(text.get(n..).unwrap_or_default()).unwrap_or(1) - 1,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => return n,
            _ => {}
        }
        n += 1;
    }
    text.len()
}

/// The elements of an array that is written as `everywrite.as_set` writes it.
fn array(type_oid: u32, bytes: &[u8]) -> Option<FxHashMap<&[u8], &[u8]>> {
    let mut rest = bytes;
    let dimensions = number(&mut rest)?;
    let (_flags, _element_oid) = (number(&mut rest)?, number(&mut rest)?);
    let mut found = FxHashMap::default();
    if dimensions == 0 {
        return Some(found);
    }
    let (count, lower_bound) = (number(&mut rest)?, number(&mut rest)?);
    if dimensions != 1 || lower_bound != 1 {
        return None;
    }
    let mut before: Option<Cow<'_, [u8]>> = None;
    for _ in 0..count {
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let (element, behind) = rest.split_at_checked(length)?;
        rest = behind;
        let text = text(type_oid, element)?;
        if before.is_some_and(|before| before >= text) {
            return None;
        }
        before = Some(text);
        found.insert(element, &[][..]);
    }
    Some(found)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(i32::from_be_bytes(*bytes))
}

/// How PostgreSQL writes an element of an array of that type: its place in the order.
fn text(array_oid: u32, element: &[u8]) -> Option<Cow<'_, [u8]>> {
    let whole = |n: i64| Cow::Owned(n.to_string().into_bytes());
    Some(match array_oid {
        oid::TEXT_ARRAY | oid::VARCHAR_ARRAY => Cow::Borrowed(element),
        // In hexadecimal, and the hyphens all stand in the same places.
        oid::UUID_ARRAY => Cow::Borrowed(element),
        oid::BOOL_ARRAY => Cow::Borrowed(element),
        oid::INT2_ARRAY => whole(i16::from_be_bytes(element.try_into().ok()?).into()),
        oid::INT4_ARRAY => whole(i32::from_be_bytes(element.try_into().ok()?).into()),
        oid::INT8_ARRAY => whole(i64::from_be_bytes(element.try_into().ok()?)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::pipeline::Array;

    fn jsonb(text: &str) -> Vec<u8> {
        [&[1], text.as_bytes()].concat()
    }

    fn texts(elements: &[&str]) -> Vec<u8> {
        let elements: Vec<&[u8]> = elements.iter().map(|e| e.as_bytes()).collect();
        let mut array = Array::new(oid::TEXT, elements.len());
        elements.iter().for_each(|e| array.push(Some(e)));
        array.finish().to_vec()
    }

    fn shown(mut elements: Vec<&[u8]>) -> Vec<&str> {
        elements.sort_unstable();
        let text = |e| std::str::from_utf8(e).unwrap();
        elements.into_iter().map(text).collect()
    }

    #[test]
    fn keys_and_values_of_an_object() {
        let old = jsonb(
            r#"{"a": 1, "b": {"x": [1, "},"], "y": ","}, "c": "\\\"", "d\"": null, "e": [], "": 1.00}"#,
        );
        let new =
            jsonb(r#"{"a": 1, "b": {"x": [1, "},"], "y": ","}, "c": "\\", "f": {}, "": 1.0}"#);
        let old = Elements::of(oid::JSONB, Cell::Binary(&old)).unwrap();
        let new = Elements::of(oid::JSONB, Cell::Binary(&new)).unwrap();
        assert_eq!(old.of.len(), 6);
        let expected = [r#""""#, r#""c""#, r#""d\"""#, r#""e""#, r#""f""#];
        assert_eq!(shown(old.differences(&new)), expected);
        assert_eq!(shown(new.differences(&old)), expected);
        assert_eq!(new.get(b"\"f\"").unwrap(), b"{}");
        assert_eq!(new.get(b"\"e\""), None);
        let empty = jsonb("{}");
        let empty = Elements::of(oid::JSONB, Cell::Binary(&empty)).unwrap();
        assert_eq!(new.differences(&empty).len(), 5);
        let made = object_of([(&b"\"f\""[..], &b"{}"[..]), (b"\"\"", b"1.0")].into_iter());
        assert_eq!(made, jsonb(r#"{"f":{},"":1.0}"#));
        assert_eq!(object_of(std::iter::empty()), jsonb("{}"));
    }

    #[test]
    fn what_is_no_set_is_none() {
        for text in [
            "",
            "1",
            "[1]",
            "null",
            "\"a\"",
            "{\"a\": 1, }",
            "{\"a\"}",
            "{\"a\": 1",
        ] {
            let bytes = jsonb(text);
            assert_eq!(
                Elements::of(oid::JSONB, Cell::Binary(&bytes)),
                None,
                "{text}"
            );
        }
        for elements in [["b", "a"], ["a", "a"]] {
            let bytes = texts(&elements);
            assert_eq!(Elements::of(oid::TEXT_ARRAY, Cell::Binary(&bytes)), None);
        }
        let mut with_null = Array::new(oid::TEXT, 1);
        with_null.push(None);
        let with_null = with_null.finish();
        assert_eq!(
            Elements::of(oid::TEXT_ARRAY, Cell::Binary(&with_null)),
            None
        );
        let whole = texts(&["a", "b"]);
        for end in 0..whole.len() {
            let cut = Cell::Binary(&whole[..end]);
            assert_eq!(Elements::of(oid::TEXT_ARRAY, cut), None);
        }
        assert_eq!(Elements::of(1022, Cell::Binary(&whole)), None);
        assert_eq!(Elements::of(oid::TEXT_ARRAY, Cell::Null), None);
    }

    #[test]
    fn elements_of_arrays_in_the_order_of_their_texts() {
        let empty = [0; 12];
        let empty = Elements::of(oid::TEXT_ARRAY, Cell::Binary(&empty)).unwrap();
        let bytes = texts(&["", "B", "a", "ab", "\u{e4}"]);
        let found = Elements::of(oid::TEXT_ARRAY, Cell::Binary(&bytes)).unwrap();
        assert_eq!(
            shown(empty.differences(&found)),
            ["", "B", "a", "ab", "\u{e4}"]
        );
        let mut numbers = Array::new(oid::INT4, 4);
        for n in [-1i32, 10, 100, 2] {
            numbers.push(Some(&n.to_be_bytes()));
        }
        let numbers = numbers.finish();
        let numbers = Elements::of(oid::INT4_ARRAY, Cell::Binary(&numbers)).unwrap();
        assert_eq!(numbers.of.len(), 4);
        assert_eq!(numbers.get(&10i32.to_be_bytes()), Some(&[][..]));
    }
}
