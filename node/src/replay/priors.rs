//! What the keys of changes that were announced met, for when they come again. Pure.
//!
//! An announced change stands in the index, so a change that is announced anew, after an error or a crash of the server,
//! finds itself there and not what it met. That is remembered here until the change is safe from any crash: a crash may take back
//! what has landed, and what comes again need not come in the same groups. Then a key's changes are parted
//! otherwise, and each of them has met the newest of what any of them has met.

use std::collections::BTreeMap;

use everywrite_conflict::{Entry, KeyHash, Lsn, NodeId, Position, Version};

/// Of one origin.
#[derive(Debug)]
pub struct Priors {
    /// Whose.
    pub origin: NodeId,
    met: BTreeMap<(KeyHash, Version), Prior>,
    /// Everything up to here is forgotten.
    flushed: Lsn,
}

/// A net change of a key, where it stands, and whether the key is gone behind it.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Which key.
    pub key: KeyHash,
    /// Its version.
    pub version: Version,
    /// Where its transaction ends.
    pub position: Position,
    /// It deletes the row.
    pub deleted: bool,
}

#[derive(Debug)]
struct Prior {
    at: Lsn,
    met: Entry,
}

impl Priors {
    /// Of that origin, none yet.
    pub fn new(origin: NodeId) -> Self {
        Priors {
            origin,
            met: BTreeMap::new(),
            flushed: Lsn::ZERO,
        }
    }

    fn behind(&self, entry: &Entry, lsn: Lsn) -> bool {
        let source = entry.source.filter(|s| s.origin == self.origin);
        source.is_some_and(|s| s.lsn > lsn)
    }

    /// What of a key that is not applied has met, the newest of it.
    fn of(&self, key: KeyHash, applied: Lsn) -> Option<Entry> {
        let all = self
            .met
            .range((key, Version::LEAST)..=(key, Version::GREATEST));
        let open = all.map(|(_, p)| p).filter(|p| p.at > applied);
        // What an earlier change had won over stands again, if that is taken back.
        let met = open.map(|p| p.met).filter(|e| !self.behind(e, applied));
        met.max_by_key(|e| e.version)
    }

    /// A change is announced, of which the index held `held`; the origin is applied up to `applied`, and what is on its
    /// way before the change ends at `before`. Returns what the change meets.
    pub fn announced(
        &mut self,
        change: &Change,
        held: Option<Entry>,
        applied: Lsn,
        before: Lsn,
    ) -> Option<Entry> {
        // A change of this origin that is not applied was announced before, in a group that did not land: what the key
        // met then is what it meets now.
        let first = match held {
            Some(entry) if self.behind(&entry, applied) => self.of(change.key, applied),
            held => held,
        };
        // Not what an earlier part of the same transaction has decided, which is taken back if that fails.
        let origin = self.origin;
        let foreign = |e: &Entry| !e.undecided() && e.source.is_none_or(|s| s.origin != origin);
        if let Some(met) = first.filter(foreign) {
            let at = change.position.lsn;
            let prior = Prior { at, met };
            self.met.insert((change.key, change.version), prior);
        }
        match held {
            Some(entry) if !self.behind(&entry, before) => Some(entry),
            _ => first,
        }
    }

    /// What a change meets that is decided while a later one of its origin, which the index names `now`, is announced:
    /// what came from elsewhere between the two, if something did.
    pub fn since(
        &self,
        key: KeyHash,
        version: Version,
        prior: Option<Entry>,
        now: Option<Entry>,
    ) -> Option<Entry> {
        let later = now.filter(|e| e.version > version && self.behind(e, Lsn::ZERO));
        let met = later.and_then(|e| self.met.get(&(key, e.version)));
        let met = met.map(|p| p.met);
        prior.into_iter().chain(met).max_by_key(|e| e.version)
    }

    /// What stands of a key of which the index says `entry`, for a TRUNCATE at `position`: a later change of this origin is
    /// only announced, and stands on what it met. `beneath`: an own row under what is on its way.
    pub fn standing(
        &self,
        key: KeyHash,
        entry: Entry,
        position: Position,
        applied: Lsn,
        beneath: Option<Entry>,
    ) -> Option<Entry> {
        if !self.behind(&entry, position.lsn) {
            return Some(entry);
        }
        let met = self.of(key, applied);
        met.into_iter().chain(beneath).max_by_key(|e| e.version)
    }

