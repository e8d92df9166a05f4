//! How the updates of a transaction are merged, for tables whose policy is column-wise.
//!
//! It stands before the changes, as one more change with the tag `W`, in each part of a large
//! transaction again. Updates of the tables named, if they leave the key as it is, are merged by
//! columns; all other changes are row events. A transaction without such updates has none.
//!
//! ```text
//!  columns := 'W' | u16 tables | table… | height…
//!  table   := u64 table's hash | u32 number and u16 origin of the policy's change
//!             | u16 columns | ( u8 merge | name | zero byte )…
//!  merge   := 1 delta, 2 greatest, 3 least, 4 union; a column that is not named is merged by last update wins
//!  height  := u128 key's hash | u64 column's hash | i64 height
//! ```

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use everywrite_conflict::policy::Epoch;
use everywrite_conflict::policy::columns::{Column, Merge};
use everywrite_conflict::{KeyHash, NodeId, RelationHash};
use rustc_hash::FxHashMap;

use super::Error;

/// The tag of the change that holds them.
pub const TAG: u8 = b'W';

const BROKEN: Error = Error::Malformed("how a transaction's columns are merged is cut off");
const NEWER: Error = Error::Malformed(
    "a column is merged in a way that is not known here; a newer everywrite wrote it",
);

/// How the columns of one table are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merges {
    /// Since which change of the policy.
    pub epoch: Epoch,
    /// Those that are not merged by last update wins.
    pub columns: HashMap<String, Merge>,
}

impl Merges {
    /// How a column is merged.
    pub fn of(&self, column: &str) -> Merge {
        self.columns.get(column).copied().unwrap_or_default()
    }
}

/// How high a change of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Height {
    /// The row.
    pub key: KeyHash,
    /// The column.
    pub column: Column,
    /// Its height, what it took over included.
    pub height: i64,
}

/// How a transaction's updates are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    tables: FxHashMap<RelationHash, Merges>,
    heights: FxHashMap<(KeyHash, Column), i64>,
}

impl Columns {
    /// Whether nothing is merged.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Adds a table.
    pub fn table(&mut self, relation: RelationHash, merges: Merges) {
        self.tables.insert(relation, merges);
    }

    /// Sets the heights that the columns have.
    pub fn heights(&mut self, heights: &[Height]) {
        let heights = heights.iter().map(|h| ((h.key, h.column), h.height));
        self.heights = heights.collect();
    }

    /// How updates of a table are merged, if they are.
    pub fn of(&self, relation: RelationHash) -> Option<&Merges> {
        self.tables.get(&relation)
    }

    /// How high the change of a column stands.
    pub fn height(&self, key: KeyHash, column: Column) -> i64 {
        self.heights.get(&(key, column)).copied().unwrap_or(0)
    }

    /// Appends the change.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        out.put_u8(TAG);
        out.put_u16(u16::try_from(self.tables.len()).unwrap_or(u16::MAX));
        for (relation, merges) in &self.tables {
            out.put_u64(relation.0);
            out.put_u32(merges.epoch.number);
            out.put_u16(merges.epoch.origin.0);
            out.put_u16(u16::try_from(merges.columns.len()).unwrap_or(u16::MAX));
            for (name, merge) in &merges.columns {
                out.put_u8(code(*merge));
                out.put_slice(name.as_bytes());
                out.put_u8(0);
            }
        }
        for ((key, column), height) in &self.heights {
            out.put_u128(key.0);
            out.put_u64(column.0);
            out.put_i64(*height);
        }
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Reads the change, tag included.
    pub fn decode(change: &Bytes) -> Result<Self, Error> {
        let mut rest = change.clone();
        let mut columns = Columns::default();
        rest.try_get_u8().map_err(|_| BROKEN)?;
        let tables = rest.try_get_u16().map_err(|_| BROKEN)?;
        for _ in 0..tables {
            let (relation, merges) = table(&mut rest)?;
            columns.tables.insert(relation, merges);
        }
        while rest.has_remaining() {
            let key = rest.try_get_u128().map_err(|_| BROKEN)?;
            let column = rest.try_get_u64().map_err(|_| BROKEN)?;
            let height = rest.try_get_i64().map_err(|_| BROKEN)?;
            columns
                .heights
                .insert((KeyHash(key), Column(column)), height);
        }
        Ok(columns)
    }
}

fn table(rest: &mut Bytes) -> Result<(RelationHash, Merges), Error> {
    let relation = RelationHash(rest.try_get_u64().map_err(|_| BROKEN)?);
    let number = rest.try_get_u32().map_err(|_| BROKEN)?;
    let origin = NodeId(rest.try_get_u16().map_err(|_| BROKEN)?);
    let count = rest.try_get_u16().map_err(|_| BROKEN)?;
    let mut columns = HashMap::new();
    for _ in 0..count {
        let merge = merge(rest.try_get_u8().map_err(|_| BROKEN)?)?;
        let end = rest.iter().position(|b| *b == 0).ok_or(BROKEN)?;
        let name = rest.split_to(end);
        rest.advance(1);
        let name = std::str::from_utf8(&name).map_err(|_| BROKEN)?;
        columns.insert(name.to_owned(), merge);
    }
    let epoch = Epoch { number, origin };
    Ok((relation, Merges { epoch, columns }))
}

fn code(merge: Merge) -> u8 {
    match merge {
        Merge::LastUpdateWins => 0,
        Merge::Delta => 1,
        Merge::Greatest => 2,
        Merge::Least => 3,
        Merge::Union => 4,
    }
}

fn merge(code: u8) -> Result<Merge, Error> {
    Ok(match code {
        0 => Merge::LastUpdateWins,
        1 => Merge::Delta,
        2 => Merge::Greatest,
        3 => Merge::Least,
        4 => Merge::Union,
        _ => return Err(NEWER),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_off_is_refused() {
        let mut columns = Columns::default();
        let (number, origin) = (3, NodeId(2));
        let merges = Merges {
            epoch: Epoch { number, origin },
            columns: [
                ("balance".to_owned(), Merge::Delta),
                ("seen".to_owned(), Merge::Greatest),
                ("tags".to_owned(), Merge::Union),
            ]
            .into(),
        };
        columns.table(RelationHash(7), merges);
        let height = Height {
            key: KeyHash(1 << 100),
            column: Column::named("seen"),
            height: -9,
        };
        columns.heights(&[height]);
        let mut out = BytesMut::new();
        columns.encode(&mut out);
        let change = out.freeze().slice(4..);
        assert_eq!(Columns::decode(&change).unwrap(), columns);
        assert_eq!(columns.height(height.key, height.column), -9);
        for end in 0..change.len() {
            // Without its heights it is whole, too.
            let whole = end == change.len() - 32;
            assert_eq!(Columns::decode(&change.slice(..end)).is_ok(), whole);
        }
    }

    #[test]
    fn a_merge_of_a_newer_release_is_refused() {
        let bytes = b"W\0\x01AAAAAAAA\0\0\0\x01\0\x01\0\x01\x09x\0";
        let error = Columns::decode(&Bytes::from_static(bytes)).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
    }
}
