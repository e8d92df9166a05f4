//! The task that streams the local slot into the own journal.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use everywrite_conflict::{Lsn, NodeId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, Round};
use super::processors::Processors;
use super::{Assembled, Assembler, Error, Hurry, Shapes, Signal, spool::Spools};
use crate::journal::Journal;
use crate::pg::Target;
use crate::pg::replication::{self, Event, Feedback};
use crate::settle::{Ledger, progress};

/// The slot and the publication are named so.
pub(super) const NAME: &str = "everywrite";
/// Frames are handed to the journal at the latest at this size while more keeps coming.
const FRAMES_BYTES: usize = 1 << 20;
/// How often the server hears from us when nothing changes: well below `wal_sender_timeout`, 60 s.
const FEEDBACK: Duration = Duration::from_secs(1);
/// What has become durable is confirmed at most so often: the server only keeps a little more WAL
/// meanwhile, and each message wakes its walsender.
const CONFIRM: Duration = Duration::from_millis(100);
/// At a stop capture still comes to the end of the local WAL and says so, if that takes no longer: the next
/// start then has nothing to decode again, and replay waits for that.
const LEAVING: Duration = Duration::from_secs(1);
/// An answer that is out so long is worth a line in the log: longer than a server needs to start again.
const UNANSWERED: Duration = Duration::from_secs(10);
/// The first pause after an error, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What capture needs.
pub struct Options {
    /// This node.
    pub me: NodeId,
    /// The local server.
    pub target: Target,
    /// Where large transactions wait for their commit.
    pub spool: PathBuf,
    /// Rung when somebody waits for what has just been written into the WAL.
    pub hurry: Arc<Hurry>,
    /// For how long commits are gathered at most (`longest-round`).
    pub longest_round: Duration,
}

/// How capture is doing.
#[derive(Debug, Default)]
pub struct Progress {
    /// Transactions put into the journal since start.
    pub transactions: AtomicU64,
    /// Their changes.
    pub changes: AtomicU64,
    /// The end of the server's WAL as last heard.
    pub server_lsn: AtomicU64,
    /// For how long capture's thread waits for a processor when it is woken, in the mean, µs.
    pub processor_wait_us: AtomicU64,
    /// "streaming", "waiting" or "connecting", and why.
    pub state: Mutex<(&'static str, Option<String>)>,
}

/// The task's parts.
pub struct Capture {
    options: Options,
    journal: Journal,
    ledger: Arc<Ledger>,
    signals: mpsc::UnboundedSender<Signal>,
    progress: Arc<Progress>,
}

impl Capture {
    /// `signals`: what local transactions tell the daemon. They are few: barriers, commands.
    pub fn new(
        options: Options,
        journal: Journal,
        ledger: Arc<Ledger>,
        signals: mpsc::UnboundedSender<Signal>,
        progress: Arc<Progress>,
    ) -> Self {
        Capture {
            options,
            journal,
            ledger,
            signals,
            progress,
        }
    }

