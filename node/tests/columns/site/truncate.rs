//! A TRUNCATE that is replayed, as `replay/truncate.rs` does it.

use std::collections::BTreeMap;

use everywrite_conflict::{Entry, First, Index, KeyHash, Lsn};
use futures_util::FutureExt as _;

use super::Site;
use super::stream::Group;
use crate::data::{Key, TABLE, hash};
use crate::server::Write;

impl Site {
    /// Announces it. False: groups of other origins are on their way without a look.
    pub(super) fn announce_truncate(&mut self, group: &mut Group) -> bool {
        let t = &group.transaction;
        let below = |index: &mut Index| {
            index.all_below(TABLE, t.version, |p| {
                p.origin == t.at.origin && p.lsn <= t.at.lsn || t.vector.covers(p)
            })
        };
        group.below = self.ledger.with_index(below);
        let entry = Entry {
            version: t.version,
            source: Some(t.at),
            deleted: true,
            local_lsn: Lsn::MAX,
        };
        self.ledger.announce_truncate(TABLE, entry);
        let mut others = self.ledger.blind();
        others.set(t.at.origin, Lsn::ZERO);
        self.ledger.wait_for_blind(&others).now_or_never().is_some()
    }

    /// Which rows go: plainly all where nothing newer is known, otherwise row by row.
    pub(super) fn decide_truncate(&mut self, group: &mut Group) -> Vec<Write> {
        let t = &group.transaction;
        if self.ledger.any_merging() {
            group.durable = self.ledger.stamped_to();
        }
        let unseen = |e: &Entry| !e.source.is_some_and(|s| t.has_seen(s));
        let interesting = |index: &Index| {
            let concerns =
                |(_, e): &(KeyHash, Entry)| !e.deleted && (e.version > t.version || unseen(e));
            index.iter().filter(concerns).collect::<BTreeMap<_, _>>()
        };
        let first = First {
            position: t.at,
            stamp: t.version.stamp,
            seen: &t.seen,
        };
        let rows: Vec<(Key, bool)> = {
            let rows = self.server.now.rows.iter();
            rows.map(|(key, s)| (*key, s.local.is_some())).collect()
        };
        let mut interesting = match self.ledger.in_memory(first, interesting) {
            Some(known) => known,
            None => {
                let keys = rows.iter().map(|(key, _)| hash(*key));
                self.ledger.with_keys(keys, interesting)
            }
        };
        for &(key, entry) in &group.below {
            interesting.entry(key).or_insert(entry);
        }
        let mut beneath = self.ledger.beneath(TABLE);
        beneath.retain(|_, e| e.version < t.version && unseen(e));
        self.ledger.with_index(|index| {
            let own = |e: Entry| e.source == Some(t.at);
            beneath.retain(|key, _| !index.row(*key).is_some_and(own));
        });
        group.binds |= !interesting.is_empty() || !beneath.is_empty();
        let mut writes = Vec::new();
        for (key, own) in rows {
            let entry = interesting.get(&hash(key));
            let beneath = beneath.get(&hash(key)).filter(|_| own);
            let sources = entry.into_iter().chain(beneath).filter_map(|e| e.source);
            for source in sources.filter(|s| s.origin == self.me) {
                group.durable = group.durable.max(source.lsn);
            }
            // Under a policy more counts than the two versions: then the index tells.
            let stays = |e: &Entry| {
                let now = || self.ledger.known(TABLE, hash(key));
                let above = e.version.is_ranked() && e.version != t.version;
                e.version > t.version || (above && now().is_some_and(|now| !now.deleted))
            };
            if !entry.is_some_and(stays) {
                writes.push(Write::Delete(key));
            }
        }
        writes
    }
}
