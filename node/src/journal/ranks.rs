//! The ranks of a transaction's changes, for tables that have had a policy.
//!
//! They stand before the changes, as one more change with the tag `P`, in each part of a large
//! transaction again. A transaction without such tables has none.
//!
//! ```text
//!  ranks := 'P' | entry…
//!  entry := u8 what (0 row, 1 TRUNCATE) | u128 key's hash, or table's
//!           | u32 number and u16 origin of the policy's change | i64 height
//! ```
//!
//! What is written to a table behind its TRUNCATE in the same transaction has the TRUNCATE's rank.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use everywrite_conflict::policy::{Epoch, Rank};
use everywrite_conflict::{KeyHash, NodeId, RelationHash, Version};
use rustc_hash::FxHashMap;

use super::Error;

/// The tag of the change that holds them.
pub const TAG: u8 = b'P';

const ROW: u8 = 0;
const TRUNCATE: u8 = 1;
const ENTRY_BYTES: usize = 31;
const BROKEN: Error = Error::Malformed("the ranks of a transaction's changes are cut off");

/// What stands before the stamp in the versions of a transaction's changes.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    rows: FxHashMap<KeyHash, Rank>,
    truncates: FxHashMap<RelationHash, Rank>,
    /// Of the tables that were truncated so far.
    truncated: FxHashMap<RelationHash, Rank>,
}

impl Ranks {
    /// Whether no change has a rank.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.truncates.is_empty()
    }

    /// The first rank of a row: later ones of the transaction are the same, or that of a TRUNCATE.
    pub fn row(&mut self, key: KeyHash, rank: Rank) {
        self.rows.entry(key).or_insert(rank);
    }

    /// The rank of a TRUNCATE.
    pub fn truncate(&mut self, relation: RelationHash, rank: Rank) {
        self.truncates.insert(relation, rank);
    }

    /// Appends the change.
    pub fn encode(&self, out: &mut BytesMut) {
        let length = 1 + ENTRY_BYTES * (self.rows.len() + self.truncates.len());
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        out.put_u8(TAG);
        let mut entry = |what: u8, hash: u128, rank: &Rank| {
            out.put_u8(what);
            out.put_u128(hash);
            out.put_u32(rank.epoch.number);
            out.put_u16(rank.epoch.origin.0);
            out.put_i64(rank.height);
        };
        for (key, rank) in &self.rows {
            entry(ROW, key.0, rank);
        }
        for (relation, rank) in &self.truncates {
            entry(TRUNCATE, u128::from(relation.0), rank);
        }
    }

    /// Takes in the change, tag included, in place of what an earlier part of the transaction said
    /// of rows.
    pub fn take(&mut self, change: &Bytes) -> Result<(), Error> {
        self.rows.clear();
        let mut rest = change.clone();
        rest.try_get_u8().map_err(|_| BROKEN)?;
        while rest.has_remaining() {
            let mut entry = || -> Result<(u8, u128, Rank), bytes::TryGetError> {
                let (what, hash) = (rest.try_get_u8()?, rest.try_get_u128()?);
                let number = rest.try_get_u32()?;
                let origin = NodeId(rest.try_get_u16()?);
                let height = rest.try_get_i64()?;
                let epoch = Epoch { number, origin };
                Ok((what, hash, Rank { epoch, height }))
            };
            match entry().map_err(|_| BROKEN)? {
                (ROW, hash, rank) => self.row(KeyHash(hash), rank),
                (TRUNCATE, hash, rank) => {
                    let relation = u64::try_from(hash).map_err(|_| BROKEN)?;
                    self.truncate(RelationHash(relation), rank);
                }
                _ => return Err(BROKEN),
            }
        }
        Ok(())
    }

    /// A TRUNCATE is passed: its version.
    pub fn pass_truncate(&mut self, relation: RelationHash, plain: Version) -> Version {
        match self.truncates.get(&relation) {
            Some(rank) => {
                self.truncated.insert(relation, *rank);
                plain.ranked(*rank)
            }
            None => plain,
        }
    }

    /// The greatest version that the transaction gives a row, or for `None` the table's TRUNCATE.
    pub fn greatest(
        &self,
        relation: RelationHash,
        key: Option<KeyHash>,
        plain: Version,
    ) -> Version {
        let row = key.and_then(|key| self.rows.get(&key));
        let rank = self.truncates.get(&relation).or(row);
        rank.map_or(plain, |rank| plain.ranked(*rank))
    }

    /// The version of a change of a row.
    pub fn version(&self, relation: RelationHash, key: KeyHash, plain: Version) -> Version {
        if self.is_empty() {
            return plain;
        }
        let rank = self.truncated.get(&relation);
        rank.or_else(|| self.rows.get(&key))
            .map_or(plain, |rank| plain.ranked(*rank))
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::Stamp;

    use super::*;

    fn rank(height: i64) -> Rank {
        let (number, origin) = (3, NodeId(2));
        let epoch = Epoch { number, origin };
        Rank { epoch, height }
    }

    #[test]
    fn what_is_written_behind_a_truncate_has_its_rank() {
        let (table, other) = (RelationHash(7), RelationHash(8));
        let (key, plain) = (KeyHash(1 << 100), Version::new(Stamp(5), NodeId(1)));
        let mut ranks = Ranks::default();
        ranks.row(key, rank(-9));
        ranks.truncate(table, rank(i64::MAX));
        let mut out = BytesMut::new();
        ranks.encode(&mut out);
        let change = out.freeze().slice(4..);
        let mut read = Ranks::default();
        read.take(&change).unwrap();
        assert_eq!(read.version(table, key, plain), plain.ranked(rank(-9)));
        assert_eq!(read.pass_truncate(other, plain), plain);
        let truncate = read.pass_truncate(table, plain);
        assert_eq!(truncate, plain.ranked(rank(i64::MAX)));
        assert_eq!(read.version(table, key, plain), truncate);
        assert_eq!(read.version(other, KeyHash(2), plain), plain);
        for end in 1..change.len() {
            let whole = end % ENTRY_BYTES == 1;
            assert_eq!(Ranks::default().take(&change.slice(..end)).is_ok(), whole);
        }
    }
}
