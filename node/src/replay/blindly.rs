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
        // What the group leaves out is in the row that its first writer saw. And of
        // a row that it both brings and takes nothing is written: none must be
        // there but those that the first writer knew to be gone.
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
