//! Rows of this site that stand in their tables while the index already names a write of another site
//! that is still on its way.
//!
//! ```text
//!  index:   key → what a group on its way will leave          (replay announces first)
//!  beneath: key → the own row that stands there until then    (whoever removes it has to record it)
//! ```
//!
//! Usually that group meets the row and records it. But another may come before it: a TRUNCATE, or a
//! change of a third site that is newer than both. Other sites do not make up for it: there a later
//! write of this site may have been folded over the row. A row that the group on its way had seen is
//! not here: that one is replaced knowingly.
//!
//! What a group has removed is kept until the group is flushed: if a crash of the server takes the group back, the row stands
//! there again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use everywrite_conflict::{
    Entry, Identity, KeyHash, Lsn, NodeId, Position, RelationHash, Vector, Version,
};

use super::Intent;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Beneath {
    rows: HashMap<KeyHash, Row, Identity>,
    /// What groups have removed that are not flushed: where those end, and what stood there.
    removed: Vec<(Position, KeyHash, Row)>,
    /// What stands there again. Statements that look at no row would not notice it: it was captured before they were made.
    again: HashSet<KeyHash, Identity>,
}

/// What the own site has written last of a key; a row, or the delete of one.
#[derive(Clone, Debug)]
struct Row {
    relation: RelationHash,
    entry: Entry,
    /// Of its transaction, if it was captured after the group on its way was announced.
    vector: Option<Arc<Vector>>,
}

impl Beneath {
    pub(super) fn get(&self, key: KeyHash) -> Option<Entry> {
        self.rows.get(&key).map(|row| row.entry)
    }

    /// The rows of a table.
    pub(super) fn of(&self, relation: RelationHash) -> impl Iterator<Item = (KeyHash, Entry)> + '_ {
        let here = self
            .rows
            .iter()
            .filter(move |(_, r)| r.relation == relation);
        here.map(|(key, row)| (*key, row.entry))
            .filter(|(_, entry)| !entry.deleted)
    }

    /// A local write was captured that is below a group on its way.
    pub(super) fn captured(
        &mut self,
        relation: RelationHash,
        key: KeyHash,
        entry: Entry,
        vector: Arc<Vector>,
    ) {
        let vector = Some(vector);
        let row = Row {
            relation,
            entry,
            vector,
        };
        self.rows.insert(key, row);
    }

    /// A group is announced over `stood`, the entry of the key until now.
    pub(super) fn announced(&mut self, me: NodeId, intent: &Intent<'_>, stood: Option<Entry>) {
        let Some(entry) = stood.filter(|e| !e.deleted && e.version < intent.entry.version) else {
            return;
        };
        let Some(source) = entry.source.filter(|s| s.origin == me) else {
            return;
        };
        if intent.seen.is_none_or(|seen| !seen.covers(source)) {
            let row = Row {
                relation: intent.relation,
                entry,
                vector: None,
            };
            self.rows.insert(intent.key, row);
        }
    }

    /// Nothing of the key stands beneath any more; `by`: where the group ends that has removed it, if one has.
    #[inline]
    pub(super) fn ends(&mut self, by: Option<Position>, key: KeyHash) {
        if !self.rows.is_empty()
            && let Some(row) = self.rows.remove(&key)
        {
            self.gone(by, key, row);
        }
    }

    /// The same of all that a TRUNCATE of the table has removed; rows in whose place something newer is on
    /// its way it has left there: `stays`.
    pub(super) fn truncated(
        &mut self,
        by: Option<Position>,
        relation: RelationHash,
        version: Version,
        stays: impl Fn(KeyHash) -> bool,
    ) {
        let gone = |key: &KeyHash, row: &mut Row| {
            row.relation == relation && row.entry.version < version && !stays(*key)
        };
        let gone: Vec<_> = self.rows.extract_if(gone).collect();
        for (key, row) in gone {
            self.gone(by, key, row);
        }
    }

    fn gone(&mut self, by: Option<Position>, key: KeyHash, row: Row) {
        self.again.remove(&key);
        if let Some(by) = by {
            self.removed.push((by, key, row));
        }
    }

    /// This much is flushed.
    pub(super) fn flushed(&mut self, progress: &Vector) {
        self.removed.retain(|(by, _, _)| !progress.covers(*by));
    }

    /// Whether rows of none of these keys stand there again.
    #[inline]
    pub(super) fn none_again(&self, mut keys: impl Iterator<Item = KeyHash>) -> bool {
        self.again.is_empty() || !keys.any(|key| self.again.contains(&key))
    }

    /// A crash has taken back what `origin` wrote behind `lsn`: what it had removed is there again.
    pub(super) fn forgotten_by_server(&mut self, origin: NodeId, lsn: Lsn) {
        let lost = |by: Position| by.origin == origin && by.lsn > lsn;
        let lost = self.removed.extract_if(.., |(by, _, _)| lost(*by));
        for (_, key, row) in lost {
            // What this site has written since stands above it.
            self.rows.entry(key).or_insert(row);
            self.again.insert(key);
        }
    }

    /// A local write that was captured meanwhile, for a decision that is taken back.
    pub(super) fn take_captured(&mut self, key: KeyHash) -> Option<(Entry, Arc<Vector>)> {
        let row = self.rows.get(&key)?;
        let taken = (row.entry, Arc::clone(row.vector.as_ref()?));
        self.ends(None, key);
        Some(taken)
    }

    #[inline]
    pub(super) fn has(&self, key: KeyHash) -> bool {
        !self.rows.is_empty() && self.rows.contains_key(&key)
    }
}
