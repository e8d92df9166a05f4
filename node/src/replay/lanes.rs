//! The sessions in which one origin's groups are written: two of them, so that the server works on two groups at once.
//!
//! ```text
//!  first   ──group 1: rows, COMMIT──►│answer          ┌──group 3: rows──►        │COMMIT──►│answer
//!  second  ────group 2: rows────────►│  COMMIT──►│answer
//! ```
//!
//! Rows of a group may be written while the group before it is. Its COMMIT is **sent** only when that one's answer has come. So the
//! commit records stand in the local WAL in the origin's order, readers see whole groups in that order (I3), and what
//! a crash leaves is a prefix of them. A group that is alone goes to the first session as a whole, in one write.
//!
//! Each session bears a replication origin of its own (see `settle::origins`). Before the progress is read both have been
//! held by the session that reads: nobody from before can commit anything any more.
//!
//! Trap: that a group waits for the one before it is known here and not to the server. If the one before waits for a lock that leads to the
//! later one, in whatever way (a user's transaction, another origin's groups, an exclusive lock that
//! stands in the queue), the server sees no deadlock. So it is asked from time to time, and the later one gives way: it is
//! rolled back, and written again when the one before it is committed.

use std::time::Duration;

use everywrite_conflict::{Lsn, NodeId};
use tokio::time::Instant;

use super::Error;
use super::session;
use super::wal_position::lsn_text;
use super::writer::{Failed, Writer};
use crate::pg::Target;
use crate::pg::pipeline::Outcome;
use crate::settle::origins;

/// When a group that waits for its commit asks whether the one before it waits for it.
const LOOK: Duration = Duration::from_millis(100);
/// A code of this class says that the server has no room for a second session.
const NO_RESOURCES: &str = "53";

/// One of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In which everything is that is not written beside something else.
    First,
    /// What is written beside a group in the first one, and what is chained to that.
    Second,
}

impl Place {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Place::First => Place::Second,
            Place::Second => Place::First,
        }
    }
}

/// See the module.
pub(super) struct Lanes {
    first: Lane,
    second: Option<Lane>,
    begun: Option<Begun>,
}

/// A session, and the answers that it owes before those of a group that is to be committed.
struct Lane {
    writer: Writer,
    process: i32,
    owed: usize,
    /// The first error among them.
    failed: Option<Error>,
}

/// A group whose COMMIT is not sent, because the one before it has no answer yet.
struct Begun {
    place: Place,
    /// Its rows are written.
    answered: bool,
    /// When it is asked next whether the one before it waits for it.
    look_at: Option<Instant>,
    /// So it was when it was asked last.
    waited_for: bool,
    /// It was rolled back for the one before it.
    gave_way: bool,
}

/// What became of a group that was begun, when the one before it is committed.
pub(super) enum Ready {
    /// Its rows are written, or about to be.
    ToCommit,
    /// It gave way: it has to be written again.
    ToWrite,
    /// It has failed.
    Failed(Error),
}

impl Lane {
    fn new(writer: Writer) -> Self {
        let process = writer.process_id();
        Lane {
            writer,
            process,
            owed: 0,
            failed: None,
        }
    }

    /// Sends what has one answer.
    fn ask(&mut self) -> Result<(), Error> {
        self.owed += 1;
        self.writer.send_behind()
    }