    /// Runs in a thread of its own until shutdown; reconnects for ever.
    ///
    /// # Errors
    /// Where the system gives no thread or no runtime for it.
    pub fn start(self, shutdown: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ended, end) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                runtime.block_on(self.run(shutdown));
                drop(ended);
            })?;
        // An error is the end of the thread.
        Ok(async move { drop(end.await) })
    }

    async fn run(self, shutdown: CancellationToken) {
        let shapes = Shapes::restore(self.journal.shapes());
        let spools = match Spools::open(&self.options.spool) {
            Ok(spools) => spools,
            Err(error) => {
                tracing::error!(error = %error, folder = %self.options.spool.display(), "the spool folder cannot be used");
                *self.progress.state.lock() =
                    ("stopped", Some(format!("open the spool folder: {error}")));
                return;
            }
        };
        let mut assembler = Assembler::new(self.options.me, shapes, self.journal.end(), spools);
        let mut pause = BACKOFF.0;
        let mut told = String::new();
        while !shutdown.is_cancelled() {
            self.progress.state.lock().0 = "connecting";
            let too_long = async {
                shutdown.cancelled().await;
                tokio::time::sleep(LEAVING).await;
            };
            let outcome = tokio::select! {
                () = too_long => return,
                outcome = self.stream(&mut assembler, &mut pause, &shutdown) => outcome,
            };
            if shutdown.is_cancelled() {
                return;
            }
            if let Err(error) = outcome {
                let text = chain(&error);
                if text != told {
                    tracing::warn!(error = %text, "capture stopped, trying again");
                    told.clone_from(&text);
                }
                *self.progress.state.lock() = ("connecting", Some(text));
            } else {
                told.clear();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn stream(
        &self,
        assembler: &mut Assembler,
        pause: &mut Duration,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let catalog = self
            .options
            .target
            .named("everywrite capture")
            .client()
            .await?;
        self.check_slot(&catalog).await?;
        // A new connection to the slot often means a new server process: streams that sit idle
        // on dead sessions begin anew, and what a crash took away is noticed.
        progress(&catalog, &self.ledger).await?;
        self.ledger.server_started();
        assembler.restart();
        let target = self.options.target.named("everywrite");
        let options = replication::Options::new(NAME);
        let (mut stream, feedback) = replication::start(&target, NAME, Lsn::ZERO, &options).await?;
        *self.progress.state.lock() = ("streaming", None);
        *pause = BACKOFF.0;
        tracing::info!(journal_end = %self.journal.end(), "capture streams from the local slot");
        let mut durable = self.journal.subscribe();
        let mut tick = tokio::time::interval(FEEDBACK);
        let mut primary_keys = HashMap::new();
        let mut confirmed = Instant::now();
        let mut pace = Pace::new(self.options.longest_round, confirmed);
        let mut processors = Processors::of_this_thread(confirmed);
        loop {
            rest(&pace, &self.options.hurry, shutdown);
            let event = tokio::select! {
                () = shutdown.cancelled() => {
                    let end = local_end(&catalog).await?;
                    self.confirm(assembler, &feedback, true).await?;
                    while self.ledger.watch_captured().borrow().lsn < end
                        && let Some(event) = stream.next().await?
                        && self.unanswered(&event).is_none()
                    {
                        self.take(event, assembler, &catalog, &mut primary_keys)
                            .await?;
                    }
                    self.append(assembler).await?;
                    let last = assembler.last();
                    let _ = durable.wait_for(|end| *end >= last).await;
                    return self.confirm(assembler, &feedback, false).await;
                }
                event = stream.next() => event?,
                () = news(&mut durable, confirmed + CONFIRM) => {
                    self.confirm(assembler, &feedback, false).await?;
                    confirmed = Instant::now();
                    continue;
                }
                _ = tick.tick() => {
                    self.confirm(assembler, &feedback, false).await?;
                    self.waits(&mut processors);
                    continue;
                }
            };
            let Some(event) = event else { return Ok(()) };
            let mut next = Some(event);
            let (mut round, before) = (Round::default(), assembler.transactions);
            while let Some(event) = next {
                if let Event::Data {
                    payload, sent_at, ..
                } = &event
                {
                    round.messages += 1;
                    round.bytes += payload.len();
                    round.sent_at = *sent_at;
                }
                let asked = matches!(
                    event,
                    Event::Keepalive {
                        reply_requested: true,
                        ..
                    }
                );
                if self.ledger.any_merging() {
                    self.wait_for_answers(&event, assembler, &feedback).await?;
                }
                self.take(event, assembler, &catalog, &mut primary_keys)
                    .await?;
                if asked {
                    self.confirm(assembler, &feedback, false).await?;
                }
                if assembler.pending() >= FRAMES_BYTES {
                    self.append(assembler).await?;
                }
                next = stream.buffered()?;
            }
            assembler.tell(&self.ledger);
            self.append(assembler).await?;
            round.transactions = assembler.transactions - before;
            round.committed_at = assembler.last_commit();
            pace.took(round, self.waits(&mut processors), Instant::now());
        }
    }

    /// Where rows are merged by columns, a local transaction is captured when it is known of every commit of
    /// replay whether it came before. If an answer stays out, capture stands still, and says so.
    async fn wait_for_answers(
        &self,
        event: &Event,
        assembler: &mut Assembler,
        feedback: &Feedback,
    ) -> Result<(), Error> {
        let Some(position) = self.unanswered(event) else {
            return Ok(());
        };
        // What came before it need not wait.
        self.append(assembler).await?;
        let since = Instant::now();
        let mut told = false;
        loop {
            tokio::select! {
                () = self.ledger.know_before(position) => break,
                () = tokio::time::sleep(FEEDBACK) => {}
            }
            self.confirm(assembler, feedback, false).await?;
            let Some(out) = self.ledger.unanswered() else {
                continue;
            };
            let text = format!(
                "it waits for the answer to a commit of what site {} wrote at {}: until it is known whether that came before \
                 what this site has written since, nothing of it leaves. A session that has lost the answer asks again; \
                 look at the stream of that site in everywrite.status, and for what its session waits in pg_stat_activity",
                out.origin, out.lsn
            );
            if !told && since.elapsed() >= UNANSWERED {
                tracing::warn!(origin = %out.origin, position = %out.lsn, "capture stands still: the answer to a commit is out");
                told = true;
            }
            *self.progress.state.lock() = ("waiting", Some(text));
        }
        *self.progress.state.lock() = ("streaming", None);
        Ok(())
    }

    /// Where a local transaction ends that must not be captured yet.
    fn unanswered(&self, event: &Event) -> Option<Lsn> {
        match event {
            Event::Data { payload, .. } if self.ledger.any_merging() => {
                Assembler::commits(payload).filter(|p| !self.ledger.knows_before(*p))
            }
            _ => None,
        }
    }

    async fn take(
        &self,
        event: Event,
        assembler: &mut Assembler,
        catalog: &tokio_postgres::Client,
        primary_keys: &mut HashMap<(String, String), Vec<String>>,
    ) -> Result<(), Error> {
        let payload = match event {
            Event::Keepalive { wal_end, .. } => {
                self.progress
                    .server_lsn
                    .fetch_max(wal_end.0, Ordering::Relaxed);
                if assembler.between_transactions() {
                    self.ledger.captured(wal_end);
                }
                return Ok(());
            }
            Event::Data {
                payload, wal_end, ..
            } => {
                self.progress
                    .server_lsn
                    .fetch_max(wal_end.0, Ordering::Relaxed);
                payload
            }
        };
        let mut key = None;
        if let Some(name) = Assembler::wants_primary_key(&payload, assembler.in_piece())? {
            // The table may have changed since: asked again for each description of it.
            let columns = primary_key(catalog, &name.0, &name.1).await?;
            primary_keys.insert(name.clone(), columns);
            key = primary_keys.get(&name).map(Vec::as_slice);
        }
        let mut signal = |s: Signal| self.signal(s);
        if let Assembled::Large(mut large) =
            assembler.feed(&payload, key, &self.ledger, &mut signal)?
        {
            self.append(assembler).await?;
            while !assembler.step(&mut large, &self.ledger, &mut signal)? {
                self.append(assembler).await?;
            }
            self.append(assembler).await?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        match signal {
            Signal::Barrier(token) => {
                self.options.hurry.met();
                self.ledger.barrier(token);
            }
            other => {
                let _ = self.signals.send(other);
            }
        }
    }

    /// For how long this thread waits for a processor, in the mean.
    fn waits(&self, processors: &mut Processors) -> Duration {
        let wait = processors.wait(Instant::now());
        let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.progress.processor_wait_us.store(us, Ordering::Relaxed);
        wait
    }

    async fn append(&self, assembler: &mut Assembler) -> Result<(), Error> {
        while assembler.pending() > 0 {
            self.journal.append(assembler.frames()).await?;
            assembler.sent();
        }
        self.progress
            .transactions
            .store(assembler.transactions, Ordering::Relaxed);
        self.progress
            .changes
            .store(assembler.changes, Ordering::Relaxed);
        Ok(())
    }

    /// Confirms what is durable in the journal; if that is everything, as far as capture has come.
    /// `reply`: the server is to say where it is.
    async fn confirm(
        &self,
        assembler: &Assembler,
        feedback: &Feedback,
        reply: bool,
    ) -> Result<(), Error> {
        let captured = self.ledger.watch_captured().borrow().lsn;
        let end = self.journal.end();
        let safe = if end >= assembler.last() && assembler.pending() == 0 {
            captured.max(end)
        } else {
            end
        };
        feedback.send(captured.max(safe), safe, safe, reply).await?;
        Ok(())
    }

    /// Makes the slot at the first start; later a missing slot is a loss that a person must see.
    async fn check_slot(&self, client: &tokio_postgres::Client) -> Result<(), Error> {
        let wal_level: String = client.query_one("show wal_level", &[]).await?.get(0);
        if wal_level != "logical" {
            return Err(Error::Setup(format!(
                "wal_level is {wal_level} and must be logical: set it in postgresql.conf and restart the server"
            )));
        }
        let tracked: String = client
            .query_one("show track_commit_timestamp", &[])
            .await?
            .get(0);
        if tracked != "on" {
            return Err(Error::Setup(
                "track_commit_timestamp is off and must be on: set it in postgresql.conf and restart the server".to_owned(),
            ));
        }
        let publication = client
            .query_opt("select from pg_publication where pubname = $1", &[&NAME])
            .await?;
        if publication.is_none() {
            let create = client
                .batch_execute("create publication everywrite for all tables")
                .await;
            if let Err(error) = create {
                return Err(Error::Setup(format!(
                    "the publication \"everywrite\" is missing and this role may not make it ({}): \
                     let a superuser run: create publication everywrite for all tables",
                    error
                        .as_db_error()
                        .map_or_else(|| error.to_string(), |e| e.message().to_owned())
                )));
            }
        }
        match replication::find_slot(client, NAME).await? {
            None if self.journal.end() == Lsn::ZERO => {
                let start = replication::create_slot(client, NAME).await?;
                tracing::info!(%start, "made the replication slot");
            }
            None => {
                return Err(Error::Setup(format!(
                    "the replication slot \"everywrite\" is gone: what was committed here after {} may never \
                     leave this site. Compare the tables with a peer's, then make the slot again: \
                     select pg_create_logical_replication_slot('everywrite', 'pgoutput')",
                    self.journal.end()
                )));
            }
            Some(slot) if slot.wal_status.as_deref() == Some("lost") => {
                return Err(Error::Setup(
                    "the server has dropped WAL that the slot \"everywrite\" needs (max_slot_wal_keep_size): \
                     compare the tables with a peer's, then drop the slot and make it again"
                        .to_owned(),
                ));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Waits until the next round may begin. The thread sleeps: a runtime that waits is woken by each message.
fn rest(pace: &Pace, hurry: &Hurry, shutdown: &CancellationToken) {
    let mut now = Instant::now();
    while let Some(due) = pace.wait(now)
        && !shutdown.is_cancelled()
        && !hurry.rest(due - now)
    {
        now = Instant::now();
    }
}

/// Returns when the journal has become longer, not before `from`. May be dropped while it waits:
/// what is new stays new.
async fn news(durable: &mut tokio::sync::watch::Receiver<Lsn>, from: Instant) {
    tokio::time::sleep_until(from).await;
    // An error is a closed journal: then there is no news, and the next append says why.
    if durable.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Where the local WAL ends.
async fn local_end(client: &tokio_postgres::Client) -> Result<Lsn, Error> {
    let sql = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    let end: i64 = client.query_one(sql, &[]).await?.get(0);
    Ok(Lsn(end.unsigned_abs()))
}

async fn primary_key(
    client: &tokio_postgres::Client,
    schema: &str,
    table: &str,
) -> Result<Vec<String>, Error> {
    let rows = client
        .query(
            "select a.attname::text from pg_index i join pg_class c on c.oid = i.indrelid
               join pg_namespace n on n.oid = c.relnamespace
               join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
              where i.indisprimary and n.nspname = $1 and c.relname = $2",
            &[&schema, &table],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
