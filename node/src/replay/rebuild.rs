//! The conflict index, from the journals, at start.

use std::collections::HashMap;

use bytes::Bytes;
use everywrite_conflict::{Entry, Lsn, NodeId, Position, Vector, Version};
use futures_util::FutureExt as _;
use tokio_postgres::Client;

use super::Error;
use crate::admin::message::WalMessage;
use crate::capture::{touch_with, travelling};
use crate::journal::record::{Changes, Frame, decode};
use crate::journal::{Journal, Journals};
use crate::pg::pgoutput::{self, Message, Relation};
use crate::settle::{Identity, Ledger, Stability, Touched};

/// Reads every journal: the own one whole, the others as far as they are applied (`applied`, the
/// progress of each origin). `local_lsn` is a position of the local WAL that is not before any of
/// it. Then come the deletes that have not left yet.
pub async fn rebuild(
    client: &Client,
    me: NodeId,
    journals: &Journals,
    ledger: &Ledger,
    stability: &Stability,
    applied: &Vector,
    local_lsn: Lsn,
) -> Result<u64, Error> {
    let mut keys = Keys {
        client,
        identities: HashMap::new(),
    };
    let mut transactions = 0;
    for journal in journals.all() {
        let origin = journal.origin();
        let up_to = if origin == me {
            journal.end()
        } else {
            applied.get(origin).min(journal.end())
        };
        let local_lsn = if origin == me { Lsn::ZERO } else { local_lsn };
        transactions += one(&mut keys, &journal, me, ledger, stability, up_to, local_lsn).await?;
        // Also when everything of it is released: stamps only go up.
        if let Some(header) = journal.last_header().filter(|h| h.position <= up_to) {
            ledger.rebuild(header.stamp, []);
            stability.replayed(origin, &header.vector);
        }
    }
    for row in client
        .query("select content from everywrite.outbox order by id", &[])
        .await?
    {
        let content: Vec<u8> = row.get(0);
        if let Ok(WalMessage::Delete(delete)) = WalMessage::decode(&content) {
            let touched = travelling(&delete);
            let entry = Entry {
                version: delete.version,
                source: None,
                deleted: true,
                local_lsn,
            };
            ledger.rebuild(delete.version.stamp, [(touched, entry)]);
        }
    }
    Ok(transactions)
}

struct Keys<'a> {
    client: &'a Client,
    /// By origin and shape.
    identities: HashMap<(NodeId, u32), Identity>,
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
        self.identities
            .insert((origin, shape), Identity::of(&relation, key));
        Ok(())
    }
}

async fn one(
    keys: &mut Keys<'_>,
    journal: &Journal,
    me: NodeId,
    ledger: &Ledger,
    stability: &Stability,
    up_to: Lsn,
    local_lsn: Lsn,
) -> Result<u64, Error> {
    let origin = journal.origin();
    let mut reader = journal.reader(journal.first())?;
    let mut large = None;
    let mut transactions = 0;
    while reader.position() < up_to || large.is_some() {
        let Some(chunk) = reader.next().now_or_never() else {
            // A chunk from an old segment is read elsewhere; the end is never waited for, because
            // everything up to `up_to` is there.
            let mut chunk = reader.next().await?;
            transactions += frames(
                keys, origin, me, ledger, stability, &mut chunk, &mut large, up_to, local_lsn,
            )
            .await?;
            continue;
        };
        let mut chunk = chunk?;
        transactions += frames(
            keys, origin, me, ledger, stability, &mut chunk, &mut large, up_to, local_lsn,
        )
        .await?;
    }
    Ok(transactions)
}

#[expect(clippy::too_many_arguments, reason = "one pass over one chunk")]
async fn frames(
    keys: &mut Keys<'_>,
    origin: NodeId,
    me: NodeId,
    ledger: &Ledger,
    stability: &Stability,
    chunk: &mut Bytes,
    large: &mut Option<(Version, Lsn)>,
    up_to: Lsn,
    local_lsn: Lsn,
) -> Result<u64, Error> {
    let mut transactions = 0;
    while let Some(frame) = decode(chunk)? {
        let (version, position, changes) = match frame {
            Frame::Shape { id, relation } => {
                keys.learn(origin, id, &relation).await?;
                continue;
            }
            Frame::Transaction { header, changes } => {
                *large = None;
                if header.position > up_to {
                    return Ok(transactions);
                }
                transactions += 1;
                if origin != me {
                    stability.replayed(origin, &header.vector);
                }
                (
                    Version {
                        stamp: header.stamp,
                        origin,
                    },
                    header.position,
                    changes,
                )
            }
            Frame::LargeBegin { header } => {
                *large = None;
                if header.position > up_to {
                    return Ok(transactions);
                }
                *large = Some((
                    Version {
                        stamp: header.stamp,
                        origin,
                    },
                    header.position,
                ));
                continue;
            }
            Frame::LargePart { changes, .. } => {
                let Some((version, position)) = *large else {
                    continue;
                };
                (version, position, changes)
            }
            Frame::LargeEnd { .. } => {
                *large = None;
                transactions += 1;
                continue;
            }
        };
        let touched = touched(keys, origin, changes)?;
        let source = Some(Position {
            origin,
            lsn: position,
        });
        let entries = touched.into_iter().map(|t| {
            let entry = Entry {
                version: t.version.unwrap_or(version),
                source,
                deleted: t.deleted,
                local_lsn,
            };
            (t, entry)
        });
        ledger.rebuild(version.stamp, entries);
    }
    Ok(transactions)
}

fn touched(keys: &Keys<'_>, origin: NodeId, changes: Bytes) -> Result<Vec<Touched>, Error> {
    let mut touched = Vec::new();
    for change in Changes::new(changes) {
        let change = change?;
        let message = pgoutput::decode(&change, false)?;
        if let Message::Message { content, .. } = &message {
            if let Ok(WalMessage::Delete(delete)) = WalMessage::decode(content) {
                touched.push(travelling(&delete));
            }
            continue;
        }
        let identity = |shape| {
            let missing = || Error::Schema {
                table: format!("shape {shape}"),
                what: "the journal does not describe it".to_owned(),
            };
            keys.identities.get(&(origin, shape)).ok_or_else(missing)
        };
        let hash = |shape, tuple: &pgoutput::Tuple<'_>| {
            identity(shape)?.hash(tuple).map_err(|source| Error::Key {
                table: format!("shape {shape}"),
                source,
            })
        };
        touch_with(&message, identity, hash, &mut touched)?;
    }
    Ok(touched)
}
