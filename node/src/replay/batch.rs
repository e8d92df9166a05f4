//! Transactions of one origin, folded into one net change a key.

use std::sync::Arc;

use bytes::Bytes;
use everywrite_conflict::policy::Setting;
use everywrite_conflict::{
    Change, Entry, First, Fold, Folded, Key, KeyHash, Lsn, Net, NodeId, Position, Stamp, Vector,
    Version, Writer,
};
use rustc_hash::FxHashMap;

use super::Error;
use super::beside::Writes;
use super::blindly::Coming;
use super::image::Image;
use super::mapping::Mapping;
use super::updates::{How, Updates};
use crate::admin::message::SetPolicy;
use crate::journal::columns::Columns;
use crate::journal::ranks::Ranks;
use crate::journal::record::Header;
use crate::pg::pgoutput::{Message, Tuple};
use crate::settle::Intent;

/// A row's key: its hash, and an image that has its key cells.
#[derive(Clone, Debug)]
pub(super) struct RowKey {
    /// The hash that the index knows.
    pub hash: KeyHash,
    /// A row with the key's cells.
    pub image: Image,
}

impl Key for RowKey {
    type Id = KeyHash;

    fn id(&self) -> KeyHash {
        self.hash
    }
}

/// One net change of one key, and what the index said before it was announced.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The key and what is left of the group's changes of it.
    pub folded: Folded<RowKey, Image>,
    /// What the index said before.
    pub prior: Option<Entry>,
}

impl Slot {
    /// The hash of its key.
    pub(super) fn hash(&self) -> KeyHash {
        self.folded.key.hash
    }

    /// The last writer's version.
    pub(super) fn version(&self) -> Version {
        self.folded.last.version
    }

    /// The row to write, if there is one.
    pub(super) fn image(&self) -> Option<&Image> {
        self.folded.net.row()
    }
}

/// All changes of one table in a batch.
#[derive(Debug)]
pub(super) struct TableBatch {
    /// The table.
    pub mapping: Arc<Mapping>,
    fold: Fold<RowKey, Image>,
    /// Net changes, after [`Batch::close`].
    pub slots: Vec<Slot>,
    /// Rows of a table without a key.
    pub appends: Vec<Image>,
    /// Updates that are merged by columns.
    pub updates: Updates,
}

/// Transactions of one origin that are applied together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Whose.
    pub origin: NodeId,
    /// The transactions, in order.
    pub transactions: Vec<Header>,
    /// Their changes, by table.
    pub tables: Vec<TableBatch>,
    by_shape: FxHashMap<u32, usize>,
    /// Changes taken in.
    pub changes: u64,
    /// About how many bytes it holds.
    pub bytes: usize,
    /// Must not be joined with other transactions.
    pub alone: bool,
    /// Must be decided row by row.
    pub careful: bool,
    /// Some of its changes meet versions that their writers had not seen, and the index alone
    /// decides about them.
    pub conflicts: bool,
    /// Some of its tables are, or were, merged by columns.
    pub merges: bool,
    /// Of the changes of the transaction that began last.
    pub ranks: Arc<Ranks>,
    /// How they are merged.
    pub columns: Arc<Columns>,
    /// The vectors of the transactions that have changes with a rank.
    vectors: FxHashMap<u32, Arc<Vector>>,
    /// Policies that it sets, and where that was done.
    pub policies: Vec<SetPolicy>,
}

impl Batch {
    /// Nothing yet.
    pub(super) fn new(origin: NodeId) -> Self {
        Batch {
            origin,
            transactions: Vec::new(),
            tables: Vec::new(),
            by_shape: FxHashMap::default(),
            changes: 0,
            bytes: 0,
            alone: false,
            careful: false,
            conflicts: false,
            merges: false,
            ranks: Arc::default(),
            columns: Arc::default(),
            vectors: FxHashMap::default(),
            policies: Vec::new(),
        }
    }

    /// Whether no transaction is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// The last transaction's position.
    pub(super) fn last(&self) -> Lsn {
        self.transactions.last().map_or(Lsn::ZERO, |h| h.position)
    }

