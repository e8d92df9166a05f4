//! Second looks: rows that stand although by the index they are gone.
//!
//! Two writes can pass each other unseen, because a row that is not there cannot be locked:
//!
//! - A local transaction deletes a row (perhaps one that it has just inserted) and capture has not
//!   reached it; meanwhile an insert of the same key is replayed, finds nothing, and lands.
//! - A delete is replayed and finds nothing; meanwhile a local transaction, whose stamp turns out to
//!   be below it, has inserted the row, or another origin's stream inserts an older one that it
//!   decided about before.
//!
//! Capture and replay notice by version and place in the WAL and ask for a second look here: lock
//! what stands there, let capture catch up, and ask the index.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use everywrite_conflict::{Entry, KeyHash, Kind, Position, Version};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::batch::RowKey;
use super::careful::{self, Context};
use super::history;
use super::image::Image;
use super::mapping::Mapping;
use super::session;
use super::table::Table;
use super::writer::{Guard, Writer};
use crate::capture::{Repair, RepairRow};
use crate::pg::Target;
use crate::pg::pgoutput::{Cell, Tuple};
use crate::pg::sqlstate::Class;

/// The replication origin of repairs: what they write is not captured.
const ORIGIN: &str = "everywrite_repair";
/// Rows that are looked at together.
const AT_ONCE: usize = 1_000;

/// Runs until shutdown.
pub async fn run(
    target: Target,
    context: Context,
    mut repairs: mpsc::UnboundedReceiver<Repair>,
    shutdown: CancellationToken,
) {
    let mut looks = Looks {
        target,
        context,
        client: None,
        writer: None,
        mappings: 0,
    };
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(repair) => repair,
            None => tokio::select! {
                () = shutdown.cancelled() => return,
                repair = repairs.recv() => match repair {
                    Some(repair) => repair,
                    None => return,
                },
            },
        };
        let mut together = vec![first];
        while together.len() < AT_ONCE {
            let Ok(repair) = repairs.try_recv() else {
                break;
            };
            let alike = |r: &Repair| r.relation == repair.relation && r.row.is_some();
            if repair.row.is_some() && together.first().is_some_and(alike) {
                together.push(repair);
            } else {
                next = Some(repair);
                break;
            }
        }
        if !looks.until_done(&together, &shutdown).await {
            return;
        }
        looks.context.ledger.repaired(together.len());
    }
}

struct Looks {
    target: Target,
    context: Context,
    /// For the catalog.
    client: Option<tokio_postgres::Client>,
    writer: Option<Writer>,
    /// Names the statements of each mapping.
    mappings: u32,
}

