//! A transaction with a TRUNCATE, in parts: what `replay/long.rs` and `replay/truncate.rs` do.

use std::collections::BTreeMap;
use std::sync::Arc;

use everywrite_conflict::{Entry, First, Fold, Index, KeyHash, Lsn, Position, Version};

use everywrite_node::replay::priors::Priors;

use crate::careful::{Fetch, Rows, write_fast};
use crate::data::{self, KEYS, Key, Op, Row, TABLES, Transaction};
use crate::group::{Decided, Group};
use crate::site::{Site, end_of};
use crate::stream::{Ended, Stream, Written};

/// The transaction that is open, and its rows so far.
struct Long {
    transaction: Arc<Transaction>,
    /// Where the WAL was when it began.
    reached: Lsn,
    fresh: bool,
    rows: Rows,
}

impl Site {
    /// Applies it, in one transaction of the server.
    pub(crate) fn long(
        &mut self,
        stream: &mut Stream,
        transaction: Arc<Transaction>,
        fetch: Fetch<'_>,
        rollback: bool,
    ) -> Result<(), String> {
        let mut done = Group::new(stream.origin, vec![Arc::clone(&transaction)]);
        let mut decided = Decided::default();
        let mut work = Long {
            reached: self.server.now.insert,
            fresh: transaction.position() > stream.announced,
            rows: self.server.now.rows.clone(),
            transaction,
        };
        let written = self.parts(stream, &mut work, &mut decided, fetch)?;
        let written = match written {
            Written::Rows(_) => Written::Rows(work.rows),
            other => other,
        };
        done.decided = decided;
        match self.end(stream, &mut done, written, rollback)? {
            Ended::Committed => {
                stream.after = end_of(&done.transactions);
                stream.on_way.push_back(done);
            }
            // The stream begins anew: its beginning was read.
            Ended::Again | Ended::Failed => stream.connected = false,
        }
        Ok(())
    }

    fn parts(
        &mut self,
        stream: &mut Stream,
        work: &mut Long,
        decided: &mut Decided,
        fetch: Fetch<'_>,
    ) -> Result<Written, String> {
        let transaction = Arc::clone(&work.transaction);
        let plain = transaction.plain();
        let mut ranks = transaction.ranks.clone();
        let mut fold: Fold<Key, Row> = Fold::new();
        for op in &transaction.ops {
            let Op::Truncate(table) = op else {
                let version = |key| ranks.version(data::relation(key), data::hash(key), plain);
                data::fold(op, &mut fold, 0, version);
                continue;
            };
            match self.flush_part(stream, work, std::mem::take(&mut fold), decided, fetch)? {
                Written::Rows(_) => {}
                other => return Ok(other),
            }
            let version = ranks.pass_truncate(data::table(*table), plain);
            if !self.truncate(&stream.priors, *table, version, work, decided) {
                return Ok(Written::Again);
            }
        }
        self.flush_part(stream, work, fold, decided, fetch)
    }

    /// Decides and writes what has gathered.
    fn flush_part(
        &mut self,
        stream: &mut Stream,
        work: &mut Long,
        fold: Fold<Key, Row>,
        decided: &mut Decided,
        fetch: Fetch<'_>,
    ) -> Result<Written, String> {
        let mut part = Group::new(stream.origin, vec![Arc::clone(&work.transaction)]);
        part.close(fold);
        part.guard = self.daemon.horizon;
        let Some(announced) = self.announce(stream, &mut part, work.fresh, decided) else {
            return Ok(Written::Again);
        };
        let ledger = &self.daemon.ledger;
        ledger.commits_after(part.origin, part.last(), work.reached, stream.generation);
        if announced.fast {
            let rows = write_fast(&part, &part.slots, work.rows.clone(), decided);
            let Some(rows) = rows else {
                return Ok(Written::Again);
            };
            work.rows = rows;
        } else {
            // Whoever waits for a lock of this transaction must not be waited for.
            if self.blind(&announced.blind_before) {
                return Ok(Written::Again);
            }
            let rows = work.rows.clone();
            match self.careful(&part, &part.slots, rows, decided, fetch)? {
                Written::Rows(rows) => work.rows = rows,
                other => return Ok(other),
            }
        }
        let slots = part.slots.iter().map(|s| (s.key(), s.version()));
        decided.lost.extend(slots);
        Ok(Written::Rows(Rows::new()))
    }

