//! What this node knows of versions: the conflict index, the clock and the vectors, in one place
//! and under one lock, because a stamp, the vector that goes with it and the index entries that
//! it makes must be one step.
//!
//! ```text
//!   capture ── capture(commit, keys) ──►┐             ┌◄── announce(group) ── replay, one session an origin
//!                                       │   Ledger    │
//!   (stamp, vector, repairs) ◄──────────┘             └──► what each key's version was, fast or careful
//! ```
//!
//! Three vectors, each at most the next one:
//!
//! - `flushed`: applied here and safe from any crash. What the own beat promises (settle).
//! - `applied`: committed here. What causality (I4) waits for.
//! - `dispatched`: sent to the server, perhaps not committed yet. What capture puts into a
//!   transaction. It may name too much, never too little: a local transaction can have seen every
//!   row that is committed, and what is named too early is below its stamp all the same, so it
//!   loses everywhere alike. A group that surely came after the transaction in the local WAL is
//!   left out, so that a transaction captured late does not win over what was written after it.

mod facts;
mod merged;
mod policies;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use everywrite_conflict::policy::{Epoch, Policies};
use everywrite_conflict::{
    Announced, Entry, HybridClock, Index, KeyHash, Lsn, NodeId, PARTS, Position, RelationHash,
    Stamp, Vector, Version,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use facts::{Announcement, Intent, Landed, Lost, Stamped, Touched};
pub use merged::Merged;

use crate::journal::columns::Height;
use crate::journal::ranks::Ranks;
use merged::unseen_columns;
use policies::Capturing;

/// A transaction with locks waits so long for groups that may be waiting for it.
const BLIND: Duration = Duration::from_millis(500);

/// See the module.
pub struct Ledger {
    me: NodeId,
    inner: Mutex<Inner>,
    applied: watch::Sender<Vector>,
    captured: watch::Sender<Captured>,
    sighted: watch::Sender<Vector>,
    server: watch::Sender<u64>,
    /// Some table has had a column-wise policy.
    merging: AtomicBool,
}

/// A group that is on its way or has landed, and that no local transaction was stamped above yet.
struct Mark {
    origin: NodeId,
    last: Lsn,
    newest: Stamp,
    /// Its commit stands in the local WAL behind this place: a local transaction that ends before
    /// it cannot have seen the group.
    after: Lsn,
    /// Once it has landed: its commit stands before this place.
    before: Option<Lsn>,
    /// Its tables may be merged by columns.
    merges: bool,
    /// Its commit is on the way to the server, and nobody knows whether it stands.
    committing: bool,
}

struct Inner {
    index: Index,
    clock: HybridClock,
    dispatched: Vector,
    /// What of `dispatched` stands in the local WAL before whatever is captured next.
    seen: Vector,
    flushed: Vector,
    /// For each origin the last group that was announced to be written without a look at the rows.
    blind: Vector,
    /// Local writes that were below a group on its way when they were captured.
    beaten: HashMap<KeyHash, (Entry, Arc<Vector>)>,
    /// What is set, by table.
    policies: Policies,
    /// Column-wise policies that have begun and of which the database was not told yet.
    begun: Vec<(RelationHash, Epoch)>,
    /// Groups above which the next local transaction is stamped if it ends behind them.
    marks: Vec<Mark>,
    /// The end of the local WAL when this process began.
    restored_to: Lsn,
    /// Rows that a session is deciding to remove.
    deciding: usize,
    /// Rows to be looked at again.
    repairs: usize,
    /// Rows that have been looked at again.
    looked: u64,
    /// A place that the local WAL is known to have reached.
    reached: Lsn,
    /// The end of the last local transaction that has its stamp.
    stamped_to: Lsn,
    forgotten: u64,
}

/// How far capture is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Local WAL up to here is announced to the index.
    pub lsn: Lsn,
    /// The newest barrier that capture has met.
    pub barrier: u64,
}

impl Ledger {
    /// A ledger that knows nothing yet.
    pub fn new(me: NodeId) -> Self {
        Ledger {
            me,
            inner: Mutex::new(Inner {
                index: Index::default(),
                clock: HybridClock::default(),
                dispatched: Vector::new(),
                seen: Vector::new(),
                flushed: Vector::new(),
                blind: Vector::new(),
                beaten: HashMap::new(),
                policies: Policies::new(),
                begun: Vec::new(),
                marks: Vec::new(),
                restored_to: Lsn::ZERO,
                deciding: 0,
                repairs: 0,
                looked: 0,
                reached: Lsn::ZERO,
                stamped_to: Lsn::ZERO,
                forgotten: 0,
            }),
            applied: watch::Sender::new(Vector::new()),
            captured: watch::Sender::new(Captured::default()),
            sighted: watch::Sender::new(Vector::new()),
            server: watch::Sender::new(0),
            merging: AtomicBool::new(false),
        }
    }

