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

mod beneath;
mod facts;
mod forget;
mod hidden;
mod leaving;
mod left_out;
mod marks;
mod merged;
mod overtaken;
mod policies;
mod server;
mod spill;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use everywrite_conflict::policy::{Epoch, Policies};
use everywrite_conflict::{
    Announced, Entry, HybridClock, Index, KeyHash, Lsn, NodeId, Position, RelationHash, Stamp,
    Vector, Version,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use facts::{Announcement, Asked, Coming, Intent, Landed, Lost, Stamped, Touched};
pub use left_out::LeavesOut;
pub use merged::Merged;
pub use spill::Outside;

use crate::journal::columns::Height;
use crate::journal::ranks::Ranks;
use crate::settle::spilled::Files;
use beneath::Beneath;
use hidden::Hidden;
use leaving::Leaving;
use left_out::LeftOut;
use marks::Mark;
use merged::unseen_columns;
use overtaken::Overtaken;
use policies::Capturing;
use spill::Spilling;

/// A transaction with locks waits so long for groups that may be waiting for it.
const BLIND: Duration = Duration::from_millis(500);
/// From so many keys on a group is looked up in the index beforehand, many keys at once.
const MANY_KEYS: usize = 256;

/// See the module.
pub struct Ledger {
    me: NodeId,
    inner: Mutex<Inner>,
    applied: watch::Sender<Vector>,
    captured: watch::Sender<Captured>,
    sighted: watch::Sender<Vector>,
    server: watch::Sender<u64>,
    /// Some table has had a policy that merges or parks what loses.
    sets_aside: AtomicBool,
    /// Some table has had a column-wise policy.
    merging: AtomicBool,
    /// Where entries of the index go that are too many for memory.
    spilling: Option<Spilling>,
}

struct Inner {
    index: Index,
    /// What of it is not in memory.
    files: Arc<Files>,
    clock: HybridClock,
    dispatched: Vector,
    /// What of `dispatched` stands in the local WAL before whatever is captured next.
    seen: Vector,
    flushed: Vector,
    /// For each origin the last group that was announced to be written without a look at the rows.
    blind: Vector,
    /// Own rows that stand under what is on its way.
    beneath: Beneath,
    /// Those of them that the index does not name, because something newer was captured.
    hidden: Hidden,
    /// Where older writes have landed than the index names.
    overtaken: Overtaken,
    /// Rows that are older than what was left out of them.
    left_out: LeftOut,
    /// Decided deletes that have not left.
    leaving: Leaving,
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
    /// The last barrier that capture has met, whoever set it.
    pub barrier: u64,
}

impl Ledger {
    /// A ledger that knows nothing yet.
    pub fn new(me: NodeId) -> Self {
        Ledger {
            me,
            inner: Mutex::new(Inner {
                index: Index::default(),
                files: Arc::default(),
                clock: HybridClock::default(),
                dispatched: Vector::new(),
                seen: Vector::new(),
                flushed: Vector::new(),
                blind: Vector::new(),
                beneath: Beneath::default(),
                hidden: Hidden::default(),
                overtaken: Overtaken::default(),
                left_out: LeftOut::default(),
                leaving: Leaving::default(),
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
            sets_aside: AtomicBool::new(false),
            merging: AtomicBool::new(false),
            spilling: None,
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

    /// The greatest stamp that was given here or that a local transaction has been, or will be, stamped above.
    pub fn newest_stamp(&self) -> Stamp {
        let clock = self.inner.lock().clock;
        clock.last().max(clock.seen())
    }

    /// A place that the local WAL is known to have reached.
    pub fn reached(&self) -> Lsn {
        self.inner.lock().reached
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
        if inner.index.has_spilled() {
            self.rebuild_below(inner, vector, touched.into_iter().collect());
            return;
        }
        for (t, entry) in touched {
            inner.announce_again(&t, entry, vector);
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
        if inner.index.has_spilled() {
            let stamp = |inner: &Inner| inner.clock.next(commit_time);
            let keys = (touched, travelling, merged);
            inner = self.lock_to_capture(inner, position, stamp, keys);
        }
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
            inner.leaving.captured(key, version, position);
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
        if inner.index.has_spilled() {
            let keys = (touched, &[][..], merged);
            inner = self.lock_to_capture(inner, position, |_| stamp, keys);
        }
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
            // A TRUNCATE may stand over it in the index.
            let hidden = t.key.filter(|_| inner.index.truncates(t.relation));
            let hidden = hidden.and_then(|key| inner.index.row(key));
            let (before, announced) = inner.announce(t, entry, || captured.shared());
            // Committed before a replayed write of the same key was, although stamped after it:
            // the replayed row stands where by version there is none.
            let overtaken = t.key.is_some_and(|key| {
                let known = before.into_iter().chain(hidden);
                inner.overtaken.captured(key, position, known)
            });
            if t.version.is_none() && t.deleted && (overtaken || t.key.is_none()) {
                repairs.push(*t);
            }
            let Announced::Older(newer) = announced else {
                match t.key {
                    Some(key) => inner.beneath.ends(None, key),
                    None => inner
                        .beneath
                        .truncated(None, t.relation, version, |_| false),
                }
                self.hide(inner, t, before);
                continue;
            };
            // The delete that it loses to may have found nothing to remove.
            if t.version.is_none() && !t.deleted && newer.deleted {
                repairs.push(*t);
            }
            if let Some(key) = t.key
                && newer.in_flight()
            {
                let vector = captured.shared();
                inner.beneath.captured(t.relation, key, entry, vector);
            }
        }
    }

    /// A key's entry is replaced by what does not wait for groups on their way.
    fn hide(&self, inner: &mut Inner, touched: &Touched, before: Option<Entry>) {
        let sighted = self.sighted.borrow();
        let under_way = inner.blind.iter();
        let under_way = under_way.filter(|(origin, last)| sighted.get(*origin) < *last);
        match touched.key {
            Some(key) if before.is_some_and(|e| e.in_flight()) => {
                inner.hidden.key(key, under_way.collect());
            }
            Some(_) => {}
            None => inner.hidden.table(touched.relation, under_way.collect()),
        }
    }

    /// What the index holds of each key, and the last own write of it, if that is below what is on its
    /// way and nobody has decided about it yet: whoever removes it has to record it.
    pub fn look(
        &self,
        relation: RelationHash,
        keys: impl Iterator<Item = KeyHash> + Clone,
    ) -> Vec<(Option<Entry>, Option<Entry>)> {
        let inner = self.lock_with(keys.clone());
        keys.map(|key| (inner.index.get(relation, key), inner.beneath.get(key)))
            .collect()
    }

    /// The own rows of a table that stand under what is on its way.
    pub fn beneath(&self, relation: RelationHash) -> HashMap<KeyHash, Entry> {
        self.inner.lock().beneath.of(relation).collect()
    }

    /// Capture has announced everything up to `lsn`.
    pub fn captured(&self, lsn: Lsn) {
        let mut inner = self.inner.lock();
        inner.reached = inner.reached.max(lsn);
        inner.overtaken.passed(lsn);
        // Whatever is captured from now on was committed behind `lsn`. Where rows are merged none of it may name a
        // group whose commit has no answer yet: it may fail, and be behind what is captured then.
        if inner.knows_before(lsn) {
            inner.see_before(lsn);
        }
        drop(inner);
        self.captured.send_if_modified(|c| {
            let forward = c.lsn < lsn;
            c.lsn = c.lsn.max(lsn);
            forward
        });
    }

    /// Capture has met a barrier: everything before it in the WAL is announced.
    pub fn barrier(&self, token: u64) {
        self.captured.send_modify(|c| c.barrier = token);
    }

    /// Follows capture.
    pub fn watch_captured(&self) -> watch::Receiver<Captured> {
        self.captured.subscribe()
    }

    /// Announces a group. `fast` looks at what the index held of
    /// each key before (in the order of the intents) and says whether the group may be written
    /// without looking at the rows. `None`: another session is deciding one of the keys (`mine`
    /// says which decisions are the caller's own), and what it decides is what this group will
    /// meet; ask again.
    pub fn announce<'a>(
        &self,
        group: Coming<'_>,
        intents: impl Iterator<Item = Intent<'a>> + Clone,
        mine: impl Fn(RelationHash, KeyHash, Version) -> bool,
        fast: impl FnOnce(&[Option<Entry>]) -> bool,
    ) -> Option<Announcement> {
        let Coming {
            origin,
            last,
            newest,
            merges,
            first,
        } = group;
        let mut inner = self.inner.lock();
        if inner.index.group_asks(first) {
            inner = self.recalled(inner, intents.clone().map(|i| i.key).collect());
        }
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
        let again = !inner.beneath.none_again(intents.clone().map(|i| i.key));
        if intents.clone().nth(MANY_KEYS).is_some() {
            inner.index.warm(intents.clone().map(|i| i.key));
        }
        let Inner { index, beneath, .. } = &mut *inner;
        let before = |i: Intent<'_>| {
            // Under a TRUNCATE that is on its way the rows still stand.
            let row = index.truncates(i.relation).then(|| index.row(i.key));
            let registers = index.has_registers(i.key);
            let below = registers.then(|| unseen_columns(index, &i)).flatten();
            let prior = match i.vector {
                Some(vector) => index.announce_ranked(i.relation, i.key, i.entry, vector).0,
                None => index.announce_over(i.relation, i.key, i.entry).0,
            };
            if prior.is_some() {
                beneath.announced(self.me, &i, row.unwrap_or(prior));
            }
            match registers {
                true => below.or(prior),
                false => prior,
            }
        };
        let priors: Vec<Option<Entry>> = intents.clone().map(before).collect();
        let blind_before = inner.blind.iter().filter(|(o, _)| *o != origin).collect();
        let sighted = self.sighted.borrow();
        let plain = inner.hidden.sighted(&sighted) || {
            let hidden = &inner.hidden;
            let covers = |i: Intent<'_>| hidden.covers(i.relation, i.key, origin, &sighted);
            !intents.clone().any(covers)
        };
        // What a change omits of such a row is not in it.
        let plain = plain && inner.left_out.none(intents.map(|i| i.key)) && !again;
        drop(sighted);
        let fast = fast(&priors) && plain;
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
    /// WAL has reached: what ended before it is not stamped above the group. A session of another
    /// `generation` may speak of a place that a crash of the server has taken back.
    pub fn commits_after(&self, origin: NodeId, last: Lsn, reached: Lsn, generation: u64) {
        let mut inner = self.inner.lock();
        if *self.server.borrow() == generation {
            inner.commits_after(origin, last, reached);
        }
    }

    /// No group of `origin` up to `last` is written blindly any more: it has landed, or it failed.
    pub fn sighted(&self, origin: NodeId, last: Lsn) {
        self.sighted.send_if_modified(|v| v.raise(origin, last));
    }

    /// Waits until the groups of other origins that were on their way when this one was announced
    /// have landed or failed. Until then they could write over what this one decides.
    pub async fn wait_for_blind(&self, blind: &Vector) {
        let mut sighted = self.sighted.subscribe();
        if !sighted.borrow().covers_all(blind) {
            tracing::debug!("a decision waits for groups that are on their way");
        }
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
    /// another session is deciding one of the rows asked about, which are `keys`.
    pub fn lose(
        &self,
        relation: RelationHash,
        keys: impl Iterator<Item = KeyHash>,
        decide: impl FnOnce(&mut Index) -> Option<Vec<(KeyHash, Version)>>,
    ) -> Option<Vec<Lost>> {
        let mut inner = self.lock_with(keys);
        let losers = decide(&mut inner.index)?;
        inner.deciding += losers.len();
        for &(key, version) in &losers {
            inner.leaving.decided(key, version);
            let touched = Touched {
                relation,
                key: Some(key),
                deleted: true,
                version: None,
            };
            let before = inner.index.get(relation, key);
            self.hide(&mut inner, &touched, before);
        }
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
        let mut inner = self.lock_with(lost.iter().map(|l| l.key));
        inner.deciding = inner.deciding.saturating_sub(lost.len());
        for l in lost.into_iter().rev() {
            inner.leaving.undone(l.key, l.version);
            inner.index.undo(l.undo);
            // A local write that lost to it meanwhile.
            if let Some((entry, vector)) = inner.beneath.take_captured(l.key) {
                let t = Touched {
                    relation: l.relation,
                    key: Some(l.key),
                    deleted: entry.deleted,
                    version: None,
                };
                let (_, announced) = inner.announce(&t, entry, || Arc::clone(&vector));
                if let Announced::Older(newer) = announced
                    && newer.in_flight()
                {
                    inner.beneath.captured(l.relation, l.key, entry, vector);
                }
            }
        }
    }

    /// Announces a replayed TRUNCATE.
    pub fn announce_truncate(&self, relation: RelationHash, entry: Entry) {
        self.inner.lock().index.announce_truncate(relation, entry);
    }

    /// Runs `f` under the lock on what of the index is in memory.
    pub fn with_index<T>(&self, f: impl FnOnce(&mut Index) -> T) -> T {
        f(&mut self.inner.lock().index)
    }

    /// A group is committed here. Returns the keys whose rows have to be looked at again; `None` if
    /// the server may have been started anew since it said so: then only a new session knows. `kept`:
    /// whether a change was decided against.
    pub fn landed(
        &self,
        group: &Landed,
        keys: impl Iterator<Item = (RelationHash, KeyHash, Version)> + Clone,
        truncates: &[(RelationHash, Version)],
        kept: impl Fn(KeyHash, Version) -> bool,
    ) -> Option<Vec<KeyHash>> {
        let Landed { origin, last, .. } = *group;
        let by = Some(Position { origin, lsn: last });
        // What was on its way is in memory, but for what something newer has replaced.
        let mut inner = self.lock_with(keys.clone().map(|(_, key, _)| key));
        if *self.server.borrow() != group.generation {
            return None;
        }
        inner.committed(group);
        if keys.clone().nth(MANY_KEYS).is_some() {
            inner.index.warm(keys.clone().map(|(_, key, _)| key));
        }
        let mut look_again = Vec::new();
        for (relation, key, version) in keys {
            let newer = inner.index.landed(relation, key, version, group.before);
            // A delete that was captured or announced meanwhile: it may have come before this row
            // and have found nothing. Not one of the same origin: it comes after.
            let behind = |e: &Entry| e.source.is_some_and(|s| s.origin == origin && s.lsn > last);
            if newer.is_some_and(|e| e.deleted && !behind(&e)) {
                look_again.push(key);
            }
            if newer.is_some() && group.before > self.captured.borrow().lsn {
                inner.overtaken.landed(key, group.before);
            }
            // Also what had landed once, and a crash of the server has taken back.
            let gone = |s: Position| s.origin != self.me && !self.applied.borrow().covers(s);
            let under_way = |e: Entry| e.in_flight() || e.source.is_some_and(gone);
            let newer = newer.filter(|_| kept(key, version));
            inner.left_out.landed(key, newer.is_some_and(under_way));
            if inner.beneath.has(key) {
                // What has lost leaves what stands there to the one that it lost to.
                let entry = inner.index.get(relation, key);
                let on_its_way = entry.is_some_and(|e| e.in_flight());
                if !on_its_way || !kept(key, version) {
                    inner.beneath.ends(by, key);
                }
            }
        }
        for (relation, version) in truncates {
            let Inner { index, beneath, .. } = &mut *inner;
            index.truncate_landed(*relation, *version, group.before);
            let newer = |key| {
                index
                    .row(key)
                    .is_some_and(|e| e.in_flight() && e.version > *version)
            };
            beneath.truncated(by, *relation, *version, newer);
        }
        inner.left_out.group_landed(origin, last, group.after);
        self.applied.send_if_modified(|v| v.raise(origin, last));
        drop(inner);
        self.sighted(origin, last);
        Some(look_again)
    }

    /// `progress`, read from the server, flushed, before a barrier that capture has met since, which stands behind
    /// `place` of the local WAL: no local transaction that is still to be stamped came before it.
    pub fn flushed_is(&self, progress: &Vector, place: Lsn) {
        let mut inner = self.inner.lock();
        inner.left_out.passed(place);
        let surely = inner.left_out.all_surely(progress);
        // What is promised of it is that the local transactions behind it have seen it.
        inner.flushed.merge(&surely);
        inner.beneath.flushed(progress);
        let Inner { marks, clock, .. } = &mut *inner;
        let named = marks.iter().filter(|m| m.last <= progress.get(m.origin));
        named.for_each(|m| clock.saw(m.newest));
        // The barrier stands behind all of that, and capture has passed it.
        inner.seen.merge(&surely);
        inner.dispatched.merge(progress);
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
