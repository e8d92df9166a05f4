//! What people say in SQL reaches the daemon through the WAL.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::node::Shared;
use crate::capture::{Repair, Signal};

/// Carries out commands; the tables hold the truth, a command only says to look.
pub(super) struct Commands {
    pub(super) shared: Arc<Shared>,
    pub(super) repairs: mpsc::UnboundedSender<Repair>,
}

impl Commands {
    /// Runs until shutdown.
    pub(super) async fn run(
        self,
        mut inbox: mpsc::UnboundedReceiver<Signal>,
        shutdown: CancellationToken,
    ) {
        loop {
            let signal = tokio::select! {
                () = shutdown.cancelled() => return,
                signal = inbox.recv() => match signal {
                    Some(signal) => signal,
                    None => return,
                },
            };
            match signal {
                Signal::Repair(repair) => {
                    self.shared.ledger.repair_begins();
                    let _ = self.repairs.send(repair);
                }
                Signal::Command(command) => {
                    tracing::info!(?command, "a person decided");
                    while let Err(error) = self.look().await {
                        tracing::warn!(error = %error, "what a person decided could not be read, trying again");
                        tokio::select! {
                            () = shutdown.cancelled() => return,
                            () = tokio::time::sleep(Duration::from_millis(500)) => {}
                        }
                    }
                }
                Signal::Barrier(_) => {}
            }
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        let client = self
            .shared
            .target
            .named("everywrite commands")
            .client()
            .await?;
        // Capture may be here before the transaction that spoke is visible to others: who waits for a
        // standby has its commit in the WAL already. It holds its locks until then.
        let locked = "begin; set local lock_timeout = '2s'; \
             lock table everywrite.paused, everywrite.skipped in share mode";
        client.batch_execute(locked).await?;
        self.shared.read_decisions(&client).await?;
        client.batch_execute("commit").await?;
        Ok(())
    }
}
