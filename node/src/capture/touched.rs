//! What a change touches: the keys that it announces to the conflict index.

use bytes::Bytes;
use everywrite_conflict::{KeyHasher, RelationHash};

use super::Error;
use super::assembler::{Relation, RepairRow};
use crate::pg::pgoutput::{Message, Tuple};
use crate::settle::{Identity, Touched};

/// The index key of a delete that travels.
pub(crate) fn travelling(delete: &crate::admin::message::TravellingDelete) -> Touched {
    let relation = RelationHash::new(&delete.schema, &delete.table);
    let mut hasher = KeyHasher::new(relation);
    for column in &delete.key {
        hasher.cell(column.type_oid, Some(&column.value), true);
    }
    Touched {
        relation,
        key: Some(hasher.finish()),
        deleted: true,
        version: Some(delete.version),
    }
}

/// The key that a change takes away, or gives.
pub(crate) fn key_cells(message: &Message<'_>, deleted: bool) -> Option<RepairRow> {
    let tuple = match message {
        Message::Delete { key, old, .. } => key.or(*old)?,
        Message::Update { key, old, .. } if deleted => key.or(*old)?,
        Message::Insert { new, .. } | Message::Update { new, .. } => *new,
        _ => return None,
    };
    Some(RepairRow {
        count: u16::try_from(tuple.len()).unwrap_or(u16::MAX),
        cells: Bytes::copy_from_slice(tuple.as_bytes()),
    })
}

/// Adds what a change touches.
pub(super) fn touch<'r>(
    message: &Message<'_>,
    relation: impl Fn(u32) -> Option<&'r Relation>,
    touched: &mut Vec<Touched>,
) -> Result<(), Error> {
    let known = |id| {
        relation(id).ok_or_else(|| Error::Order("a change of a relation that was not described"))
    };
    let of = |r: &Relation, t: &Tuple<'_>| {
        r.identity.hash(t).map_err(|source| Error::Key {
            table: r.owned.name.clone(),
            source,
        })
    };
    touch_with(
        message,
        |id| known(id).map(|r| &r.identity),
        |id, t| of(known(id)?, t),
        touched,
    )
}

/// [`touch`] for anyone who has identities: also used when the index is rebuilt from a journal.
pub(crate) fn touch_with<'r, E>(
    message: &Message<'_>,
    identity: impl Fn(u32) -> Result<&'r Identity, E>,
    hash: impl Fn(u32, &Tuple<'_>) -> Result<Option<everywrite_conflict::KeyHash>, E>,
    touched: &mut Vec<Touched>,
) -> Result<(), E> {
    let mut put = |relation: RelationHash, key, deleted| {
        if let Some(key) = key {
            touched.push(Touched {
                relation,
                key: Some(key),
                deleted,
                version: None,
            });
        }
    };
    match message {
        Message::Insert { relation, new, .. } => {
            put(identity(*relation)?.relation, hash(*relation, new)?, false);
        }
        Message::Update {
            relation,
            key,
            old,
            new,
            ..
        } => {
            let name = identity(*relation)?.relation;
            let now = hash(*relation, new)?;
            if let Some(before) = key.as_ref().or(old.as_ref()) {
                let before = hash(*relation, before)?;
                if before != now {
                    put(name, before, true);
                }
            }
            put(name, now, false);
        }
        Message::Delete {
            relation, key, old, ..
        } => {
            if let Some(before) = key.as_ref().or(old.as_ref()) {
                put(
                    identity(*relation)?.relation,
                    hash(*relation, before)?,
                    true,
                );
            }
        }
        Message::Truncate { relations, .. } => {
            for id in relations.iter() {
                let relation = identity(id)?.relation;
                touched.push(Touched {
                    relation,
                    key: None,
                    deleted: true,
                    version: None,
                });
            }
        }
        _ => {}
    }
    Ok(())
}
