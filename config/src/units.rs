//! Sizes in bytes. Durations are `std::time::Duration`, written as humantime does.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// A number of bytes that is written with its unit: `"64MiB"`, `"2GB"`.
///
/// A bare number is refused: it is never clear what it counts. `KiB`, `MiB`, `GiB` and `TiB`
/// are powers of 1024, `kB`, `MB`, `GB` and `TB` powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Larger ones first, so that printing finds the largest unit that divides.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// That many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Size {
        Size(bytes)
    }

    pub(crate) const fn kib(n: u64) -> Size {
        Size(n << 10)
    }

    pub(crate) const fn mib(n: u64) -> Size {
        Size(n << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in UNITS {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digits at the front.
    #[error("it does not start with a whole number")]
    Number,
    /// A number alone.
    #[error("the unit is missing")]
    NoUnit,
    /// Something else behind the number.
    #[error("the unit is not known")]
    Unit,
    /// More than 2⁶⁴ bytes.
    #[error("it is too large")]
    Overflow,
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::Number);
        }
        let number: u64 = number.parse().map_err(|_| SizeError::Overflow)?;
        let unit = unit.trim();
        if unit.is_empty() {
            return Err(SizeError::NoUnit);
        }
        let (_, factor) = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit || (*name == "kB" && unit == "KB"))
            .ok_or(SizeError::Unit)?;
        number
            .checked_mul(factor)
            .map(Size)
            .ok_or(SizeError::Overflow)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        for (text, bytes, printed) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("2 GB", 2_000_000_000, "2GB"),
            ("1500kB", 1_500_000, "1500kB"),
            ("1KB", 1_000, "1kB"),
            ("2048MiB", 2 << 30, "2GiB"),
            ("17B", 17, "17B"),
            ("0B", 0, "0B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_clear() {
        for (text, error) in [
            ("64", SizeError::NoUnit),
            ("", SizeError::Number),
            ("MiB", SizeError::Number),
            ("-1MiB", SizeError::Number),
            ("64M", SizeError::Unit),
            ("1.5GiB", SizeError::Unit),
            ("99999999999TiB", SizeError::Overflow),
        ] {
            assert_eq!(text.parse::<Size>(), Err(error), "{text}");
        }
    }
}