    /// Takes up what the own journal and the server remember: stamps only go up, vectors too.
    pub fn restore(&self, own: Option<(Lsn, Stamp, &Vector, &Vector)>, applied: &Vector) {
        let mut inner = self.inner.lock();
        if let Some((position, stamp, vector, seen)) = own {
            inner.seen.merge(seen);
            inner.clock = HybridClock::restored(stamp);
            inner.dispatched.merge(vector);
            inner.stamped_to = position;
        }
        inner.dispatched.merge(applied);
        // Not `flushed`: what is still to be captured may have come before some of it, and so the
        // beat may promise it only after the first barrier.
        drop(inner);
        self.applied.send_modify(|v| v.merge(applied));
    }

    /// The local WAL ended at `here` when this process began.
    pub fn restored_to(&self, here: Lsn) {
        let mut inner = self.inner.lock();
        inner.restored_to = here;
        // What the server had at start was committed before that place, and perhaps after some
        // of what is still to be captured.
        for (origin, last) in self.applied.borrow().iter() {
            inner.marks.push(Mark {
                origin,
                last,
                newest: Stamp::MIN,
                after: Lsn::ZERO,
                before: Some(here),
                merges: false,
                committing: false,
            });
        }
    }

    /// A place that the local WAL is known to have reached.
    pub fn reached(&self) -> Lsn {
        self.inner.lock().reached
    }

    /// A session begins when the local WAL is at `here`. If the server has lost the end of its WAL
    /// in a crash, that is before places it had reached, and these are given a second time.
    pub fn begins_at(&self, here: Lsn) {
        let mut inner = self.inner.lock();
        inner.reached = inner.reached.min(here);
        for mark in &mut inner.marks {
            mark.after = mark.after.min(here);
        }
    }

    /// The local WAL has come to `here`.
    pub fn reaches(&self, here: Lsn) {
        let mut inner = self.inner.lock();
        inner.reached = inner.reached.max(here);
    }

    /// Puts back what the journals say was written (at start, before capture and replay run).
    /// `vector`: of the transaction that wrote it.
    pub fn rebuild(
        &self,
        stamp: Stamp,
        vector: &Arc<Vector>,
        touched: impl IntoIterator<Item = (Touched, Entry)>,
    ) {
        let mut inner = self.inner.lock();
        inner.clock.saw(stamp);
        for (t, entry) in touched {
            inner.announce(&t, entry, || Arc::clone(vector));
        }
    }

    /// Stamps a local transaction and announces what it wrote. `position` is its end in the local
    /// WAL. `travelling` are deletes that replay decided and that leave with this transaction,
    /// unless something newer has overtaken them.
    pub fn capture(
        &self,
        position: Lsn,
        commit_time: Stamp,
        touched: &[Touched],
        travelling: &[Touched],
        merged: &[Merged],
    ) -> Stamped {
        let mut inner = self.inner.lock();
        inner.see_before(position);
        let stamp = inner.clock.stamp(commit_time);
        let (vector, seen) = (inner.dispatched.clone(), inner.seen.clone());
        let mut captured = Capturing::new(self.me, stamp, &vector);
        inner.stamped_to = inner.stamped_to.max(position);
        let mut repairs = Vec::new();
        self.announce_local(&mut inner, position, &mut captured, touched, &mut repairs);
        let mut leaves = Vec::with_capacity(travelling.len());
        for t in travelling {
            let (Some(key), Some(version)) = (t.key, t.version) else {
                continue;
            };
            // What a crash took from memory is decided by what the journals say: nothing newer of
            // the key was released while this delete was still to be captured.
            let restored = position <= inner.restored_to
                && inner.index.get(t.relation, key).is_none_or(|e| {
                    e.version < version || (e.version == version && e.source.is_none())
                });
            let leave = inner.index.travels(t.relation, key, version) || restored;
            if leave {
                self.announce_local(
                    &mut inner,
                    position,
                    &mut captured,
                    std::slice::from_ref(t),
                    &mut repairs,
                );
            }
            leaves.push(leave);
        }
        let heights = self.merge_local(&mut inner, position, &captured, merged);
        let ranks = captured.ranks;
        Stamped {
            stamp,
            vector,
            seen,
            repairs,
            leaves,
            ranks,
            heights,
        }
    }

