//! Deletes that travel leave through the local WAL.
//!
//! What a replay session writes is not captured, so what it decides for everybody stands in a
//! table until a session without origin turns it into messages of the local stream, once: the row
//! goes and the message comes in one transaction.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admin::schema::EMIT_OUTBOX;
use crate::capture::chain;
use crate::pg::{Error, Target};

/// How many leave in one transaction.
const AT_ONCE: i64 = 500;
/// How often there is a look without being told: after a crash something may stand there.
const LOOK: Duration = Duration::from_secs(2);

/// Runs until shutdown.
pub async fn run(target: Target, told: Arc<Notify>, shutdown: CancellationToken) {
    let mut client = None;
    let mut said = String::new();
    loop {
        let emptied = tokio::select! {
            () = shutdown.cancelled() => return,
            emptied = empty(&target, &mut client) => emptied,
        };
        let pause = match emptied {
            Ok(()) => {
                said.clear();
                LOOK
            }
            Err(error) => {
                let text = chain(&error);
                if text != said {
                    tracing::warn!(error = %text, "the outbox could not be emptied, trying again: deletes that were decided here have not left");
                    said = text;
                }
                client = None;
                Duration::from_millis(200)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = told.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn empty(target: &Target, client: &mut Option<tokio_postgres::Client>) -> Result<(), Error> {
    let session = match client {
        Some(session) => session,
        None => {
            let fresh = target.named("everywrite outbox").client().await?;
            fresh
                .batch_execute("set synchronous_commit = local; set statement_timeout = 0")
                .await?;
            client.insert(fresh)
        }
    };
    loop {
        let left = session.query(EMIT_OUTBOX, &[&AT_ONCE]).await?.len();
        if left < usize::try_from(AT_ONCE).unwrap_or(0) {
            return Ok(());
        }
    }
}
