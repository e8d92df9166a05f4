//! One origin's stream: the loop that applies its transactions in their order (I3).
//!
//! ```text
//!  Feed ──batch──► announce (Ledger) ──fast──► one write ──► answer ──► landed
//!    ▲   grows while the last group is         │ guard failed
//!    └── on its way                            └──careful──► decided row by row ──► landed
//! ```
//!
//! One group is on its way and the next one grows meanwhile, so groups are as large as the
//! backlog, the first ones of a backlog less: the server shall have something to do. When the next one can take no more, it is sent too, so that the server never waits for
//! this side: in a second session, if the two can be written at once, else chained to the one before. Unless that is committed, it is not (`under_way`, `lanes`).
//! After any error the sessions are made anew and go on behind the progress that the
//! server has (I1); what was announced stays announced, and `priors` remembers what each key met,
//! so that a conflict is recorded although the index has the change itself by then.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use everywrite_conflict::{Entry, KeyHash, Lsn, NodeId, Position, Vector};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Slot};
use super::beside::Late;
use super::blindly;
use super::careful::{self, Context, Decided};
use super::control::Control;
use super::feed::{Feed, Front, Limits, Parts};
use super::known;
use super::lanes::{Lanes, Place};
use super::priors::{self, Priors};
use super::writer::{Failed, Writer};
use super::{Error, repair};
use crate::capture::Repair;
use crate::journal::record::Header;
use crate::journal::{Journal, Journals};
use crate::pg::Target;
use crate::pg::sqlstate::Class;
use crate::settle::{Announcement, Coming, Landed, Ledger};
use crate::telemetry::OriginState;

/// The first pause after an error, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// How often the careful path begins anew because somebody came in between, before the stream
/// takes a pause.
const ATTEMPTS: u32 = 40;
/// When the server has nothing to do it gets a group of so many changes at once, not one as large as the backlog.
const FIRST_GROUP: u64 = 1_000;
/// A group is at most so many times larger than the one before it that is on its way: it grows while that is written.
const GROWTH: u64 = 4;

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
    /// In how many sessions, 1 or 2.
    pub sessions: u32,
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
    pub(super) options: Options,
    journal: Journal,
    /// What changes met when they were first announced.
    pub(super) priors: Priors,
    /// Everything up to here was on its way before: decided with care when it comes again.
    pub(super) announced: Lsn,
    pub(super) single: bool,
    single_until: Lsn,
    /// The first transaction of what is being applied.
    current: Lsn,
    /// The server's generation when the session began.
    pub(super) generation: u64,
    /// Sent, and not answered yet, in order: one stands only if those before it do.
    /// If the session breaks, the next one learns what became of them.
    pub(super) on_way: VecDeque<Group>,
}

/// A group on its way, or about to be.
pub(super) struct Group {
    pub(super) batch: Batch,
    pub(super) blind_before: Vector,
    pub(super) fast: bool,
    /// Its transaction names itself, so that the next one can be chained to it.
    pub(super) named: bool,
    /// Rows that a local transaction from this id on wrote are not touched.
    pub(super) horizon: u32,
    /// Its session.
    pub(super) place: Place,
    /// Its commit is not sent yet, and of its rows not these.
    pub(super) late: Option<Late>,
    /// What was decided about it with care.
    pub(super) decided: Decided,
}

impl Group {
    /// One whose rows are decided and written in parts.
    pub(super) fn in_parts(batch: Batch) -> Self {
        Group {
            batch,
            blind_before: Vector::new(),
            fast: false,
            named: false,
            horizon: 0,
            place: Place::First,
            late: None,
            decided: Decided::default(),
        }
    }
}

