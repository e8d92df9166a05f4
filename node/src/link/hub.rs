//! Runs the routing: tells the router what happens, and does what it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everywrite_conflict::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::Error;
use super::node::Node;
use super::peer::Side;
use super::receive::Feed;
use super::routing::{Command, Router, SessionId};
use super::session::Session;
use crate::journal::Journal;

/// Beats and the own journals are looked at so often; connects and disconnects count at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a peer refused is asked for again after so long: a person or a restart may have helped.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// What the own journal did not take is asked for again after so long.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// A subscription that was not refused for so long is a good one.
const GOOD_AFTER: Duration = Duration::from_secs(2);
/// Events that may wait; they are few.
pub(super) const EVENT_QUEUE: usize = 256;

/// What happens on connections.
pub(super) enum Event {
    Up(Arc<Session>),
    Down(SessionId),
    /// The own journal did not take what came.
    FeedFailed {
        session: SessionId,
        number: u32,
        error: Error,
    },
    /// The peer ended a subscription.
    Refused {
        session: SessionId,
        number: u32,
        reason: String,
    },
}

pub(super) struct Hub {
    node: Arc<Node>,
    router: Router,
    /// The journals of all peers.
    journals: BTreeMap<NodeId, Journal>,
    feeds: BTreeMap<NodeId, (Feed, Instant)>,
    last_number: u32,
    began: Instant,
}

impl Hub {
    pub(super) fn new(node: Arc<Node>, journals: BTreeMap<NodeId, Journal>) -> Self {
        Hub {
            node,
            router: Router::new(journals.keys().copied()),
            journals,
            feeds: BTreeMap::new(),
            last_number: 0,
            began: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shutdown = self.node.shutdown.clone();
        loop {
            // All arms are cancellation-safe.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = events.recv() => self.happened(event).await,
                _ = ticks.tick() => self.note_good_feeds(),
            }
            self.route().await;
        }
        for (feed, _) in std::mem::take(&mut self.feeds).into_values() {
            feed.stop().await;
        }
    }

    async fn happened(&mut self, event: Event) {
        match event {
            Event::Up(session) => {
                let mut sessions = self.node.sessions.lock();
                for old in sessions.values().filter(|old| old.via == session.via) {
                    old.close(Error::Replaced);
                }
                self.router.connected(session.id, session.via);
                if !session.via.dialled
                    && let Some(peer) = self.node.peers.get(&session.via.node)
                {
                    peer.seen.notify_one();
                }
                sessions.insert(session.id, session);
                drop(sessions);
                self.node.connections_changed();
            }
            Event::Down(id) => {
                self.node.sessions.lock().remove(&id);
                self.node.connections_changed();
                self.router.disconnected(id);
                let ended: Vec<NodeId> = self
                    .feeds
                    .iter()
                    .filter(|(_, (feed, _))| feed.session.id == id)
                    .map(|(&origin, _)| origin)
                    .collect();
                for origin in ended {
                    self.stop(origin).await;
                }
            }
            Event::FeedFailed {
                session,
                number,
                error,
            } => {
                let retry = STORE_AGAIN;
                self.feed_ended(session, number, retry, |_, _| error).await;
            }
            Event::Refused {
                session,
                number,
                reason,
            } => {
                let error = |node, origin| Error::Refused {
                    node,
                    origin,
                    reason,
                };
                self.feed_ended(session, number, ASK_AGAIN, error).await;
            }
        }
    }

    /// Events of a subscription that was replaced meanwhile find no feed and change nothing.
    async fn feed_ended(
        &mut self,
        session: SessionId,
        number: u32,
        retry: Duration,
        error: impl FnOnce(NodeId, NodeId) -> Error,
    ) {
        let found = self
            .feeds
            .iter()
            .find(|(_, (feed, _))| feed.session.id == session && feed.number == number);
        let Some((&origin, (feed, _))) = found else {
            return;
        };
        let via = feed.session.via.node;
        if let Some(peer) = self.node.peers.get(&via) {
            peer.failed(Side::Feed(origin), &error(via, origin));
        }
        self.stop(origin).await;
        let until = self.began.elapsed() + retry;
        self.router.refused(session, origin, until);
    }

    async fn stop(&mut self, origin: NodeId) {
        self.node.feeds.lock().remove(&origin);
        if let Some((feed, _)) = self.feeds.remove(&origin) {
            feed.stop().await;
        }
    }

    fn note_good_feeds(&self) {
        for (&origin, (feed, since)) in &self.feeds {
            if since.elapsed() >= GOOD_AFTER
                && let Some(peer) = self.node.peers.get(&feed.session.via.node)
            {
                peer.recovered(Side::Feed(origin));
            }
        }
    }

    async fn route(&mut self) {
        for beat in self.node.beats.all() {
            self.router.beat(beat.node, beat.holds.clone());
        }
        self.router.holds(self.node.journals.holds());
        for command in self.router.route(self.began.elapsed()) {
            match command {
                Command::Unsubscribe { origin, .. } => self.stop(origin).await,
                Command::Subscribe { session, origin } => self.subscribe(session, origin),
            }
        }
    }

    fn subscribe(&mut self, session: SessionId, origin: NodeId) {
        let session = self.node.sessions.lock().get(&session).cloned();
        let (Some(session), Some(journal)) = (session, self.journals.get(&origin)) else {
            return;
        };
        self.last_number = self.last_number.wrapping_add(1);
        let via = session.via;
        let feed = Feed::start(
            &self.node,
            session,
            origin,
            journal.clone(),
            self.last_number,
        );
        self.feeds.insert(origin, (feed, Instant::now()));
        self.node.feeds.lock().insert(origin, via);
    }
}
