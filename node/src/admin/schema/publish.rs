//! What the daemon tells the database about itself.

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
