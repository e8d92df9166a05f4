//! Whether the server is still the one that it was.
//!
//! When one of its processes crashes, a server ends every session and forgets what was not flushed. A session that is made
//! afterwards sees nothing of that, while another one may still have an answer to read from before, of a commit that is
//! gone. So one connection is held for nothing else: whoever makes a session asks there first. If it is gone, perhaps
//! the server was, and all sessions begin anew.

use std::time::Duration;

use everywrite_conflict::Vector;
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::{Ledger, progress};
use crate::pg::{Error, Target};

/// A server that does not answer for so long counts as gone.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Default)]
pub struct Lifeline {
    client: Mutex<Option<Client>>,
}

impl Lifeline {
    /// Asks the server how far every origin is applied, flushed, and tells the ledger if it has forgotten something or was
    /// started anew. What is asked is whether it has been the same since the last call; sessions that are made
    /// before the next one notice for themselves.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn ask(&self, target: &Target, ledger: &Ledger) -> Result<Vector, Error> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.take() {
            let generation = *ledger.watch_server().borrow();
            if let Ok(Ok(applied)) = tokio::time::timeout(ANSWER, progress(&client, ledger)).await {
                *held = Some(client);
                return Ok(applied);
            }
            ledger.broke(generation);
        }
        let client = target.named("everywrite lifeline").client().await?;
        client
            .batch_execute("set idle_session_timeout = 0")
            .await
            .map_err(Error::from)?;
        let applied = progress(&client, ledger).await?;
        *held = Some(client);
        Ok(applied)
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::NodeId;

    use super::*;
    use crate::pg::test_server::TestServer;

    #[tokio::test]
    async fn sessions_begin_anew_when_it_is_gone() {
        for server in TestServer::all() {
            let target = server.database().await;
            let (ledger, lifeline) = (Ledger::new(NodeId(1)), Lifeline::default());
            let generation = || *ledger.watch_server().borrow();
            for _ in 0..3 {
                lifeline.ask(&target, &ledger).await.unwrap();
                assert_eq!(generation(), 0, "nothing has happened");
            }
            let other = target.client().await.unwrap();
            let end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity \
                        where application_name = 'everywrite lifeline' and datname = current_database()";
            let ended = other.query(end, &[]).await.unwrap();
            assert_eq!(ended.len(), 1);
            lifeline.ask(&target, &ledger).await.unwrap();
            assert_eq!(generation(), 1);
            lifeline.ask(&target, &ledger).await.unwrap();
            assert_eq!(generation(), 1);
        }
    }
}
