//! One origin's journal → batches that may be applied now.
//!
//! A transaction is ready when everything that its vector names is applied here (I4), its stamp
//! does not lie too far in the future (I6), and nobody has paused its origin.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId, Stamp, Vector};
use futures_util::FutureExt as _;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use super::Error;
use super::batch::Batch;
use super::control::Control;
use super::image::Image;
use super::mapping::Mapping;
use super::table::Table;
use super::turns::Turns;
use super::waits::{self, Here};
use crate::admin::message::{TravellingDelete, WalMessage};
use crate::journal::columns::{self, Columns};
use crate::journal::ranks;
use crate::journal::record::{self, Changes, Frame, Header};
use crate::journal::{Journal, Reader};
use crate::pg::Target;
use crate::pg::pgoutput::{Cell, Message, OwnedColumn, OwnedRelation, Relation, decode};
use crate::settle::{Ledger, describe};
use crate::telemetry::OriginState;

/// Sizes of a group.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Transactions.
    pub transactions: usize,
    /// Bytes.
    pub bytes: usize,
    /// How far a stamp may lie ahead of the local clock.
    pub max_clock_skew: Duration,
}

/// What stands at the front of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// A transaction that a batch can take.
    Transaction,
    /// A transaction with a TRUNCATE, to be applied in steps.
    Steps,
    /// A large transaction.
    Large,
}

/// Reads one origin's journal.
pub(super) struct Feed {
    me: NodeId,
    origin: NodeId,
    names: Arc<HashMap<NodeId, String>>,
    own: Journal,
    ledger: Arc<Ledger>,
    control: Arc<Control>,
    target: Target,
    limits: Limits,
    reader: Reader,
    chunk: Bytes,
    front: Option<Frame>,
    applied: watch::Receiver<Vector>,
    shapes: FxHashMap<u32, OwnedRelation>,
    mappings: FxHashMap<u32, Arc<Mapping>>,
    locals: HashMap<(String, String), (u32, Arc<Mapping>)>,
    numbers: u32,
    catalog: Option<tokio_postgres::Client>,
    /// Everything up to here is applied.
    after: Lsn,
    /// One transaction a group: to find the one that fails.
    pub single: bool,
    /// A group has about so many changes at most.
    pub most: u64,
    turns: Turns,
}

/// What a feed is made of.
pub(super) struct Parts {
    /// This node.
    pub me: NodeId,
    /// Whose journal it reads.
    pub origin: NodeId,
    /// The members' names.
    pub names: Arc<HashMap<NodeId, String>>,
    /// The own journal.
    pub own: Journal,
    /// Index, clock, vectors.
    pub ledger: Arc<Ledger>,
    /// Pause, skip, state.
    pub control: Arc<Control>,
    /// The local server, for its catalog.
    pub target: Target,
    /// Sizes.
    pub limits: Limits,
}

impl Feed {
    /// Reads behind `after`, the origin's progress at the local server.
    pub(super) fn new(parts: Parts, reader: Reader, after: Lsn) -> Self {
        let applied = parts.ledger.watch_applied();
        Feed {
            me: parts.me,
            origin: parts.origin,
            names: parts.names,
            own: parts.own,
            ledger: parts.ledger,
            control: parts.control,
            target: parts.target,
            limits: parts.limits,
            reader,
            chunk: Bytes::new(),
            front: None,
            applied,
            shapes: FxHashMap::default(),
            mappings: FxHashMap::default(),
            locals: HashMap::new(),
            numbers: 0,
            catalog: None,
            after,
            single: false,
            most: u64::MAX,
            turns: Turns::default(),
        }
    }

    /// Takes a frame from what was read; shapes are kept, what is applied is passed over.
    fn decode_front(&mut self) -> Result<bool, Error> {
        while self.front.is_none() {
            let Some(frame) = record::decode(&mut self.chunk)? else {
                return Ok(false);
            };
            match frame {
                Frame::Shape { id, relation } => {
                    let relation = Relation::decode(&relation)?.to_owned();
                    self.shapes.insert(id, relation);
                }
                Frame::Transaction { ref header, .. } | Frame::LargeBegin { ref header }
                    if header.position <= self.after => {}
                Frame::LargePart { position, .. } | Frame::LargeEnd { position, .. }
                    if position <= self.after => {}
                frame => self.front = Some(frame),
            }
        }
        Ok(true)
    }

    async fn peek(&mut self) -> Result<(), Error> {
        while !self.decode_front()? {
            if self.chunk.is_empty() {
                *self.control.oldest_waiting.lock() = None;
                self.control.set(OriginState::Replaying, None);
            }
            self.chunk = self.reader.next().await?;
        }
        Ok(())
    }

