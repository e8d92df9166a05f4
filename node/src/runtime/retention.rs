//! Keeps the conflict history as short as `[conflicts]` says, in small batches: a batch is one short
//! transaction, so neither replay nor vacuum waits for it.

use std::time::Duration;

use everywrite_config::Conflicts;
use tokio_util::sync::CancellationToken;

use crate::admin::schema;
use crate::pg::Target;

/// How often old conflicts are looked for.
const ROUND: Duration = Duration::from_secs(60);
/// Rows of a batch.
const BATCH: i64 = 2_000;
/// Between two batches: with it some 50,000 rows a second go at most, faster than they can come.
const PAUSE: Duration = Duration::from_millis(20);

/// Deletes what is too old or too much, until shutdown.
pub(super) async fn run(target: Target, keep: Conflicts, shutdown: CancellationToken) {
    let target = target.named("everywrite retention");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            done = round(&target, &keep) => if let Err(error) = done {
                tracing::debug!(error = %error, "old conflict history could not be deleted");
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn round(target: &Target, keep: &Conflicts) -> anyhow::Result<()> {
    let client = target.client().await?;
    let rows = i64::try_from(keep.history_rows).unwrap_or(i64::MAX);
    let up_to = match rows {
        0 => None,
        rows => schema::beyond_newest(&client, rows).await?,
    };
    let mut deleted = 0;
    loop {
        let batch = schema::forget_conflicts(&client, keep.history_keep, up_to, BATCH).await?;
        deleted += batch;
        if batch == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if deleted > 0 {
        tracing::info!(rows = deleted, "old conflict history deleted");
    }
    Ok(())
}