    /// Announces more keys of a local transaction that is too large for one step, with the vector
    /// that [`capture`](Self::capture) gave it.
    pub fn capture_more(
        &self,
        position: Lsn,
        stamp: Stamp,
        vector: &Vector,
        touched: &[Touched],
        merged: &[Merged],
    ) -> (Vec<Touched>, Option<Box<Ranks>>, Vec<Height>) {
        let mut repairs = Vec::new();
        let mut captured = Capturing::new(self.me, stamp, vector);
        let mut inner = self.inner.lock();
        self.announce_local(&mut inner, position, &mut captured, touched, &mut repairs);
        let heights = self.merge_local(&mut inner, position, &captured, merged);
        (repairs, captured.ranks, heights)
    }

    fn announce_local(
        &self,
        inner: &mut Inner,
        position: Lsn,
        captured: &mut Capturing<'_>,
        touched: &[Touched],
        repairs: &mut Vec<Touched>,
    ) {
        let source = Some(Position {
            origin: self.me,
            lsn: position,
        });
        for t in touched {
            let version = match t.version {
                Some(version) => version,
                None => inner.version_of(t, captured),
            };
            let entry = Entry {
                version,
                source,
                deleted: t.deleted,
                local_lsn: Lsn::ZERO,
            };
            let (before, announced) = inner.announce(t, entry, || captured.shared());
            // Committed before a replayed write of the same key was, although stamped after it:
            // the replayed row stands where by version there is none.
            let overtaken = before.is_some_and(|b| b.local_lsn >= position);
            if t.version.is_none() && t.deleted && (overtaken || t.key.is_none()) {
                repairs.push(*t);
            }
            let Announced::Older(newer) = announced else {
                continue;
            };
            // The delete that it loses to may have found nothing to remove.
            if t.version.is_none() && !t.deleted && newer.deleted {
                repairs.push(*t);
            }
            if let Some(key) = t.key
                && newer.in_flight()
            {
                inner.beaten.insert(key, (entry, captured.shared()));
            }
        }
    }

    /// What the index holds of each key, and a local write of it that lost to the group on its way
    /// the moment it was captured: whoever decides that group has to record it.
    pub fn look(
        &self,
        relation: RelationHash,
        keys: impl Iterator<Item = KeyHash>,
    ) -> Vec<(Option<Entry>, Option<Entry>)> {
        let inner = self.inner.lock();
        keys.map(|key| {
            (
                inner.index.get(relation, key),
                inner.beaten.get(&key).map(|beaten| beaten.0),
            )
        })
        .collect()
    }

    /// Capture has announced everything up to `lsn`.
    pub fn captured(&self, lsn: Lsn) {
        let mut inner = self.inner.lock();
        inner.reached = inner.reached.max(lsn);
        // Whatever is captured from now on was committed behind `lsn`.
        inner.see_before(lsn);
        drop(inner);
        self.captured.send_if_modified(|c| {
            let forward = c.lsn < lsn;
            c.lsn = c.lsn.max(lsn);
            forward
        });
    }

    /// Capture has met a barrier: everything before it in the WAL is announced.
    pub fn barrier(&self, token: u64) {
        self.captured
            .send_modify(|c| c.barrier = c.barrier.max(token));
    }

    /// Follows capture.
    pub fn watch_captured(&self) -> watch::Receiver<Captured> {
        self.captured.subscribe()
    }

