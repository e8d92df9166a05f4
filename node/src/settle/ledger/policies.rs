//! Tables that have had a policy: the ranks of what is captured.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use everywrite_conflict::policy::{Begins, Policy, Setting};
use everywrite_conflict::{Announced, Entry, NodeId, RelationHash, Stamp, Vector, Version};

use super::{Inner, Ledger, Touched};
use crate::journal::ranks::Ranks;

/// The local transaction that is captured.
pub(super) struct Capturing<'a> {
    pub(super) me: NodeId,
    pub(super) stamp: Stamp,
    /// What its vector claims.
    pub(super) vector: &'a Vector,
    /// The same, once it is needed by an entry.
    pub(super) shared: Option<Arc<Vector>>,
    /// Of its writes, if one has a rank.
    pub(super) ranks: Option<Box<Ranks>>,
}

impl<'a> Capturing<'a> {
    pub(super) fn new(me: NodeId, stamp: Stamp, vector: &'a Vector) -> Self {
        Capturing {
            me,
            stamp,
            vector,
            shared: None,
            ranks: None,
        }
    }

    pub(super) fn shared(&mut self) -> Arc<Vector> {
        let vector = self.vector;
        Arc::clone(self.shared.get_or_insert_with(|| Arc::new(vector.clone())))
    }
}

impl Ledger {
    /// A table's policy was set, here or at another site: what is captured from now on is under it.
    /// To be called before the transaction that brings it is announced, or stamped. In any order.
    /// `since`: a column-wise one begins to merge once what stands up to there is stable; none: it has
    /// begun before.
    pub fn set_policy(&self, setting: Setting, since: Option<Vector>) {
        if setting.policy.sets_aside() {
            self.sets_aside.store(true, Ordering::Relaxed);
        }
        let mut inner = self.inner.lock();
        let begins = since.map_or(Begins::Begun, Begins::Stable);
        inner.policies.set(setting, begins);
        if inner.policies.any_merging() {
            // What is on its way by now is not waited for: its site had not taken the policy in, so it is applied here
            // before the policy is stable, and nothing is merged until then. And it may wait for a row lock that is
            // given back only when capture has gone on.
            self.merging.store(true, Ordering::Relaxed);
        }
    }
}

impl Ledger {
    /// How conflicts of a table are decided here, if it has a policy.
    pub fn policy(&self, relation: RelationHash) -> Option<Policy> {
        let inner = self.inner.lock();
        inner
            .policies
            .get(relation)
            .map(|active| active.policy.clone())
    }
}

impl Ledger {
    /// Whether what loses in the table may be merged, or parked. Asked for each transaction.
    pub fn sets_aside(&self, relation: RelationHash) -> bool {
        self.sets_aside.load(Ordering::Relaxed)
            && self.policy(relation).is_some_and(|p| p.sets_aside())
    }
}

impl Inner {
    /// The version of a local write, its rank included.
    pub(super) fn version_of(&self, t: &Touched, captured: &mut Capturing<'_>) -> Version {
        let plain = Version::new(captured.stamp, captured.me);
        // A rank may come before the policy it is of: an origin that captures after a crash ranks by what is
        // set at its server what was committed before that was set, and sends it first.
        if self.policies.is_empty() && !self.index.knows_ranks() {
            return plain;
        }
        let covers =
            |p: everywrite_conflict::Position| p.origin == captured.me || captured.vector.covers(p);
        let rank = match t.key {
            Some(key) => {
                let own = self.policies.rank(t.relation, captured.stamp, captured.me);
                own.max(self.index.inherited(t.relation, key, covers))
            }
            None => {
                let inherited = self.index.inherited_by_truncate(t.relation);
                self.policies.truncate_rank(t.relation, inherited)
            }
        };
        let version = plain.ranked(rank);
        if version.is_ranked() {
            let ranks = captured.ranks.get_or_insert_default();
            match t.key {
                Some(key) => ranks.row(key, rank),
                None => ranks.truncate(t.relation, rank),
            }
        }
        version
    }

    /// At start: what a journal says was written. Also below a truncate, behind which it may have landed: a second
    /// look at the table asks for it, and the own journal, with the truncate, is read first.
    pub(super) fn announce_again(&mut self, t: &Touched, entry: Entry, vector: &Arc<Vector>) {
        let (_, announced) = self.announce(t, entry, || Arc::clone(vector));
        if let (Some(key), Announced::Older(_)) = (t.key, announced)
            && self.index.truncates(t.relation)
        {
            self.index.keep_below(t.relation, key, entry, vector);
        }
    }

    /// Announces a write to the index, by its rank if it has one.
    pub(super) fn announce(
        &mut self,
        t: &Touched,
        entry: Entry,
        vector: impl FnOnce() -> Arc<Vector>,
    ) -> (Option<Entry>, Announced) {
        match t.key {
            Some(key) if entry.version.is_ranked() => {
                self.index
                    .announce_ranked(t.relation, key, entry, &vector())
            }
            Some(key) => self.index.announce_over(t.relation, key, entry),
            None => {
                self.index.announce_truncate(t.relation, entry);
                (None, Announced::Newest)
            }
        }
    }
}
