//! The conflict index, from the journals, at start.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use everywrite_conflict::policy::Rank;
use everywrite_conflict::policy::columns::Merge;
use everywrite_conflict::{
    ColumnChange, Entry, KeyHash, Lsn, NodeId, Position, RelationHash, Update, Vector, Version,
};
use futures_util::FutureExt as _;
use rustc_hash::FxHashMap;
use tokio_postgres::Client;

use super::Error;
use super::second_looks::SecondLooks;
use crate::admin::message::WalMessage;
use crate::capture::{Repair, RepairRow, key_cells, touch_with, travelling};
use crate::journal::columns::{self, Columns};
use crate::journal::ranks::{self, Ranks};
use crate::journal::record::{Changes, Frame, Header, decode};
use crate::journal::{Journal, Journals};
use crate::pg::pgoutput::{self, Message, OwnedRelation, Relation};
use crate::settle::{Identity, Ledger, Stability, Touched, changed};

/// What a rebuild starts from.
pub struct Start<'a> {
    /// For the catalog.
    pub client: &'a Client,
    /// This node.
    pub me: NodeId,
    /// All journals.
    pub journals: &'a Journals,
    /// Takes the index.
    pub ledger: &'a Ledger,
    /// Takes what the streams say of stability.
    pub stability: &'a Stability,
    /// The progress of each origin at the local server.
    pub applied: &'a Vector,
    /// A position of the local WAL that is not before any of what is applied.
    pub local_lsn: Lsn,
    /// Own transactions up to here need no second look.
    pub looked_at: Lsn,
}

/// Reads every journal: the own one whole, the others as far as they are applied. Then come the
/// deletes that have not left yet. Returns how many transactions that were, and the rows to be
/// looked at again.
pub async fn rebuild(start: Start<'_>) -> Result<(u64, Vec<Repair>), Error> {
    let Start { me, ledger, .. } = start;
    let mut keys = Keys {
        client: start.client,
        identities: FxHashMap::default(),
    };
    let mut looks = SecondLooks::default();
    let mut merged = Vec::new();
    let mut transactions = 0;
    // The own one first: the others are compared with what is recent in it.
    let mut journals = start.journals.all();
    journals.sort_by_key(|j| j.origin() != me);
    for journal in journals {
        let origin = journal.origin();
        let own = origin == me;
        let up_to = if own {
            journal.end()
        } else {
            start.applied.get(origin).min(journal.end())
        };
        let (released, stamp) = journal.released();
        ledger.rebuild(stamp, &Arc::default(), []);
        let mut pass = Pass {
            start: &start,
            keys: &mut keys,
            looks: &mut looks,
            merged: &mut merged,
            columns: Columns::default(),
            origin,
            up_to,
            large: None,
            ranks: Ranks::default(),
            vector: Arc::default(),
            found: Vec::new(),
            touched: Vec::new(),
            transactions: 0,
        };
        pass.read(&journal, released).await?;
        transactions += pass.transactions;
        // Also when everything of it is released: stamps only go up.
        if let Some(header) = journal.last_header().filter(|h| h.position <= up_to) {
            ledger.rebuild(header.stamp, &Arc::default(), []);
            start.stability.replayed(origin, &header.seen);
        }
    }
    let outbox = "select content from everywrite.outbox order by id";
    for row in start.client.query(outbox, &[]).await? {
        let content: Vec<u8> = row.get(0);
        if let Ok(WalMessage::Delete(delete)) = WalMessage::decode(&content) {
            let touched = travelling(&delete);
            let entry = Entry {
                version: delete.version,
                source: None,
                deleted: true,
                local_lsn: start.local_lsn,
            };
            if let Some(key) = touched.key {
                ledger.is_to_leave(key, delete.version);
            }
            ledger.rebuild(delete.version.stamp, &Arc::default(), [(touched, entry)]);
        }
    }
    // When all row events are in, and in an order in which each comes behind what it has seen.
    merged.sort_by_key(|m: &MergedUpdate| (m.version.stamp, m.version.origin));
    for update in &merged {
        let asked = Update {
            relation: update.relation,
            key: update.key,
            version: update.version,
            source: update.source,
            columns: &update.columns,
            // If it is not, what is remembered of its columns goes with the next row event.
            present: true,
        };
        ledger.rebuild_merged(&asked, &update.vector);
    }
    let looks = looks.asked(ledger).into_iter();
    let repair = |((relation, row), version)| Repair {
        relation,
        row,
        version,
    };
    Ok((transactions, looks.map(repair).collect()))
}

/// An update of a merged row.
struct MergedUpdate {
    relation: RelationHash,
    key: KeyHash,
    version: Version,
    source: Position,
    columns: Vec<ColumnChange>,
    vector: Arc<Vector>,
}

