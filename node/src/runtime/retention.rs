//! Keeps the conflict history as short as `[conflicts]` says, in small batches: a batch is one short
//! transaction, so neither replay nor vacuum waits for it. And deletes what is left out no more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use everywrite_config::Conflicts;
use everywrite_conflict::NodeId;
use tokio_util::sync::CancellationToken;

use crate::admin::schema;
use crate::pg::Target;
use crate::settle::Ledger;

/// How often old conflicts are looked for.
const ROUND: Duration = Duration::from_secs(60);
/// Rows of a batch.
const BATCH: i64 = 2_000;
/// Between two batches: with it some 50,000 rows a second go at most, faster than they can come.
const PAUSE: Duration = Duration::from_millis(20);

/// Deletes what is too old or too much, until shutdown.
pub(super) async fn run(
    target: Target,
    keep: Conflicts,
    members: Arc<HashMap<NodeId, String>>,
    ledger: Arc<Ledger>,
    shutdown: CancellationToken,
) {
    let target = target.named("everywrite retention");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            done = round(&target, &keep, &members, &ledger) => if let Err(error) = done {
                tracing::debug!(error = %error, "old conflict history could not be deleted");
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

async fn round(
    target: &Target,
    keep: &Conflicts,
    members: &HashMap<NodeId, String>,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let client = target.client().await?;
    // What is applied is committed, and in the WAL before this: a crash does not take back the one without the other.
    schema::left_out(&client, members, &ledger.applied()).await?;
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