    /// One of the answers that are owed. May be cancelled.
    async fn hear(&mut self) -> Option<Vec<Outcome>> {
        let answer = self.writer.receive().await;
        self.owed -= 1;
        match answer {
            Ok(outcomes) => Some(outcomes),
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    /// What became of a group whose commit is sent. May be cancelled.
    async fn committed(&mut self) -> Result<(Lsn, Lsn), Failed> {
        while self.owed > 0 {
            self.hear().await;
        }
        let committed = self.writer.committed().await;
        match self.failed.take() {
            // What comes behind only says that the transaction has failed.
            Some(error) if error.session_lost() => Err(Failed::Unknown(error)),
            Some(error) => Err(Failed::Before(error)),
            None => committed,
        }
    }
}

impl Begun {
    fn at(place: Place) -> Self {
        Begun {
            place,
            answered: false,
            look_at: None,
            waited_for: false,
            gave_way: false,
        }
    }

    /// An answer of its session has come, or an error. True: it has to give way.
    fn heard(&mut self, answer: Option<&[Outcome]>, now: Instant) -> bool {
        let Some(outcomes) = answer.filter(|_| !self.gave_way) else {
            return false;
        };
        if !self.answered {
            self.answered = true;
        } else if waits(outcomes) {
            self.gave_way = self.waited_for;
            self.waited_for = true;
        } else {
            self.waited_for = false;
        }
        self.look_at = (!self.gave_way).then(|| now + LOOK);
        self.gave_way
    }
}

/// Whether the answer is that somebody is waited for.
fn waits(outcomes: &[Outcome]) -> bool {
    let cell = outcomes
        .last()
        .and_then(|o| o.rows.first())
        .and_then(|row| row.first())
        .and_then(Option::as_ref);
    cell.is_some_and(|cell| cell.as_ref() == [1])
}

impl Lanes {
    /// Opens the sessions. Returns the origin's progress as well, flushed, and where the local WAL is.
    ///
    /// `peers`: of how many nodes there are streams, each of which needs its first session more than this one its second.
    pub(super) async fn open(
        target: &Target,
        origin: NodeId,
        sessions: u32,
        peers: usize,
    ) -> Result<(Self, Lsn, Lsn), Error> {
        let [first, second] = origins::names(origin);
        let named = target.named(format!("everywrite replay {origin}"));
        let mut session = session::connect(&named).await?;
        // What it has counts, also where it is not used any more.
        let progress = session::progress_of_none(&mut session, &second).await?;
        session::bear(&mut session, &first).await?;
        for sql in session::APPLYING {
            session.query_simple(sql).await?;
        }
        let progress = progress.max(session::progress(&mut session).await?);
        let here = session
            .query_simple("select pg_current_wal_insert_lsn()")
            .await?;
        let here = lsn_text(here.first());
        let room = sessions > 1 && session::has_room(&mut session, peers).await?;
        let beside = match room {
            true => {
                let target = target.named(format!("everywrite replay {origin} beside"));
                open_second(&target, &second).await?
            }
            false => None,
        };
        if sessions > 1 && beside.is_none() {
            tracing::warn!(
                %origin,
                "the server has no room for a second session: its groups are written one after the other; `everywrite check` says what to raise"
            );
        }
        let lanes = Lanes {
            first: Lane::new(Writer::new(session, first)),
            second: beside.map(Lane::new),
            begun: None,
        };
        Ok((lanes, progress, here))
    }

    /// Whether there are two sessions.
    pub(super) fn are_two(&self) -> bool {
        self.second.is_some()
    }

    /// The session in which everything is that is not written beside something else.
    pub(super) fn first(&mut self) -> &mut Writer {
        &mut self.first.writer
    }

    /// One of the sessions.
    pub(super) fn at(&mut self, place: Place) -> &mut Writer {
        &mut self.lane(place).writer
    }

    fn lane(&mut self, place: Place) -> &mut Lane {
        match (place, &mut self.second) {
            (Place::Second, Some(second)) => second,
            _ => &mut self.first,
        }
    }

    /// Sends rows of a group to a session, without a COMMIT, while the group before it is in the other one.
    pub(super) fn begin(&mut self, place: Place) -> Result<(), Error> {
        self.begun = Some(Begun::at(place));
        self.lane(place).ask()
    }

    /// What became of the group in the session at `place`, whose COMMIT is sent. Meanwhile sees to the group that was begun
    /// beside it. May be cancelled.
    pub(super) async fn committed(&mut self, place: Place) -> Result<(Lsn, Lsn), Failed> {
        loop {
            let (Some(begun), Some(second)) = (&mut self.begun, &mut self.second) else {
                return self.lane(place).committed().await;
            };
            let (first, other) = match place {
                Place::First => (&mut self.first, second),
                Place::Second => (second, &mut self.first),
            };
            let look_at = begun.look_at;
            tokio::select! {
                biased;
                committed = first.committed() => return committed,
                answer = other.hear(), if other.owed > 0 => {
                    if begun.heard(answer.as_deref(), Instant::now()) {
                        tracing::debug!("a group gives way to the one before it");
                        other.writer.sql("rollback");
                        other.ask().map_err(Failed::Unknown)?;
                    }
                }
                () = tokio::time::sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                    begun.look_at = None;
                    other.writer.is_blocked(first.process);
                    other.ask().map_err(Failed::Unknown)?;
                }
            }
        }
    }

    /// The group before the one that was begun is committed.
    pub(super) fn ready(&mut self) -> Ready {
        let Some(begun) = self.begun.take() else {
            return Ready::ToCommit;
        };
        let lane = self.lane(begun.place);
        match lane.failed.take() {
            _ if begun.gave_way => Ready::ToWrite,
            Some(error) => Ready::Failed(error),
            None => Ready::ToCommit,
        }
    }

    /// The group before the one that was begun has failed: nothing of it is to stand.
    pub(super) async fn take_back(&mut self) -> Result<(), Error> {
        let Some(begun) = self.begun.take() else {
            return Ok(());
        };
        let lane = self.lane(begun.place);
        while lane.owed > 0 {
            lane.hear().await;
        }
        match lane.failed.take() {
            Some(error) if lane.writer.is_broken() => Err(error),
            _ => lane.writer.rollback().await,
        }
    }
}

/// The second session, if the server lets it in.
async fn open_second(target: &Target, origin: &str) -> Result<Option<Writer>, Error> {
    let opened = async {
        let mut session = session::open(target, origin).await?;
        for sql in session::APPLYING {
            session.query_simple(sql).await?;
        }
        Ok::<_, Error>(Writer::new(session, origin.to_owned()))
    };
    match opened.await {
        Ok(writer) => Ok(Some(writer)),
        Err(Error::Postgres(e)) if e.code().is_some_and(|c| c.starts_with(NO_RESOURCES)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn says(waits: bool) -> [Outcome; 1] {
        [Outcome {
            affected: 1,
            rows: vec![vec![Some(Bytes::copy_from_slice(&[u8::from(waits)]))]],
        }]
    }

    /// Whether it gives way after its rows are written and the server was asked with these answers.
    fn gives_way(answers: &[bool]) -> bool {
        let mut begun = Begun::at(Place::Second);
        let now = Instant::now();
        assert!(begun.look_at.is_none(), "its rows are not written");
        assert!(!begun.heard(Some(&says(true)), now), "of its last row");
        for answer in answers {
            assert_eq!(begun.look_at, Some(now + LOOK));
            if begun.heard(Some(&says(*answer)), now) {
                assert!(begun.look_at.is_none());
                // The answer to the rollback.
                assert!(!begun.heard(Some(&[]), now) && begun.gave_way);
                return true;
            }
        }
        false
    }

    #[test]
    fn a_group_gives_way_that_is_waited_for_twice_in_a_row() {
        assert!(!gives_way(&[false, true, false, true, false]));
        assert!(gives_way(&[false, true, true]));
    }

    #[test]
    fn nobody_is_asked_for_a_group_that_has_failed() {
        let mut begun = Begun::at(Place::First);
        assert!(!begun.heard(None, Instant::now()));
        assert!(begun.look_at.is_none() && !begun.gave_way);
    }
}
