//! Whether a group may be written without a look at its rows, by what the index held of their keys. Pure.
//!
//! ```text
//!  prior ── seen by its writer, or none ──► written behind a guard
//!        └─ unseen, committed here, and the two versions decide ──► the index decides (`known`), behind the same guard
//!        └─ else ──► with care
//! ```

use std::collections::VecDeque;

use everywrite_conflict::{Entry, Folded, Image, Lsn, Net, NodeId, Position, Vector, Writer};

/// So many groups are at the server at a time.
const ON_WAY: usize = 2;

/// A group that is announced.
#[derive(Clone, Copy, Debug)]
pub struct Coming<C> {
    /// Whose.
    pub origin: NodeId,
    /// The end of the group before it, on its way or applied: what of the origin lies behind that was only announced.
    pub before: Lsn,
    /// Whether one of its transactions had surely seen what stands at a position.
    pub covers: C,
}

impl<C: Fn(Writer, Position) -> bool> Coming<C> {
    /// Whether a change may be written without a look at its row; `None` if it meets what its writer
    /// had not seen.
    #[inline]
    pub fn blindly<K, R: Image>(
        &self,
        folded: &Folded<K, R>,
        prior: Option<&Entry>,
    ) -> Option<bool> {
        let whole = folded.net.row().is_none_or(Image::complete);
        // What the group leaves out is in the row that its first writer saw. And what
        // a row that it both brings and takes finds here is removed: it must be one
        // that the first writer knew to be gone.
        let first = !whole || matches!(folded.net, Net::Nothing);
        let by = if first { folded.first } else { folded.last };
        // What of this origin is neither was only announced.
        let here = |s: &Position| s.origin != self.origin || s.lsn <= self.before;
        let seen = |s: Position| here(&s) && (self.covers)(by, s);
        // Only a mere update may leave out what stands in the row of its key.
        let update = matches!(folded.net, Net::Update(_));
        let stays = whole || (update && folded.moved_from.is_none());
        prior
            .is_none_or(|p| p.source.is_some_and(seen))
            .then_some(stays)
    }

    /// Whether a change meets a version of another origin that its writer had not seen.
    pub fn unseen<K, R>(&self, folded: &Folded<K, R>, prior: &Entry) -> bool {
        prior
            .source
            .is_some_and(|s| s.origin != self.origin && !(self.covers)(folded.last, s))
    }
}

/// Whether another origin's write of the key, of which `prior` is the newest, may fall between the group's writes of
/// it, of which one has taken what it omits from an earlier one: `filled`, or it is a row that has left for another key.
pub fn spans<K, R>(folded: &Folded<K, R>, filled: bool, prior: Option<&Entry>) -> bool {
    (filled || folded.gave) && prior.is_some_and(|p| folded.spans(p.version))
}

/// What is known of this site when a group is announced.
#[derive(Clone, Debug)]
pub struct Site {
    /// This node.
    pub me: NodeId,
    /// The own journal is durable up to here: a stamp that a crash could change decides nothing.
    pub durable: Lsn,
    /// The guard does not let be written over what was committed behind here.
    pub horizon: Lsn,
    /// What the server has of other origins. After a crash it may be less than what has landed once.
    pub applied: Vector,
}

impl Site {
    /// Whether the index alone can decide about a change that met `prior`.
    pub fn decides<K, R: Image, C: Fn(Writer, Position) -> bool>(
        &self,
        group: &Coming<C>,
        folded: &Folded<K, R>,
        prior: &Entry,
    ) -> bool {
        let Some(source) = prior.source else {
            return false;
        };
        let version = folded.last.version;
        let ours = source.origin == self.me;
        let plain = !prior.in_flight()
            && group.unseen(folded, prior)
            && (ours || self.applied.covers(source))
            && !(ours && source.lsn > self.durable)
            && folded.moved_from.is_none()
            // Where a policy decides, more counts than the two versions.
            && !version.is_ranked()
            && !prior.version.is_ranked()
            && folded.net.row().is_none_or(Image::complete);
        let loses = version < prior.version;
        let guarded = match folded.net {
            Net::Nothing => return false,
            // There is nothing that a guard could hit.
            Net::Delete if prior.deleted => false,
            _ => !(ours && source.lsn > self.horizon),
        };
        plain && (loses || guarded)
    }
}

/// Whether the group that is growing may be sent: always if none is on its way; behind another one
/// when it is full, because until then it is better to have it grow. A group behind another has to be
/// chained to it, which only a named one can be.
pub fn may_go<G>(
    on_way: &VecDeque<G>,
    named: impl Fn(&G) -> bool,
    single: bool,
    full: bool,
) -> bool {
    let chains = |before: &G| named(before) && !single && on_way.len() < ON_WAY;
    on_way.back().is_none_or(|before| full && chains(before))
}

/// Of the groups that a lost session had on its way how many have landed, in their order: what the server
/// has of their origin tells.
pub fn landed<G>(on_way: &VecDeque<G>, last: impl Fn(&G) -> Lsn, progress: Lsn) -> usize {
    on_way.iter().take_while(|g| last(g) <= progress).count()
}

#[cfg(test)]
pub(super) mod tests {
    use everywrite_conflict::{Change, Fold, Stamp, Version};

    use super::*;

    const ME: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    /// Whether it is all there.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Row(bool);