    /// Announces a group of `origin` that ends at `last`. `fast` looks at what the index held of
    /// each key before (in the order of the intents) and says whether the group may be written
    /// without looking at the rows. `None`: another session is deciding one of the keys (`mine`
    /// says which decisions are the caller's own), and what it decides is what this group will
    /// meet; ask again.
    #[expect(clippy::too_many_arguments, reason = "one announcement, said once")]
    pub fn announce<'a>(
        &self,
        origin: NodeId,
        last: Lsn,
        newest: Stamp,
        merges: bool,
        intents: impl Iterator<Item = Intent<'a>> + Clone,
        mine: impl Fn(RelationHash, KeyHash, Version) -> bool,
        fast: impl FnOnce(&[Option<Entry>]) -> bool,
    ) -> Option<Announcement> {
        let mut inner = self.inner.lock();
        let open = |i: Intent<'_>| {
            let entry = inner.index.get(i.relation, i.key);
            entry.is_some_and(|e| e.undecided() && !mine(i.relation, i.key, e.version))
        };
        if inner.deciding > 0 && intents.clone().any(open) {
            return None;
        }
        let after = inner.reached;
        inner.marks.push(Mark {
            origin,
            last,
            newest,
            after,
            before: None,
            merges,
            committing: false,
        });
        let before = |i: Intent<'_>| {
            let index = &mut inner.index;
            let below = match index.has_registers(i.key) {
                true => unseen_columns(index, &i),
                false => None,
            };
            let before = match i.vector {
                Some(vector) => index.announce_ranked(i.relation, i.key, i.entry, vector).0,
                None => index.announce_over(i.relation, i.key, i.entry).0,
            };
            below.or(before)
        };
        let priors: Vec<Option<Entry>> = intents.map(before).collect();
        let blind_before = inner.blind.iter().filter(|(o, _)| *o != origin).collect();
        let fast = fast(&priors);
        if fast {
            inner.blind.raise(origin, last);
        }
        Some(Announcement {
            priors,
            fast,
            blind_before,
        })
    }

    /// The group of `origin` that ends at `last` commits behind `reached`, a place that the local
    /// WAL has reached: what ended before it is not stamped above the group.
    pub fn commits_after(&self, origin: NodeId, last: Lsn, reached: Lsn) {
        self.inner.lock().commits_after(origin, last, reached);
    }

    /// No group of `origin` up to `last` is written blindly any more: it has landed, or it failed.
    pub fn sighted(&self, origin: NodeId, last: Lsn) {
        self.sighted.send_if_modified(|v| v.raise(origin, last));
    }

    /// Waits until the groups of other origins that were on their way when this one was announced
    /// have landed or failed. Until then they could write over what this one decides.
    pub async fn wait_for_blind(&self, blind: &Vector) {
        let mut sighted = self.sighted.subscribe();
        // The sender lives as long as the ledger.
        let _ = sighted.wait_for(|v| v.covers_all(blind)).await;
    }

    /// The same for a transaction that already has locks, for which a blind group may be waiting:
    /// false if that may be so.
    pub async fn wait_for_blind_briefly(&self, blind: &Vector) -> bool {
        tokio::time::timeout(BLIND, self.wait_for_blind(blind))
            .await
            .is_ok()
    }

    /// What is on its way unlooked at now: for whoever is about to look at rows outside a group.
    pub fn blind(&self) -> Vector {
        self.inner.lock().blind.clone()
    }

    /// Decides, in one step, which rows go because others have their unique values. `None` if
    /// another session is deciding one of the rows asked about.
    pub fn lose(
        &self,
        relation: RelationHash,
        decide: impl FnOnce(&mut Index) -> Option<Vec<(KeyHash, Version)>>,
    ) -> Option<Vec<Lost>> {
        let mut inner = self.inner.lock();
        let losers = decide(&mut inner.index)?;
        inner.deciding += losers.len();
        let lose = |(key, version)| Lost {
            relation,
            key,
            version,
            undo: inner.index.lose(relation, key, version),
        };
        Some(losers.into_iter().map(lose).collect())
    }

    /// What was decided is committed.
    pub fn lost(&self, lost: &[Lost]) {
        let mut inner = self.inner.lock();
        inner.deciding = inner.deciding.saturating_sub(lost.len());
    }

    /// What was decided was rolled back.
    pub fn keep(&self, lost: Vec<Lost>) {
        let mut inner = self.inner.lock();
        inner.deciding = inner.deciding.saturating_sub(lost.len());
        for l in lost.into_iter().rev() {
            inner.index.undo(l.undo);
            // A local write that lost to it meanwhile.
            if let Some((entry, vector)) = inner.beaten.remove(&l.key) {
                let t = Touched {
                    relation: l.relation,
                    key: Some(l.key),
                    deleted: entry.deleted,
                    version: None,
                };
                inner.announce(&t, entry, || vector);
            }
        }
    }

    /// Announces a replayed TRUNCATE.
    pub fn announce_truncate(&self, relation: RelationHash, entry: Entry) {
        self.inner.lock().index.announce_truncate(relation, entry);
    }

    /// Runs `f` on the index under the lock.
    pub fn with_index<T>(&self, f: impl FnOnce(&mut Index) -> T) -> T {
        f(&mut self.inner.lock().index)
    }

    /// A group is committed here. Returns the keys whose rows have to be looked at again; `None` if
    /// the server may have been started anew since it said so: then only a new session knows.
    pub fn landed(
        &self,
        group: &Landed,
        keys: impl IntoIterator<Item = (RelationHash, KeyHash, Version)>,
        truncates: &[(RelationHash, Version)],
    ) -> Option<Vec<KeyHash>> {
        let Landed { origin, last, .. } = *group;
        let mut inner = self.inner.lock();
        if *self.server.borrow() != group.generation {
            return None;
        }
        inner.committed(group);
        let mut look_again = Vec::new();
        for (relation, key, version) in keys {
            let newer = inner.index.landed(relation, key, version, group.before);
            // A delete that was captured or announced meanwhile: it may have come before this row
            // and have found nothing. Not one of the same origin: it comes after.
            let behind = |e: &Entry| e.source.is_some_and(|s| s.origin == origin && s.lsn > last);
            if newer.is_some_and(|e| e.deleted && !behind(&e)) {
                look_again.push(key);
            }
            // A later group of the same origin may still have to answer for it.
            let own = |e: &Entry| e.version == version;
            if !inner.beaten.is_empty() && inner.index.get(relation, key).as_ref().is_none_or(own) {
                inner.beaten.remove(&key);
            }
        }
        for (relation, version) in truncates {
            inner
                .index
                .truncate_landed(*relation, *version, group.before);
        }
        self.applied.send_if_modified(|v| v.raise(origin, last));
        drop(inner);
        self.sighted(origin, last);
        Some(look_again)
    }

    /// Sets what is applied to what the server says.
    pub fn applied_is(&self, origin: NodeId, lsn: Lsn) {
        self.applied.send_modify(|v| v.set(origin, lsn));
    }

    /// Compares what was applied before the server was asked with the `progress` that it says it
    /// has: less means that it crashed and has forgotten its newest commits. Every stream has to
    /// begin anew then, and none may rely on what is gone.
    pub fn reconcile(&self, before: &Vector, progress: &Vector) {
        let lost: Vec<(NodeId, Lsn)> = before
            .iter()
            .map(|(n, _)| (n, progress.get(n)))
            .filter(|(n, lsn)| *lsn < before.get(*n))
            .collect();
        if !lost.is_empty() {
            tracing::warn!(progress = ?progress, "the server has forgotten its newest commits in a crash, they are applied again");
            let mut inner = self.inner.lock();
            inner.forgotten_by_server(&lost);
            self.applied
                .send_modify(|v| lost.iter().for_each(|(n, lsn)| v.set(*n, *lsn)));
            self.server.send_modify(|generation| *generation += 1);
        }
    }

    /// A session of this generation broke: perhaps the server is gone, and answers that other
    /// sessions have not read yet may speak of what a crash takes back. They all begin anew.
    pub fn broke(&self, generation: u64) {
        let _inner = self.inner.lock();
        self.server.send_if_modified(|current| {
            let first = *current == generation;
            *current += u64::from(first);
            first
        });
    }

    /// `progress`, read from the server, flushed, before a barrier that capture has met since: no
    /// local transaction that is still to be stamped came before it.
    pub fn flushed_is(&self, progress: &Vector) {
        let mut inner = self.inner.lock();
        inner.flushed.merge(progress);
        let Inner { marks, clock, .. } = &mut *inner;
        let named = marks.iter().filter(|m| m.last <= progress.get(m.origin));
        named.for_each(|m| clock.saw(m.newest));
        // The barrier stands behind all of that, and capture has passed it.
        inner.seen.merge(progress);
        inner.dispatched.merge(progress);
    }

    /// The server was started anew: every session is gone, whether or not it has noticed.
    pub fn server_started(&self) {
        let _inner = self.inner.lock();
        self.server.send_modify(|generation| *generation += 1);
    }

    /// Changes whenever the sessions have to be made anew.
    pub fn watch_server(&self) -> watch::Receiver<u64> {
        self.server.subscribe()
    }

    /// What is committed here.
    pub fn applied(&self) -> Vector {
        self.applied.borrow().clone()
    }

    /// Follows what is committed here.
    pub fn watch_applied(&self) -> watch::Receiver<Vector> {
        self.applied.subscribe()
    }

    /// What is applied here and safe from any crash.
    pub fn flushed(&self) -> Vector {
        self.inner.lock().flushed.clone()
    }

    /// What the own beat may promise: (what is applied and safe from any crash, the place in the
    /// own stream behind which every transaction carries at least that vector).
    pub fn promise(&self) -> (Vector, Lsn) {
        let inner = self.inner.lock();
        (inner.flushed.clone(), inner.stamped_to)
    }

    /// The end of the last local transaction that has its stamp.
    pub fn stamped_to(&self) -> Lsn {
        self.inner.lock().stamped_to
    }

    /// A row has to be looked at again.
    pub fn repair_begins(&self) {
        self.inner.lock().repairs += 1;
    }

    /// That many looks are done.
    pub fn repaired(&self, looks: usize) {
        let mut inner = self.inner.lock();
        inner.repairs = inner.repairs.saturating_sub(looks);
        inner.looked += looks as u64;
    }

    /// (How many looks were ever asked for, how many of them are done): they are done in order.
    pub fn looks(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.looked + inner.repairs as u64, inner.looked)
    }

    /// How many rows are to be looked at again.
    pub fn repairs(&self) -> usize {
        self.inner.lock().repairs
    }

    /// Forgets what is stable; returns how many keys that were. `captured`: local WAL up to here is
    /// durable in the own journal.
    pub fn forget(&self, stable: &Vector, captured: Lsn) -> usize {
        let mut forgotten = 0;
        let mut inner = self.inner.lock();
        inner.settle_policies(stable, captured);
        if inner.repairs == 0 {
            forgotten = inner.index.forget_truncates(stable, captured);
        }
        // Part by part, because capture and replay are waiting.
        let due = inner.repairs == 0 && inner.index.sweep_is_due(stable, captured);
        drop(inner);
        for part in (0..PARTS).filter(|_| due) {
            let mut inner = self.inner.lock();
            // What is looked at again is asked of the index.
            if inner.repairs == 0 {
                forgotten += inner.index.sweep(part, stable, captured);
            } else {
                inner.index.leave(part);
            }
        }
        self.inner.lock().forgotten += forgotten as u64;
        forgotten
    }

    /// (keys held, keys forgotten since start).
    pub fn sizes(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.index.len() as u64, inner.forgotten)
    }
}

