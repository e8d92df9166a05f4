//! Groups of the fast path: sent, answered.
//!
//! ```text
//!  nothing on the way ──► in the first session, with its COMMIT, in one write
//!  behind another     ──► in the other session, its COMMIT when that one's answer is there   (`beside`, `lanes`)
//!                    └──► if they are mostly of the same rows, or there is one session: in the same one, chained to it
//! ```
//!
//! Either way a group stands only if the one before it does. If that one fails, nothing of this one was written, and both are
//! decided with care, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use everywrite_conflict::Lsn;

use super::Error;
use super::batch::Batch;
use super::beside::{self, Late};
use super::blindly;
use super::careful::Decided;
use super::feed::Feed;
use super::image::Image;
use super::known::{self, Part};
use super::lanes::{Lanes, Place, Ready};
use super::stream::{Group, Stream};
use super::writer::{Failed, Writer};

/// A session that decides about a row is done in a few round trips.
const DECIDING: Duration = Duration::from_millis(1);

impl Stream {
    /// Announces a batch and sends it, or decides it with care.
    pub(super) async fn dispatch(
        &mut self,
        feed: &mut Feed,
        lanes: &mut Lanes,
        mut batch: Batch,
        full: bool,
    ) -> Result<(), Error> {
        batch.close();
        // What was announced before finds itself in the index, not what it met.
        let first = batch.transactions.first().map_or(Lsn::ZERO, |h| h.position);
        let fresh = first > self.announced;
        // Before the announcement: what is captured behind it is not behind this guard.
        let horizon = self.options.context.barriers.horizon();
        let announcement = loop {
            match self.announce(&mut batch, fresh, &Decided::default()) {
                Some(announcement) => break announcement,
                // Nothing is locked here that it could be waiting for.
                None => tokio::time::sleep(DECIDING).await,
            }
        };
        if spans(&batch) {
            self.one_by_one(batch.last());
            return Err(Error::Again(
                "another site's write falls between those of a group",
            ));
        }
        let mut group = Group {
            batch,
            blind_before: announcement.blind_before,
            fast: announcement.fast,
            named: full,
            horizon,
            place: Place::First,
            late: None,
            decided: Decided::default(),
        };
        if !group.fast {
            while let Some(place) = self.on_way.front().map(|g| g.place) {
                let outcome = lanes.committed(place).await;
                self.arrived(feed, lanes, outcome).await?;
            }
            return self.careful(feed, lanes.first(), group).await;
        }
        let before = self.on_way.back();
        group.place = before.map_or(Place::First, |g| g.place);
        let late = before
            .filter(|_| lanes.are_two())
            .and_then(|before| late(&before.batch, &group.batch));
        if let Some(late) = late {
            return self.begin(lanes, group, late);
        }
        let chained = before.map(|g| g.batch.last());
        self.send(lanes, group, chained)
    }

    /// Sends a group as a whole, with its commit; behind another one if it is chained to that.
    fn send(
        &mut self,
        lanes: &mut Lanes,
        mut group: Group,
        chained: Option<Lsn>,
    ) -> Result<(), Error> {
        let writer = lanes.at(group.place);
        writer.clear();
        writer.begin();
        if group.named {
            writer.chain(chained, group.batch.last());
        }
        let (batch, decided) = (&group.batch, &mut group.decided);
        known::write(writer, batch, Part::Whole, group.horizon, decided);
        if chained.is_some() {
            tracing::debug!(origin = %self.options.origin, "a group is at the server behind another");
        }
        self.commit(writer, group)
    }

    /// Sends the rows of a group while the one before it is in the other session: all that do not have to wait for it.
    fn begin(&mut self, lanes: &mut Lanes, mut group: Group, late: Late) -> Result<(), Error> {
        group.place = group.place.other();
        let writer = lanes.at(group.place);
        writer.clear();
        writer.begin();
        writer.chain(None, group.batch.last());
        let (batch, decided) = (&group.batch, &mut group.decided);
        known::write(writer, batch, Part::Early(&late), group.horizon, decided);
        tracing::debug!(origin = %self.options.origin, "a group is at the server beside another");
        let place = group.place;
        group.late = Some(late);
        self.on_way.push_back(group);
        lanes.begin(place)
    }

    /// Sends what is written down of a group whose rows are complete with it, and its commit.
    fn commit(&mut self, writer: &mut Writer, group: Group) -> Result<(), Error> {
        if group.batch.writes_nothing() {
            writer.force_xid();
        }
        if group.decided.binds() {
            writer.flushed();
        }
        writer.commit(group.batch.last(), group.batch.newest());
        let (origin, last) = (group.batch.origin, group.batch.last());
        self.options.context.ledger.commits(origin, last);
        // From here on only an answer, or the next session, tells what became of it.
        self.on_way.push_back(group);
        writer.send_behind()
    }

