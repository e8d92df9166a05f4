//! A row's identity as a number.
//!
//! The index and the folding know a row by a 128-bit hash of its table's name and its canonical
//! key cells. Every node computes the same one. With 10^10 keys the chance that any two share a
//! hash is about 10^-19, so a hash counts as the key itself.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use twox_hash::XxHash3_128;

use crate::canonical::canonical;

/// A table, by the hash of its schema and name: the same at every node, unlike its oid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationHash(pub u64);

impl RelationHash {
    /// Of `"schema"."table"`, by their true names (not quoted, not folded).
    pub fn new(schema: &str, table: &str) -> Self {
        let mut name = Vec::with_capacity(schema.len() + table.len() + 4);
        push_length(&mut name, schema.len());
        name.extend_from_slice(schema.as_bytes());
        name.extend_from_slice(table.as_bytes());
        RelationHash(XxHash3_128::oneshot(&name) as u64)
    }
}

impl fmt::Debug for RelationHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rel:{:016x}", self.0)
    }
}

/// A row of one table, by the hash of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash(pub u128);

// It is a hash already: the map takes its low half as it is.
impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key:{:032x}", self.0)
    }
}

/// Hashes keys of one table, one after the other: [`cell`](Self::cell) for each key column in the
/// order of the key, then [`finish`](Self::finish), which makes it ready for the next key.
#[derive(Clone, Debug)]
pub struct KeyHasher {
    // Relation hash, then each cell as length + bytes: here as long as it fits, else in `long`.
    inline: [u8; INLINE_BYTES],
    length: usize,
    long: Vec<u8>,
}

const RELATION_BYTES: usize = 8;
// The keys of most tables fit in here.
const INLINE_BYTES: usize = 56;
// No cell can be that long: PostgreSQL's values end at 1 GiB.
const NULL: usize = u32::MAX as usize;

impl KeyHasher {
    /// For rows of `relation`.
    pub fn new(relation: RelationHash) -> Self {
        let mut inline = [0; INLINE_BYTES];
        let (start, _) = inline.split_at_mut(RELATION_BYTES);
        start.copy_from_slice(&relation.0.to_be_bytes());
        KeyHasher {
            inline,
            length: RELATION_BYTES,
            long: Vec::new(),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let (true, Some(place)) = (self.long.is_empty(), self.inline.get_mut(self.length..end)) {
            place.copy_from_slice(bytes);
            self.length = end;
            return;
        }
        if self.long.is_empty() {
            self.long.extend(self.inline.iter().take(self.length));
        }
        self.long.extend_from_slice(bytes);
    }

    fn put_length(&mut self, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.put(&length.to_be_bytes());
    }

    /// Adds a key cell; `type_oid` is the base type's (of a domain, what it is over), `None` is
    /// NULL, `binary` the format of the bytes. All nodes must use one format for a type.
    pub fn cell(&mut self, type_oid: u32, bytes: Option<&[u8]>, binary: bool) -> &mut Self {
        match bytes {
            None => self.put_length(NULL),
            Some(bytes) => {
                let bytes = canonical(type_oid, bytes, binary);
                self.put_length(bytes.len());
                self.put(&bytes);
            }
        }
        self
    }

    /// The key's hash; the hasher starts again with the same table.
    pub fn finish(&mut self) -> KeyHash {
        let short = self.inline.get(..self.length).unwrap_or_default();
        let hash = match self.long.is_empty() {
            true => XxHash3_128::oneshot(short),
            false => XxHash3_128::oneshot(&self.long),
        };
        self.long.clear();
        self.length = RELATION_BYTES;
        KeyHash(hash)
    }
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
}

/// A map's hasher for keys that are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    // Only numbers are meant to come here; bytes are mixed so that nothing breaks if they do.
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= XxHash3_128::oneshot(bytes) as u64;
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl BuildHasher for Identity {
    type Hasher = Identity;

    fn build_hasher(&self) -> Identity {
        Identity(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_run_into_each_other() {
        let relation = RelationHash::new("public", "t");
        let mut hasher = KeyHasher::new(relation);
        let mut hash = |cells: &[Option<&[u8]>]| {
            for cell in cells {
                hasher.cell(25, *cell, true);
            }
            hasher.finish()
        };
        let all = [
            hash(&[Some(b"ab"), Some(b"c")]),
            hash(&[Some(b"a"), Some(b"bc")]),
            hash(&[Some(b"abc")]),
            hash(&[Some(b"abc"), None]),
            hash(&[None, Some(b"abc")]),
            hash(&[Some(b"abc"), Some(b"")]),
            hash(&[None]),
            hash(&[Some(b"")]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(a), "{i}");
        }
        assert_eq!(
            hash(&[Some(b"ab"), Some(b"c")]),
            all[0],
            "the hasher starts again"
        );
    }

    #[test]
    fn long_keys_are_hashed_as_a_whole() {
        let mut hasher = KeyHasher::new(RelationHash::new("public", "t"));
        let mut seen = std::collections::HashSet::new();
        for length in 0..200 {
            let text = vec![b'x'; length];
            hasher.cell(25, Some(&text), true);
            hasher.cell(25, Some(b"end"), true);
            assert!(seen.insert(hasher.finish().0), "{length}");
            let mut again = KeyHasher::new(RelationHash::new("public", "t"));
            again.cell(25, Some(&text), true);
            assert!(seen.contains(&again.cell(25, Some(b"end"), true).finish().0));
        }
        // What a hash is made of may not depend on how much room there is.
        let mut bytes = RelationHash::new("public", "t").0.to_be_bytes().to_vec();
        push_length(&mut bytes, 100);
        bytes.extend_from_slice(&[b'y'; 100]);
        let hash = hasher.cell(25, Some(&[b'y'; 100]), true).finish();
        assert_eq!(hash, KeyHash(XxHash3_128::oneshot(&bytes)));
    }

    #[test]
    fn tables_are_different_by_schema_and_name() {
        assert_ne!(RelationHash::new("a", "bc"), RelationHash::new("ab", "c"));
        let key = |table| {
            KeyHasher::new(RelationHash::new("s", table))
                .cell(25, Some(b"1"), true)
                .finish()
        };
        assert_ne!(key("a"), key("b"));
    }

    // Nodes of different releases work side by side, so a hash may never change.
    #[test]
    fn hashes_are_for_ever() {
        let relation = RelationHash::new("public", "accounts");
        let key = KeyHasher::new(relation)
            .cell(20, Some(&7i64.to_be_bytes()), true)
            .finish();
        assert_eq!(
            (relation, key),
            (
                RelationHash(0x9ccf_9394_b2da_642f),
                KeyHash(0x7673_46ad_bb72_3494_2c9b_e77c_cdde_fbc0)
            )
        );
    }
}
