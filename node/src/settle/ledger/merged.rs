//! Tables whose rows are merged by columns ([ADR 15](../../../docs/adr/0015-merged-columns.md)).
//!
//! Whether an update has seen a row event, or another update of the row, decides more here than which
//! of two writes wins: it must be known exactly, not only not too little. Rows that both touch are
//! locked, so it is the order of the two commits in the local WAL. That is known but for the moment
//! between the sending of a commit and its answer: capture waits for that ([`Ledger::knows_before`]).

use std::sync::atomic::Ordering;
use std::time::Duration;

use everywrite_conflict::policy::columns::Merge;
use everywrite_conflict::policy::{Epoch, Rank};
use everywrite_conflict::{
    ColumnChange, Entry, Index, KeyHash, Lsn, Merging, NodeId, Position, RelationHash, Update,
    Vector, Version,
};

use super::policies::Capturing;
use super::{Inner, Intent, Ledger, Touched};
use crate::journal::columns::{Height, Merges};

/// A group that a crash of the server took away is not told of: looked for this often.
const LOOK: Duration = Duration::from_millis(20);

/// An update that a local transaction made of a merged row.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The table.
    pub relation: RelationHash,
    /// The row.
    pub key: KeyHash,
    /// Under which policy.
    pub epoch: Epoch,
    /// What it changed; heights as the values alone say.
    pub columns: Vec<ColumnChange>,
}

impl Ledger {
    /// Whether a table has ever been merged, or is to be.
    pub fn merging(&self, relation: RelationHash) -> bool {
        self.inner.lock().policies.merging(relation)
    }

    /// Whether any table has.
    #[inline]
    pub fn any_merging(&self) -> bool {
        self.merging.load(Ordering::Relaxed)
    }

    /// How updates of a table are merged that are captured now.
    pub fn merges(&self, relation: RelationHash) -> Option<Merges> {
        let inner = self.inner.lock();
        let (epoch, columns) = inner.policies.merges(relation)?;
        let columns = columns.iter().cloned().collect();
        Some(Merges { epoch, columns })
    }

    /// Column-wise policies that have begun since this was last asked.
    pub fn take_begun(&self) -> Vec<(RelationHash, Epoch)> {
        std::mem::take(&mut self.inner.lock().begun)
    }

    /// Says it again the next time.
    pub fn put_begun(&self, begun: Vec<(RelationHash, Epoch)>) {
        self.inner.lock().begun.extend(begun);
    }

    /// The commit of that group is sent now: from here on only its answer tells whether it stands.
    pub fn commits(&self, origin: NodeId, last: Lsn) {
        let mut inner = self.inner.lock();
        let of = |m: &&mut super::Mark| m.origin == origin && m.last == last;
        let marks = inner.marks.iter_mut().filter(of);
        marks.for_each(|mark| mark.committing = true);
    }

    /// The commit of that group, and all behind it, does not stand.
    pub fn commits_not(&self, origin: NodeId, first: Lsn) {
        let mut inner = self.inner.lock();
        let of = |m: &&mut super::Mark| m.origin == origin && m.last >= first;
        let marks = inner.marks.iter_mut().filter(of);
        marks.for_each(|mark| mark.committing = false);
        drop(inner);
        // Whoever waits for an answer looks again.
        self.sighted.send_modify(|_| {});
    }

    /// Whether it is known of each group which commit stands first: its own, or the local one that
    /// ends at `position`. What is not sent to be committed by now comes behind it.
    pub fn knows_before(&self, position: Lsn) -> bool {
        self.inner.lock().knows_before(position)
    }