    /// The first group on its way was begun beside one that is committed now: sends the rest of it, and its commit. Returns why
    /// it has failed, if it has.
    fn commit_begun(&mut self, lanes: &mut Lanes) -> Result<Option<Error>, Error> {
        let Some(mut group) = self.on_way.pop_front() else {
            return Ok(None);
        };
        let Some(late) = group.late.take() else {
            self.on_way.push_front(group);
            return Ok(None);
        };
        match lanes.ready() {
            Ready::Failed(error) => {
                self.on_way.push_front(group);
                return Ok(Some(error));
            }
            Ready::ToWrite => {
                group.decided = Decided::default();
                self.send(lanes, group, None)?;
            }
            Ready::ToCommit => {
                let writer = lanes.at(group.place);
                writer.clear();
                let (batch, decided) = (&group.batch, &mut group.decided);
                known::write(writer, batch, Part::Late(&late), group.horizon, decided);
                self.commit(writer, group)?;
            }
        }
        Ok(None)
    }

    /// The answer to the first group on its way.
    pub(super) async fn arrived(
        &mut self,
        feed: &mut Feed,
        lanes: &mut Lanes,
        mut outcome: Result<(Lsn, Lsn), Failed>,
    ) -> Result<(), Error> {
        loop {
            let Some(group) = self.on_way.pop_front() else {
                return Ok(());
            };
            let last = group.batch.last();
            match outcome {
                Ok(places) => {
                    let groups = &self.options.control.fast_groups;
                    groups.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(
                        origin = %self.options.origin,
                        transactions = group.batch.transactions.len(),
                        changes = group.batch.changes,
                        "a group is committed"
                    );
                    self.landed(group, places.0, places)?;
                    self.goes_on(feed, last);
                    let Some(error) = self.commit_begun(lanes)? else {
                        return Ok(());
                    };
                    outcome = Err(Failed::Before(error));
                }
                Err(Failed::Unknown(error)) => {
                    self.on_way.push_front(group);
                    return Err(error);
                }
                Err(failed) => return self.failed(feed, lanes, group, failed).await,
            }
        }
    }

    /// Nothing of a group was written: its guard has failed, or something else. It is decided with care, and what is behind it.
    async fn failed(
        &mut self,
        feed: &mut Feed,
        lanes: &mut Lanes,
        group: Group,
        failed: Failed,
    ) -> Result<(), Error> {
        let (origin, last) = (group.batch.origin, group.batch.last());
        let writer = lanes.at(group.place);
        let failed = match failed {
            Failed::Before(error) | Failed::Refused(error) if writer.is_broken() => {
                return Err(error);
            }
            failed => failed,
        };
        // What was chained to it has failed with it, what was begun beside it is rolled back.
        let behind = std::mem::take(&mut self.on_way);
        for chained in behind.iter().filter(|g| g.late.is_none()) {
            lanes.at(chained.place).failed().await?;
        }
        lanes.take_back().await?;
        let writer = lanes.at(group.place);
        match failed {
            Failed::Before(Error::Guard) => writer.rollback().await?,
            Failed::Refused(error) => {
                writer.refused(self.applied()).await?;
                return Err(error);
            }
            Failed::Before(error) | Failed::Unknown(error) => return Err(error),
        }
        // Nothing of them was written: they are not on their way blindly any more.
        let ledger = Arc::clone(&self.options.context.ledger);
        ledger.commits_not(origin, last);
        let last = behind.back().map_or(last, |g| g.batch.last());
        ledger.sighted(origin, last);
        for mut group in std::iter::once(group).chain(behind) {
            self.met_since(&mut group);
            group.decided = Decided::default();
            self.careful(feed, lanes.first(), group).await?;
        }
        Ok(())
    }

    /// A group that is decided while a later one is announced already finds that one in the index,
    /// not what came from elsewhere between the two.
    fn met_since(&self, group: &mut Group) {
        let ledger = &self.options.context.ledger;
        for table in &mut group.batch.tables {
            let relation = table.mapping.identity.relation;
            for slot in &mut table.slots {
                let now = ledger.known(relation, slot.hash());
                let (key, version) = (slot.hash(), slot.version());
                slot.prior = self.priors.since(key, version, slot.prior, now);
            }
        }
    }
}

/// What of a group has to wait for the one before it, if the two can be written at once.
fn late(before: &Batch, next: &Batch) -> Option<Late> {
    // What fires triggers may read, or write, what is in no group.
    if before.alone || next.alone {
        return None;
    }
    let first = before.transactions.first()?.position;
    let bound = before.tables.iter().filter(|t| t.mapping.bound());
    let bound = bound.map(|t| t.mapping.identity.relation);
    beside::late(bound, next.writes(first))
}

/// Whether another origin's write of some key falls between the batch's writes of it. What the
/// later ones leave out is then in that write, not in the earlier ones: the transactions have to
/// be replayed one by one.
fn spans(batch: &Batch) -> bool {
    let between = |s: &super::batch::Slot| {
        let filled = s.image().is_some_and(Image::filled);
        blindly::spans(&s.folded, filled, s.prior.as_ref())
    };
    batch.tables.iter().flat_map(|t| &t.slots).any(between)
}