impl Looks {
    /// Looks until it succeeds; false at shutdown.
    async fn until_done(&mut self, repairs: &[Repair], shutdown: &CancellationToken) -> bool {
        let Some(first) = repairs.first() else {
            return true;
        };
        let table = format!("{}.{}", first.relation.namespace, first.relation.name);
        let mut pause = Duration::from_millis(20);
        loop {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return false,
                outcome = self.look(first, repairs) => outcome,
            };
            match outcome {
                Ok(0) => return true,
                Ok(rows) => {
                    tracing::info!(table, rows, "removed rows that a newer delete had missed");
                    return true;
                }
                Err(error) => {
                    (self.writer, self.client) = (None, None);
                    // The session of the look before may still hold the origin: nothing to see to.
                    if error.class() == Class::Retry {
                        tracing::debug!(table, error = %error.chain(), "a second look at a row comes again");
                    } else {
                        tracing::warn!(table, error = %error.chain(), "a second look at a row failed, trying again");
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return false,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Looks at rows of one table, or at all of them. Returns how many had to go.
    async fn look(&mut self, first: &Repair, repairs: &[Repair]) -> Result<u64, Error> {
        // What is on its way may write what is looked at.
        let ledger = &self.context.ledger;
        ledger.wait_for_blind(&ledger.blind()).await;
        let client = match self.client.take().filter(|c| !c.is_closed()) {
            Some(client) => client,
            None => self.target.named("everywrite repair").client().await?,
        };
        let (schema, name) = (&first.relation.namespace, &first.relation.name);
        let table = Table::load(&client, schema, name).await?;
        self.client = Some(client);
        let Some(table) = table else {
            return Ok(0);
        };
        self.mappings += 1;
        let mapping = Mapping::new(self.mappings, first.relation.as_ref().clone(), table)?;
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.session().await?,
        };
        writer.rollback().await?;
        writer.begin();
        let rows = if first.row.is_some() {
            let rows = repairs
                .iter()
                .filter_map(|r| Some((image(r.row.as_ref()?), r.version)));
            self.gone(&mut writer, &mapping, rows).await?
        } else {
            self.truncated(&mut writer, &mapping, first.version).await?
        };
        writer.sql("commit");
        writer.run().await?;
        // Its statements are of this mapping.
        self.writer = (!self.mappings.is_multiple_of(256)).then_some(writer);
        Ok(rows)
    }

    async fn session(&self) -> Result<Writer, Error> {
        let target = self.target.named("everywrite repair");
        Ok(Writer::new(session::open(&target, ORIGIN).await?, ORIGIN))
    }

    /// All rows that replay put behind a local TRUNCATE of this version.
    async fn truncated(
        &self,
        writer: &mut Writer,
        mapping: &Mapping,
        version: Version,
    ) -> Result<u64, Error> {
        if mapping.identity.columns.is_empty() {
            return Ok(0);
        }
        let names: Vec<&str> = mapping
            .key_cells()
            .filter_map(|i| mapping.columns.get(i))
            .map(|c| c.quoted.as_str())
            .collect();
        let sql = format!(
            "select {} from {} t where \
             coalesce((pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident, 0) <> 0",
            names.join(", "),
            mapping.table.quoted
        );
        // Prepared, because only then the rows come in binary.
        let at = writer
            .bind(&format!("r{}keys", mapping.number), &sql, &[])
            .execute();
        let outcomes = writer.run().await?;
        let mut behind = Vec::new();
        for row in outcomes.get(at).map_or(&[][..], |o| &o.rows) {
            let key = careful::key_row(mapping, row)?;
            let ledger = &self.context.ledger;
            let once = std::iter::once(key.hash);
            if ledger.with_keys(once, |index| index.behind_truncate(key.hash, version)) {
                behind.push(key.image);
            }
        }
        let mut removed = 0;
        let mut behind = behind.into_iter().peekable();
        while behind.peek().is_some() {
            let piece = behind.by_ref().take(AT_ONCE);
            let piece = piece.map(|image| (image, version));
            removed += self.gone(writer, mapping, piece).await?;
        }
        Ok(removed)
    }

    /// Removes those of these rows that by the index are gone by the version beside them or a
    /// greater one.
    async fn gone(
        &self,
        writer: &mut Writer,
        mapping: &Mapping,
        rows: impl Iterator<Item = (Image, Version)>,
    ) -> Result<u64, Error> {
        let mut asked: HashMap<KeyHash, (Image, Version)> = HashMap::new();
        for (image, version) in rows {
            let hash = mapping.identity.hash(&image.tuple());
            let hash = hash.map_err(|source| Error::Key {
                table: mapping.name(),
                source,
            })?;
            if let Some(hash) = hash {
                let known = asked.entry(hash).or_insert((image, version));
                known.1 = known.1.min(version);
            }
        }
        let asked: Vec<(KeyHash, Image, Version)> =
            asked.into_iter().map(|(h, (i, v))| (h, i, v)).collect();
        let images: Vec<&Image> = asked.iter().map(|a| &a.1).collect();
        let locks = writer.lock(mapping, &images, 0);
        let outcomes = writer.run().await?;
        let found = locks.found(&outcomes, images.len());
        let standing: Vec<_> = asked
            .into_iter()
            .zip(found)
            .filter_map(|(asked, found)| found.map(|_| asked))
            .collect();
        if standing.is_empty() {
            return Ok(0);
        }
        // The rows are locked: what capture passes now is all that was written to them.
        if !self.context.barriers.pass().await {
            return Err(Error::Shutdown);
        }
        let mut gone = Vec::new();
        for (hash, image, version) in standing {
            let relation = mapping.identity.relation;
            let entry = self.context.ledger.known(relation, hash);
            match entry {
                Some(entry) if entry.undecided() => {
                    return Err(Error::Again("a session is deciding the same row"));
                }
                Some(entry) if entry.deleted && entry.version >= version => {
                    gone.push((RowKey { hash, image }, entry));
                }
                _ => {}
            }
        }
        self.remove(writer, mapping, &gone).await
    }

    async fn remove(
        &self,
        writer: &mut Writer,
        mapping: &Mapping,
        gone: &[(RowKey, Entry)],
    ) -> Result<u64, Error> {
        for (key, entry) in gone {
            let none = Position {
                origin: entry.version.origin,
                lsn: everywrite_conflict::Lsn::ZERO,
            };
            let source = entry.source.unwrap_or(none);
            if source.origin == self.context.me {
                // A stamp that a crash could change decides nothing.
                careful::durable(&self.context, source.lsn).await?;
            }
            writer.history(
                mapping,
                &history::Entry {
                    kind: Kind::DeleteOriginDiffers,
                    outcome: history::Outcome::Applied,
                    row: None,
                    key: &key.image,
                    local_key: &key.image,
                    names_local: false,
                    local: None,
                    version: entry.version,
                    position: source,
                    xid: 0,
                    unlocked: None,
                },
            );
        }
        let keys: Vec<&RowKey> = gone.iter().map(|g| &g.0).collect();
        writer.write(mapping, &keys, &[], &[], Guard::Decided);
        writer.run().await?;
        Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
    }
}

fn image(row: &RepairRow) -> Image {
    let tuple = Tuple::from_parts(row.count, &row.cells);
    let cells: Vec<Cell<'_>> = tuple.iter().collect();
    Image::from_cells(cells.into_iter())
}

/// A look at the row with this key.
pub(super) fn ask(mapping: &Mapping, key: &Image, version: Version) -> Repair {
    let tuple = key.tuple();
    Repair {
        relation: Arc::new(mapping.relation.clone()),
        row: Some(RepairRow {
            count: u16::try_from(tuple.len()).unwrap_or(u16::MAX),
            cells: bytes::Bytes::copy_from_slice(tuple.as_bytes()),
        }),
        version,
    }
}
