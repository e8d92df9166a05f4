//! Second looks at rows that stand although by the index they are gone, as `replay/repair.rs` takes them.

use std::collections::VecDeque;

use everywrite_conflict::{Entry, Lsn, Version};
use futures_util::FutureExt as _;

use super::{Site, What};
use crate::data::{Key, TABLE, hash};
use crate::server::{Session, Write};

/// A row to be looked at, or for `None` all that were replayed behind a local truncate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) key: Option<Key>,
    /// If the row is gone, then by this version or a greater one.
    pub(super) version: Version,
}

#[derive(Debug, Default)]
pub(super) struct Looks {
    waiting: VecDeque<Look>,
    /// The rows that are locked, and the barrier that has to be passed.
    locked: Option<(Vec<Key>, u64)>,
}

impl Looks {
    /// What was under way begins anew.
    pub(super) fn session_lost(&mut self) {
        self.locked = None;
    }
}

impl Site {
    pub(super) fn look_again(&mut self, look: Look) {
        self.ledger.repair_begins();
        self.looks.waiting.push_back(look);
    }

    /// The next step of a look; false: there is none, or it has to wait.
    pub(crate) fn look(&mut self) -> bool {
        let Some(&look) = self.looks.waiting.front() else {
            return false;
        };
        match self.looks.locked.take() {
            None => self.begin(look),
            Some((keys, barrier)) if barrier > self.barriers.passed => {
                self.looks.locked = Some((keys, barrier));
                self.barrier();
                false
            }
            Some((keys, barrier)) => {
                let gone = self.gone(&keys, look.version);
                let own = gone.iter().filter_map(|(_, e)| e.source);
                let own = own.filter(|s| s.origin == self.me).map(|s| s.lsn);
                if own.max().unwrap_or(Lsn::ZERO) > self.own_end() {
                    self.looks.locked = Some((keys, barrier));
                    return false;
                }
                let delete = |(key, _): &(Key, Entry)| Write::Delete(*key);
                let writes: Vec<Write> = gone.iter().map(delete).collect();
                self.server.commit(Session::Looks, &writes);
                self.server.flush();
                self.told.add(What::LookedAgain, writes.len());
                self.done();
                true
            }
        }
    }

    fn begin(&mut self, look: Look) -> bool {
        let blind = self.ledger.blind();
        if self.ledger.wait_for_blind(&blind).now_or_never().is_none() {
            return false;
        }
        let rows = &self.server.now.rows;
        let keys: Vec<Key> = match look.key {
            Some(key) => rows.contains_key(&key).then_some(key).into_iter().collect(),
            None => {
                let replayed = rows.iter().filter(|(_, s)| s.local.is_none());
                let keys = replayed.map(|(key, _)| *key);
                let behind = |key: &Key| {
                    let once = std::iter::once(hash(*key));
                    let version = look.version;
                    self.ledger
                        .with_keys(once, |index| index.behind_truncate(hash(*key), version))
                };
                keys.filter(behind).collect()
            }
        };
        if keys.is_empty() {
            self.done();
            return true;
        }
        let locked = self.server.lock(Session::Looks, &keys);
        if locked {
            self.looks.locked = Some((keys, self.barriers.last + 1));
        }
        locked
    }

    fn gone(&self, keys: &[Key], version: Version) -> Vec<(Key, Entry)> {
        let known = |key: &Key| {
            let entry = self.ledger.known(TABLE, hash(*key))?;
            Some((*key, entry)).filter(|(_, e)| e.deleted && e.version >= version)
        };
        keys.iter().filter_map(known).collect()
    }

    fn done(&mut self) {
        self.looks.waiting.pop_front();
        self.ledger.repaired(1);
    }
}