    /// A group of these changes is committed, before a place of the local WAL. `flushed`: up to where no crash takes
    /// anything of the origin back any more.
    pub fn landed(
        &mut self,
        changes: impl Iterator<Item = Change>,
        before: Lsn,
        flushed: impl FnOnce() -> Lsn,
    ) {
        if self.met.is_empty() {
            return;
        }
        for change in changes {
            // What this one has won over stands no more for later ones of this origin to meet.
            let key = change.key;
            let later = self
                .met
                .range_mut((key, change.version)..=(key, Version::GREATEST));
            for (_, prior) in later.filter(|((_, version), _)| *version != change.version) {
                if prior.met.version < change.version {
                    prior.met = Entry {
                        version: change.version,
                        source: Some(change.position),
                        deleted: change.deleted,
                        local_lsn: before,
                    };
                }
            }
        }
        let flushed = flushed();
        if self.flushed < flushed {
            self.flushed = flushed;
            self.met.retain(|_, prior| prior.at > flushed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::blindly::tests::entry;
    use super::*;

    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const KEY: KeyHash = KeyHash(7);

    /// One of B's.
    fn change(lsn: u64, stamp: i64) -> Change {
        let Entry { version, .. } = entry(B, lsn, stamp);
        Change {
            key: KEY,
            version,
            position: Position {
                origin: B,
                lsn: Lsn(lsn),
            },
            deleted: false,
        }
    }

    /// It is announced, and the index names it from then on.
    fn announced(priors: &mut Priors, at: u64, held: Entry, applied: u64) -> Option<Entry> {
        let change = change(at, 10 * at as i64);
        priors.announced(&change, Some(held), Lsn(applied), Lsn(applied))
    }

    #[test]
    fn what_comes_again_meets_what_it_met() {
        let mut priors = Priors::new(B);
        let met = entry(C, 4, 60);
        assert_eq!(announced(&mut priors, 9, met, 5), Some(met));
        assert_eq!(announced(&mut priors, 9, entry(B, 9, 90), 5), Some(met));
        // Behind it, while it is not applied.
        assert_eq!(announced(&mut priors, 10, entry(B, 9, 90), 5), Some(met));
    }

    #[test]
    fn what_has_won_stands_for_what_comes_behind_it() {
        let mut priors = Priors::new(B);
        announced(&mut priors, 9, entry(C, 4, 60), 5);
        announced(&mut priors, 10, entry(B, 9, 90), 5);
        priors.landed([change(9, 90)].into_iter(), Lsn(77), || Lsn(5));
        let again = announced(&mut priors, 10, entry(B, 10, 100), 9).unwrap();
        assert_eq!(again.version, entry(B, 9, 90).version);
        // Unless a crash takes it back.
        let back = announced(&mut priors, 9, entry(B, 10, 100), 5);
        assert_eq!(back, Some(entry(C, 4, 60)));
        let both = announced(&mut priors, 10, entry(B, 10, 100), 5);
        assert_eq!(both, Some(entry(C, 4, 60)));
    }

    #[test]
    fn what_a_crash_takes_back_may_come_in_smaller_groups() {
        let mut priors = Priors::new(B);
        // A group of two changes of the key, of which the second has seen C's write.
        announced(&mut priors, 9, entry(C, 4, 60), 5);
        priors.landed([change(9, 90)].into_iter(), Lsn(77), || Lsn(5));
        // The first one has not.
        let first = announced(&mut priors, 6, entry(B, 9, 90), 5);
        assert_eq!(first, Some(entry(C, 4, 60)));
    }

    #[test]
    fn a_truncate_finds_what_later_changes_have_met() {
        let mut priors = Priors::new(B);
        announced(&mut priors, 9, entry(C, 4, 60), 5);
        let truncate = change(8, 80).position;
        let later = entry(B, 9, 90);
        let standing = |entry| priors.standing(KEY, entry, truncate, Lsn(5), None);
        assert_eq!(standing(later), Some(entry(C, 4, 60)));
        assert_eq!(standing(entry(C, 7, 95)), Some(entry(C, 7, 95)));
        let none = Priors::new(B);
        let own = entry(NodeId(1), 3, 70);
        let standing = |own| none.standing(KEY, later, truncate, Lsn(5), own);
        assert_eq!((standing(None), standing(Some(own))), (None, Some(own)));
    }

    #[test]
    fn what_is_flushed_is_forgotten() {
        let mut priors = Priors::new(B);
        announced(&mut priors, 9, entry(C, 4, 60), 5);
        announced(&mut priors, 12, entry(C, 4, 60), 5);
        priors.landed([change(9, 90)].into_iter(), Lsn(77), || Lsn(9));
        assert_eq!(priors.met.len(), 1);
        priors.landed([change(12, 120)].into_iter(), Lsn(78), || Lsn(12));
        assert!(priors.met.is_empty());
    }

    #[test]
    fn what_came_in_between_is_met_by_the_earlier_one() {
        let mut priors = Priors::new(B);
        announced(&mut priors, 9, entry(C, 4, 60), 5);
        announced(&mut priors, 10, entry(C, 6, 95), 5);
        let version = change(9, 90).version;
        let now = Some(entry(B, 10, 100));
        let since = priors.since(KEY, version, Some(entry(C, 4, 60)), now);
        assert_eq!(since, Some(entry(C, 6, 95)));
    }
}
