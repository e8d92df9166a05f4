//! What must hold in the end: the invariants, with what really happened beside them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use everywrite_conflict::invariants::{self, Broken};
use everywrite_conflict::policy::Epoch;
use everywrite_conflict::{Entry, Lsn, NodeId, Position, Vector, Version};

use crate::data::{self, KEYS, Key, Op, TABLES, Transaction};
use crate::rules::Rule;
use crate::site::{Site, node};
use crate::world::{End, World};

/// What a table holds: unique value, the rest, the value that streams may omit.
type Rows = BTreeMap<Key, (Option<u8>, u64, u64)>;

impl World {
    /// All sites have the same rows.
    pub(crate) fn agree(&self) -> Result<Vec<Rows>, String> {
        let rows = |site: &RefCell<Site>| -> Rows {
            let rows = &site.borrow().server.now.rows;
            rows.iter()
                .map(|(k, r)| (*k, (r.value, r.plain, r.toast)))
                .collect()
        };
        let states: Vec<_> = self.sites.iter().map(rows).collect();
        invariants::convergence(&states).map_err(|e| e.to_string())?;
        Ok(states)
    }

    pub(crate) fn check(&mut self) -> Result<End, String> {
        let states = self.agree()?;
        let writes = self.writes();
        highest_versions(&writes, &states[0])?;
        self.nothing_hidden(&writes, &states[0])?;
        self.all_is_forgotten()?;
        let mut end = End::default();
        for site in &self.sites {
            let mut site = site.borrow_mut();
            site.count_files();
            end.forgotten += site.forgotten;
            end.conflicts += site.conflicts;
            end.paths.add(&site.paths);
        }
        Ok(end)
    }

    /// Every write of every key, as the journals have them.
    fn writes(&self) -> BTreeMap<Key, Vec<Write>> {
        let mut writes: BTreeMap<Key, Vec<Write>> = BTreeMap::new();
        for site in &self.sites {
            for transaction in &site.borrow().journal {
                for (key, write) in Write::of(site.borrow().me, transaction) {
                    writes.entry(key).or_default().push(write);
                }
            }
        }
        writes
    }