    fn peek_now(&mut self) -> Result<bool, Error> {
        while !self.decode_front()? {
            match self.reader.next().now_or_never() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next frame of a large transaction.
    pub(super) async fn part(&mut self) -> Result<Frame, Error> {
        self.peek().await?;
        self.front.take().ok_or(Error::Again("the journal was cut"))
    }

    fn header(&self) -> Option<&Header> {
        match &self.front {
            Some(Frame::Transaction { header, .. } | Frame::LargeBegin { header }) => Some(header),
            _ => None,
        }
    }

    /// Why the transaction at the front must wait.
    fn obstacle(&self) -> Option<(OriginState, String)> {
        let header = self.header()?;
        if *self.control.paused.borrow() {
            return Some((
                OriginState::Paused,
                "paused by everywrite.pause()".to_owned(),
            ));
        }
        let own = self.own.end();
        let applied = self.applied.borrow();
        let here = Here {
            me: self.me,
            own,
            applied: &applied,
        };
        if let Some((missing, reached)) = here.misses(&header.vector) {
            let missing = [(missing.origin, missing.lsn)].into_iter().collect();
            let reason = format!(
                "its transaction at {} has seen {}; applied here: {reached}",
                header.position,
                describe(&missing, &self.names)
            );
            return Some((OriginState::Waiting, reason));
        }
        let allowed = self.limits.max_clock_skew;
        if let Some(ahead) = waits::ahead(header.stamp, now(), allowed) {
            let reason = format!(
                "its clock is ahead: the transaction at {} is stamped {:.1} s in the future, max-clock-skew is {:.1} s",
                header.position,
                ahead as f64 / 1e6,
                allowed.as_secs_f64()
            );
            return Some((OriginState::Held, reason));
        }
        None
    }

    /// Waits until the transaction at the front may be applied.
    pub(super) async fn ready(&mut self) -> Result<Front, Error> {
        loop {
            self.peek().await?;
            if self.header().is_none() {
                // The rest of a large transaction whose beginning is applied or was cut off.
                self.front = None;
                continue;
            }
            *self.control.oldest_waiting.lock() = self.header().map(|h| h.commit_time);
            let mut applied = self.ledger.watch_applied();
            let mut own = self.own.subscribe();
            let mut paused = self.control.paused.subscribe();
            let Some((state, reason)) = self.obstacle() else {
                break;
            };
            self.control.set(state, Some(reason));
            tokio::select! {
                _ = applied.changed() => {}
                _ = own.changed() => {}
                _ = paused.changed() => {}
                // A clock that comes nearer tells nobody.
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
        self.control.set(OriginState::Replaying, None);
        match &self.front {
            Some(Frame::LargeBegin { .. }) => Ok(Front::Large),
            Some(Frame::Transaction { changes, .. }) => {
                let mut truncates = false;
                for change in Changes::new(changes.clone()) {
                    truncates |= change?.first() == Some(&b'T');
                }
                Ok(if truncates {
                    Front::Steps
                } else {
                    Front::Transaction
                })
            }
            _ => Err(Error::Again("the journal was cut")),
        }
    }

    /// The position of the transaction at the front.
    pub(super) fn position(&self) -> Lsn {
        self.header().map_or(Lsn::ZERO, |h| h.position)
    }

    /// Takes the front as a transaction to be applied on its own: its header and changes (none
    /// yet for a large one).
    pub(super) fn take(&mut self) -> Option<(Header, Bytes)> {
        match self.front.take() {
            Some(Frame::Transaction { header, changes }) => Some((header, changes)),
            Some(Frame::LargeBegin { header }) => Some((header, Bytes::new())),
            _ => None,
        }
    }

    /// Whether a person wants that transaction left out.
    pub(super) fn skipped(&self, position: Lsn) -> bool {
        self.control.skipped.lock().contains(&position)
    }

    /// Adds ready transactions to `batch` without waiting for more to come. True if the batch can
    /// take no more.
    pub(super) async fn grow(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        loop {
            let limit = if self.single {
                1
            } else {
                self.limits.transactions
            };
            if batch.alone
                || batch.transactions.len() >= limit
                || batch.bytes >= self.limits.bytes
                || batch.changes >= self.most
            {
                return Ok(!batch.is_empty());
            }
            if !self.peek_now()? {
                return Ok(false);
            }
            let Some(Frame::Transaction { changes, .. }) = &self.front else {
                return Ok(!batch.is_empty());
            };
            if self.obstacle().is_some() {
                return Ok(false);
            }
            let changes = changes.clone();
            if self.skipped(self.position()) {
                tracing::warn!(origin = %self.origin, position = %self.position(), "transaction skipped, as a person asked");
                self.take_into(batch);
                continue;
            }
            let look = self.look(&changes)?;
            if look.truncates {
                return Ok(!batch.is_empty());
            }
            self.load(&look).await?;
            // What one transaction of a group wrote and a later one replaced would meet nobody: it would
            // fire no trigger, and could not be merged or parked.
            let alone = look.shapes.iter().any(|s| {
                self.mappings.get(s).is_some_and(|m| {
                    m.table.fires_triggers || self.ledger.sets_aside(m.identity.relation)
                })
            });
            let merging = self.merging(&look);
            if (look.travels || alone || merging) && !batch.is_empty() {
                return Ok(true);
            }
            // From here on nothing waits: a cancelled call leaves no half of a transaction behind.
            self.take_into(batch);
            batch.alone |= alone;
            if merging {
                batch.merge();
            }
            self.push_all(batch, &changes)?;
            // Between two transactions a call may be cancelled.
            self.took(changes.len()).await;
        }
    }

    /// So many bytes of changes were taken in. May be cancelled.
    pub(super) async fn took(&mut self, bytes: usize) {
        self.turns.took(bytes).await;
    }

    /// Whether some of the tables are, or were, merged by columns; they must be loaded.
    pub(super) fn merging(&self, look: &Look) -> bool {
        if !look.merges && !self.ledger.any_merging() {
            return false;
        }
        let merging = |m: &Arc<Mapping>| self.ledger.merging(m.identity.relation);
        look.merges
            || look
                .shapes
                .iter()
                .any(|s| self.mappings.get(s).is_some_and(merging))
    }

    /// The transaction at the front begins in `batch`.
    fn take_into(&mut self, batch: &mut Batch) {
        if let Some((header, _)) = self.take() {
            batch.begin(header);
        }
    }

    /// Puts changes into the batch's last transaction; their tables must be loaded.
    pub(super) fn push_all(&self, batch: &mut Batch, changes: &Bytes) -> Result<(), Error> {
        for raw in Changes::new(changes.clone()) {
            self.push(batch, &raw?)?;
        }
        Ok(())
    }

    /// Puts one change into the batch's last transaction.
    pub(super) fn push(&self, batch: &mut Batch, raw: &Bytes) -> Result<(), Error> {
        if raw.first() == Some(&ranks::TAG) {
            Arc::make_mut(&mut batch.ranks).take(raw)?;
            return Ok(());
        }
        if raw.first() == Some(&columns::TAG) {
            batch.columns = Arc::new(Columns::decode(raw)?);
            return Ok(());
        }
        let message = decode(raw, false)?;
        let shape = match &message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => *relation,
            Message::Message { content, .. } => {
                let content = WalMessage::decode(content);
                if let Ok(WalMessage::Policy(policy)) = content {
                    batch.set_policy(policy);
                    return Ok(());
                }
                if let Ok(WalMessage::Delete(delete)) = content {
                    let name = (delete.schema.clone(), delete.table.clone());
                    if let Some((shape, mapping)) = self.locals.get(&name) {
                        batch.push_travelled(
                            *shape,
                            mapping,
                            travelled_key(mapping, &delete),
                            delete.version,
                        )?;
                    }
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(mapping) = self.mappings.get(&shape) else {
            return Err(Error::Again("a table was described anew"));
        };
        batch.push(shape, mapping, raw, &message)
    }

    /// The tables that a TRUNCATE names.
    pub(super) async fn truncated(&mut self, raw: &Bytes) -> Result<Vec<Arc<Mapping>>, Error> {
        let Message::Truncate { relations, .. } = decode(raw, false)? else {
            return Ok(Vec::new());
        };
        let mut look = Look::default();
        relations.iter().for_each(|shape| look.add(shape));
        look.shapes.sort_unstable();
        self.load(&look).await?;
        Ok(look
            .shapes
            .iter()
            .filter_map(|s| self.mappings.get(s).cloned())
            .collect())
    }

    /// What the changes need.
    pub(super) fn look(&self, changes: &Bytes) -> Result<Look, Error> {
        Look::at(changes)
    }

    /// Lays the shapes over the local tables, as far as that is not done yet.
    pub(super) async fn load(&mut self, look: &Look) -> Result<(), Error> {
        for &shape in &look.shapes {
            if self.mappings.contains_key(&shape) {
                continue;
            }
            let Some(relation) = self.shapes.get(&shape).cloned() else {
                return Err(Error::Schema {
                    table: format!("shape {shape}"),
                    what: "the journal does not describe it".to_owned(),
                });
            };
            let mapping = self.map(relation).await?;
            self.mappings.insert(shape, mapping);
        }
        for delete in &look.travelled {
            let name = (delete.schema.clone(), delete.table.clone());
            if self.locals.contains_key(&name) {
                continue;
            }
            let column = |c: &crate::admin::message::KeyColumn| OwnedColumn {
                key: true,
                name: c.name.clone(),
                type_oid: c.type_oid,
                type_modifier: -1,
            };
            let relation = OwnedRelation {
                id: 0,
                namespace: name.0.clone(),
                name: name.1.clone(),
                replica_identity: b'd',
                columns: delete.key.iter().map(column).collect(),
            };
            let mapping = self.map(relation).await?;
            // Shape ids count up from 1; these count down from the top.
            let shape = u32::MAX - u32::try_from(self.locals.len()).unwrap_or(0);
            self.locals.insert(name, (shape, mapping));
        }
        Ok(())
    }

    async fn map(&mut self, relation: OwnedRelation) -> Result<Arc<Mapping>, Error> {
        let client = match self.catalog.take().filter(|c| !c.is_closed()) {
            Some(client) => client,
            None => self.target.named("everywrite catalog").client().await?,
        };
        let table = Table::load(&client, &relation.namespace, &relation.name).await;
        self.catalog = Some(client);
        let missing = || Error::Schema {
            table: format!("{}.{}", relation.namespace, relation.name),
            what: "it does not exist here".to_owned(),
        };
        let table = table?.ok_or_else(missing)?;
        self.numbers += 1;
        Ok(Arc::new(Mapping::new(self.numbers, relation, table)?))
    }

    /// Everything up to `position` is applied.
    pub(super) fn applied(&mut self, position: Lsn) {
        self.after = self.after.max(position);
    }
}

/// What changes need before they can be put into a batch.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Shapes of their tables.
    pub shapes: Vec<u32>,
    /// There is a TRUNCATE among them.
    pub truncates: bool,
    /// There is a delete that travels among them, or a policy.
    pub travels: bool,
    /// Some of their updates are merged by columns.
    merges: bool,
    travelled: Vec<TravellingDelete>,
}

impl Look {
    fn at(changes: &Bytes) -> Result<Look, Error> {
        let mut look = Look::default();
        let mut last = 0;
        for raw in Changes::new(changes.clone()) {
            let raw = raw?;
            match raw.first() {
                Some(b'T') => look.truncates = true,
                Some(&ranks::TAG) => {}
                Some(&columns::TAG) => look.merges = true,
                Some(b'M') => {
                    if let Message::Message { content, .. } = decode(&raw, false)? {
                        // A kind that only a newer daemon knows has an effect that must not be skipped.
                        let message = WalMessage::decode(content).map_err(|e| Error::Schema {
                            table: "(message)".to_owned(),
                            what: format!("{e}: this daemon must be upgraded"),
                        })?;
                        match message {
                            WalMessage::Delete(delete) => {
                                look.travels = true;
                                look.travelled.push(delete);
                            }
                            WalMessage::Policy(_) => look.travels = true,
                            _ => {}
                        }
                    }
                }
                Some(b'I' | b'U' | b'D') => {
                    let shape = raw
                        .get(1..5)
                        .and_then(|b| b.try_into().ok())
                        .map_or(0, u32::from_be_bytes);
                    if shape != last {
                        last = shape;
                        look.add(shape);
                    }
                }
                other => return Err(Error::Newer(other.map_or(' ', |&tag| char::from(tag)))),
            }
        }
        Ok(look)
    }

    /// Transactions have few tables, so a list is quicker than a set.
    fn add(&mut self, shape: u32) {
        if !self.shapes.contains(&shape) {
            self.shapes.push(shape);
        }
    }
}

fn travelled_key(mapping: &Mapping, delete: &TravellingDelete) -> Image {
    let cells: Vec<Cell<'_>> = mapping
        .relation
        .columns
        .iter()
        .map(|c| match delete.key.iter().find(|k| k.name == c.name) {
            Some(key) => Cell::Binary(&key.value),
            None => Cell::Null,
        })
        .collect();
    Image::from_cells(cells.into_iter())
}

/// This machine's clock; the daemon runs beside its server.
pub(super) fn now() -> Stamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Stamp::from_unix_us(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::sqlstate::Class;

    /// What stands before the changes of a table that is merged, to a daemon that does not know the tag.
    #[test]
    fn a_change_that_only_a_newer_daemon_knows_is_refused() {
        let change = |tag: u8| Bytes::copy_from_slice(&[0, 0, 0, 5, tag, 0, 0, 0, 9]);
        for known in *b"IUDPWT" {
            assert!(Look::at(&change(known)).is_ok(), "{known}");
        }
        let error = Look::at(&change(b'w')).unwrap_err();
        assert_eq!(error.class(), Class::Park);
        let told = error.to_string();
        assert!(
            told.contains("'w'") && told.contains("must be upgraded"),
            "{told}"
        );
    }
}