impl Stream {
    /// Opens the origin's journal.
    pub fn new(options: Options) -> Result<Self, Error> {
        let origin = options.origin;
        let journal = options.journals.get_or_open(origin)?;
        Ok(Stream {
            options,
            journal,
            priors: Priors::new(origin),
            announced: Lsn::ZERO,
            single: false,
            single_until: Lsn::ZERO,
            current: Lsn::ZERO,
            generation: 0,
            on_way: VecDeque::new(),
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
            if error.session_lost() {
                ledger.broke(self.generation);
            }
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
    pub(super) fn one_by_one(&mut self, last: Lsn) {
        self.single = true;
        self.single_until = self.single_until.max(last);
    }

    /// Connects, and applies until something fails.
    async fn session(&mut self) -> Result<(), Error> {
        let Context {
            ledger, lifeline, ..
        } = &self.options.context;
        // If the server has crashed, every stream must know before one of them goes on.
        lifeline.ask(&self.options.target, ledger).await?;
        let mut server = ledger.watch_server();
        self.generation = *server.borrow_and_update();
        let (mut lanes, progress, here) = self.connect().await?;
        self.answered_by(progress, here)?;
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
        let mut next = Batch::new(o.origin);
        let mut full = false;
        loop {
            let on_way = self.on_way.back().map_or(0, |g| g.batch.changes);
            feed.most = FIRST_GROUP.max(on_way.saturating_mul(GROWTH));
            if self.on_way.is_empty() && next.is_empty() {
                let front = tokio::select! {
                    front = feed.ready() => front?,
                    // An idle session does not notice that its server is gone.
                    _ = server.changed() => return Err(Error::Again("the server was started anew")),
                };
                self.current = feed.position();
                if front != Front::Transaction {
                    self.long(&mut feed, lanes.first(), front).await?;
                    continue;
                }
                full = feed.grow(&mut next).await?;
            }
            if self.may_go(&next, full) {
                self.current = next
                    .transactions
                    .first()
                    .map_or(self.current, |h| h.position);
                let batch = std::mem::replace(&mut next, Batch::new(self.options.origin));
                self.dispatch(&mut feed, &mut lanes, batch, full).await?;
                full = false;
            }
            let Some(place) = self.on_way.front().map(|g| g.place) else {
                continue;
            };
            let outcome = tokio::select! {
                biased;
                outcome = lanes.committed(place) => outcome,
                grown = grow(&mut feed, &mut next), if !full => {
                    full = grown?;
                    continue;
                }
            };
            self.arrived(&mut feed, &mut lanes, outcome).await?;
        }
    }

    /// Whether the group that is growing may be sent.
    fn may_go(&self, next: &Batch, full: bool) -> bool {
        !next.is_empty() && blindly::may_go(&self.on_way, |g| g.named, self.single, full)
    }

    /// Sessions with their origins set up, the progress, flushed, and where the local WAL is.
    async fn connect(&self) -> Result<(Lanes, Lsn, Lsn), Error> {
        let o = &self.options;
        let peers = o.names.len().saturating_sub(1);
        Lanes::open(&o.target, o.origin, o.sessions, peers).await
    }

    /// The session is made anew, so the one before is gone: `progress` says what became of the
    /// group that it had on its way. `here`: where the local WAL is now.
    fn answered_by(&mut self, progress: Lsn, here: Lsn) -> Result<(), Error> {
        let (origin, announced) = (self.options.origin, self.announced);
        let ledger = Arc::clone(&self.options.context.ledger);
        ledger.begins_at(here);
        let landed = blindly::landed(&self.on_way, |g| g.batch.last(), progress);
        for (n, group) in std::mem::take(&mut self.on_way).into_iter().enumerate() {
            let last = group.batch.last();
            if n < landed {
                // It was committed somewhere before, and others may have seen it since.
                self.landed(group, Lsn::ZERO, (here, here))?;
            } else {
                ledger.commits_not(origin, last);
                group.decided.undo(&ledger);
            }
        }
        // Nothing of what was announced is on its way any more.
        ledger.sighted(origin, announced);
        Ok(())
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

    /// Announces a closed batch; what the index held stands in its slots afterwards.
    /// `None`: another session is deciding one of the rows. `decided`: what the transaction itself
    /// has decided before.
    pub(super) fn announce(
        &mut self,
        batch: &mut Batch,
        fast_allowed: bool,
        decided: &Decided,
    ) -> Option<Announcement> {
        let o = &self.options;
        let origin = batch.origin;
        let applied = o.context.ledger.applied().get(origin);
        // A group goes behind those on their way or not at all: to it they are applied.
        let before = self.on_way.back().map_or(applied, |g| g.batch.last());
        let fast_allowed = fast_allowed && !batch.careful;
        let place: Vector = [(batch.origin, batch.last())].into_iter().collect();
        batch
            .settings()
            .for_each(|s| o.context.ledger.set_policy(s, Some(place.clone())));
        let known = known::site(&o.context);
        let mut conflicts = false;
        let announcement = {
            let batch = &*batch;
            let coming = batch.coming(before);
            let slots: Vec<_> = batch.tables.iter().flat_map(|t| &t.slots).collect();
            o.context.ledger.announce(
                Coming {
                    origin: batch.origin,
                    last: batch.last(),
                    newest: batch.newest(),
                    merges: batch.merges,
                    first: batch.first(),
                },
                batch.intents(),
                |relation, key, version| decided.has(relation, key, version),
                |priors| {
                    let blindly = |(slot, prior): (&&Slot, &Option<Entry>)| {
                        coming
                            .blindly(&slot.folded, prior.as_ref())
                            .unwrap_or_else(|| {
                                conflicts = true;
                                let decides = |p| known.decides(&coming, &slot.folded, &p);
                                prior.is_some_and(decides)
                            })
                    };
                    fast_allowed && slots.iter().zip(priors).all(blindly)
                },
            )?
        };
        batch.conflicts = conflicts;
        self.announced = self.announced.max(batch.last());
        let slots = batch.tables.iter_mut().flat_map(|t| &mut t.slots);
        for (slot, held) in slots.zip(&announcement.priors) {
            let change = change(&batch.transactions, origin, slot);
            slot.prior = self.priors.announced(&change, *held, applied, before);
        }
        Some(announcement)
    }

    /// Decides a group with care, in one transaction, again if somebody came in between.
    pub(super) async fn careful(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        mut group: Group,
    ) -> Result<(), Error> {
        let context = self.options.context.clone();
        context.ledger.wait_for_blind(&group.blind_before).await;
        for attempt in 0..ATTEMPTS {
            let reached = writer.begin_deciding().await?;
            let (origin, last) = (group.batch.origin, group.batch.last());
            let ledger = &context.ledger;
            ledger.commits_after(origin, last, reached, self.generation);
            let written = careful::write(&context, writer, &group.batch, &mut group.decided).await;
            match self.end(feed, writer, group, written).await? {
                None => return Ok(()),
                Some((back, error)) => {
                    group = back;
                    tracing::debug!(origin = %self.options.origin, attempt, error = %error, "deciding again");
                    tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(20)))).await;
                }
            }
        }
        Err(Error::Again("too many attempts"))
    }

    /// Commits a careful transaction, or takes back what it decided. The group comes back if it
    /// should be tried again.
    pub(super) async fn end(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        mut group: Group,
        written: Result<(), Error>,
    ) -> Result<Option<(Group, Error)>, Error> {
        let last = group.batch.last();
        let error = match written {
            Err(error) => error,
            Ok(()) => match commit(&self.options.context.ledger, writer, &group).await {
                Ok(places) => {
                    let groups = &self.options.control.careful_groups;
                    groups.fetch_add(1, Ordering::Relaxed);
                    self.landed(group, places.0, places)?;
                    self.goes_on(feed, last);
                    return Ok(None);
                }
                Err(Failed::Before(error)) => error,
                Err(Failed::Refused(error)) => {
                    writer.refused(self.applied()).await?;
                    error
                }
                Err(Failed::Unknown(error)) => {
                    // Perhaps it is committed: the next session asks.
                    self.on_way.push_front(group);
                    return Err(error);
                }
            },
        };
        let ledger = &self.options.context.ledger;
        ledger.commits_not(group.batch.origin, last);
        std::mem::take(&mut group.decided).undo(ledger);
        if again(&error) {
            Ok(Some((group, error)))
        } else {
            Err(error)
        }
    }

    /// How far the origin is applied.
    pub(super) fn applied(&self) -> Lsn {
        let applied = self.options.context.ledger.applied();
        applied.get(self.options.origin)
    }

    /// Everything up to `last` is applied.
    pub(super) fn goes_on(&mut self, feed: &mut Feed, last: Lsn) {
        feed.applied(last);
        feed.single = self.single;
    }

    /// A group is committed behind a place of the local WAL; its rows, and then its commit, stand before
    /// two others.
    pub(super) fn landed(
        &mut self,
        group: Group,
        behind: Lsn,
        (before, after): (Lsn, Lsn),
    ) -> Result<(), Error> {
        let o = &self.options;
        let (batch, decided) = (&group.batch, &group.decided);
        let place = Landed {
            origin: batch.origin,
            last: batch.last(),
            before,
            behind,
            after,
            generation: self.generation,
        };
        let slots = batch.tables.iter().flat_map(|t| {
            t.slots
                .iter()
                .map(move |s| (t.mapping.identity.relation, s.hash(), s.version()))
        });
        let keys = slots.chain(decided.lost.iter());
        let kept = |key, version| decided.kept.contains(&(key, version));
        let ledger = &o.context.ledger;
        let landed = ledger.landed(&place, keys, &decided.truncated, kept);
        let Some(look_again) = landed else {
            // Perhaps a crash has taken it back: the next session asks.
            self.on_way.push_front(group);
            return Err(Error::Again("the server was started anew"));
        };
        decided.stands(&o.context.ledger);
        self.look_again(batch, &look_again);
        let slots = batch.tables.iter().flat_map(|t| &t.slots);
        let changes = slots.map(|slot| change(&batch.transactions, batch.origin, slot));
        let flushed = || ledger.flushed().get(batch.origin);
        self.priors.landed(changes, before, flushed);
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
        }
        Ok(())
    }

