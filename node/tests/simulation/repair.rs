//! Second looks at rows that stand although by the index they are gone: what `replay/repair.rs` does.

use crate::data::{self, Key, TABLES};
use crate::site::{Look, Site, site_of};

impl Site {
    /// Takes the next look that is due.
    pub(crate) fn repair(&mut self) {
        let Some(look) = self.daemon.looks.front().copied() else {
            return;
        };
        // What is on its way may write what is looked at.
        let blind = self.daemon.ledger.blind();
        if self.blind(&blind) {
            return;
        }
        let keys: Vec<Key> = match look.key {
            Some(key) => vec![key],
            None => self.behind(look),
        };
        if self.gone(look, &keys) {
            self.paths.looks += 1;
            self.daemon.looks.pop_front();
            self.daemon.ledger.repaired(1);
        }
    }

    /// All rows that replay put behind a local TRUNCATE.
    fn behind(&self, look: Look) -> Vec<Key> {
        let rows = self.server.now.rows.iter();
        let replayed = rows.filter(|(key, row)| *key % TABLES == look.table && row.local.is_none());
        let behind = |key: &Key| {
            let hash = data::hash(*key);
            let once = std::iter::once(hash);
            let ledger = &self.daemon.ledger;
            ledger.with_keys(once, |index| index.behind_truncate(hash, look.version))
        };
        replayed.map(|(key, _)| *key).filter(behind).collect()
    }

    /// Removes those of these rows that by the index are gone. False: one of them is being decided.
    fn gone(&mut self, look: Look, keys: &[Key]) -> bool {
        let stands = |key: &&Key| self.server.now.rows.contains_key(key);
        let standing: Vec<Key> = keys.iter().filter(stands).copied().collect();
        if standing.is_empty() {
            return true;
        }
        self.pass();
        let mut gone = Vec::new();
        for key in standing {
            let entry = self
                .daemon
                .ledger
                .known(data::relation(key), data::hash(key));
            tell!("  site {} looks at {key}: {entry:?}", site_of(self.me));
            match entry {
                Some(entry) if entry.undecided() => return false,
                Some(entry) if entry.deleted && entry.version >= look.version => {
                    gone.push((key, entry));
                }
                _ => {}
            }
        }
        for (key, entry) in gone {
            // A stamp that a crash could change decides nothing.
            if let Some(source) = entry.source.filter(|s| s.origin == self.me) {
                self.wait_durable(source.lsn);
            }
            let removed = self.server.now.rows.remove(&key);
            self.paths.repaired += usize::from(removed.is_some());
            self.server.record(removed.map(|r| r.plain).as_slice());
        }
        self.server.commit_replayed();
        self.server.flush();
        true
    }
}
