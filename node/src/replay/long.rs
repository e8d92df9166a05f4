//! A transaction that is applied in parts, inside one local transaction: it is too large for
//! memory, or has a TRUNCATE in it.

use std::sync::Arc;

use everywrite_conflict::{Lsn, Version};

use super::Error;
use super::batch::Batch;
use super::careful::{self, Decided};
use super::feed::{Feed, Front};
use super::known::{self, Part};
use super::stream::{Group, Stream};
use super::truncate;
use super::writer::Writer;
use crate::journal::record::{Changes, Frame, Header};

/// A large transaction is written, or decided, in parts of about this many changes, or of as many bytes
/// as a group has.
const PART_CHANGES: u64 = 20_000;
/// So many parts are on their way to the server at once: it works on one while another is made
/// ready and a third may wait in the socket.
const PARTS_ON_WAY: usize = 2;

/// A long transaction on its way.
struct Long {
    batch: Batch,
    header: Header,
    changes: u64,
    /// The local WAL had come so far when it began.
    reached: Lsn,
    /// It was not announced before: parts of which the index knows nothing are written unlooked at.
    fresh: bool,
    /// Parts that were sent and whose answers were not read yet.
    sent: usize,
    /// Some of its tables are, or were, merged by columns.
    merging: bool,
}

impl Stream {
    /// Applies a transaction that is too large for memory, or has a TRUNCATE in it, in parts.
    pub(super) async fn long(
        &mut self,
        feed: &mut Feed,
        writer: &mut Writer,
        front: Front,
    ) -> Result<(), Error> {
        let Some((header, changes)) = feed.take() else {
            return Ok(());
        };
        let skipped = feed.skipped(header.position);
        let fresh = header.position > self.announced;
        let reached = writer.begin_deciding().await?;
        let mut done = Batch::new(self.options.origin);
        done.begin(header.clone());
        let mut group = Group::in_parts(done);
        let mut work = Long {
            batch: Batch::new(self.options.origin),
            header,
            changes: 0,
            reached,
            fresh,
            sent: 0,
            merging: false,
        };
        let decided = &mut group.decided;
        let written = self
            .parts(feed, writer, front, changes, &mut work, decided, skipped)
            .await;
        let written = match written {
            Ok(()) => answered(writer, &mut work, 0).await,
            error => error,
        };
        group.batch.changes = work.changes;
        match self.end(feed, writer, group, written).await? {
            None => Ok(()),
            // The stream begins anew: its beginning was read.
            Some((_, error)) => Err(error),
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
        work.merging |= feed.merging(&look);
        work.batch.columns = Arc::default();
        for raw in Changes::new(changes.clone()) {
            let raw = raw?;
            if raw.first() == Some(&b'T') {
                self.flush(writer, work, decided).await?;
                answered(writer, work, 0).await?;
                let tables = feed.truncated(&raw).await?;
                let plain = Version::new(work.header.stamp, self.options.origin);
                let ranks = Arc::make_mut(&mut work.batch.ranks);
                let tables: Vec<_> = tables
                    .into_iter()
                    .map(|t| {
                        let version = ranks.pass_truncate(t.identity.relation, plain);
                        (t, version)
                    })
                    .collect();
                let context = &self.options.context;
                truncate::write(
                    context,
                    writer,
                    &tables,
                    &work.header,
                    &self.priors,
                    decided,
                )
                .await?;
                work.changes += 1;
                continue;
            }
            feed.push(&mut work.batch, &raw)?;
            feed.took(raw.len()).await;
            let full = work.batch.bytes >= self.options.limits.bytes;
            if full || work.batch.changes >= PART_CHANGES {
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
        next.ranks = Arc::clone(&work.batch.ranks);
        next.columns = Arc::clone(&work.batch.columns);
        let mut batch = std::mem::replace(&mut work.batch, next);
        work.changes += batch.changes;
        batch.close();
        let context = self.options.context.clone();
        if work.merging {
            batch.merge();
        }
        // Nobody knows what else will come of it.
        batch.merges |= context.ledger.any_merging();
        // Before the announcement: what is captured behind it is not behind this guard.
        let horizon = context.barriers.horizon();
        let Some(announcement) = self.announce(&mut batch, work.fresh, decided) else {
            return Err(Error::Again("another origin is deciding the same row"));
        };
        let (ledger, last) = (&context.ledger, batch.last());
        ledger.commits_after(batch.origin, last, work.reached, self.generation);
        if announcement.fast {
            known::write(writer, &batch, Part::Whole, horizon, decided);
            // The next parts are made ready while the server works on this one. A TRUNCATE may come
            // with nothing before or behind it: then there is nothing to be answered.
            if !writer.is_empty() {
                writer.send_behind()?;
                work.sent += 1;
            }
            answered(writer, work, PARTS_ON_WAY - 1).await?;
        } else {
            answered(writer, work, 0).await?;
            // Whoever waits for a lock of this transaction must not be waited for.
            let blind = &announcement.blind_before;
            if !ledger.wait_for_blind_briefly(blind).await {
                return Err(Error::Again("groups of other origins are on their way"));
            }
            careful::write(&context, writer, &batch, decided).await?;
        }
        for table in &batch.tables {
            let relation = table.mapping.identity.relation;
            for slot in &table.slots {
                decided.lost.push(relation, slot.hash(), slot.version());
            }
        }
        Ok(())
    }
}

/// Reads answers until no more than `left` parts are without one.
async fn answered(writer: &mut Writer, work: &mut Long, left: usize) -> Result<(), Error> {
    while work.sent > left {
        work.sent -= 1;
        writer.receive().await?;
    }
    Ok(())
}
