//! Slots: the server's memory of how far a stream was confirmed.

use everywrite_conflict::Lsn;

use super::stream::connect;
use crate::pg::quote::identifier;
use crate::pg::wire::Connection;
use crate::pg::{Error, Target};

/// A replication slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// Database; none for a physical slot.
    pub database: Option<String>,
    /// Process that streams it now.
    pub active_pid: Option<i32>,
    /// Start of the oldest WAL it keeps.
    pub restart_lsn: Option<Lsn>,
    /// Everything committed before is confirmed.
    pub confirmed_flush: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

/// Looks a slot up.
pub async fn find_slot(client: &tokio_postgres::Client, name: &str) -> Result<Option<Slot>, Error> {
    let row = client
        .query_opt(
            "select slot_name::text, plugin::text, database::text, active_pid,
                    (restart_lsn - '0/0'::pg_lsn)::bigint, (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint,
                    wal_status
               from pg_catalog.pg_replication_slots
              where slot_name = $1::text::name",
            &[&name],
        )
        .await?;
    row.map(|row| {
        Ok(Slot {
            name: row.try_get(0)?,
            plugin: row.try_get(1)?,
            database: row.try_get(2)?,
            active_pid: row.try_get(3)?,
            restart_lsn: row.try_get::<_, Option<i64>>(4)?.map(lsn),
            confirmed_flush: row.try_get::<_, Option<i64>>(5)?.map(lsn),
            wal_status: row.try_get(6)?,
        })
    })
    .transpose()
}

/// Creates a lasting logical slot for pgoutput and gives its start: everything committed after it
/// comes through the slot.
///
/// The server waits for the transactions that are running now. SQLSTATE 42710 says the name is
/// taken.
pub async fn create_slot(client: &tokio_postgres::Client, name: &str) -> Result<Lsn, Error> {
    let row = client
        .query_one(
            "select (lsn - '0/0'::pg_lsn)::bigint
               from pg_catalog.pg_create_logical_replication_slot($1::text::name, 'pgoutput')",
            &[&name],
        )
        .await?;
    Ok(lsn(row.try_get(0)?))
}

/// Drops a slot. SQLSTATE 55006 says that it is in use, 42704 that there is none.
pub async fn drop_slot(client: &tokio_postgres::Client, name: &str) -> Result<(), Error> {
    client
        .execute(
            "select pg_catalog.pg_drop_replication_slot($1::text::name)",
            &[&name],
        )
        .await?;
    Ok(())
}

/// A new slot, with a snapshot that sees exactly what was committed before the slot's start.
pub struct ExportedSlot {
    /// For `SET TRANSACTION SNAPSHOT`, valid until this value is dropped.
    pub snapshot: String,
    /// Everything committed after it comes through the slot.
    pub start: Lsn,
    /// The snapshot lives as long as this connection does nothing else.
    _connection: Connection,
}

/// Creates a lasting logical slot for pgoutput and exports the snapshot of its start, for copying
/// the tables as they were then.
pub async fn create_slot_exporting(target: &Target, name: &str) -> Result<ExportedSlot, Error> {
    let mut connection = connect(target).await?;
    let sql = format!(
        "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')",
        identifier(name)
    );
    let rows = connection.simple_query(&sql).await?;
    let text = |index: usize| {
        let cell = rows.first()?.get(index)?.as_ref()?;
        std::str::from_utf8(cell).ok()
    };
    let start = text(1).and_then(|start| start.parse().ok());
    match (start, text(2).map(str::to_owned)) {
        (Some(start), Some(snapshot)) => Ok(ExportedSlot {
            snapshot,
            start,
            _connection: connection,
        }),
        _ => Err(Error::Protocol(
            "no snapshot in answer to CREATE_REPLICATION_SLOT".to_owned(),
        )),
    }
}

/// The bits of a `bigint` that `pg_lsn - '0/0'` gives. WAL positions stay below 2^63 for longer than
/// any server lives.
fn lsn(distance: i64) -> Lsn {
    Lsn(distance.unsigned_abs())
}
