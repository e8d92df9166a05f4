//! What the daemon tells the database about itself, and the size of the history.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::Json;

use crate::admin::Error;
use crate::telemetry::Status;

/// Puts `status` where the views read it. The daemon calls this each second; the views say that
/// it is down when the last call is 5 s old.
///
/// # Errors
/// A failed statement; the next call makes up for it.
pub async fn publish_status(client: &Client, status: &Status) -> Result<(), Error> {
    client
        .execute(
            "insert into everywrite.node_status as s (one, status, updated_at)
             values (true, $1, clock_timestamp())
             on conflict (one) do update
                set status = excluded.status, updated_at = excluded.updated_at",
            &[&Json(status)],
        )
        .await
        .map_err(Error::sql("write everywrite.node_status"))?;
    Ok(())
}

/// Deletes conflict history older than `older_than` or beyond the newest `keep_rows`, a limited
/// number of rows; returns how many. Call again until it returns 0.
///
/// # Errors
/// A failed statement.
pub async fn forget_conflicts(
    client: &Client,
    older_than: Option<Duration>,
    keep_rows: Option<i64>,
) -> Result<u64, Error> {
    let older_than_s = older_than.map(|age| age.as_secs_f64());
    let row = client
        .query_one(
            "select everywrite.forget_conflicts(make_interval(secs => $1), $2)",
            &[&older_than_s, &keep_rows],
        )
        .await
        .map_err(Error::sql("delete old conflict history"))?;
    let deleted: i64 = row
        .try_get(0)
        .map_err(Error::sql("delete old conflict history"))?;
    Ok(deleted.unsigned_abs())
}
