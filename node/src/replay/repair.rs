//! Rows that stand where a local delete came first.
//!
//! A local transaction deletes a row (perhaps one that it has just inserted) and capture has not
//! reached it; meanwhile an insert of the same key is replayed, finds nothing, and lands. When
//! capture gets to the delete, its stamp is above the insert's, so everywhere else the row is gone.
//! Capture notices by the WAL positions and asks for a second look here: if by the index the row
//! is gone, and what stands there was written by replay and is older, it is deleted.

use std::time::Duration;

use everywrite_conflict::Version;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::careful::Context;
use super::table::Table;
use crate::capture::{Repair, RepairRow};
use crate::pg::Target;
use crate::pg::pgoutput::{Cell, Tuple};
use crate::pg::pipeline::{Batch, Session};
use crate::pg::sqlstate::Class;
use crate::settle::Identity;

/// The replication origin of repairs: what they write is not captured.
const ORIGIN: &str = "everywrite_repair";

/// Runs until shutdown.
pub async fn run(
    target: Target,
    context: Context,
    mut repairs: mpsc::UnboundedReceiver<Repair>,
    shutdown: CancellationToken,
) {
    loop {
        let repair = tokio::select! {
            () = shutdown.cancelled() => return,
            repair = repairs.recv() => match repair {
                Some(repair) => repair,
                None => return,
            },
        };
        let table = format!("{}.{}", repair.table.0, repair.table.1);
        let mut pause = Duration::from_millis(20);
        loop {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = look(&target, &context, &repair) => outcome,
            };
            match outcome {
                Ok(0) => break,
                Ok(rows) => {
                    tracing::info!(
                        table,
                        rows,
                        "removed replayed rows that a local delete had preceded"
                    );
                    break;
                }
                Err(error) => {
                    // The session of the look before may still hold the origin: nothing to see to.
                    if error.class() == Class::Retry {
                        tracing::debug!(table, error = %error.chain(), "a second look at a row comes again");
                    } else {
                        tracing::warn!(table, error = %error.chain(), "a second look at a row failed, trying again");
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }
}

async fn look(target: &Target, context: &Context, repair: &Repair) -> Result<u64, Error> {
    context.ledger.wait_for_blind(&context.ledger.blind()).await;
    let client = target.named("everywrite repair").client().await?;
    let Some(table) = Table::load(&client, &repair.table.0, &repair.table.1).await? else {
        return Ok(0);
    };
    let mut session = Session::connect(&target.named("everywrite repair"), &[]).await?;
    for sql in [
        "set session_replication_role = replica".to_owned(),
        "set search_path = pg_catalog".to_owned(),
        format!(
            "select pg_replication_origin_create('{ORIGIN}') \
             where not exists (select from pg_replication_origin where roname = '{ORIGIN}')"
        ),
        format!("select pg_replication_origin_session_setup('{ORIGIN}')"),
        "begin".to_owned(),
    ] {
        session.query_simple(&sql).await?;
    }
    let rows = match &repair.row {
        Some(row) => one_row(context, &mut session, &table, row, repair.version).await?,
        None => older_rows(&mut session, &table, repair.version).await?,
    };
    session.query_simple("commit").await?;
    Ok(rows)
}

/// What replay wrote here with an older stamp. The row's commit timestamp is its group's newest
/// stamp, and the delete was stamped above every group on its way.
fn older(version: Version) -> String {
    format!(
        "coalesce((pg_xact_commit_timestamp_origin(xmin)).roident, 0) <> 0 and \
         (pg_xact_commit_timestamp_origin(xmin)).timestamp < '2000-01-01 00:00:00+00'::timestamptz + {} * interval '1 microsecond'",
        version.stamp.0
    )
}

async fn one_row(
    context: &Context,
    session: &mut Session,
    table: &Table,
    row: &RepairRow,
    version: Version,
) -> Result<u64, Error> {
    let pk = (!table.primary_key.is_empty()).then_some(table.primary_key.as_slice());
    let relation = &row.relation;
    let identity = Identity::of(relation, pk);
    let key = Tuple::from_parts(row.count, &row.cells);
    let hash = identity.hash(&key).map_err(|source| Error::Key {
        table: table.name.clone(),
        source,
    })?;
    let Some(hash) = hash else { return Ok(0) };
    let gone = context.ledger.with_index(|index| {
        index
            .get(identity.relation, hash)
            .is_none_or(|e| e.deleted && e.version >= version)
    });
    if !gone {
        return Ok(0);
    }
    let cells: Vec<Cell<'_>> = key.iter().collect();
    let mut condition = Vec::new();
    let mut types = Vec::new();
    for (n, (i, type_oid)) in identity.columns.iter().enumerate() {
        let name = relation.columns.get(*i).map_or("", |c| c.name.as_str());
        condition.push(format!("{} = ${}", super::table::quote(name), n + 1));
        types.push(*type_oid);
    }
    let mut batch = Batch::new();
    let sql = format!(
        "delete from {} where {} and {}",
        table.quoted,
        condition.join(" and "),
        older(version)
    );
    batch.parse("repair", &sql, &types);
    let mut bind = batch.bind("repair");
    for (i, _) in &identity.columns {
        bind = match cells.get(*i) {
            Some(Cell::Text(text)) => bind.text(Some(text)),
            Some(Cell::Binary(bytes)) => bind.binary(Some(bytes)),
            _ => bind.binary(None),
        };
    }
    let at = bind.execute();
    let outcomes = session.run(&mut batch).await?;
    Ok(outcomes.get(at).map_or(0, |o| o.affected))
}

async fn older_rows(session: &mut Session, table: &Table, version: Version) -> Result<u64, Error> {
    let sql = format!("delete from {} where {}", table.quoted, older(version));
    let outcomes = session.query_simple(&sql).await?;
    Ok(outcomes.first().map_or(0, |o| o.affected))
}
