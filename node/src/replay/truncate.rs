//! TRUNCATE: a delete of all rows with lower versions.

use std::collections::HashSet;
use std::sync::Arc;

use everywrite_conflict::{Entry, KeyHash, Kind, Lsn, NodeId, Position, Version};

use super::Error;
use super::batch::RowKey;
use super::careful::{self, Context, Decided};
use super::history;
use super::mapping::Mapping;
use super::policy;
use super::writer::{Guard, Writer};
use crate::journal::record::Header;

/// Truncates the tables inside the open transaction: plainly where nothing newer is known,
/// otherwise row by row.
pub(super) async fn write(
    ctx: &Context,
    writer: &mut Writer,
    tables: &[(Arc<Mapping>, Version)],
    header: &Header,
    origin: NodeId,
    decided: &mut Decided,
) -> Result<(), Error> {
    let position = Position {
        origin,
        lsn: header.position,
    };
    // Updates of merged rows that it has not seen: the announcement takes them away.
    let mut merged = Vec::new();
    for &(ref mapping, version) in tables {
        merged.push(ctx.ledger.with_index(|index| {
            let claims = |p: Position| {
                (p.origin == origin && p.lsn <= header.position) || header.vector.covers(p)
            };
            index.all_below(mapping.identity.relation, version, claims)
        }));
        let entry = Entry {
            version,
            source: Some(position),
            deleted: true,
            local_lsn: Lsn::MAX,
        };
        ctx.ledger
            .announce_truncate(mapping.identity.relation, entry);
    }
    // After the announcement, which no blind group passes by, and before the tables are locked.
    let mut others = ctx.ledger.blind();
    others.set(origin, Lsn::ZERO);
    if !ctx.ledger.wait_for_blind_briefly(&others).await {
        return Err(Error::Again("groups of other origins are on their way"));
    }
    decided
        .truncated
        .extend(tables.iter().map(|(m, v)| (m.identity.relation, *v)));
    for (mapping, _) in tables {
        writer.sql(&format!(
            "lock table {} in access exclusive mode",
            mapping.table.quoted
        ));
    }
    writer.run().await?;
    if !ctx.barriers.pass().await {
        return Err(Error::Shutdown);
    }
    if ctx.ledger.any_merging() {
        careful::durable(ctx, ctx.ledger.stamped_to()).await?;
    }
    let mut plain = Vec::new();
    for (&(ref mapping, version), merged) in tables.iter().zip(merged) {
        // What matters: rows that stay because they are newer, and rows that the writer had not seen.
        let mut interesting = ctx.ledger.with_index(|index| {
            let concerns = |(_, e): &(KeyHash, Entry)| {
                !e.deleted && (e.version > version || !seen(header, position, e))
            };
            index.iter().filter(concerns).collect::<Vec<_>>()
        });
        let stands = |key: &KeyHash| interesting.iter().any(|(k, _)| k == key);
        let merged: Vec<_> = merged.into_iter().filter(|(key, _)| !stands(key)).collect();
        interesting.extend(merged);
        if interesting.is_empty() || mapping.identity.columns.is_empty() {
            plain.push(mapping.table.quoted.as_str());
            continue;
        }
        let left = policy::left(ctx, mapping, decided);
        row_by_row(
            ctx,
            writer,
            mapping,
            version,
            position,
            header,
            &interesting,
            decided,
        )
        .await?;
        policy::stop(ctx, mapping, decided, left)?;
    }
    if !plain.is_empty() {
        writer.sql(&format!("truncate {}", plain.join(", ")));
        writer.run().await?;
    }
    Ok(())
}

fn seen(header: &Header, position: Position, entry: &Entry) -> bool {
    entry.source.is_some_and(|s| {
        if s.origin == position.origin {
            s.lsn <= position.lsn
        } else {
            header.seen.covers(s)
        }
    })
}

#[expect(clippy::too_many_arguments, reason = "one truncate, said once")]
async fn row_by_row(
    ctx: &Context,
    writer: &mut Writer,
    mapping: &Mapping,
    version: Version,
    position: Position,
    header: &Header,
    interesting: &[(KeyHash, Entry)],
    decided: &mut Decided,
) -> Result<(), Error> {
    let names: Vec<&str> = mapping
        .key_cells()
        .filter_map(|i| mapping.columns.get(i))
        .map(|c| c.quoted.as_str())
        .collect();
    let sql = format!("select {} from {}", names.join(", "), mapping.table.quoted);
    // Prepared, because only then the rows come in binary.
    let at = writer
        .bind(&format!("m{}keys", mapping.number), &sql, &[])
        .execute();
    let outcomes = writer.run().await?;
    let entries = interesting.iter().map(|(_, entry)| *entry);
    let committed = careful::committed(ctx, writer, entries).await?;
    let known: std::collections::HashMap<KeyHash, Entry> = interesting.iter().copied().collect();
    let mut gone: Vec<RowKey> = Vec::new();
    let mut ours = Lsn::ZERO;
    let mut conflicts: HashSet<KeyHash> = HashSet::new();
    for row in outcomes.get(at).map_or(&[][..], |o| &o.rows) {
        let key = careful::key_row(mapping, row)?;
        let entry = known.get(&key.hash);
        if let Some(source) = entry.and_then(|e| e.source).filter(|s| s.origin == ctx.me) {
            ours = ours.max(source.lsn);
        }
        if entry.is_some_and(|e| e.version > version) {
            continue;
        }
        // What is still on its way is not the row here: its own transaction records it.
        if entry.is_some_and(|e| careful::here(ctx, e, &committed)) {
            conflicts.insert(key.hash);
        }
        gone.push(key);
    }
    let mut end = ctx.journal.subscribe();
    end.wait_for(|end| *end >= ours)
        .await
        .map_err(|_| Error::Shutdown)?;
    let lost = gone.iter().filter(|k| conflicts.contains(&k.hash));
    let entries: Vec<history::Entry<'_>> = lost
        .map(|key| history::Entry {
            kind: Kind::TruncateOriginDiffers,
            outcome: history::Outcome::Applied,
            row: None,
            key: &key.image,
            local_key: &key.image,
            names_local: true,
            local: known.get(&key.hash).copied(),
            version,
            position,
            xid: header.xid,
            unlocked: None,
        })
        .collect();
    for entry in &entries {
        decided.conflicts.add(&mapping.table, entry.kind);
    }
    writer.histories(mapping, &entries);
    // In pieces: each is one array of keys.
    for piece in gone.chunks(10_000) {
        let piece: Vec<&RowKey> = piece.iter().collect();
        writer.write(mapping, &piece, &[], &[], Guard::Decided);
    }
    writer.run().await?;
    Ok(())
}
