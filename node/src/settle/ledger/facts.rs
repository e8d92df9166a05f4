//! What capture and replay tell the ledger, and what they learn from it.

use std::sync::Arc;

use everywrite_conflict::{
    Entry, First, KeyHash, Lsn, NodeId, RelationHash, Stamp, Undo, Vector, Version,
};

use crate::journal::columns::Height;
use crate::journal::ranks::Ranks;

/// One key that a transaction wrote.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// The table.
    pub relation: RelationHash,
    /// The row; `None` for a TRUNCATE of the table.
    pub key: Option<KeyHash>,
    /// Whether the row is gone afterwards.
    pub deleted: bool,
    /// For a delete that travels: the winner's version instead of the transaction's own.
    pub version: Option<Version>,
}

/// What capture puts into a transaction's header.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its vector.
    pub vector: Vector,
    /// What of that it has surely seen.
    pub seen: Vector,
    /// Keys (or whole tables) to be looked at again: the row there may be one that this transaction,
    /// committed before the row was replayed, has deleted, or one that it wrote before a greater
    /// delete was replayed.
    pub repairs: Vec<Touched>,
    /// For each delete that was to travel, whether it still leaves.
    pub leaves: Vec<bool>,
    /// The ranks of its writes, where tables have had a policy.
    pub ranks: Option<Box<Ranks>>,
    /// The heights of the columns that it merges.
    pub heights: Vec<Height>,
}

/// What replay wants to write.
#[derive(Clone, Copy, Debug)]
pub struct Intent<'a> {
    /// The table.
    pub relation: RelationHash,
    /// The row.
    pub key: KeyHash,
    /// The entry to announce.
    pub entry: Entry,
    /// Its transaction's vector, if its version has a rank.
    pub vector: Option<&'a Arc<Vector>>,
    /// What its transaction had surely seen.
    pub seen: Option<&'a Vector>,
}

/// A group that is about to be sent to the server.
#[derive(Clone, Copy, Debug)]
pub struct Coming<'a> {
    /// Whose.
    pub origin: NodeId,
    /// Its end in the origin's stream.
    pub last: Lsn,
    /// The greatest stamp in it.
    pub newest: Stamp,
    /// It has rows that are merged by columns, or may have.
    pub merges: bool,
    /// Its first transaction, if none of its versions is below that and all behind it have seen as much.
    pub first: Option<First<'a>>,
}

/// A group that is committed here.
#[derive(Clone, Copy, Debug)]
pub struct Landed {
    /// Whose.
    pub origin: NodeId,
    /// Its end in the origin's stream.
    pub last: Lsn,
    /// A place in the local WAL before which all its rows stand.
    pub before: Lsn,
    /// A place behind which its commit stands: the same, if that was read before the commit.
    pub behind: Lsn,
    /// A place before which its commit stands: what ends behind it has seen the group.
    pub after: Lsn,
    /// When the session that says so began: see [`Ledger::watch_server`](super::Ledger::watch_server).
    pub generation: u64,
}

/// What was known when the server was asked how far it is.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was committed there.
    pub(super) applied: Vector,
    /// Which server that was.
    pub(super) generation: u64,
}

/// A row that a transaction removes, if it commits, because another has its unique value.
#[derive(Debug)]
pub struct Lost {
    pub(super) relation: RelationHash,
    pub(super) key: KeyHash,
    pub(super) version: Version,
    pub(super) undo: Undo,
}

impl Lost {
    /// Whether this is that version of that row.
    pub fn is(&self, relation: RelationHash, key: KeyHash, version: Version) -> bool {
        (self.relation, self.key, self.version) == (relation, key, version)
    }
}

/// What a group learns when it is announced.
#[derive(Debug)]
pub struct Announcement {
    /// What the index held of each key before.
    pub priors: Vec<Option<Entry>>,
    /// Whether it may be written without looking at the rows.
    pub fast: bool,
    /// Groups of other origins that were on their way blindly at that moment.
    pub blind_before: Vector,
}