impl Inner {
    fn commits_after(&mut self, origin: NodeId, last: Lsn, reached: Lsn) {
        self.reached = self.reached.max(reached);
        for mark in self
            .marks
            .iter_mut()
            .filter(|m| m.origin == origin && m.last <= last)
        {
            mark.after = mark.after.max(reached);
        }
    }

    /// The server has lost the end of its WAL, and of these origins what is behind the places named.
    fn forgotten_by_server(&mut self, lost: &[(NodeId, Lsn)]) {
        // What is gone was seen by nobody who is still to be captured, and is announced again.
        self.marks.retain(|mark| {
            let left = lost.iter().find(|(origin, _)| *origin == mark.origin);
            left.is_none_or(|(_, lsn)| mark.last <= *lsn)
        });
    }

    fn committed(&mut self, group: &Landed) {
        self.commits_after(group.origin, group.last, group.before);
        self.reached = self.reached.max(group.after);
        let marks = self.marks.iter_mut();
        for mark in marks.filter(|m| m.origin == group.origin && m.last <= group.last) {
            mark.before.get_or_insert(group.after);
        }
    }

    /// Takes in the groups that a local transaction which ends at `position` may have seen, and
    /// tells those that it has surely seen.
    fn see_before(&mut self, position: Lsn) {
        let Inner {
            marks,
            clock,
            dispatched,
            seen,
            ..
        } = self;
        marks.retain_mut(|mark| {
            if mark.merges && !mark.committing && mark.before.is_none() {
                // What is captured is committed; what is not even sent to be committed comes behind it.
                mark.after = mark.after.max(position);
            }
            if mark.after >= position {
                return true;
            }
            clock.saw(mark.newest);
            dispatched.raise(mark.origin, mark.last);
            let surely = mark.before.is_some_and(|before| before <= position);
            if surely {
                seen.raise(mark.origin, mark.last);
            }
            !surely
        });
    }
}

/// Which origin is how far, by name: for messages to people.
pub fn describe(vector: &Vector, names: &HashMap<NodeId, String>) -> String {
    let one = |(n, l)| {
        format!(
            "{} {l}",
            names.get(&n).cloned().unwrap_or_else(|| n.to_string())
        )
    };
    vector.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
