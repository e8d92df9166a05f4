//! TRUNCATE: a delete of all rows with lower versions.

use std::collections::HashMap;
use std::sync::Arc;

use everywrite_conflict::{Entry, First, Index, KeyHash, Kind, Lsn, Position, Version};

use super::Error;
use super::batch::RowKey;
use super::careful::{self, Context, Decided};
use super::history;
use super::mapping::{Mapping, OWN};
use super::policy;
use super::priors::Priors;
use super::writer::{Guard, Writer};
use crate::journal::record::Header;

/// Truncates the tables inside the open transaction: plainly where nothing newer is known,
/// otherwise row by row.
pub(super) async fn write(
    ctx: &Context,
    writer: &mut Writer,
    tables: &[(Arc<Mapping>, Version)],
    header: &Header,
    priors: &Priors,
    decided: &mut Decided,
) -> Result<(), Error> {
    let origin = priors.origin;
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
        let interesting = |index: &Index| {
            let concerns = |(_, e): &(KeyHash, Entry)| {
                !e.deleted && (e.version > version || !seen(header, position, e))
            };
            index.iter().filter(concerns).collect::<HashMap<_, _>>()
        };
        let first = First {
            position,
            stamp: header.stamp,
            seen: &header.seen,
        };
        let mut rows = None;
        let mut interesting = match ctx.ledger.in_memory(first, interesting) {
            Some(known) => known,
            // Some of it is in files, where it is looked for by the keys of the table.
            None if mapping.identity.columns.is_empty() => HashMap::new(),
            None => {
                let read = read(writer, mapping).await?;
                let keys = read.iter().map(|(_, key)| key.hash).collect::<Vec<_>>();
                rows = Some(read);
                ctx.ledger.with_keys(keys.into_iter(), interesting)
            }
        };
        for (key, entry) in merged {
            interesting.entry(key).or_insert(entry);
        }
        // Own rows that were captured since the announcement, and such that the index does not name
        // any more because something else is on its way to their place.
        let mut beneath = ctx.ledger.beneath(mapping.identity.relation);
        let applied = ctx.ledger.applied().get(origin);
        interesting.retain(|key, entry| {
            let own = beneath.get(key).copied();
            let standing = priors.standing(*key, *entry, position, applied, own);
            standing.map(|standing| *entry = standing).is_some()
        });
        beneath.retain(|_, e| e.version < version && !seen(header, position, e));
        // But what the transaction itself has written over it has recorded.
        ctx.ledger.with_index(|index| {
            let own = |e: Entry| e.source == Some(position);
            beneath.retain(|key, _| !index.row(*key).is_some_and(own));
        });
        let known = Known {
            interesting,
            beneath,
        };
        if known.is_empty() || mapping.identity.columns.is_empty() {
            plain.push(mapping.table.quoted.as_str());
            continue;
        }
        let left = policy::left(ctx, mapping, decided);
        row_by_row(
            ctx, writer, mapping, version, position, header, &known, rows, decided,
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

/// What is known of the table's rows, besides that they go.
struct Known {
    /// By the index.
    interesting: HashMap<KeyHash, Entry>,
    /// What stands where the index names what is on its way, and is older.
    beneath: HashMap<KeyHash, Entry>,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.interesting.is_empty() && self.beneath.is_empty()
    }
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

/// The keys of a table's rows, and whether a local transaction wrote them.
async fn read(writer: &mut Writer, mapping: &Mapping) -> Result<Vec<(bool, RowKey)>, Error> {
    let names: Vec<&str> = mapping
        .key_cells()
        .filter_map(|i| mapping.columns.get(i))
        .map(|c| c.quoted.as_str())
        .collect();
    let sql = format!(
        "select {OWN}, {} from {} t",
        names.join(", "),
        mapping.table.quoted
    );
    // Prepared, because only then the rows come in binary.
    let at = writer
        .bind(&format!("m{}keys", mapping.number), &sql, &[])
        .execute();
    let outcomes = writer.run().await?;
    let rows = outcomes.get(at).map_or(&[][..], |o| &o.rows);
    let rows = rows.iter().filter_map(|row| row.split_first());
    rows.map(|(own, row)| {
        let own = own.as_ref().is_some_and(|own| own.as_ref() != [0]);
        Ok((own, careful::key_row(mapping, row)?))
    })
    .collect()
}

#[expect(clippy::too_many_arguments, reason = "one truncate, said once")]
async fn row_by_row(
    ctx: &Context,
    writer: &mut Writer,
    mapping: &Mapping,
    version: Version,
    position: Position,
    header: &Header,
    known: &Known,
    rows: Option<Vec<(bool, RowKey)>>,
    decided: &mut Decided,
) -> Result<(), Error> {
    let relation = mapping.identity.relation;
    let rows = match rows {
        Some(rows) => rows,
        None => read(writer, mapping).await?,
    };
    let entries = known.interesting.values().copied();
    let committed = careful::committed(ctx, writer, entries).await?;
    let mut gone: Vec<RowKey> = Vec::new();
    let mut ours = Lsn::ZERO;
    // What is lost with the table, and its versions.
    let mut lost: HashMap<KeyHash, Entry> = HashMap::new();
    for (own, key) in rows {
        let entry = known.interesting.get(&key.hash);
        // What is still on its way is not the row here: its own transaction records it.
        let stands = entry.filter(|e| careful::here(ctx, e, &committed));
        let beneath = || known.beneath.get(&key.hash).filter(|_| own);
        let stands = stands.or_else(beneath);
        let sources = entry.into_iter().chain(stands).filter_map(|e| e.source);
        for source in sources.filter(|s| s.origin == ctx.me) {
            ours = ours.max(source.lsn);
        }
        // Under a policy more counts than the two versions: then the index tells.
        let stays = |e: &Entry| {
            let now = || ctx.ledger.known(relation, key.hash);
            let above = e.version.is_ranked() && e.version != version;
            e.version > version || (above && now().is_some_and(|now| !now.deleted))
        };
        if entry.is_some_and(stays) {
            continue;
        }
        if let Some(stands) = stands {
            lost.insert(key.hash, *stands);
        }
        gone.push(key);
    }
    let mut end = ctx.journal.subscribe();
    end.wait_for(|end| *end >= ours)
        .await
        .map_err(|_| Error::Shutdown)?;
    let entries: Vec<history::Entry<'_>> = gone
        .iter()
        .filter_map(|key| Some((key, *lost.get(&key.hash)?)))
        .map(|(key, stood)| history::Entry {
            kind: Kind::TruncateOriginDiffers,
            outcome: history::Outcome::Applied,
            row: None,
            key: &key.image,
            local_key: &key.image,
            names_local: true,
            local: Some(stood),
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
