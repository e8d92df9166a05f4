//! What of the index lands with a transaction besides its last part.
//!
//! A large transaction has millions of keys in it, and nearly all have the same table and version. So these
//! are kept once for all that come one behind the other, and a key takes 16 bytes.

use everywrite_conflict::{KeyHash, RelationHash, Version};

/// Keys and the versions of theirs that land, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Landing {
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    relation: RelationHash,
    version: Version,
    keys: Vec<KeyHash>,
}

impl Landing {
    /// One more.
    pub(super) fn push(&mut self, relation: RelationHash, key: KeyHash, version: Version) {
        match self.runs.last_mut() {
            Some(run) if (run.relation, run.version) == (relation, version) => run.keys.push(key),
            _ => self.runs.push(Run {
                relation,
                version,
                keys: vec![key],
            }),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RelationHash, KeyHash, Version)> + Clone {
        self.runs.iter().flat_map(|run| {
            let keys = run.keys.iter();
            keys.map(move |&key| (run.relation, key, run.version))
        })
    }

    /// Whether that version of the key is among them.
    pub(super) fn has(&self, key: KeyHash, version: Version) -> bool {
        let runs = self.runs.iter().filter(|r| r.version == version);
        runs.flat_map(|r| &r.keys).any(|k| *k == key)
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::{NodeId, Stamp};

    use super::*;

    #[test]
    fn all_that_came_is_there_in_its_order() {
        let (a, b) = (RelationHash(1), RelationHash(2));
        let version = |stamp| Version::new(Stamp(stamp), NodeId(3));
        let all = [
            (a, KeyHash(1), version(5)),
            (a, KeyHash(2), version(5)),
            (b, KeyHash(3), version(5)),
            (a, KeyHash(4), version(5)),
            (a, KeyHash(1), version(6)),
        ];
        let mut landing = Landing::default();
        for (relation, key, version) in all {
            landing.push(relation, key, version);
        }
        assert!(landing.iter().eq(all));
        assert_eq!(landing.runs.len(), 4);
        assert!(landing.has(KeyHash(1), version(6)) && landing.has(KeyHash(3), version(5)));
        assert!(!landing.has(KeyHash(2), version(6)) && !landing.has(KeyHash(9), version(5)));
    }
}