/// A row, or for none a table, to be looked at again.
type Look = (Arc<OwnedRelation>, Option<RepairRow>);

struct Keys<'a> {
    client: &'a Client,
    /// By origin and shape.
    identities: FxHashMap<(NodeId, u32), (Identity, Arc<OwnedRelation>)>,
}

impl Keys<'_> {
    async fn learn(&mut self, origin: NodeId, shape: u32, relation: &Bytes) -> Result<(), Error> {
        let relation = Relation::decode(relation)?.to_owned();
        let mut key = Vec::new();
        if relation.replica_identity == b'f' {
            let table =
                super::table::Table::load(self.client, &relation.namespace, &relation.name).await?;
            key = table.map(|t| t.primary_key).unwrap_or_default();
        }
        let key = (!key.is_empty()).then_some(key.as_slice());
        self.identities.insert(
            (origin, shape),
            (Identity::of(&relation, key), Arc::new(relation)),
        );
        Ok(())
    }

    /// The table of a change that touches `t`.
    fn relation(
        &self,
        origin: NodeId,
        message: &Message<'_>,
        t: &Touched,
    ) -> Option<Arc<OwnedRelation>> {
        let shapes: Vec<u32> = match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => vec![*relation],
            Message::Truncate { relations, .. } => relations.iter().collect(),
            _ => Vec::new(),
        };
        let mut known = shapes
            .iter()
            .filter_map(|s| self.identities.get(&(origin, *s)));
        let (_, relation) = known.find(|(identity, _)| identity.relation == t.relation)?;
        Some(Arc::clone(relation))
    }

    /// Adds what one change touches.
    fn touched(
        &self,
        origin: NodeId,
        message: &Message<'_>,
        touched: &mut Vec<Touched>,
    ) -> Result<(), Error> {
        if let Message::Message { content, .. } = message {
            if let Ok(WalMessage::Delete(delete)) = WalMessage::decode(content) {
                touched.push(travelling(&delete));
            }
            return Ok(());
        }
        let identity = |shape| {
            let missing = || Error::Schema {
                table: format!("shape {shape}"),
                what: "the journal does not describe it".to_owned(),
            };
            let known = self.identities.get(&(origin, shape));
            known.map(|k| &k.0).ok_or_else(missing)
        };
        let hash = |shape, tuple: &pgoutput::Tuple<'_>| {
            identity(shape)?.hash(tuple).map_err(|source| Error::Key {
                table: format!("shape {shape}"),
                source,
            })
        };
        touch_with(message, identity, hash, touched)
    }
}

/// One pass over one journal.
struct Pass<'a, 'k> {
    start: &'a Start<'k>,
    keys: &'a mut Keys<'k>,
    looks: &'a mut SecondLooks<Look>,
    merged: &'a mut Vec<MergedUpdate>,
    /// How the updates of the transaction that is read are merged.
    columns: Columns,
    origin: NodeId,
    up_to: Lsn,
    large: Option<Header>,
    /// Of the changes of the transaction that is read.
    ranks: Ranks,
    /// That of the transaction read last: mostly the next one has the same.
    vector: Arc<Vector>,
    /// What a change touches, and all of a transaction with their versions; empty, kept for their memory.
    found: Vec<Touched>,
    touched: Vec<(Touched, Version)>,
    transactions: u64,
}

