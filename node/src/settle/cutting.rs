//! What is stable, and what index and journals may let go of. Pure: the steward carries it out.

use everywrite_conflict::{Lsn, NodeId, Settled, Vector};
use parking_lot::Mutex;

use super::Beat;

/// What the members' streams and beats say of stability here; fed by replay, read by the steward.
#[derive(Debug)]
pub struct Stability {
    settled: Mutex<Settled>,
}

impl Stability {
    /// Among these members, this one included.
    pub fn new(me: NodeId, members: &[NodeId]) -> Self {
        Stability {
            settled: Mutex::new(Settled::new(me, members.iter().copied())),
        }
    }

    /// A transaction of `origin` that had seen this is applied and flushed here.
    pub fn replayed(&self, origin: NodeId, seen: &Vector) {
        self.settled.lock().replayed(origin, seen);
    }

    /// A node's beat.
    pub fn beat(&self, beat: &Beat) {
        self.settled
            .lock()
            .beat(beat.node, beat.journal_end, beat.applied.clone());
    }

    /// What the index may forget, given what is applied and flushed here (and the own journal's end).
    pub fn stable(&self, applied: &Vector) -> Vector {
        self.settled.lock().stable(applied)
    }

    /// What may leave memory, the best choice first: what would be stable without the member that is
    /// farthest behind, without two, and so on.
    pub fn nearly(&self, applied: &Vector) -> Vec<Option<Vector>> {
        let mut settled = self.settled.lock();
        let others = settled.others();
        let nearly = (1..=others.max(1)).map(|away| settled.stable_without(applied, away));
        nearly.map(Some).collect()
    }

    /// What the journals may drop, given what is applied and flushed here.
    pub fn released(&self, flushed: &Vector) -> Vector {
        self.settled.lock().released(flushed)
    }
}

/// How far what capture has announced is safe: `captured` is what it has passed, `own_end` the durable end of the own
/// journal, `stamped` the end of the last local transaction that has its stamp.
pub fn captured_durably(captured: Lsn, own_end: Lsn, stamped: Lsn) -> Lsn {
    match own_end >= stamped {
        true => captured,
        false => own_end.min(captured),
    }
}

/// Up to where the journal of `origin` is cut: the index is rebuilt from the journals, so what is not stable must stay.
pub fn cut_up_to(origin: NodeId, released: &Vector, stable: &Vector) -> Lsn {
    released.get(origin).min(stable.get(origin))
}

/// What was found in one round of cutting; the journals are cut by it in the next one.
#[derive(Clone, Debug)]
pub struct Found {
    /// What nobody needs any more.
    pub released: Vector,
    /// All that had its stamp when `released` was found.
    pub stamped: Lsn,
    /// Where the local WAL was after that.
    pub reached: Lsn,
}

impl Found {
    /// Whether the journals may be cut. Capture must be durably behind the place where this was found:
    /// a local transaction that came before it may still have to be compared with what would go. And
    /// no second look at what was stamped then may be due: after a restart it asks an index that is
    /// rebuilt from what the journals, of all origins, still hold.
    pub fn may_go(&self, captured: Lsn, looked: Lsn) -> bool {
        self.reached <= captured && self.stamped <= looked
    }
}

/// What may be cut where tables are merged by columns, once all that was here when it was found is stable.
///
/// Which updates a row event has taken away only the event tells. If its segment goes first, a restart finds such
/// updates in other journals and takes them for changes of the row that stands. What comes later has seen the event.
#[derive(Clone, Debug)]
pub struct Closing {
    /// What may be cut then.
    pub released: Vector,
    /// What was here, the own journal included, when capture was behind the place where that was found.
    pub known: Vector,
}

impl Closing {
    /// Whether that is so.
    pub fn may_go(&self, stable: &Vector) -> bool {
        stable.covers_all(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stamped: u64, reached: u64) -> Found {
        Found {
            released: Vector::new(),
            stamped: Lsn(stamped),
            reached: Lsn(reached),
        }
    }

    #[test]
    fn no_journal_is_cut_while_second_looks_are_behind() {
        let found = found(100, 200);
        assert!(!found.may_go(Lsn(300), Lsn(99)));
        assert!(found.may_go(Lsn(300), Lsn(100)));
    }

    #[test]
    fn no_journal_is_cut_before_capture_is_behind_what_was_found() {
        let found = found(100, 200);
        assert!(!found.may_go(Lsn(199), Lsn(100)));
        assert!(found.may_go(Lsn(200), Lsn(100)));
    }

    #[test]
    fn what_an_event_may_have_taken_away_is_stable_before_the_event_goes() {
        let vector = |a, b| {
            [(NodeId(1), Lsn(a)), (NodeId(2), Lsn(b))]
                .into_iter()
                .collect()
        };
        let closing = Closing {
            released: vector(70, 0),
            known: vector(70, 90),
        };
        // The other site has not replayed the update at 80 that lost to what is to go.
        assert!(!closing.may_go(&vector(75, 79)));
        assert!(closing.may_go(&vector(75, 90)));
    }

    #[test]
    fn a_site_that_never_writes_cuts() {
        assert!(found(0, 200).may_go(Lsn(200), Lsn::ZERO));
    }
}
