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
                // What the transaction wrote before goes with the table, and has its version: an entry of
                // its own would say that the row stands.
                let before = touched.iter_mut().filter(|t| t.relation == relation);
                before.for_each(|t| t.deleted = true);
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

#[cfg(test)]
mod tests {
    use everywrite_conflict::{Lsn, NodeId, Position, Stamp};

    use super::*;
    use crate::pg::pgoutput;
    use crate::settle::Ledger;

    /// An update that leaves a large value out, and a TRUNCATE behind it in the same transaction. A site
    /// that has not the row of before asks for the value, and has to learn that there is no row: it would ask
    /// for ever.
    #[test]
    fn what_a_transaction_wrote_before_a_truncate_goes_with_the_table() {
        let (me, relation) = (NodeId(1), RelationHash(7));
        let identity = Identity {
            relation,
            columns: vec![(0, 20)],
        };
        let update = [b'U', 0, 0, 0, 1, b'N', 0, 2, b'b', 0, 0, 0, 1, 5, b'u'];
        let truncate = [b'T', 0, 0, 0, 1, 0, 0, 0, 0, 1];
        let mut touched = Vec::new();
        for payload in [&update[..], &truncate[..]] {
            let message = pgoutput::decode(payload, false).unwrap();
            let hash = |_, tuple: &Tuple<'_>| Ok(identity.hash(tuple).unwrap());
            touch_with::<()>(&message, |_| Ok(&identity), hash, &mut touched).unwrap();
        }
        let key = touched[0].key.unwrap();
        let ledger = Ledger::new(me);
        let at = Position {
            origin: me,
            lsn: Lsn(10),
        };
        ledger.capture(at.lsn, Stamp(5), &touched, &[], &[]);
        let entry = ledger.known(relation, key);
        assert_eq!(crate::replay::very(at, entry, None::<()>), Ok(None));
    }
}
