//! Rows that lost, merged into what stands by a function of the user's (the policy `function`).
//!
//! ```text
//!  replay, deciding ──► history: 'merging' ──► here, a session without origin, one transaction a key:
//!                                                lock the row, call the function, write, history: 'merged'
//! ```
//!
//! - The entry is written by the transaction that decides, and it is flushed (ADR 3). The merge takes it off
//!   in the transaction that writes the row. So each is merged once, whatever crashes in between.
//! - The session has no replication origin: what it writes is captured, gets a stamp above all it has seen,
//!   and travels like an application's write. Triggers do not fire, as for all that replay writes.
//! - Who merges, and when, is argued in [`everywrite_conflict::policy::merging`].
//! - The function runs with the rights of its owner: `everywrite.merge_function` refuses others.
//! - A function that fails leaves its entry open, to be tried again; nothing else waits for it. One that breaks
//!   its contract stops the table: from then on a stream that brings another conflict of it is held.
//!
//! Trap: a function's error may quote the row. It goes into the history, never into the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use everywrite_conflict::Vector;
use everywrite_conflict::policy::merging::{May, Standing, Turns};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::careful::Context;
use super::table::Table;
use crate::pg::{Error, Target};
use crate::settle::Stability;
use crate::telemetry::OpenConflicts;

/// How often there is a look without being told.
const LOOK: Duration = Duration::from_secs(2);
/// The same while a row waits for what stands to become stable, or for a lock.
const SOON: Duration = Duration::from_millis(100);
/// Keys that are asked for together.
const AT_ONCE: i64 = 500;
/// The first pause after a function has failed, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often is counted what is open.
const COUNT: Duration = Duration::from_secs(1);
/// A table's first merges are done with swapped arguments too, and then one in so many.
const SAMPLE: u64 = 16;
/// The function breaks its contract.
const CONTRACT: &str = "EW010";

const SESSION: &str = "set synchronous_commit = local; set session_replication_role = replica; \
    set search_path = pg_catalog; set row_security = off; set statement_timeout = '5s'; set lock_timeout = '500ms'; \
    set idle_in_transaction_session_timeout = 0; set default_transaction_isolation = 'read committed'";

/// A table's schema and name.
type Name = (String, String);

/// What streams, status and the merging session share.
#[derive(Debug, Default)]
pub struct Merging {
    told: Notify,
    /// Tables whose function breaks its contract: by which entry, and how.
    broken: Mutex<HashMap<Name, (i64, String)>>,
    open: Mutex<Vec<OpenConflicts>>,
}

impl Merging {
    /// Something is to be merged, or waits for a person.
    pub(super) fn look(&self) {
        self.told.notify_one();
    }

    /// Why nothing of the table is merged.
    pub(super) fn broken(&self, table: &Table) -> Option<String> {
        let name = (table.schema.clone(), table.name.clone());
        self.broken.lock().get(&name).map(|(_, why)| why.clone())
    }

    /// How much is open, by table.
    pub fn open(&self) -> Vec<OpenConflicts> {
        self.open.lock().clone()
    }
}

