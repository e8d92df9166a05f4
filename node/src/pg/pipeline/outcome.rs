//! What became of one statement.

use bytes::Bytes;

/// A row that a statement returned; `None` is NULL.
///
/// The cells are slices of the read buffer: copy what is kept for long.
pub type Row = Vec<Option<Bytes>>;

/// A statement that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many rows it inserted, updated, deleted, selected or copied; 0 for other statements.
    pub affected: u64,
    /// The rows it returned.
    pub rows: Vec<Row>,
}

/// The number at the end of a command tag: `INSERT 0 5`, `UPDATE 3`, `COPY 7`; 0 if there is none.
pub(super) fn affected(tag: &[u8]) -> u64 {
    let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
    let number = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let mut affected = 0_u64;
    for byte in number {
        if !byte.is_ascii_digit() {
            return 0;
        }
        affected = affected
            .saturating_mul(10)
            .saturating_add(u64::from(byte - b'0'));
    }
    affected
}

#[cfg(test)]
mod tests {
    use super::affected;

    #[test]
    fn the_number_of_rows_is_the_last_word_of_the_tag() {
        assert_eq!(affected(b"INSERT 0 12\0"), 12);
        assert_eq!(affected(b"UPDATE 3\0"), 3);
        assert_eq!(affected(b"COPY 18446744073709551615\0"), u64::MAX);
        assert_eq!(affected(b"BEGIN\0"), 0);
        assert_eq!(affected(b""), 0);
    }
}