    /// What tells whether the index has to ask its files.
    pub(super) fn first(&self) -> Option<First<'_>> {
        // A delete that travelled has another version than its transaction; it is careful.
        let header = self.transactions.first().filter(|_| !self.careful)?;
        Some(First {
            position: Position {
                origin: self.origin,
                lsn: header.position,
            },
            stamp: header.stamp,
            seen: &header.seen,
        })
    }

    /// The newest stamp.
    pub(super) fn newest(&self) -> Stamp {
        self.transactions
            .iter()
            .map(|h| h.stamp)
            .max()
            .unwrap_or(Stamp::MIN)
    }

    /// Begins a transaction; its changes follow.
    pub(super) fn begin(&mut self, header: Header) {
        if !self.ranks.is_empty() {
            self.ranks = Arc::default();
        }
        if !self.columns.is_empty() {
            self.columns = Arc::default();
        }
        self.transactions.push(header);
    }

    fn table(&mut self, shape: u32, mapping: &Arc<Mapping>) -> Option<&mut TableBatch> {
        let next = self.tables.len();
        let at = *self.by_shape.entry(shape).or_insert(next);
        if at == next {
            self.alone |= mapping.table.fires_triggers;
            self.tables.push(TableBatch {
                mapping: Arc::clone(mapping),
                fold: Fold::default(),
                slots: Vec::new(),
                appends: Vec::new(),
                updates: Updates::default(),
            });
        }
        self.tables.get_mut(at)
    }

    /// Takes one change of the transaction that began last. TRUNCATE and messages are not for here.
    pub(super) fn push(
        &mut self,
        shape: u32,
        mapping: &Arc<Mapping>,
        raw: &Bytes,
        message: &Message<'_>,
    ) -> Result<(), Error> {
        let transaction =
            u32::try_from(self.transactions.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let Some(header) = self.transactions.last() else {
            return Ok(());
        };
        let plain = Version::new(header.stamp, self.origin);
        let relation = mapping.identity.relation;
        self.changes += 1;
        self.bytes += raw.len() + 200;
        let ranks = match self.ranks.is_empty() {
            true => None,
            false => {
                let vectors = self.vectors.entry(transaction);
                vectors.or_insert_with(|| Arc::new(header.vector.clone()));
                Some(Arc::clone(&self.ranks))
            }
        };
        let writer = |key: &RowKey| {
            let ranked = |ranks: &Arc<Ranks>| ranks.version(relation, key.hash, plain);
            Writer {
                version: ranks.as_ref().map_or(plain, ranked),
                transaction,
            }
        };
        let columns = match self.columns.is_empty() {
            true => None,
            false => Some(Arc::clone(&self.columns)),
        };
        let merged = columns.as_ref().and_then(|c| Some((c, c.of(relation)?)));
        let Some(table) = self.table(shape, mapping) else {
            return Ok(());
        };
        let key = |tuple: &Tuple<'_>, image: &Image| -> Result<Option<RowKey>, Error> {
            let hash = mapping.identity.hash(tuple);
            let hash = hash.map_err(|source| Error::Key {
                table: mapping.name(),
                source,
            })?;
            Ok(hash.map(|hash| RowKey {
                hash,
                image: image.clone(),
            }))
        };
        let need = |key: Option<RowKey>| key.ok_or_else(|| Error::NoKey(mapping.name()));
        match message {
            Message::Insert { new, .. } => {
                let image = Image::new(raw, new);
                match key(new, &image)? {
                    Some(k) => {
                        let writer = writer(&k);
                        table.updates.remove(k.hash);
                        table.fold.push(k, Change::Insert(image), writer);
                    }
                    None => table.appends.push(image),
                }
            }
            Message::Update {
                key: old_key,
                old,
                new,
                ..
            } => {
                let mut image = Image::new(raw, new);
                let now = need(key(new, &image)?)?;
                if let Some(before) = old_key.as_ref().or(old.as_ref()) {
                    let old_image = Image::new(raw, before);
                    if old.is_some() {
                        everywrite_conflict::Image::fill_from(&mut image, &old_image);
                    }
                    let before = need(key(before, &old_image)?)?;
                    if before.hash != now.hash {
                        let (leaves, comes) = (writer(&before), writer(&now));
                        table.updates.remove(before.hash);
                        table.updates.remove(now.hash);
                        table.fold.push_move((before, leaves), (now, comes), image);
                        return Ok(());
                    }
                }
                if let Some((columns, merges)) = merged
                    && table.fold.get(&now).is_none()
                {
                    let how = How {
                        mapping,
                        columns,
                        merges,
                        plain,
                        transaction,
                    };
                    let old = old.as_ref().map(|old| (old, Image::new(raw, old)));
                    return table.updates.push(&how, now, old, new, image);
                }
                let writer = writer(&now);
                table.fold.push(now, Change::Update(image), writer);
            }
            Message::Delete {
                key: old_key, old, ..
            } => {
                let Some(before) = old_key.as_ref().or(old.as_ref()) else {
                    return Ok(());
                };
                let before = need(key(before, &Image::new(raw, before))?)?;
                let writer = writer(&before);
                table.updates.remove(before.hash);
                table.fold.push(before, Change::Delete, writer);
            }
            _ => {}
        }
        Ok(())
    }

    /// No more changes: what is left of them stands in each table's `slots` afterwards.
    pub(super) fn close(&mut self) {
        for table in &mut self.tables {
            let fold = std::mem::take(&mut table.fold);
            table.slots.reserve_exact(fold.len());
            table.slots.extend(fold.into_changes().map(|folded| Slot {
                folded,
                prior: None,
            }));
        }
    }

    /// Takes a delete that travelled here, as one of the transaction that began last. Such a
    /// transaction stays alone and is decided with care.
    pub(super) fn push_travelled(
        &mut self,
        shape: u32,
        mapping: &Arc<Mapping>,
        key: Image,
        version: Version,
    ) -> Result<(), Error> {
        self.alone = true;
        self.careful = true;
        self.changes += 1;
        let hash = mapping
            .identity
            .hash(&key.tuple())
            .map_err(|source| Error::Key {
                table: mapping.name(),
                source,
            })?;
        let Some(hash) = hash else {
            return Err(Error::NoKey(mapping.name()));
        };
        let transaction =
            u32::try_from(self.transactions.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if version.is_ranked()
            && let Some(header) = self.transactions.last()
        {
            let vectors = self.vectors.entry(transaction);
            vectors.or_insert_with(|| Arc::new(header.vector.clone()));
        }
        if let Some(table) = self.table(shape, mapping) {
            table.fold.push(
                RowKey { hash, image: key },
                Change::Delete,
                Writer {
                    version,
                    transaction,
                },
            );
        }
        Ok(())
    }

    /// The position of a slot's last writer.
    pub(super) fn position(&self, slot: &Slot) -> Position {
        let lsn = self
            .header(slot.folded.last)
            .map_or(Lsn::ZERO, |h| h.position);
        Position {
            origin: self.origin,
            lsn,
        }
    }

    /// The header of the transaction that made a change.
    pub(super) fn header(&self, writer: Writer) -> Option<&Header> {
        self.transactions
            .get(usize::try_from(writer.transaction).ok()?)
    }

    /// Whether that transaction had seen what stands at `position`.
    pub(super) fn covers(&self, writer: Writer, position: Position) -> bool {
        let Some(header) = self.header(writer) else {
            return false;
        };
        if position.origin == self.origin {
            header.position >= position.lsn
        } else {
            header.seen.covers(position)
        }
    }

    /// What decides whether it goes blindly; `before`: the end of the group before it.
    #[inline]
    pub(super) fn coming(&self, before: Lsn) -> Coming<impl Fn(Writer, Position) -> bool + '_> {
        Coming {
            origin: self.origin,
            before,
            covers: |writer, position| self.covers(writer, position),
        }
    }

    /// What that transaction had seen of other origins.
    pub(super) fn seen(&self, writer: Writer) -> Vector {
        self.header(writer)
            .map_or_else(Vector::new, |h| h.seen.clone())
    }

    /// Whether that transaction claims to have seen what stands at `position`.
    pub(super) fn claims(&self, writer: Writer, position: Position) -> bool {
        let claimed = |h: &Header| h.vector.covers(position);
        self.covers(writer, position) || self.header(writer).is_some_and(claimed)
    }

    /// Takes a change of a table's policy, by the transaction that began last. Such a transaction stays
    /// alone and goes the careful way.
    pub(super) fn set_policy(&mut self, policy: SetPolicy) {
        self.alone = true;
        self.careful = true;
        self.changes += 1;
        self.policies.push(policy);
    }

    /// Some of its tables are, or were, merged by columns: it stays alone and is decided with care.
    pub(super) fn merge(&mut self) {
        self.alone = true;
        self.careful = true;
        self.merges = true;
    }

    /// What its policies set, for the index.
    pub(super) fn settings(&self) -> impl Iterator<Item = Setting> + '_ {
        self.policies.iter().filter_map(|p| p.setting(self.origin))
    }

    /// Whether it leaves every row as it is: it brings only what it takes again.
    pub(super) fn writes_nothing(&self) -> bool {
        self.tables.iter().all(|t| {
            let nothing = |s: &Slot| matches!(s.folded.net, Net::Nothing);
            t.appends.is_empty() && t.updates.is_empty() && t.slots.iter().all(nothing)
        }) && self.policies.is_empty()
    }

    /// What the batch announces to the index, slot by slot, then the travelled deletes.
    pub(super) fn intents(&self) -> impl Iterator<Item = Intent<'_>> + Clone + '_ {
        let slots = self.tables.iter().flat_map(|t| {
            t.slots
                .iter()
                .map(move |s| (t.mapping.identity.relation, s))
        });
        slots.map(|(relation, s)| Intent {
            relation,
            key: s.hash(),
            entry: Entry {
                version: s.version(),
                source: Some(self.position(s)),
                deleted: matches!(s.folded.net, Net::Delete | Net::Nothing),
                local_lsn: Lsn::MAX,
            },
            vector: match s.version().is_ranked() {
                true => self.vectors.get(&s.folded.last.transaction),
                false => None,
            },
            seen: self.header(s.folded.last).map(|h| &h.seen),
        })
    }

    /// What it writes, as far as it tells whether the group before it, which is of the same origin and begins at `before`, may be
    /// written at the same time.
    pub(super) fn writes(
        &self,
        before: Lsn,
    ) -> impl Iterator<Item = Writes<impl Iterator<Item = (KeyHash, bool)> + '_>> + '_ {
        let shared = move |prior: &Entry| {
            let of = |s: Position| s.origin == self.origin && s.lsn >= before;
            prior.source.is_some_and(of)
        };
        self.tables.iter().map(move |t| Writes {
            table: t.mapping.identity.relation,
            bound: t.mapping.bound(),
            rows: t
                .slots
                .iter()
                .map(move |s| (s.hash(), s.prior.as_ref().is_some_and(shared))),
            appends: t.appends.len(),
        })
    }
}
