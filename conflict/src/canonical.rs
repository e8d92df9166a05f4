//! Bytes that are equal exactly when SQL says that the values are equal.
//!
//! A key is found by a hash of its cells, and two nodes must hash the same key to the same value
//! whatever way it was written: `1.0` and `1.00` are one `numeric` key, `0` and `-0` one float.
//! Most types need nothing: equal values have equal bytes.
//!
//! Traps: the type given here is the base type, not a domain over it. Types whose equality
//! depends on more than the value (nondeterministic collations, `citext`) or that contain these
//! types (arrays, ranges, composites, `jsonb` numbers) stay as they are: two spellings of one
//! value would count as two keys.

use std::borrow::Cow;

/// `pg_type.oid` of `float4`.
pub const FLOAT4: u32 = 700;
/// `pg_type.oid` of `float8`.
pub const FLOAT8: u32 = 701;
/// `pg_type.oid` of `bpchar`, also called `character(n)`.
pub const BPCHAR: u32 = 1042;
/// `pg_type.oid` of `interval`.
pub const INTERVAL: u32 = 1186;
/// `pg_type.oid` of `numeric`.
pub const NUMERIC: u32 = 1700;

/// The canonical bytes of one cell. `binary` says in which of the two formats it came; the types
/// named above get the same bytes from both, except `interval` as text, which stays as it is.
///
/// Bytes that are not a value of the type stay as they are.
pub fn canonical(type_oid: u32, bytes: &[u8], binary: bool) -> Cow<'_, [u8]> {
    let special = match (type_oid, binary) {
        (NUMERIC, true) => numeric_binary(bytes),
        (NUMERIC, false) => numeric_text(bytes),
        (FLOAT4, true) => bytes.try_into().ok().map(|b| float4(f32::from_be_bytes(b))),
        (FLOAT8, true) => bytes.try_into().ok().map(|b| float8(f64::from_be_bytes(b))),
        (FLOAT4, false) => text(bytes).and_then(|t| t.parse().ok()).map(float4),
        (FLOAT8, false) => text(bytes).and_then(|t| t.parse().ok()).map(float8),
        (INTERVAL, true) => interval_binary(bytes),
        (BPCHAR, _) => return Cow::Borrowed(bytes.trim_ascii_end_of_blanks()),
        _ => None,
    };
    special.map_or(Cow::Borrowed(bytes), Cow::Owned)
}

trait Blanks {
    fn trim_ascii_end_of_blanks(&self) -> &[u8];
}

impl Blanks for [u8] {
    fn trim_ascii_end_of_blanks(&self) -> &[u8] {
        let blanks = self.iter().rev().take_while(|&&b| b == b' ').count();
        self.get(..self.len() - blanks).unwrap_or(self)
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

// PostgreSQL: all NaN are equal, and -0 = 0.
fn float4(value: f32) -> Vec<u8> {
    let value = if value.is_nan() {
        f32::NAN
    } else {
        value + 0.0
    };
    value.to_be_bytes().to_vec()
}

fn float8(value: f64) -> Vec<u8> {
    let value = if value.is_nan() {
        f64::NAN
    } else {
        value + 0.0
    };
    value.to_be_bytes().to_vec()
}

// An interval compares by its length, with 30 days a month and 24 hours a day.
fn interval_binary(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    let (time, rest) = bytes.split_first_chunk::<8>()?;
    let (days, months) = rest.split_first_chunk::<4>()?;
    let months = i32::from_be_bytes(months.try_into().ok()?);
    let days = i128::from(i32::from_be_bytes(*days)) + i128::from(months) * 30;
    let length = i128::from(i64::from_be_bytes(*time)) + days * 86_400_000_000;
    Some(length.to_be_bytes().to_vec())
}

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITE: u16 = 0xD000;
const MINUS_INFINITE: u16 = 0xF000;

/// Sign, weight of the first digit in powers of 10,000, digits of base 10,000 without zeros at
/// either end. Zero has no digits, no weight and no sign. The scale for display is left out.
fn number(sign: u16, weight: i64, digits: &[u16]) -> Vec<u8> {
    let leading = digits.iter().take_while(|&&d| d == 0).count();
    let trailing = digits.iter().rev().take_while(|&&d| d == 0).count();
    let digits = digits
        .get(leading..digits.len().saturating_sub(trailing))
        .unwrap_or_default();
    let special = matches!(sign, NAN | INFINITE | MINUS_INFINITE);
    let (sign, weight) = match (digits.is_empty(), special) {
        (true, false) => (POSITIVE, 0),
        (_, true) => (sign, 0),
        (false, false) => (sign, weight.saturating_sub_unsigned(leading as u64)),
    };
    let mut out = Vec::with_capacity(10 + digits.len() * 2);
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    for digit in digits {
        out.extend_from_slice(&digit.to_be_bytes());
    }
    out
}

fn numeric_binary(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut words = bytes.chunks_exact(2).filter_map(|w| match w {
        &[high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    });
    let count = words.next()?;
    let weight = words.next()?.cast_signed();
    let sign = words.next()?;
    let _display_scale = words.next()?;
    let digits: Vec<u16> = words.collect();
    (digits.len() == usize::from(count)).then(|| number(sign, i64::from(weight), &digits))
}

fn numeric_text(bytes: &[u8]) -> Option<Vec<u8>> {
    let whole = text(bytes)?.trim();
    let (sign, rest) = match whole.strip_prefix('-') {
        Some(rest) => (NEGATIVE, rest),
        None => (POSITIVE, whole.strip_prefix('+').unwrap_or(whole)),
    };
    if rest.eq_ignore_ascii_case("nan") {
        return Some(number(NAN, 0, &[]));
    }
    if rest.eq_ignore_ascii_case("infinity") || rest.eq_ignore_ascii_case("inf") {
        let sign = if sign == NEGATIVE {
            MINUS_INFINITE
        } else {
            INFINITE
        };
        return Some(number(sign, 0, &[]));
    }
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().ok()?),
        None => (rest, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let decimals = [integer.as_bytes(), fraction.as_bytes()].concat();
    if decimals.is_empty() || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Decimal digits before the point, then pad in front so that groups of four meet the point.
    let before = i64::try_from(integer.len()).ok()? + i64::from(exponent);
    let padding = usize::try_from((-before).rem_euclid(4)).ok()?;
    let mut padded = vec![b'0'; padding];
    padded.extend_from_slice(&decimals);
    let digits: Vec<u16> = padded
        .chunks(4)
        .map(|group| {
            let value = group.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
            (group.len()..4).fold(value, |n, _| n * 10)
        })
        .collect();
    let weight = (before + i64::try_from(padding).ok()?) / 4 - 1;
    Some(number(sign, weight, &digits))
}

#[cfg(test)]
#[path = "canonical_tests.rs"]
mod tests;