/// Runs until shutdown.
pub async fn run(
    target: Target,
    context: Context,
    stability: Arc<Stability>,
    shutdown: CancellationToken,
) {
    let mut worker = Worker {
        target: target.named("everywrite merge"),
        context,
        stability,
        client: None,
        turns: Turns::default(),
        failed: HashMap::new(),
        merges: HashMap::new(),
        counted: None,
    };
    loop {
        let passed = tokio::select! {
            () = shutdown.cancelled() => return,
            passed = worker.pass() => passed,
        };
        let pause = passed.unwrap_or_else(|error| {
            tracing::debug!(error = %error, "rows could not be merged, trying again");
            worker.client = None;
            SOON
        });
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = worker.context.merging.told.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A key that waits.
struct Waiting {
    /// Its oldest entry.
    id: i64,
    table: Name,
    key: String,
    /// Which change of the policy holds.
    epoch: String,
}

/// An entry whose merge failed.
struct Failed {
    epoch: String,
    again: Instant,
    pause: Duration,
}

enum Merged {
    /// Nothing of the key is left to be merged.
    Done,
    /// Not yet.
    NotYet,
    /// The function said no.
    Failed { code: String, text: String },
}

struct Worker {
    target: Target,
    context: Context,
    stability: Arc<Stability>,
    client: Option<Client>,
    turns: Turns<(Name, String)>,
    failed: HashMap<i64, Failed>,
    /// How many were merged by the function, for the sample.
    merges: HashMap<Name, u64>,
    counted: Option<Instant>,
}

impl Worker {
    /// Looks at all keys that wait. Returns when to look again.
    async fn pass(&mut self) -> Result<Duration, Error> {
        let client = match self.client.take().filter(|c| !c.is_closed()) {
            Some(client) => client,
            None => {
                let client = self.target.client().await?;
                client.batch_execute(SESSION).await?;
                client
            }
        };
        let (mut behind, mut pause) = (0_i64, LOOK);
        let (mut ids, mut tables) = (HashSet::new(), HashSet::new());
        loop {
            let page = next(&client, behind).await?;
            let Some(last) = page.last() else { break };
            behind = last.id;
            for waiting in page {
                ids.insert(waiting.id);
                tables.insert(waiting.table.clone());
                if !self.due(&waiting) {
                    continue;
                }
                match self.merge(&client, &waiting).await? {
                    Merged::Done => self.done(&waiting),
                    Merged::NotYet => pause = SOON,
                    Merged::Failed { code, text } => {
                        self.fails(&client, &waiting, &code, &text).await?;
                    }
                }
            }
        }
        self.failed.retain(|id, _| ids.contains(id));
        self.context
            .merging
            .broken
            .lock()
            .retain(|table, _| tables.contains(table));
        if self.counted.is_none_or(|at| at.elapsed() >= COUNT) {
            self.tell(open(&client).await?);
            self.counted = Some(Instant::now());
        } else {
            pause = pause.min(COUNT);
        }
        self.client = Some(client);
        let now = Instant::now();
        let soonest = self.failed.values().map(|f| f.again.duration_since(now));
        Ok(soonest.fold(pause, Duration::min).max(SOON))
    }

    /// Says how much is open; of tables of which something was, that nothing is.
    fn tell(&self, mut now: Vec<OpenConflicts>) {
        let mut open = self.context.merging.open.lock();
        let same =
            |a: &OpenConflicts, b: &OpenConflicts| (&a.schema, &a.table) == (&b.schema, &b.table);
        for before in open.drain(..) {
            if !now.iter().any(|n| same(n, &before)) {
                now.push(OpenConflicts {
                    merging: 0,
                    parked: 0,
                    oldest_at_us: 0,
                    ..before
                });
            }
        }
        *open = now;
    }

    /// Whether it is to be tried now.
    fn due(&self, waiting: &Waiting) -> bool {
        let paused = self.failed.get(&waiting.id);
        if paused.is_some_and(|f| f.epoch == waiting.epoch && Instant::now() < f.again) {
            return false;
        }
        // Of a table that is stopped only the entry that showed it: it fares better when the function does.
        let broken = self.context.merging.broken.lock();
        broken
            .get(&waiting.table)
            .is_none_or(|(id, _)| *id == waiting.id)
    }

    fn done(&mut self, waiting: &Waiting) {
        self.failed.remove(&waiting.id);
        let mut broken = self.context.merging.broken.lock();
        if broken.remove(&waiting.table).is_some() {
            let (schema, name) = &waiting.table;
            tracing::info!(table = format!("{schema}.{name}"), "merging goes on");
        }
    }

    async fn fails(
        &mut self,
        client: &Client,
        waiting: &Waiting,
        code: &str,
        text: &str,
    ) -> Result<(), Error> {
        let failed = "select everywrite.merge_failed($1, $2)";
        client.execute(failed, &[&waiting.id, &text]).await?;
        let (schema, name) = &waiting.table;
        let table = format!("{schema}.{name}");
        if code == CONTRACT {
            let mut broken = self.context.merging.broken.lock();
            let why = (waiting.id, text.to_owned());
            if broken.insert(waiting.table.clone(), why).is_none() {
                tracing::error!(table, reason = text, "merging stopped");
            }
        }
        let before = self.failed.get(&waiting.id);
        let before = before.filter(|f| f.epoch == waiting.epoch);
        if before.is_none() && code != CONTRACT {
            tracing::warn!(
                table,
                conflict = waiting.id,
                code,
                "the function of a policy failed, trying again; see everywrite.merging"
            );
        }
        let pause = before.map_or(BACKOFF.0, |f| (f.pause * 2).min(BACKOFF.1));
        let failed = Failed {
            epoch: waiting.epoch.clone(),
            again: Instant::now() + pause,
            pause,
        };
        self.failed.insert(waiting.id, failed);
        Ok(())
    }

    /// Merges a key, or says why not yet. An error ends the session.
    async fn merge(&mut self, client: &Client, waiting: &Waiting) -> Result<Merged, Error> {
        client.batch_execute("begin").await?;
        match self.merge_in_transaction(client, waiting).await {
            Ok(Some(merged)) => Ok(merged),
            Ok(None) => {
                client.batch_execute("rollback").await?;
                Ok(Merged::NotYet)
            }
            Err(error) => {
                let Some(db) = error.as_db_error() else {
                    return Err(error.into());
                };
                let code = db.code().code();
                client.batch_execute("rollback").await?;
                match code {
                    "40001" | "40P01" | "55P03" => Ok(Merged::NotYet),
                    // The session or the server, not the function: which may raise whatever it likes.
                    _ if ["08", "53", "57P"].iter().any(|c| code.starts_with(c)) => {
                        Err(error.into())
                    }
                    _ => Ok(Merged::Failed {
                        code: code.to_owned(),
                        text: told(db),
                    }),
                }
            }
        }
    }

    /// `None`: not yet, and the transaction is still open.
    async fn merge_in_transaction(
        &mut self,
        client: &Client,
        waiting: &Waiting,
    ) -> Result<Option<Merged>, tokio_postgres::Error> {
        let begin = "select write, own from everywrite.merge_begin($1)";
        let Some(row) = client.query_opt(begin, &[&waiting.id]).await? else {
            client.batch_execute("commit").await?;
            return Ok(Some(Merged::Done));
        };
        let (write, own): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        let standing = Standing {
            write: write.unsigned_abs(),
            own,
        };
        let key = (waiting.table.clone(), waiting.key.clone());
        match self.turns.may(&key, standing, &self.stable()) {
            May::Merge => {}
            May::Wait => return Ok(None),
            May::Ask => {
                client.batch_execute("rollback; begin").await?;
                // What stands is captured then, if it is of this site.
                if self.context.barriers.pass().await {
                    self.turns.wait(&key, standing, self.all());
                }
                return Ok(None);
            }
        }
        let merges = self.merges.entry(waiting.table.clone()).or_default();
        let both_ways = *merges < SAMPLE || merges.is_multiple_of(SAMPLE);
        let rows = "select everywrite.merge_rows($1, $2)";
        let row = client.query_one(rows, &[&waiting.id, &both_ways]).await?;
        client.batch_execute("commit").await?;
        *merges += 1;
        if let Some(write) = row.try_get::<_, Option<i64>>(0)? {
            self.turns.merged(&key, write.unsigned_abs());
        }
        Ok(Some(Merged::Done))
    }

    /// What every member has, and has said all it had committed before.
    fn stable(&self) -> Vector {
        let mut flushed = self.context.ledger.flushed();
        flushed.set(self.context.me, self.context.journal.end());
        self.stability.stable(&flushed)
    }

    /// All that is applied here, and captured.
    fn all(&self) -> Vector {
        let ledger = &self.context.ledger;
        let mut all = ledger.applied();
        all.set(self.context.me, ledger.stamped_to());
        all
    }
}

/// What the server said, for people.
fn told(db: &tokio_postgres::error::DbError) -> String {
    let mut text = db.message().to_owned();
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str(if text.ends_with('.') { " " } else { ". " });
        text.push_str(more);
    }
    text
}

async fn next(client: &Client, behind: i64) -> Result<Vec<Waiting>, Error> {
    let sql = "select id, schema_name, table_name, key, epoch from everywrite.merge_next($1, $2)";
    let rows = client.query(sql, &[&behind, &AT_ONCE]).await?;
    let waiting = |row: &tokio_postgres::Row| {
        Ok(Waiting {
            id: row.try_get(0)?,
            table: (row.try_get(1)?, row.try_get(2)?),
            key: row.try_get(3)?,
            epoch: row.try_get(4)?,
        })
    };
    let rows: Result<_, tokio_postgres::Error> = rows.iter().map(waiting).collect();
    Ok(rows?)
}

async fn open(client: &Client) -> Result<Vec<OpenConflicts>, Error> {
    let sql = "select schema_name, table_name, merging, parked, \
        (extract(epoch from oldest) * 1000000)::bigint from everywrite.open_conflicts()";
    let count = |n: i64| n.unsigned_abs();
    let open = |row: &tokio_postgres::Row| {
        Ok(OpenConflicts {
            schema: row.try_get(0)?,
            table: row.try_get(1)?,
            merging: count(row.try_get(2)?),
            parked: count(row.try_get(3)?),
            oldest_at_us: row.try_get(4)?,
        })
    };
    let rows = client.query(sql, &[]).await?;
    let rows: Result<_, tokio_postgres::Error> = rows.iter().map(open).collect();
    Ok(rows?)
}
