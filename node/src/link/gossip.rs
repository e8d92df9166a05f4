//! Passing beats on: every node tells every peer the newest beats that this one has not from
//! elsewhere, so they travel wherever the data can.
//!
//! The own beat carries acknowledgements and goes out at once when it changes, then at most every
//! 10 ms. Others' beats follow at most every 100 ms, and only to a peer that is not connected with
//! who speaks in them: each node says with whom it is. Once a second, and first of all, others go too,
//! changed or not. A beat that the peer has already, because it sent it or was sent it, is not
//! repeated before that. Of a pair's two connections one carries beats: the one that is dialled here.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::message::{self, BeatList, Body, WireBeat};
use super::node::Node;
use super::options::Timing;
use super::peer::PeerState;
use super::session::Session;
use crate::settle::Beat;

/// What a peer knows of others.
#[derive(Default)]
pub(super) struct Told {
    /// The sequence of each node's newest beat that it has.
    newest: Mutex<HashMap<NodeId, u64>>,
    /// With whom it says that it is connected.
    direct: watch::Sender<BTreeSet<NodeId>>,
}

impl Told {
    /// The peer has this one, by sending it or being sent it.
    pub(super) fn has(&self, beat: &Beat) {
        let mut newest = self.newest.lock();
        let known = newest.entry(beat.node).or_default();
        *known = beat.sequence.max(*known);
    }

    fn lacks(&self, beat: &Beat) -> bool {
        self.newest
            .lock()
            .get(&beat.node)
            .is_none_or(|&known| known < beat.sequence)
    }

    /// The peer has said with whom it is connected; nodes of an earlier release say nothing.
    pub(super) fn is_connected_with(&self, nodes: &[u32]) {
        let nodes: BTreeSet<NodeId> = nodes.iter().filter_map(|&n| message::node(n)).collect();
        self.direct.send_if_modified(|direct| {
            let changed = *direct != nodes;
            *direct = nodes;
            changed
        });
    }

    /// With how many it says that it is connected.
    #[cfg(test)]
    pub(super) fn direct(&self) -> usize {
        self.direct.borrow().len()
    }
}

/// What the peer does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct News {
    own: bool,
    others: bool,
}

/// When beats were sent last.
#[derive(Clone, Copy, Debug)]
struct Last {
    own: Instant,
    others: Instant,
    any: Instant,
}

impl Last {
    /// When the next ones are due.
    fn due(&self, news: News, timing: &Timing) -> Instant {
        let own = news.own.then(|| self.own + timing.own_beat);
        let others = news.others.then(|| self.others + timing.beats);
        let due = [own, others].into_iter().flatten();
        due.min().unwrap_or(self.any + timing.beats_idle)
    }
}

/// Sends beats until it is stopped.
pub(super) async fn run(
    node: Arc<Node>,
    session: Arc<Session>,
    peer: Arc<PeerState>,
) -> Infallible {
    let timing = &node.options.timing;
    let me = node.options.me;
    let mut own = node.beats.follow(me);
    let mut any = node.beats.subscribe();
    let mut connected = node.connected.subscribe();
    let mut direct = peer.told.direct.subscribe();
    // The first sending tells all.
    let mut last: Option<Last> = None;
    // `Beats`, `Node` and `PeerState` outlive the connections: no watch closes.
    loop {
        own.mark_unchanged();
        any.mark_unchanged();
        let with = connected.borrow_and_update().clone();
        let hears = direct.borrow_and_update().clone();
        if !node.speaks_on(session.via) {
            let _ = connected.changed().await;
            last = None;
            continue;
        }
        let all = node.beats.all();
        let wanted = |beat: &Beat| beat.node == me || !hears.contains(&beat.node);
        let lacked = |beat: &Beat| wanted(beat) && peer.told.lacks(beat);
        let news = News {
            own: all.iter().any(|beat| beat.node == me && lacked(beat)),
            others: all.iter().any(|beat| beat.node != me && lacked(beat)),
        };
        let now = Instant::now();
        if let Some(last) = &last
            && let due = last.due(news, timing)
            && due > now
        {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                _ = own.changed(), if !news.own => {}
                () = changed(&mut any, now + timing.beats), if !news.others => {}
                _ = connected.changed() => {}
                _ = direct.changed() => {}
            }
            continue;
        }
        let others = last.is_none_or(|l| now >= l.others + timing.beats);
        let repeated = last.is_some() && !news.own && !news.others;
        let goes = |beat: &Beat| match last {
            None => true,
            Some(_) if beat.node == me => repeated || news.own,
            Some(_) => others && wanted(beat) && (repeated || peer.told.lacks(beat)),
        };
        let going: Vec<_> = all.iter().filter(|beat| goes(beat)).collect();
        going.iter().for_each(|beat| peer.told.has(beat));
        if !going.is_empty() {
            session.post(Body::Beats(BeatList {
                beats: going.iter().map(|beat| WireBeat::from(&***beat)).collect(),
                direct: with.iter().map(|node| u32::from(node.0)).collect(),
            }));
        }
        let before = last.map_or(now, |l| l.others);
        last = Some(Last {
            own: now,
            others: if others { now } else { before },
            any: now,
        });
    }
}

/// Returns when a beat is new, not before `from`: others' beats are not urgent, most of them concern no
/// peer, and each would wake who sends to each. May be dropped while it waits.
async fn changed(any: &mut watch::Receiver<u64>, from: Instant) {
    tokio::time::sleep_until(from).await;
    let _ = any.changed().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_beat_is_the_quickest() {
        let timing = Timing::default();
        let now = Instant::now();
        let last = Last {
            own: now,
            others: now,
            any: now,
        };
        let due = |own, others| last.due(News { own, others }, &timing) - now;
        assert_eq!(due(true, true), timing.own_beat);
        assert_eq!(due(false, true), timing.beats);
        assert_eq!(due(false, false), timing.beats_idle);
    }

    #[test]
    fn the_own_beat_does_not_hold_others_back() {
        let timing = Timing::default();
        let before = Instant::now();
        let now = before + timing.beats;
        let last = Last {
            own: now,
            others: before,
            any: now,
        };
        let news = News {
            own: false,
            others: true,
        };
        assert_eq!(last.due(news, &timing), now);
    }
}
