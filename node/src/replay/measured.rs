//! What the crate `everywrite-micro` measures of replay, without a server, and `make floor` with one. Nothing
//! else uses it.

use std::sync::Arc;

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId};
use rustc_hash::FxHashMap;

use super::Error;
use super::batch::Batch;
use super::mapping::Mapping;
use super::session;
use super::table::{Column, Table};
use super::writer::{Failed, Writer};
use crate::journal::record::{self, Changes, Frame, Header};
use crate::pg::Target;
use crate::pg::pgoutput::{Message, OwnedRelation, Relation, decode};
use crate::pg::pipeline::Outcome;
use crate::pg::quote::identifier;

/// Folds journal frames as a feed does whose tables are loaded.
#[derive(Debug)]
pub struct Folding {
    origin: NodeId,
    mappings: FxHashMap<u32, Arc<Mapping>>,
}

impl Folding {
    /// Of this origin's journal.
    pub fn new(origin: NodeId) -> Self {
        Folding {
            origin,
            mappings: FxHashMap::default(),
        }
    }

    /// Takes all whole frames of `frames` as one group: how many net changes and rows without key
    /// that makes.
    pub fn fold(&mut self, mut frames: Bytes) -> Result<usize, Error> {
        let mut batch = Batch::new(self.origin);
        while let Some(frame) = record::decode(&mut frames)? {
            match frame {
                Frame::Shape { id, relation } => {
                    let relation = Relation::decode(&relation)?.to_owned();
                    let table = local(&relation);
                    let mapping = Mapping::new(id, relation, table)?;
                    self.mappings.insert(id, Arc::new(mapping));
                }
                Frame::Transaction { header, changes } => {
                    batch.begin(header);
                    for raw in Changes::new(changes) {
                        push(&self.mappings, &mut batch, &raw?)?;
                    }
                }
                _ => {}
            }
        }
        batch.close();
        let count = |t: &super::batch::TableBatch| t.slots.len() + t.appends.len();
        Ok(batch.tables.iter().map(count).sum())
    }
}

/// One change of the transaction that began last.
fn push(
    mappings: &FxHashMap<u32, Arc<Mapping>>,
    batch: &mut Batch,
    raw: &Bytes,
) -> Result<(), Error> {
    let message = decode(raw, false)?;
    let (Message::Insert { relation, .. }
    | Message::Update { relation, .. }
    | Message::Delete { relation, .. }) = message
    else {
        return Ok(());
    };
    let Some(mapping) = mappings.get(&relation) else {
        return Err(Error::Again("a table was described anew"));
    };
    batch.push(relation, mapping, raw, &message)
}

/// A local table that is the same as the origin's.
fn local(relation: &OwnedRelation) -> Table {
    let column = |c: &crate::pg::pgoutput::OwnedColumn| Column {
        name: c.name.clone(),
        quoted: identifier(&c.name),
        type_oid: c.type_oid,
        array_oid: 1,
        array: false,
        element_oid: 0,
        composite: false,
        generated: false,
        identity_always: false,
    };
    let keys = relation.columns.iter().filter(|c| c.key);
    let mut primary_key: Vec<String> = keys.map(|c| c.name.clone()).collect();
    primary_key.sort_unstable();
    Table {
        schema: relation.namespace.clone(),
        name: relation.name.clone(),
        quoted: identifier(&relation.name),
        columns: relation.columns.iter().map(column).collect(),
        primary_key,
        unique: Vec::new(),
        fires_triggers: false,
        excludes: false,
    }
}

/// How inserts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserts {
    /// As replay does: by `COPY`, or what it takes for a few rows.
    Usual,
    /// As arrays, however many there are.
    Arrays,
}

/// A session that writes groups as replay's fast path does, and nothing around it: no journal, no index,
/// no decisions. The server needs the schema `everywrite`.
pub struct Applying {
    origin: NodeId,
    writer: Writer,
    catalog: tokio_postgres::Client,
    mappings: FxHashMap<u32, Arc<Mapping>>,
    horizon: u32,
    before: Option<Lsn>,
    groups: usize,
}

impl Applying {
    /// Connects with the replication origin `name`, which is made if it is missing. Returns the session's
    /// process id, too.
    pub async fn connect(
        target: &Target,
        origin: NodeId,
        name: &str,
    ) -> Result<(Self, u32), Error> {
        let mut session = session::open(target, name).await?;
        for sql in session::APPLYING {
            session.query_simple(sql).await?;
        }
        let number = |outcomes: Vec<Outcome>| {
            let mut cells = outcomes.into_iter().flat_map(|o| o.rows).flatten();
            let text = cells.next().flatten();
            let text = text.map(|cell| String::from_utf8_lossy(&cell).into_owned());
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let process = number(session.query_simple("select pg_backend_pid()").await?);
        // Everything that stands now is captured: as after a barrier.
        let next = "select pg_snapshot_xmax(pg_current_snapshot())";
        let horizon = number(session.query_simple(next).await?);
        let applying = Applying {
            origin,
            writer: Writer::new(session, name),
            catalog: target.client().await?,
            mappings: FxHashMap::default(),
            horizon,
            before: None,
            groups: 0,
        };
        Ok((applying, process))
    }

    /// Lays an origin's relation over the local table: a Relation message as it came, others are passed over.
    pub async fn shape(&mut self, message: &[u8]) -> Result<(), Error> {
        let Message::Relation(relation) = decode(message, false)? else {
            return Ok(());
        };
        let relation = relation.to_owned();
        let table = Table::load(&self.catalog, &relation.namespace, &relation.name).await?;
        let table = table.ok_or(Error::Again("a table is missing"))?;
        let id = relation.id;
        let mapping = Mapping::new(id, relation, table)?;
        self.mappings.insert(id, Arc::new(mapping));
        Ok(())
    }

    /// Folds transactions into one group and writes its statements down, for [`run`](Self::run). Transactions come in the
    /// order of their positions. Returns how many net changes that makes.
    pub fn group<'t>(
        &mut self,
        transactions: impl Iterator<Item = (&'t Header, &'t [Bytes])>,
        inserts: Inserts,
    ) -> Result<usize, Error> {
        let mut batch = Batch::new(self.origin);
        for (header, changes) in transactions {
            batch.begin(header.clone());
            for raw in changes {
                push(&self.mappings, &mut batch, raw)?;
            }
        }
        batch.close();
        self.writer.begin();
        self.writer.chain(self.before, batch.last());
        for table in &batch.tables {
            match inserts {
                Inserts::Usual => self.writer.write_fast(table, self.horizon, |_| true, true),
                Inserts::Arrays => {
                    let rows: Vec<_> = table.slots.iter().filter_map(|s| s.image()).collect();
                    self.writer.insert_set(&table.mapping, &rows);
                }
            }
        }
        self.writer.commit(batch.last(), batch.newest());
        self.before = Some(batch.last());
        self.groups += 1;
        Ok(batch.tables.iter().map(|table| table.slots.len()).sum())
    }

    /// Sends all groups at once and waits until the last one is committed.
    pub async fn run(&mut self) -> Result<(), Error> {
        self.writer.send().await?;
        for _ in 0..std::mem::take(&mut self.groups) {
            let committed = self.writer.committed().await;
            committed.map_err(|failed| match failed {
                Failed::Before(error) | Failed::Refused(error) | Failed::Unknown(error) => error,
            })?;
        }
        Ok(())
    }
}