    /// Waits until that is so, however long: whole rows in the place of differences would lose some. Answers
    /// take less than a millisecond, or as long as a crashed server needs to start again: whoever has lost
    /// one asks the server itself in its next session. May be dropped while it waits.
    pub async fn know_before(&self, position: Lsn) {
        let mut sighted = self.sighted.subscribe();
        while !self.knows_before(position) {
            tokio::select! {
                _ = sighted.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Whose commit it is that has no answer yet.
    pub fn unanswered(&self) -> Option<Position> {
        let inner = self.inner.lock();
        let mut marks = inner.marks.iter();
        let mark = marks.find(|m| m.merges && m.committing && m.before.is_none())?;
        let (origin, lsn) = (mark.origin, mark.last);
        Some(Position { origin, lsn })
    }

    /// Decides about an update that is replayed; its row is locked and capture is behind all that
    /// was written to it before. `None`: another session is deciding the row.
    pub fn merge(&self, update: &Update<'_>, claims: impl Fn(Position) -> bool) -> Option<Merging> {
        let mut inner = self.lock_with(std::iter::once(update.key));
        let event = inner.index.get(update.relation, update.key);
        if event.is_some_and(|e| e.undecided()) {
            return None;
        }
        Some(inner.index.merge(update, claims))
    }

    /// Puts back what the journals say of merged rows (at start, when all row events are in).
    pub fn rebuild_merged(&self, update: &Update<'_>, vector: &Vector) {
        let own = update.source;
        let claims = |p: Position| (p.origin == own.origin && p.lsn <= own.lsn) || vector.covers(p);
        let mut inner = self.lock_with(std::iter::once(update.key));
        inner.index.merge(update, claims);
    }

    /// Whether one of these rows, which a local transaction has updated that ends at `position`, is gone by a delete
    /// that it has seen. A row that was put there behind the delete is removed by a second look, unless something
    /// newer stands by then, and an update of a merged row is nothing that stands. So it has to be a row event,
    /// with all of its transaction. `touched`: the row events of that. To be asked right before it is captured.
    pub fn brings_back(&self, position: Lsn, touched: &[Touched], merged: &[Merged]) -> bool {
        let mut inner = self.lock_with(merged.iter().map(|m| m.key));
        inner.see_before(position);
        let Inner {
            index, dispatched, ..
        } = &*inner;
        let claims = |p: Position| p.origin == self.me || dispatched.covers(p);
        let anew = |m: &Merged| touched.iter().any(|t| t.key == Some(m.key) && !t.deleted);
        let mut merged = merged.iter();
        merged.any(|m| index.is_gone(m.relation, m.key, claims) && !anew(m))
    }

    /// Announces the updates of merged rows that a local transaction made, with what they inherit.
    pub(super) fn merge_local(
        &self,
        inner: &mut Inner,
        position: Lsn,
        captured: &Capturing<'_>,
        merged: &[Merged],
    ) -> Vec<Height> {
        let (origin, lsn) = (self.me, position);
        let source = Position { origin, lsn };
        let claims = |p: Position| p.origin == origin || captured.vector.covers(p);
        let mut heights = Vec::new();
        for update in merged {
            let mut columns = update.columns.clone();
            for change in &mut columns {
                if matches!(change.merge, Merge::Greatest | Merge::Least) {
                    let inherited = inner
                        .index
                        .inherited_height(update.key, change.column, claims);
                    change.height = change.height.max(inherited);
                    heights.push(Height {
                        key: update.key,
                        column: change.column,
                        height: change.height,
                    });
                }
            }
            let rank = Rank {
                epoch: update.epoch,
                height: 0,
            };
            let version = Version::new(captured.stamp, origin).ranked(rank);
            let update = Update {
                relation: update.relation,
                key: update.key,
                version,
                source,
                columns: &columns,
                present: true,
            };
            let merging = inner.index.merge(&update, claims);
            // Whoever decides the row event that is on its way over it has to record it.
            if !merging.belongs
                && let Some(event) = merging.event.filter(Entry::in_flight)
            {
                let register = everywrite_conflict::policy::columns::Register { version, source };
                let vector = std::sync::Arc::new(captured.vector.clone());
                let entry = register.below(event.version);
                inner
                    .beneath
                    .captured(update.relation, update.key, entry, vector);
            }
        }
        heights
    }
}

impl Inner {
    /// See [`Ledger::knows_before`].
    pub(super) fn knows_before(&mut self, position: Lsn) -> bool {
        self.reached = self.reached.max(position);
        let mut known = true;
        for mark in self
            .marks
            .iter_mut()
            .filter(|m| m.merges && m.before.is_none())
        {
            if mark.committing {
                known &= mark.after >= position;
            } else {
                mark.after = mark.after.max(position);
            }
        }
        known
    }

    pub(super) fn settle_policies(&mut self, stable: &Vector, captured: Lsn) {
        if !self.policies.any_merging() {
            return;
        }
        let begun = self.policies.settle(stable, captured, self.reached);
        self.begun.extend(begun);
    }
}

/// What a row event that is announced meets among the columns of its row.
pub(super) fn unseen_columns(index: &Index, intent: &Intent<'_>) -> Option<Entry> {
    let source = intent.entry.source;
    let claims = |p: Position| {
        source.is_some_and(|s| s.origin == p.origin && p.lsn <= s.lsn)
            || intent.vector.is_some_and(|v| v.covers(p))
    };
    // What the event loses to is what it meets.
    let stands = index.get(intent.relation, intent.key);
    let loses = |e: &Entry| e.version >= intent.entry.version;
    if stands.as_ref().is_some_and(loses) {
        return None;
    }
    index.below(intent.key, intent.entry.version, source, claims)
}
