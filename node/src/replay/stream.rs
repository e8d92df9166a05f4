//! One origin's stream: the loop that applies its transactions in their order (I3).
//!
//! ```text
//!  Feed ──batch──► announce (Ledger) ──fast──► one write ──► answer ──► landed
//!    ▲   grows while the last group is         │ guard failed
//!    └── on its way                            └──careful──► decided row by row ──► landed
//! ```
//!
//! One group is on its way and the next one grows meanwhile, so groups are as large as the
//! backlog. After any error the session is made anew and goes on behind the progress that the
//! server has (I1); what was announced stays announced, and `priors` remembers what each key met,
//! so that a conflict is recorded although the index has the change itself by then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use everywrite_conflict::{Entry, KeyHash, Lsn, NodeId, Vector, Version};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::careful::{self, Context, Decided};
use super::control::Control;
use super::feed::{Feed, Front, Limits, Parts};
use super::image::Image;
use super::wal_position::{lsn_text, wal_position};
use super::writer::Writer;
use super::{Error, truncate};
use crate::capture::{Repair, RepairRow};
use crate::journal::record::{Changes, Frame, Header};
use crate::journal::{Journal, Journals};
use crate::pg::Target;
use crate::pg::pipeline::{Outcome, Session};
use crate::pg::sqlstate::Class;
use crate::settle::{Announcement, progress};
use crate::telemetry::OriginState;

/// The first pause after an error, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// How often the careful path begins anew because somebody came in between, before the stream
/// takes a pause.
const ATTEMPTS: u32 = 40;
/// A large transaction is decided in parts of about this many changes.
const PART_CHANGES: u64 = 20_000;

/// What a stream is made of.
pub struct Options {
    /// Whose transactions.
    pub origin: NodeId,
    /// The members' names.
    pub names: Arc<HashMap<NodeId, String>>,
    /// The local server.
    pub target: Target,
    /// Sizes of a group.
    pub limits: Limits,
    /// All journals.
    pub journals: Arc<Journals>,
    /// What deciding needs.
    pub context: Context,
    /// Rows to be looked at again.
    pub repairs: mpsc::UnboundedSender<Repair>,
    /// Pause, skip, state.
    pub control: Arc<Control>,
    /// Rung when deletes stand in the outbox.
    pub outbox: Arc<Notify>,
}

/// See the module.
pub struct Stream {
    options: Options,
    journal: Journal,
    /// What a key met when a change was first announced, for changes that are not applied yet.
    priors: HashMap<(KeyHash, Version), Entry>,
    /// Everything up to here was on its way before: decided with care when it comes again.
    announced: Lsn,
    single: bool,
    single_until: Lsn,
    /// The first transaction of what is being applied.
    current: Lsn,
}

/// A group on its way, or about to be.
struct Group {
    batch: Batch,
    blind_before: Vector,
    fast: bool,
}

