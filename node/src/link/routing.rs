//! Which connection brings which origin's transactions. Pure: connects, disconnects, refusals and
//! beats go in, [`Command`]s come out.
//!
//! For every origin there is at most one subscription: at the origin itself while it is connected,
//! else at a connected node that holds more of it than this node does. So a broken link between
//! two sites is routed around, and the survivors of a lost node level each other up.
//!
//! Invariants (checked by the property tests): never two subscriptions of one origin; only on
//! connections that are up; at the origin itself whenever that is possible; somewhere whenever
//! somebody connected has more; and nothing changes while nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use everywrite_conflict::{Lsn, NodeId, Vector};

/// A relay that has no more than this node, while another one has, is left after so long.
/// Beats are up to 100 ms old and more behind a third node: less would change for nothing.
const STALLED_FOR: Duration = Duration::from_secs(1);

/// A connection's number, not used twice.
pub type SessionId = u64;

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// The other node.
    pub node: NodeId,
    /// Whether this node dialled. Preferred: then the bulk of each direction has its own
    /// connection, and the acknowledgements that go against it meet no bulk.
    pub dialled: bool,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An origin's transactions are asked for on a connection.
    Subscribe {
        /// The connection.
        session: SessionId,
        /// The origin.
        origin: NodeId,
    },
    /// They are not any more.
    Unsubscribe {
        /// The connection.
        session: SessionId,
        /// The origin.
        origin: NodeId,
    },
}

/// The state of all routes.
#[derive(Debug)]
pub struct Router {
    routes: BTreeMap<NodeId, Route>,
    sessions: BTreeMap<SessionId, Session>,
    /// By node: what it says that it holds.
    theirs: BTreeMap<NodeId, Vector>,
    /// What this node holds.
    ours: Vector,
}

#[derive(Debug, Default)]
struct Route {
    feed: Option<SessionId>,
    /// Since when the feed has had nothing while somebody else had.
    stalled_since: Option<Duration>,
}

#[derive(Debug)]
struct Session {
    via: Via,
    /// Origins that are not to be asked for here before this time.
    refused_until: BTreeMap<NodeId, Duration>,
}

/// How good a connection is for an origin; greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    direct: bool,
    holds: Lsn,
    dialled: bool,
}

impl Router {
    /// For the given origins (all nodes but this one), nothing known yet.
    pub fn new(origins: impl IntoIterator<Item = NodeId>) -> Self {
        Router {
            routes: origins
                .into_iter()
                .map(|origin| (origin, Route::default()))
                .collect(),
            sessions: BTreeMap::new(),
            theirs: BTreeMap::new(),
            ours: Vector::new(),
        }
    }

    /// A connection is up.
    pub fn connected(&mut self, session: SessionId, via: Via) {
        let refused_until = BTreeMap::new();
        self.sessions
            .insert(session, Session { via, refused_until });
    }

    /// A connection is gone, and its subscriptions with it.
    pub fn disconnected(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        for route in self.routes.values_mut() {
            if route.feed == Some(session) {
                *route = Route::default();
            }
        }
    }

    /// A subscription ended without the connection: it is not asked for there again before
    /// `until`.
    pub fn refused(&mut self, session: SessionId, origin: NodeId, until: Duration) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.refused_until.insert(origin, until);
        }
        if let Some(route) = self.routes.get_mut(&origin)
            && route.feed == Some(session)
        {
            *route = Route::default();
        }
    }

    /// What a node says that it holds.
    pub fn beat(&mut self, node: NodeId, holds: Vector) {
        self.theirs.insert(node, holds);
    }

    /// What this node holds.
    pub fn holds(&mut self, ours: Vector) {
        self.ours = ours;
    }

    /// What must change now. `now` is any clock that never steps back.
    pub fn route(&mut self, now: Duration) -> Vec<Command> {
        let mut commands = Vec::new();
        for (&origin, route) in &mut self.routes {
            let best = best(&self.sessions, &self.theirs, &self.ours, origin, now);
            let current = route.feed.and_then(|session| {
                let via = self.sessions.get(&session)?.via;
                Some((session, rank(via, &self.theirs, origin)))
            });
            let change = match (current, best) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some((session, rank)), Some((better, better_rank))) => {
                    let stalled = !rank.direct && rank.holds <= self.ours.get(origin);
                    if session == better {
                        route.stalled_since = None;
                        false
                    } else if better_rank.direct {
                        // The origin itself is back, or a connection to it that we dialled.
                        (better_rank.direct, better_rank.dialled) > (rank.direct, rank.dialled)
                    } else if stalled {
                        now >= *route.stalled_since.get_or_insert(now) + STALLED_FOR
                    } else {
                        route.stalled_since = None;
                        false
                    }
                }
            };
            if let (true, Some((better, _))) = (change, best) {
                if let Some((session, _)) = current {
                    commands.push(Command::Unsubscribe { session, origin });
                }
                commands.push(Command::Subscribe {
                    session: better,
                    origin,
                });
                *route = Route {
                    feed: Some(better),
                    stalled_since: None,
                };
            }
        }
        commands
    }
}

/// The best connection to get `origin` through, if any is of use.
fn best(
    sessions: &BTreeMap<SessionId, Session>,
    theirs: &BTreeMap<NodeId, Vector>,
    ours: &Vector,
    origin: NodeId,
    now: Duration,
) -> Option<(SessionId, Rank)> {
    sessions
        .iter()
        .filter(|(_, session)| {
            session
                .refused_until
                .get(&origin)
                .is_none_or(|&until| now >= until)
        })
        .map(|(&id, session)| (id, rank(session.via, theirs, origin)))
        .filter(|(_, rank)| rank.direct || rank.holds > ours.get(origin))
        .max_by_key(|&(_, rank)| rank)
}

fn rank(via: Via, theirs: &BTreeMap<NodeId, Vector>, origin: NodeId) -> Rank {
    Rank {
        direct: via.node == origin,
        holds: theirs
            .get(&via.node)
            .map_or(Lsn::ZERO, |holds| holds.get(origin)),
        dialled: via.dialled,
    }
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