    /// Truncates a table inside the open transaction: plainly where nothing newer is known, otherwise row
    /// by row. False: groups of others are on their way.
    fn truncate(
        &mut self,
        priors: &Priors,
        table: u8,
        version: Version,
        work: &mut Long,
        decided: &mut Decided,
    ) -> bool {
        let relation = data::table(table);
        let header = &work.transaction.header;
        let origin = work.transaction.origin;
        let position = Position {
            origin,
            lsn: header.position,
        };
        let entry = Entry {
            version,
            source: Some(position),
            deleted: true,
            local_lsn: Lsn::MAX,
        };
        self.daemon.ledger.announce_truncate(relation, entry);
        // After the announcement, which no blind group passes by.
        let mut others = self.daemon.ledger.blind();
        others.set(origin, Lsn::ZERO);
        if self.blind(&others) {
            return false;
        }
        decided.truncated.push((table, version));
        self.pass();
        let seen = |e: &Entry| {
            e.source.is_some_and(|s| match s.origin == origin {
                true => s.lsn <= position.lsn,
                false => header.seen.covers(s),
            })
        };
        // What matters: rows that stay because they are newer, and rows that the writer had not seen.
        let interesting = |index: &Index| {
            let concerns =
                |e: &(KeyHash, Entry)| !e.1.deleted && (e.1.version > version || !seen(&e.1));
            index.iter().filter(concerns).collect::<BTreeMap<_, _>>()
        };
        let first = First {
            position,
            stamp: header.stamp,
            seen: &header.seen,
        };
        let ledger = &self.daemon.ledger;
        let of = |key: &Key| key % TABLES == table;
        let known = ledger.in_memory(first, interesting);
        let known = known.unwrap_or_else(|| {
            let keys: Vec<_> = work
                .rows
                .keys()
                .copied()
                .filter(of)
                .map(data::hash)
                .collect();
            ledger.with_keys(keys.into_iter(), interesting)
        });
        let mut beneath = ledger.beneath(relation);
        let applied = ledger.applied().get(origin);
        let standing = |(key, entry): (KeyHash, Entry)| {
            let own = beneath.get(&key).copied();
            let standing = priors.standing(key, entry, position, applied, own)?;
            Some((key, standing))
        };
        let known: BTreeMap<_, _> = known.into_iter().filter_map(standing).collect();
        beneath.retain(|_, e| e.version < version && !seen(e));
        // But what the transaction itself has written over it has recorded.
        ledger.with_index(|index| {
            let own = |e: Entry| e.source == Some(position);
            beneath.retain(|key, _| !index.row(*key).is_some_and(own));
        });
        if known.is_empty() && beneath.is_empty() {
            work.rows.retain(|key, _| !of(key));
            return true;
        }
        let mut ours = Lsn::ZERO;
        for key in (0..KEYS).filter(of) {
            let Some(row) = work.rows.get(&key).copied() else {
                continue;
            };
            let hash = data::hash(key);
            let entry = known.get(&hash);
            // What is still on its way is not the row here: its own transaction records it.
            let stands = entry.filter(|e| self.here(e));
            let own = || beneath.get(&hash).filter(|_| row.local.is_some());
            let stands = stands.or_else(own);
            let sources = entry.into_iter().chain(stands).filter_map(|e| e.source);
            for source in sources.filter(|s| s.origin == self.me) {
                ours = ours.max(source.lsn);
            }
            // Under a policy more counts than the two versions: then the index tells.
            let stays = |e: &Entry| {
                let now = || self.daemon.ledger.known(relation, hash);
                let above = e.version.is_ranked() && e.version != version;
                e.version > version || (above && now().is_some_and(|now| !now.deleted))
            };
            if entry.is_some_and(stays) {
                continue;
            }
            if stands.is_some() {
                decided.history.push(row.plain);
                decided.conflicts += 1;
            }
            work.rows.remove(&key);
        }
        self.wait_durable(ours);
        true
    }
}
