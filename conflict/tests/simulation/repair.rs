//! Undoing what replay wrote over local deletes that capture had not reached.

use std::collections::BTreeSet;

use everywrite_conflict::{Entry, NodeId, Version};

use crate::data::{self, Key, TABLES};
use crate::site::{Site, site_of};

/// A row that may have been written over a local delete that was not captured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repair {
    /// The versions of the deletes, in flight until it is done.
    pub(crate) versions: BTreeSet<Version>,
    /// After a restart: the origins of the writes that may have been in the delete's way. A row
    /// of another origin is newer than all that is known of the key.
    pub(crate) origins: Option<BTreeSet<NodeId>>,
}

impl Site {
    /// Removes a row that the index says is deleted.
    pub(crate) fn repair(&mut self, key: Key) {
        self.capture_all();
        let Some(repair) = self.daemon.repairs.remove(&key) else {
            return;
        };
        let (relation, hash) = (data::relation(key), data::hash(key));
        let entry = self.daemon.index.get(relation, hash);
        // What another group is about to delete is that group's.
        let ours = |e: &Entry| !e.in_flight() || e.source.is_some_and(|s| s.origin == self.me);
        let writer = self.server.now.rows.get(&key).and_then(|r| r.writer);
        let among =
            |origins: &BTreeSet<NodeId>| writer.is_some_and(|w| origins.contains(&w.origin));
        let behind = repair.origins.as_ref().is_none_or(among);
        if behind && entry.is_some_and(|e| e.deleted && ours(&e)) {
            let removed = self.server.now.rows.remove(&key);
            self.paths.repaired += usize::from(removed.is_some());
            self.server.record(removed.map(|r| r.plain).as_slice());
        }
        let at = self.server.commit_replayed();
        self.server.flush();
        tell!("  site {} repairs key {key}: {entry:?}", site_of(self.me));
        for version in repair.versions {
            self.daemon.index.landed(relation, hash, version, at);
        }
    }

    /// Removes what replay has put into a table behind a local truncate.
    pub(crate) fn repeat_truncate(&mut self, table: u8) {
        self.capture_all();
        let Some(version) = self.daemon.truncates_to_repeat.remove(&table) else {
            return;
        };
        let index = &self.daemon.index;
        let behind =
            |key: &Key| key % TABLES == table && index.behind_truncate(data::hash(*key), version);
        let mut removed = Vec::new();
        self.server.now.rows.retain(|key, row| {
            let behind = behind(key);
            removed.extend(behind.then_some(row.plain));
            !behind
        });
        self.paths.repaired += removed.len();
        self.server.record(&removed);
        let at = self.server.commit_replayed();
        self.server.flush();
        tell!(
            "  site {} repeats truncate {table} {version:?}",
            site_of(self.me)
        );
        let relation = data::table(table);
        self.daemon.index.truncate_landed(relation, version, at);
    }
}