impl Stream {
    /// Opens the origin's journal.
    pub fn new(options: Options) -> Result<Self, Error> {
        let journal = options.journals.get_or_open(options.origin)?;
        Ok(Stream {
            options,
            journal,
            priors: HashMap::new(),
            announced: Lsn::ZERO,
            single: false,
            single_until: Lsn::ZERO,
            current: Lsn::ZERO,
        })
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut pause = BACKOFF.0;
        let mut told = String::new();
        loop {
            let before = self
                .options
                .context
                .ledger
                .applied()
                .get(self.options.origin);
            let error = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.session() => match outcome {
                    Ok(()) | Err(Error::Shutdown) => return,
                    Err(error) => error,
                },
            };
            let ledger = &self.options.context.ledger;
            ledger.sighted(self.options.origin, self.announced);
            if ledger.applied().get(self.options.origin) > before {
                pause = BACKOFF.0;
            }
            let text = error.chain();
            let held = error.class() != Class::Retry;
            if text != told {
                if held {
                    tracing::error!(origin = %self.options.origin, error = %text, "stream held");
                } else {
                    tracing::info!(origin = %self.options.origin, error = %text, "replay starts again");
                }
                told = text.clone();
            }
            if held && !self.single {
                // Once more, one transaction at a time: the one that fails is then the first.
                self.one_by_one(self.announced);
                continue;
            }
            let (state, reason) = match &error {
                Error::Again(_) | Error::Guard => (OriginState::Waiting, text),
                _ if held => (OriginState::Held, self.held(&text)),
                _ => (OriginState::Disconnected, text),
            };
            self.options.control.set(state, Some(reason));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.options.control.kick.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Why the stream is held and what can be done.
    fn held(&self, text: &str) -> String {
        let name = self
            .options
            .names
            .get(&self.options.origin)
            .cloned()
            .unwrap_or_default();
        format!(
            "the transaction at {at} cannot be applied: {text}; it is tried again by itself once that is mended, \
             or left out with: select everywrite.skip_transaction('{name}', '{at}')",
            at = self.current
        )
    }

    /// Up to `last` one transaction a group.
    fn one_by_one(&mut self, last: Lsn) {
        self.single = true;
        self.single_until = self.single_until.max(last);
    }

    /// Connects, and applies until something fails.
    async fn session(&mut self) -> Result<(), Error> {
        let (session, progress) = self.connect().await?;
        let mut server = self.options.context.ledger.watch_server();
        self.wait_for_journal(progress).await?;
        let o = &self.options;
        o.context.ledger.applied_is(o.origin, progress);
        let parts = Parts {
            me: o.context.me,
            origin: o.origin,
            names: Arc::clone(&o.names),
            own: o.context.journal.clone(),
            ledger: Arc::clone(&o.context.ledger),
            control: Arc::clone(&o.control),
            target: o.target.clone(),
            limits: o.limits,
        };
        let mut feed = Feed::new(parts, self.journal.reader(progress)?, progress);
        feed.single = self.single;
        let mut writer = Writer::new(session);
        let mut on_way: Option<Group> = None;
        let mut next = Batch::new(o.origin);
        let mut full = false;
        loop {
            if on_way.is_none() {
                if next.is_empty() {
                    let front = tokio::select! {
                        front = feed.ready() => front?,
                        // An idle session does not notice that its server is gone.
                        _ = server.changed() => return Err(Error::Again("the server was started anew")),
                    };
                    self.current = feed.position();
                    if front != Front::Transaction {
                        self.long(&mut feed, &mut writer, front).await?;
                        continue;
                    }
                    feed.grow(&mut next).await?;
                }
                self.current = next
                    .transactions
                    .first()
                    .map_or(self.current, |h| h.position);
                let batch = std::mem::replace(&mut next, Batch::new(self.options.origin));
                full = false;
                if !batch.is_empty() {
                    on_way = self.dispatch(&mut feed, &mut writer, batch).await?;
                }
                continue;
            }
            let outcome = tokio::select! {
                biased;
                outcome = writer.receive() => outcome,
                grown = grow(&mut feed, &mut next), if !full => {
                    full = grown?;
                    continue;
                }
            };
            let Some(group) = on_way.take() else { continue };
            let after = writer.receive().await?;
            if outcome.is_ok() {
                let ledger = &self.options.context.ledger;
                ledger.committed_before(
                    group.batch.origin,
                    group.batch.last(),
                    wal_position(&after),
                );
            }
            self.arrived(&mut feed, &mut writer, group, outcome).await?;
        }
    }

    /// A session with the origin set up, and the origin's progress, flushed.
    async fn connect(&self) -> Result<(Session, Lsn), Error> {
        let o = &self.options;
        let name = format!("everywrite_{}", o.origin);
        let target = o.target.named(format!("everywrite replay {}", o.origin));
        // If the server has crashed, every stream must know before one of them goes on.
        progress(&target.client().await?, &o.context.ledger).await?;
        let mut session = Session::connect(&target, &[]).await?;
        for sql in [
            "set session_replication_role = replica".to_owned(),
            "set synchronous_commit = off".to_owned(),
            "set statement_timeout = 0".to_owned(),
            "set lock_timeout = 0".to_owned(),
            "set idle_in_transaction_session_timeout = 0".to_owned(),
            "set search_path = pg_catalog".to_owned(),
            "set row_security = off".to_owned(),
            // Sets are found by index; the planner cannot know how many rows an array has.
            "set plan_cache_mode = force_generic_plan".to_owned(),
            format!(
                "select pg_replication_origin_create('{name}') \
                 where not exists (select from pg_replication_origin where roname = '{name}')"
            ),
            format!("select pg_replication_origin_session_setup('{name}')"),
        ] {
            session.query_simple(&sql).await?;
        }
        let outcome = session
            .query_simple("select pg_replication_origin_session_progress(true)")
            .await?;
        let progress = lsn_text(outcome.first());
        Ok((session, progress))
    }

    /// The journal may be behind the server after a power failure: its tail was not synced, what
    /// was applied from it was. The peers have it.
    async fn wait_for_journal(&self, progress: Lsn) -> Result<(), Error> {
        let mut end = self.journal.subscribe();
        if *end.borrow() < progress {
            let reason = format!(
                "its journal here ends at {} and is fetched again up to {progress}",
                self.journal.end()
            );
            self.options.control.set(OriginState::Waiting, Some(reason));
        }
        end.wait_for(|end| *end >= progress)
            .await
            .map(|_| ())
            .map_err(|_| Error::Shutdown)
    }

    /// Announces a batch; what the index held stands in its slots afterwards.
    fn announce(&mut self, batch: &mut Batch, fast_allowed: bool) -> Announcement {
        batch.close();
        let again = batch.last() <= self.announced;
        self.announced = self.announced.max(batch.last());
        let o = &self.options;
        let fast_allowed = fast_allowed && !again && !batch.careful;
        let announcement = {
            let slots: Vec<_> = batch.tables.iter().flat_map(|t| &t.slots).collect();
            o.context.ledger.announce(
                batch.origin,
                batch.last(),
                batch.newest(),
                batch.intents(),
                |priors| {
                    let harmless = |(slot, prior): (&&super::batch::Slot, &Option<Entry>)| {
                        let whole = slot.image().is_none_or(|i| !i.incomplete());
                        // What the group leaves out is in the row that its first writer saw.
                        let by = if whole {
                            slot.folded.last
                        } else {
                            slot.folded.first
                        };
                        let seen = |e: &Entry| e.source.is_some_and(|s| batch.covers(by, s));
                        let stays = whole || slot.folded.moved_from.is_none();
                        prior.as_ref().is_none_or(seen) && stays
                    };
                    fast_allowed && slots.iter().zip(priors).all(harmless)
                },
            )
        };
        let origin = batch.origin;
        let positions: Vec<_> = batch
            .tables
            .iter()
            .flat_map(|t| &t.slots)
            .map(|s| batch.position(s))
            .collect();
        for ((slot, prior), position) in batch.slots_mut().zip(&announcement.priors).zip(positions)
        {
            // The change itself, or a later one of this origin, was announced before, in a group
            // that did not land: what the key met then is what it meets now.
            let own = |e: &Entry| {
                e.source
                    .is_some_and(|s| s.origin == origin && s.lsn >= position.lsn)
            };
            slot.prior = match prior {
                Some(entry) if own(entry) => {
                    self.priors.get(&(slot.hash(), entry.version)).copied()
                }
                prior => *prior,
            };
            let foreign = |e: &Entry| e.source.is_none_or(|s| s.origin != origin);
            if let Some(prior) = slot.prior.filter(foreign) {
                self.priors.insert((slot.hash(), slot.version()), prior);
            }
        }
        announcement
    }

    /// Announces a batch and sends it, or decides it with care.
    async fn dispatch(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        mut batch: Batch,
    ) -> Result<Option<Group>, Error> {
        let announcement = self.announce(&mut batch, true);
        if spans(&batch) {
            self.one_by_one(batch.last());
            return Err(Error::Again(
                "another site's write falls between those of a group",
            ));
        }
        let group = Group {
            batch,
            blind_before: announcement.blind_before,
            fast: announcement.fast,
        };
        if !group.fast {
            self.careful(feed, writer, group).await?;
            return Ok(None);
        }
        let horizon = self.options.context.barriers.horizon();
        writer.clear();
        writer.origin(group.batch.last(), group.batch.newest());
        let mut rows = 0;
        for table in &group.batch.tables {
            rows += table.slots.len() + table.appends.len();
            writer.write_fast(table, horizon);
        }
        if rows == 0
            || group
                .batch
                .tables
                .iter()
                .all(|t| t.appends.is_empty() && nothing(&t.slots))
        {
            writer.force_xid();
        }
        writer.wal_position();
        writer.sync();
        // After the commit: what is captured from here on has seen the group.
        writer.wal_position();
        writer.send().await?;
        Ok(Some(group))
    }

    /// The answer to a group of the fast path.
    async fn arrived(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        group: Group,
        outcome: Result<Vec<Outcome>, Error>,
    ) -> Result<(), Error> {
        match outcome {
            Ok(outcomes) => {
                self.options
                    .control
                    .fast_groups
                    .fetch_add(1, Ordering::Relaxed);
                self.landed(
                    feed,
                    &group.batch,
                    wal_position(&outcomes),
                    &Decided::default(),
                );
                Ok(())
            }
            Err(Error::Guard) => {
                // Nothing of it was written: it is not on its way blindly any more.
                self.options
                    .context
                    .ledger
                    .sighted(group.batch.origin, group.batch.last());
                self.careful(feed, writer, group).await
            }
            Err(error) => Err(error),
        }
    }

    /// Decides a group with care, in one transaction, again if somebody came in between.
    async fn careful(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        group: Group,
    ) -> Result<(), Error> {
        let context = self.options.context.clone();
        context.ledger.wait_for_blind(&group.blind_before).await;
        for attempt in 0..ATTEMPTS {
            writer.clear();
            writer.rollback().await?;
            writer.sql("begin");
            writer.origin(group.batch.last(), group.batch.newest());
            writer.force_xid();
            writer.wal_position();
            let reached = wal_position(&writer.run().await?);
            context
                .ledger
                .commits_after(group.batch.origin, group.batch.last(), reached);
            let mut decided = Decided::default();
            let written = careful::write(&context, writer, &group.batch, &mut decided).await;
            let outcome = match written {
                Ok(()) => commit(writer, &decided).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok((position, after)) => {
                    let (origin, last) = (group.batch.origin, group.batch.last());
                    context.ledger.committed_before(origin, last, after);
                    self.options
                        .control
                        .careful_groups
                        .fetch_add(1, Ordering::Relaxed);
                    self.landed(feed, &group.batch, position, &decided);
                    return Ok(());
                }
                Err(error) => {
                    decided.undo(&context.ledger);
                    let again = matches!(error, Error::Again(_) | Error::Guard)
                        || matches!(&error, Error::Postgres(e) if e.code().is_some_and(|c| c.starts_with("40")));
                    if !again {
                        return Err(error);
                    }
                    tracing::debug!(origin = %self.options.origin, attempt, error = %error, "deciding again");
                    tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(20)))).await;
                }
            }
        }
        Err(Error::Again("too many attempts"))
    }

    /// A group is committed.
    fn landed(&mut self, feed: &mut Feed, batch: &Batch, local_lsn: Lsn, decided: &Decided) {
        let o = &self.options;
        let slots = batch.tables.iter().flat_map(|t| {
            t.slots
                .iter()
                .map(move |s| (t.mapping.identity.relation, s.hash(), s.version()))
        });
        let lost = decided.lost.iter().copied();
        let look_again = o.context.ledger.landed(
            batch.origin,
            batch.last(),
            local_lsn,
            slots.chain(lost),
            &decided.truncated,
        );
        self.look_again(batch, &look_again);
        if !self.priors.is_empty() {
            for slot in batch.tables.iter().flat_map(|t| &t.slots) {
                self.priors.remove(&(slot.hash(), slot.version()));
            }
        }
        feed.applied(batch.last());
        let count = |n: usize| u64::try_from(n).unwrap_or(0);
        o.control
            .transactions
            .fetch_add(count(batch.transactions.len()), Ordering::Relaxed);
        o.control
            .changes
            .fetch_add(batch.changes, Ordering::Relaxed);
        self.decided(decided);
        if self.single && batch.last() >= self.single_until {
            self.single = false;
            feed.single = false;
        }
    }

    /// Rows that a local delete, captured while they were on their way, may have preceded.
    fn look_again(&self, batch: &Batch, keys: &[KeyHash]) {
        if keys.is_empty() {
            return;
        }
        for table in &batch.tables {
            for slot in table.slots.iter().filter(|s| keys.contains(&s.hash())) {
                let tuple = slot.folded.key.image.tuple();
                let relation = table.mapping.identity.relation;
                let newer = self
                    .options
                    .context
                    .ledger
                    .with_index(|index| index.get(relation, slot.hash()));
                let Some(newer) = newer else { continue };
                let repair = Repair {
                    table: (
                        table.mapping.table.schema.clone(),
                        table.mapping.table.name.clone(),
                    ),
                    row: Some(RepairRow {
                        relation: Arc::new(table.mapping.relation.clone()),
                        count: u16::try_from(tuple.len()).unwrap_or(u16::MAX),
                        cells: bytes::Bytes::copy_from_slice(tuple.as_bytes()),
                    }),
                    version: newer.version,
                };
                let _ = self.options.repairs.send(repair);
            }
        }
    }

    fn decided(&self, decided: &Decided) {
        let o = &self.options;
        let mut conflicts = o.control.conflicts.lock();
        for (kind, n) in &decided.conflicts {
            *conflicts.entry(kind.as_str()).or_default() += n;
        }
        drop(conflicts);
        if decided.outbox {
            o.outbox.notify_one();
        }
    }

    /// Applies a transaction that is too large for memory, or has a TRUNCATE in it, in parts.
    async fn long(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        front: Front,
    ) -> Result<(), Error> {
        let Some((header, changes)) = feed.take() else {
            return Ok(());
        };
        let skipped = feed.skipped(header.position);
        writer.clear();
        writer.rollback().await?;
        writer.sql("begin");
        writer.origin(header.position, header.stamp);
        writer.force_xid();
        writer.wal_position();
        let reached = wal_position(&writer.run().await?);
        let mut decided = Decided::default();
        let mut work = Long {
            batch: Batch::new(self.options.origin),
            header: header.clone(),
            changes: 0,
            reached,
        };
        let written = self
            .parts(
                feed,
                writer,
                front,
                changes,
                &mut work,
                &mut decided,
                skipped,
            )
            .await;
        let outcome = match written {
            Ok(()) => commit(writer, &decided).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((position, after)) => {
                let ledger = &self.options.context.ledger;
                ledger.committed_before(self.options.origin, header.position, after);
                self.options
                    .control
                    .careful_groups
                    .fetch_add(1, Ordering::Relaxed);
                let mut done = Batch::new(self.options.origin);
                done.begin(header);
                done.changes = work.changes;
                self.landed(feed, &done, position, &decided);
                self.priors.clear();
                Ok(())
            }
            Err(error) => {
                decided.undo(&self.options.context.ledger);
                Err(error)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one transaction")]
    async fn parts(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        front: Front,
        changes: bytes::Bytes,
        work: &mut Long,
        decided: &mut Decided,
        skipped: bool,
    ) -> Result<(), Error> {
        work.batch.begin(work.header.clone());
        if front == Front::Steps {
            if !skipped {
                self.part(feed, writer, &changes, work, decided).await?;
            }
            return self.flush(writer, work, decided).await;
        }
        loop {
            match feed.part().await? {
                Frame::LargePart { changes, .. } if !skipped => {
                    self.part(feed, writer, &changes, work, decided).await?;
                }
                Frame::LargePart { .. } => {}
                Frame::LargeEnd { .. } => return self.flush(writer, work, decided).await,
                // It was cut off in the journal and comes again.
                _ => {
                    return Err(Error::Again(
                        "a large transaction was cut off and comes again",
                    ));
                }
            }
        }
    }

    async fn part(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        changes: &bytes::Bytes,
        work: &mut Long,
        decided: &mut Decided,
    ) -> Result<(), Error> {
        let look = feed.look(changes)?;
        feed.load(&look).await?;
        for raw in Changes::new(changes.clone()) {
            let raw = raw?;
            if raw.first() == Some(&b'T') {
                self.flush(writer, work, decided).await?;
                let tables = feed.truncated(&raw).await?;
                let context = &self.options.context;
                truncate::write(
                    context,
                    writer,
                    &tables,
                    &work.header,
                    self.options.origin,
                    decided,
                )
                .await?;
                work.changes += 1;
                continue;
            }
            feed.push(&mut work.batch, &raw)?;
            if work.batch.changes >= PART_CHANGES {
                self.flush(writer, work, decided).await?;
            }
        }
        Ok(())
    }

    /// Decides and writes what has gathered of a long transaction.
    async fn flush(
        &mut self,
        writer: &mut Writer,
        work: &mut Long,
        decided: &mut Decided,
    ) -> Result<(), Error> {
        let mut next = Batch::new(self.options.origin);
        next.begin(work.header.clone());
        let mut batch = std::mem::replace(&mut work.batch, next);
        work.changes += batch.changes;
        let announcement = self.announce(&mut batch, false);
        let context = self.options.context.clone();
        context
            .ledger
            .commits_after(batch.origin, batch.last(), work.reached);
        context
            .ledger
            .wait_for_blind(&announcement.blind_before)
            .await;
        careful::write(&context, writer, &batch, decided).await?;
        for table in &batch.tables {
            let relation = table.mapping.identity.relation;
            decided.lost.extend(
                table
                    .slots
                    .iter()
                    .map(|s| (relation, s.hash(), s.version())),
            );
        }
        Ok(())
    }
}

/// A long transaction on its way.
struct Long {
    batch: Batch,
    header: Header,
    changes: u64,
    /// The local WAL had come so far when it began.
    reached: Lsn,
}

/// Waits for something that a batch can take, and takes it. True: it can take no more.
async fn grow(feed: &mut Feed, batch: &mut Batch) -> Result<bool, Error> {
    match feed.ready().await? {
        Front::Transaction => feed.grow(batch).await,
        Front::Steps | Front::Large => Ok(true),
    }
}

/// Whether another origin's write of some key falls between the batch's writes of it. What the
/// later ones leave out is then in that write, not in the earlier ones: the transactions have to
/// be replayed one by one.
fn spans(batch: &Batch) -> bool {
    let between = |s: &super::batch::Slot| {
        s.image().is_some_and(Image::filled) && s.prior.is_some_and(|p| s.folded.spans(p.version))
    };
    batch.tables.iter().flat_map(|t| &t.slots).any(between)
}

fn nothing(slots: &[super::batch::Slot]) -> bool {
    slots
        .iter()
        .all(|s| matches!(s.folded.net, everywrite_conflict::Net::Nothing))
}

/// Ends a careful transaction: (the WAL position before its commit, one after it). What was decided about somebody's row must not be forgotten by a
/// crash, because it would not be recorded a second time: such a commit is flushed.
async fn commit(writer: &mut Writer, decided: &Decided) -> Result<(Lsn, Lsn), Error> {
    if !decided.conflicts.is_empty() || decided.outbox {
        writer.sql("set local synchronous_commit = local");
    }
    writer.wal_position();
    writer.sql("commit");
    writer.wal_position();
    let mut outcomes = writer.run().await?;
    let after = wal_position(&outcomes);
    outcomes.truncate(outcomes.len().saturating_sub(2));
    Ok((wal_position(&outcomes), after))
}
