//! What the crate `everywrite-micro` measures of replay, without a server. Nothing else uses it.

use std::sync::Arc;

use bytes::Bytes;
use everywrite_conflict::NodeId;
use rustc_hash::FxHashMap;

use super::Error;
use super::batch::Batch;
use super::mapping::Mapping;
use super::table::{Column, Table};
use crate::journal::record::{self, Changes, Frame};
use crate::pg::pgoutput::{Message, OwnedRelation, Relation, decode};
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
                        self.push(&mut batch, &raw?)?;
                    }
                }
                _ => {}
            }
        }
        batch.close();
        let count = |t: &super::batch::TableBatch| t.slots.len() + t.appends.len();
        Ok(batch.tables.iter().map(count).sum())
    }

    fn push(&self, batch: &mut Batch, raw: &Bytes) -> Result<(), Error> {
        let message = decode(raw, false)?;
        let (Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. }) = message
        else {
            return Ok(());
        };
        let Some(mapping) = self.mappings.get(&relation) else {
            return Err(Error::Again("a table was described anew"));
        };
        batch.push(relation, mapping, raw, &message)
    }
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
    }
}