    /// Rows that a delete, captured or announced while they were on their way, may have missed.
    fn look_again(&self, batch: &Batch, keys: &[KeyHash]) {
        if keys.is_empty() {
            return;
        }
        for table in &batch.tables {
            for slot in table.slots.iter().filter(|s| keys.contains(&s.hash())) {
                let relation = table.mapping.identity.relation;
                let newer = self.options.context.ledger.known(relation, slot.hash());
                let Some(newer) = newer else { continue };
                let repair = repair::ask(&table.mapping, &slot.folded.key.image, newer.version);
                self.options.context.ledger.repair_begins();
                let _ = self.options.repairs.send(repair);
            }
        }
    }

    fn decided(&self, decided: &Decided) {
        let o = &self.options;
        o.control.conflicts.lock().merge(&decided.conflicts);
        if decided.outbox {
            o.outbox.notify_one();
        }
        if decided.aside {
            o.context.merging.look();
        }
    }
}

/// Waits for something that a batch can take, and takes it. True: it can take no more.
async fn grow(feed: &mut Feed, batch: &mut Batch) -> Result<bool, Error> {
    match feed.ready().await? {
        Front::Transaction => feed.grow(batch).await,
        Front::Steps | Front::Large => Ok(true),
    }
}

/// What is remembered of a net change.
fn change(transactions: &[Header], origin: NodeId, slot: &Slot) -> priors::Change {
    let header = transactions.get(slot.folded.last.transaction as usize);
    let lsn = header.map_or(Lsn::ZERO, |h| h.position);
    priors::Change {
        key: slot.hash(),
        version: slot.version(),
        position: Position { origin, lsn },
        deleted: slot.image().is_none(),
    }
}

/// Somebody came in between: what failed may succeed the next time.
fn again(error: &Error) -> bool {
    match error {
        Error::Again(_) | Error::Guard => true,
        Error::Postgres(e) => e.code().is_some_and(|c| c.starts_with("40")),
        _ => false,
    }
}

/// Ends a careful transaction: (the WAL position before its commit, one after it).
async fn commit(ledger: &Ledger, writer: &mut Writer, group: &Group) -> Result<(Lsn, Lsn), Failed> {
    if group.decided.binds() {
        writer.flushed();
    }
    writer.commit(group.batch.last(), group.batch.newest());
    ledger.commits(group.batch.origin, group.batch.last());
    writer.send().await.map_err(Failed::Unknown)?;
    writer.committed().await
}