    /// I7: a row that is gone, and that nobody replaced knowingly, is in some site's history.
    fn nothing_hidden(
        &self,
        writes: &BTreeMap<Key, Vec<Write>>,
        rows: &Rows,
    ) -> Result<(), String> {
        if !self.sites[0].borrow().rules.complete() {
            return Ok(());
        }
        let sites = self.sites.iter().map(RefCell::borrow);
        let recorded: BTreeSet<u64> = sites
            .flat_map(|s| s.server.recorded().collect::<Vec<_>>())
            .collect();
        for (key, writes) in writes {
            let knowingly = |write: &Write| {
                // A row that is removed for its unique value is not replaced by who decides that.
                let mut others = writes.iter().filter(|w| !w.decided);
                others.any(|w| w.at != write.at && w.saw(write))
            };
            // Of one transaction's writes only the last one was ever seen.
            let last = |n: usize| writes.get(n + 1).is_none_or(|next| next.at != writes[n].at);
            let lost = writes
                .iter()
                .enumerate()
                .filter(|(n, w)| last(*n) && !knowingly(w));
            let gone = lost
                .filter_map(|(_, w)| w.plain)
                .filter(|plain| rows.get(key).map(|r| r.1) != Some(*plain));
            let gone = gone.map(|plain| (*key, plain));
            invariants::nothing_hidden(gone, |(_, plain)| recorded.contains(plain))
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// The index forgets only what every member has, safe from any crash, and this one's capture has passed.
    pub(crate) fn forgot_what_is_stable(
        &self,
        me: usize,
        dropped: &[Entry],
        captured: Lsn,
    ) -> Result<(), String> {
        if !self.sites[me].borrow().rules.complete() {
            return Ok(());
        }
        let has = |site: &Site, x: usize| match node(x) == site.me {
            true => site.durable_end(),
            false => site.server.flushed.progress.get(node(x)),
        };
        let everywhere = (0..self.sites.len()).map(|x| {
            let others = self.sites.iter().enumerate().filter(|(i, _)| *i != me);
            let least = others.map(|(_, s)| has(&s.borrow(), x)).min();
            (node(x), least.unwrap_or_default())
        });
        let everywhere: Vector = everywhere.collect();
        for entry in dropped {
            invariants::forgets_only_stable(entry, &everywhere, captured)
                .and_then(|()| self.nothing_comes_that_has_not_seen(me, entry))
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn nothing_comes_that_has_not_seen(&self, me: usize, entry: &Entry) -> Result<(), Broken> {
        // What a crash of the server cannot take back; whether the answer was read does not matter.
        let here = self.sites[me].borrow().server.flushed.progress.clone();
        for site in self.sites.iter().enumerate().filter(|(x, _)| *x != me) {
            let site = site.1.borrow();
            let from = site
                .journal
                .partition_point(|t| t.position() <= here.get(site.me));
            for t in &site.journal[from..] {
                let (origin, lsn) = (site.me, t.position());
                invariants::forgotten_is_seen(entry, Position { origin, lsn }, &t.vector)?;
            }
        }
        Ok(())
    }

    /// Every row is one that somebody has written, not half of one and half of another.
    pub(crate) fn whole_rows(&self, me: usize) -> Result<(), String> {
        let site = self.sites[me].borrow();
        for (key, row) in &site.server.now.rows {
            let written =
                |s: &RefCell<Site>| s.borrow().server.written.get(&(*key, row.plain)).copied();
            let toast = self.sites.iter().find_map(written);
            if toast != Some(row.toast) {
                return Err(format!(
                    "site {me}, key {key}: {row:?} was written with {toast:?}"
                ));
            }
        }
        Ok(())
    }

    /// No two rows have one unique value: a server would have refused the second one.
    pub(crate) fn unique_values(&self, me: usize) -> Result<(), String> {
        let site = self.sites[me].borrow();
        let mut taken = BTreeSet::new();
        for (key, row) in &site.server.now.rows {
            let free = row.value.is_none_or(|v| taken.insert((key % TABLES, v)));
            if !free {
                return Err(format!(
                    "site {me}, key {key}: {row:?} has the value of another"
                ));
            }
        }
        Ok(())
    }

    /// When all is applied everywhere and has been told, no index remembers anything.
    fn all_is_forgotten(&mut self) -> Result<(), String> {
        for _ in 0..8 {
            for site in &self.sites {
                let mut site = site.borrow_mut();
                site.pass();
                site.fsync();
            }
            self.tell_all()?;
        }
        for (me, site) in self.sites.iter().enumerate() {
            let site = site.borrow();
            let (held, outside) = (site.daemon.ledger.sizes().0, site.daemon.ledger.outside());
            let bounded = invariants::bounded((held + outside.keys) as usize, 0, 0);
            if site.rules.has(Rule::Captured) {
                let left = || {
                    site.daemon
                        .ledger
                        .with_index(|i| i.iter().collect::<Vec<_>>())
                };
                bounded.map_err(|e| format!("site {me}: {e}: {outside:?} {:?}", left()))?;
            }
        }
        Ok(())
    }
}

/// I5: for every key the state is the write that stays against every other one.
fn highest_versions(all: &BTreeMap<Key, Vec<Write>>, rows: &Rows) -> Result<(), String> {
    for (key, writes) in all {
        // Of one transaction's writes the last one.
        let mut stays = writes[0].clone();
        for write in writes {
            if write.same(&stays) || write.over(&stays) {
                stays = write.clone();
            }
        }
        if let Some(other) = writes.iter().find(|w| !w.same(&stays) && w.over(&stays)) {
            return Err(format!("key {key}: {other:?} is above {stays:?}"));
        }
        let newer = |w: &&Write| w.epoch > stays.epoch && !stays.saw(w);
        if let Some(other) = writes.iter().find(newer) {
            return Err(format!("key {key}: {other:?} is newer than {stays:?}"));
        }
        if rows.get(key).map(|r| r.1) != stays.plain {
            return Err(format!(
                "key {key}: {:?} is not the write of {stays:?}",
                rows.get(key)
            ));
        }
    }
    Ok(())
}

/// A write of a key, for the checks.
#[derive(Clone, Debug)]
struct Write {
    version: Version,
    at: Position,
    seen: Arc<Vector>,
    plain: Option<u64>,
    epoch: Epoch,
    /// A delete of a row that lost its unique value.
    decided: bool,
}

impl Write {
    fn of(me: NodeId, transaction: &Transaction) -> Vec<(Key, Write)> {
        let write = |epoch: Epoch, version: Version, plain: Option<u64>| Write {
            version,
            epoch,
            at: Position {
                origin: me,
                lsn: transaction.position(),
            },
            seen: Arc::clone(&transaction.vector),
            plain,
            decided: false,
        };
        let epoch = |key: Key| transaction.epochs[usize::from(key % TABLES)];
        let row = |key: Key, plain| {
            // Or that of what it replaced, if that is newer.
            let version = transaction.row_version(key);
            let epoch = epoch(key).max(version.rank().epoch);
            (key, write(epoch, version, plain))
        };
        let mut writes = Vec::new();
        for op in &transaction.ops {
            match op {
                Op::Insert(key, r) | Op::Update(key, r) => writes.push(row(*key, Some(r.plain))),
                Op::Delete(key) => writes.push(row(*key, None)),
                Op::Lost(key, version) => {
                    let write = write(version.rank().epoch, *version, None);
                    let decided = true;
                    writes.push((*key, Write { decided, ..write }));
                }
                Op::Move(old, new, r) => {
                    writes.push(row(*old, None));
                    writes.push(row(*new, Some(r.plain)));
                }
                Op::Truncate(table) => {
                    let keys = (0..KEYS).filter(|k| data::relation(*k) == data::table(*table));
                    let version = transaction.truncate_version(*table);
                    let newest = |key: Key| epoch(key).max(version.rank().epoch);
                    writes.extend(keys.map(|key| (key, write(newest(key), version, None))));
                }
                Op::Policy(_) => {}
            }
        }
        writes
    }

    /// Of one version, which is of one outcome.
    fn same(&self, other: &Write) -> bool {
        self.version == other.version
    }

    /// Whether it stays against the other: it has seen it, or neither has and it is greater.
    fn over(&self, other: &Write) -> bool {
        if !self.version.is_ranked() || !other.version.is_ranked() {
            return self.version > other.version;
        }
        self.saw(other) || (!other.saw(self) && self.version > other.version)
    }

    fn saw(&self, other: &Write) -> bool {
        let later = self.at.origin == other.at.origin && self.at.lsn > other.at.lsn;
        later || self.seen.covers(other.at)
    }
}