impl Pass<'_, '_> {
    /// What is released is stable, and nothing of it is to be compared any more.
    async fn read(&mut self, journal: &Journal, released: Lsn) -> Result<(), Error> {
        let mut reader = journal.reader(released)?;
        while reader.position() < self.up_to || self.large.is_some() {
            // A chunk from an old segment is read elsewhere; the end is never waited for, because
            // everything up to `up_to` is there.
            let mut chunk = match reader.next().now_or_never() {
                Some(chunk) => chunk?,
                None => reader.next().await?,
            };
            while let Some(frame) = decode(&mut chunk)? {
                if !self.frame(frame).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// False: this and what follows is not applied yet.
    async fn frame(&mut self, frame: Frame) -> Result<bool, Error> {
        match frame {
            Frame::Shape { id, relation } => self.keys.learn(self.origin, id, &relation).await?,
            Frame::Transaction { header, changes } => {
                self.large = None;
                if header.position > self.up_to {
                    return Ok(false);
                }
                self.transactions += 1;
                self.ranks = Ranks::default();
                self.columns = Columns::default();
                if self.origin != self.start.me {
                    self.start.stability.replayed(self.origin, &header.seen);
                }
                self.changes(&header, changes)?;
            }
            Frame::LargeBegin { header } => {
                self.large = None;
                if header.position > self.up_to {
                    return Ok(false);
                }
                self.large = Some(header);
                self.ranks = Ranks::default();
            }
            Frame::LargePart { changes, .. } => {
                self.columns = Columns::default();
                if let Some(header) = self.large.clone() {
                    self.changes(&header, changes)?;
                }
            }
            Frame::LargeEnd { .. } => {
                self.large = None;
                self.transactions += 1;
            }
        }
        Ok(true)
    }

    /// The version of a write.
    fn version(&mut self, t: &Touched, plain: Version) -> Version {
        match (t.version, t.key) {
            (Some(version), _) => version,
            (None, Some(key)) => self.ranks.version(t.relation, key, plain),
            (None, None) => self.ranks.pass_truncate(t.relation, plain),
        }
    }

    /// Takes an update that is merged by columns; the others are row events.
    fn merged(
        &mut self,
        message: &Message<'_>,
        version: Version,
        header: &Header,
        vector: &Arc<Vector>,
    ) -> Result<bool, Error> {
        let Message::Update {
            relation: shape,
            key: None,
            old: Some(old),
            new,
            ..
        } = message
        else {
            return Ok(false);
        };
        let Some((identity, relation)) = self.keys.identities.get(&(self.origin, *shape)) else {
            return Ok(false);
        };
        let Some(merges) = self.columns.of(identity.relation) else {
            return Ok(false);
        };
        let hash = |tuple| {
            identity.hash(tuple).map_err(|source| Error::Key {
                table: format!("shape {shape}"),
                source,
            })
        };
        let (before, Some(key)) = (hash(old)?, hash(new)?) else {
            return Ok(false);
        };
        if before != Some(key) {
            return Ok(false);
        }
        let mut columns: Vec<ColumnChange> = changed(relation, identity, merges, Some(old), new)
            .into_iter()
            .map(|c| c.change)
            .collect();
        for change in &mut columns {
            if matches!(change.merge, Merge::Greatest | Merge::Least) {
                change.height = self.columns.height(key, change.column);
            }
        }
        let (epoch, height) = (merges.epoch, 0);
        self.merged.push(MergedUpdate {
            relation: identity.relation,
            key,
            version: version.ranked(Rank { epoch, height }),
            source: Position {
                origin: self.origin,
                lsn: header.position,
            },
            columns,
            vector: Arc::clone(vector),
        });
        Ok(true)
    }

    fn policy(&self, message: &Message<'_>, position: Lsn) {
        if let Message::Message { content, .. } = message
            && let Ok(WalMessage::Policy(policy)) = WalMessage::decode(content)
            && let Some(setting) = policy.setting(self.origin)
        {
            let since = [(self.origin, position)].into_iter().collect();
            self.start.ledger.set_policy(setting, Some(since));
        }
    }

    fn changes(&mut self, header: &Header, changes: Bytes) -> Result<(), Error> {
        let (origin, own) = (self.origin, self.origin == self.start.me);
        let version = Version::new(header.stamp, origin);
        let source = Position {
            origin,
            lsn: header.position,
        };
        let recent = own && header.position > self.start.looked_at;
        if *self.vector != header.vector {
            self.vector = Arc::new(header.vector.clone());
        }
        let vector = Arc::clone(&self.vector);
        let mut all = std::mem::take(&mut self.touched);
        let mut touched = std::mem::take(&mut self.found);
        for change in Changes::new(changes) {
            let change = change?;
            if change.first() == Some(&ranks::TAG) {
                self.ranks.take(&change)?;
                continue;
            }
            if change.first() == Some(&columns::TAG) {
                self.columns = Columns::decode(&change)?;
                continue;
            }
            let message = pgoutput::decode(&change, false)?;
            self.policy(&message, header.position);
            if !self.columns.is_empty() && self.merged(&message, version, header, &vector)? {
                continue;
            }
            self.keys.touched(origin, &message, &mut touched)?;
            for t in touched.drain(..) {
                let version = self.version(&t, version);
                if recent {
                    let relation = self.keys.relation(origin, &message, &t);
                    let row = key_cells(&message, t.deleted).filter(|_| t.key.is_some());
                    if let Some(relation) = relation.filter(|_| t.key.is_none() || row.is_some()) {
                        let look = (relation, row);
                        self.looks.recent(&t, version, &header.seen, look);
                    }
                } else if !own {
                    self.looks.met(&t, version, source);
                }
                all.push((t, version));
            }
        }
        let entries = all.drain(..).map(|(t, version)| {
            let entry = Entry {
                version,
                source: Some(source),
                deleted: t.deleted,
                // Also of own ones: an older one may have landed under them.
                local_lsn: self.start.local_lsn,
            };
            (t, entry)
        });
        let ledger = self.start.ledger;
        ledger.rebuild(version.stamp, &vector, entries);
        (self.found, self.touched) = (touched, all);
        if ledger.is_full() {
            // All of it is committed.
            ledger.spill(&[None], Lsn::MAX, Instant::now());
            ledger.merge_files(|| false);
        }
        Ok(())
    }
}
