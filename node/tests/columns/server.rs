//! A simulated server: rows that sessions lock and write, the progress that commits with them, and what a crash
//! leaves of it.

use std::collections::{BTreeMap, BTreeSet};

use everywrite_conflict::policy::Setting;
use everywrite_conflict::{Lsn, NodeId, Position, Vector};

use crate::data::{Key, Row};

/// A session that writes what was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// The stream of an origin.
    Stream(NodeId),
    /// Second looks.
    Looks,
}

/// A row, and where the local transaction ends that wrote it last; none: it was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) row: Row,
    pub(crate) local: Option<Lsn>,
}

/// A change of a policy that the server remembers: `everywrite.policy_log`.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) setting: Setting,
    pub(crate) at: Position,
    pub(crate) begun: bool,
}

/// What a transaction of replay does to a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write {
    /// Fails if there is one by now.
    Insert(Key, Row),
    Update(Key, Row),
    Delete(Key),
}

impl Write {
    fn key(&self) -> Key {
        match self {
            Write::Insert(key, _) | Write::Update(key, _) | Write::Delete(key) => *key,
        }
    }
}

/// What is committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<Key, Stored>,
    pub(crate) settings: Vec<Set>,
    /// How far each origin is replayed.
    pub(crate) applied: Vector,
    /// The end of the WAL.
    pub(crate) wal: Lsn,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) now: State,
    /// What a crash leaves: replay does not wait for its commits to be flushed, and every local commit flushes
    /// all before it.
    pub(crate) flushed: State,
    locked: BTreeMap<Key, Session>,
    /// Who has looked for rows of the table: nobody truncates it then.
    sharing: Vec<Session>,
    /// Who has the whole table.
    table: Option<Session>,
}

impl Server {
    pub(crate) fn flush(&mut self) {
        self.flushed = self.now.clone();
    }

    /// Whether an application may write that row now, or for `None` all of them.
    pub(crate) fn is_free(&self, key: Option<Key>) -> bool {
        let locked = match key {
            Some(key) => self.locked.contains_key(&key),
            None => !self.locked.is_empty() || !self.sharing.is_empty(),
        };
        self.table.is_none() && !locked
    }

    /// Locks those of the rows that are there; false: somebody else has one of them.
    pub(crate) fn lock(&mut self, session: Session, keys: &[Key]) -> bool {
        let others = |key: &Key| self.locked.get(key).is_some_and(|s| *s != session);
        if self.table.is_some_and(|s| s != session) || keys.iter().any(others) {
            return false;
        }
        let there = keys.iter().filter(|k| self.now.rows.contains_key(k));
        self.locked.extend(there.map(|k| (*k, session)));
        self.sharing.retain(|s| *s != session);
        self.sharing.push(session);
        true
    }

    /// Locks the table.
    pub(crate) fn lock_table(&mut self, session: Session) -> bool {
        let others = self.locked.values().chain(&self.sharing);
        let others = others.into_iter().any(|s| *s != session);
        if self.table.is_some_and(|s| s != session) || others {
            return false;
        }
        self.table = Some(session);
        true
    }

    /// Whether the rows can be written now; nobody else writes them then until the transaction ends. Not if
    /// another transaction has one of them. An error: a row that was to be inserted is there.
    pub(crate) fn write(
        &mut self,
        session: Session,
        writes: &[Write],
    ) -> Result<bool, &'static str> {
        let keys: BTreeSet<Key> = writes.iter().map(Write::key).collect();
        let others = |key: &Key| self.locked.get(key).is_some_and(|s| *s != session);
        if self.table.is_some_and(|s| s != session) || keys.iter().any(others) {
            return Ok(false);
        }
        let there = |w: &Write| matches!(w, Write::Insert(k, _) if self.now.rows.contains_key(k));
        if writes.iter().any(there) {
            return Err("a row came in between");
        }
        self.locked.extend(keys.into_iter().map(|k| (k, session)));
        Ok(true)
    }

    /// A transaction of replay commits; where it ends.
    pub(crate) fn commit(&mut self, session: Session, writes: &[Write]) -> Lsn {
        let now = &mut self.now;
        for write in writes {
            match *write {
                Write::Insert(key, row) | Write::Update(key, row) => {
                    now.rows.insert(key, Stored { row, local: None });
                }
                Write::Delete(key) => drop(now.rows.remove(&key)),
            }
        }
        self.release(session);
        self.ends()
    }

    /// A transaction ends here.
    pub(crate) fn ends(&mut self) -> Lsn {
        self.now.wal = Lsn(self.now.wal.0 + 1);
        self.now.wal
    }

    /// The session's transaction is over.
    pub(crate) fn release(&mut self, session: Session) {
        self.locked.retain(|_, s| *s != session);
        self.sharing.retain(|s| *s != session);
        self.table.take_if(|s| *s == session);
    }

    /// Whether a crash would take back what was replayed.
    pub(crate) fn would_lose(&self) -> bool {
        self.now.applied != self.flushed.applied
    }

    /// Everything that was not flushed is lost, and so are all sessions.
    pub(crate) fn crash(&mut self) {
        self.now = self.flushed.clone();
        self.sessions_end();
    }

    pub(crate) fn sessions_end(&mut self) {
        self.locked.clear();
        self.sharing.clear();
        self.table = None;
    }
}