    impl Image for Row {
        fn fill_from(&mut self, older: &Self) {
            self.0 |= older.0;
        }

        fn complete(&self) -> bool {
            self.0
        }
    }

    fn folded(changes: &[Change<Row>], origin: NodeId, stamp: i64) -> Folded<u8, Row> {
        let mut fold = Fold::new();
        for change in changes {
            let version = Version::new(Stamp(stamp), origin);
            let transaction = 0;
            let writer = Writer {
                version,
                transaction,
            };
            fold.push(7, *change, writer);
        }
        fold.finish().remove(0)
    }

    /// That write, landed.
    pub(in crate::replay) fn entry(origin: NodeId, lsn: u64, stamp: i64) -> Entry {
        let lsn = Lsn(lsn);
        Entry {
            version: Version::new(Stamp(stamp), origin),
            source: Some(Position { origin, lsn }),
            deleted: false,
            local_lsn: Lsn(1),
        }
    }

    /// Of B, behind its place 50; it has seen of C all up to 10, of this node nothing.
    fn coming() -> Coming<impl Fn(Writer, Position) -> bool> {
        Coming {
            origin: B,
            before: Lsn(50),
            covers: |_, p: Position| p.origin == B || (p.origin == C && p.lsn <= Lsn(10)),
        }
    }

    #[test]
    fn what_its_writer_has_seen_is_written_blindly() {
        let update = folded(&[Change::Update(Row(true))], B, 90);
        assert_eq!(coming().blindly(&update, None), Some(true));
        assert_eq!(
            coming().blindly(&update, Some(&entry(C, 10, 80))),
            Some(true)
        );
        assert_eq!(coming().blindly(&update, Some(&entry(C, 11, 80))), None);
        // Of its own origin, but neither on its way before it nor applied.
        assert_eq!(
            coming().blindly(&update, Some(&entry(B, 50, 80))),
            Some(true)
        );
        assert_eq!(coming().blindly(&update, Some(&entry(B, 51, 80))), None);
    }

    #[test]
    fn only_a_mere_update_may_leave_something_out() {
        let update = folded(&[Change::Update(Row(false))], B, 90);
        assert_eq!(coming().blindly(&update, None), Some(true));
        let anew = [Change::Delete, Change::Insert(Row(false))];
        let replace = folded(&anew, B, 90);
        assert_eq!(coming().blindly(&replace, None), Some(false));
    }

    #[test]
    fn what_a_moved_row_takes_along_is_of_one_transaction_if_another_wrote_between() {
        let at = |transaction| Writer {
            version: Version::new(Stamp(80 + 10 * i64::from(transaction)), B),
            transaction,
        };
        let folded = |moved: bool| {
            let mut fold: Fold<u8, Row> = Fold::new();
            fold.push(7, Change::Update(Row(true)), at(0));
            match moved {
                true => fold.push_move((7, at(1)), (8, at(1)), Row(false)),
                false => fold.push(7, Change::Delete, at(1)),
            }
            fold.finish()
        };
        let between = entry(C, 20, 85);
        let moved = folded(true);
        // The row under the new key is whole, and nobody else has written that one.
        assert_eq!(moved[1].net, Net::Insert(Row(true)));
        assert!(!spans(&moved[1], true, None));
        assert!(spans(&moved[0], false, Some(&between)));
        assert!(!spans(&moved[0], false, Some(&entry(C, 20, 75))));
        // What is only deleted gives nothing.
        assert!(!spans(&folded(false)[0], false, Some(&between)));
    }

    #[test]
    fn the_index_decides_against_what_is_here_and_durable() {
        let applied = [(C, Lsn(20))].into_iter().collect();
        let site = Site {
            me: ME,
            durable: Lsn(30),
            horizon: Lsn(25),
            applied,
        };
        let update = folded(&[Change::Update(Row(true))], B, 90);
        let decides = |entry: Entry| site.decides(&coming(), &update, &entry);
        assert!(decides(entry(C, 20, 80)));
        assert!(!decides(entry(C, 21, 80)), "on its way");
        assert!(decides(entry(ME, 25, 80)));
        assert!(!decides(entry(ME, 26, 80)), "the guard would fail");
        assert!(decides(entry(ME, 30, 95)), "what loses meets no guard");
        assert!(
            !decides(entry(ME, 31, 95)),
            "a crash could change its stamp"
        );
    }

    #[test]
    fn groups_are_chained_when_they_are_full() {
        let named = |g: &bool| *g;
        let none = VecDeque::new();
        assert!(may_go(&none, named, false, false));
        let one = VecDeque::from([true]);
        assert!(may_go(&one, named, false, true));
        assert!(!may_go(&one, named, false, false), "better to have it grow");
        assert!(!may_go(&one, named, true, true), "one by one");
        assert!(!may_go(&VecDeque::from([false]), named, false, true));
        assert!(!may_go(&VecDeque::from([true, true]), named, false, true));
    }

    #[test]
    fn what_the_server_has_of_a_lost_session_has_landed() {
        let on_way = VecDeque::from([Lsn(5), Lsn(9), Lsn(12)]);
        assert_eq!(landed(&on_way, |g| *g, Lsn(4)), 0);
        assert_eq!(landed(&on_way, |g| *g, Lsn(11)), 2);
        assert_eq!(landed(&on_way, |g| *g, Lsn(12)), 3);
    }
}
