//! What a site gets of the others' journals, and from whom. The real [`Router`] decides; this is its shell:
//! connections that come and go, subscriptions, and pieces of journals that flow along them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId, Vector, invariants};
use everywrite_node::journal::Error;
use everywrite_node::journal::record::Frame;
use everywrite_node::link::routing::{Command, Router, SessionId, Via};

use crate::data::Transaction;
use crate::network::Packet;
use crate::site::{Site, end_of, node, site_of};

/// A subscription that was refused, or whose pieces did not follow, is asked for again after so long.
const AGAIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Links {
    router: Router,
    /// By the other site, and whether this one dialled.
    sessions: BTreeMap<(usize, bool), SessionId>,
    last: SessionId,
    /// By origin.
    feeds: BTreeMap<usize, Feed>,
    /// What others have subscribed to here, by their site and origin.
    serving: BTreeMap<(usize, usize), Serving>,
}

#[derive(Debug)]
struct Feed {
    session: SessionId,
    from: usize,
    number: u64,
}

#[derive(Debug)]
struct Serving {
    number: u64,
    next: Lsn,
}

impl Links {
    pub(crate) fn new(me: NodeId, sites: usize) -> Self {
        Links {
            router: Router::new((0..sites).map(node).filter(|n| *n != me)),
            sessions: BTreeMap::new(),
            last: 0,
            feeds: BTreeMap::new(),
            serving: BTreeMap::new(),
        }
    }

    /// The connections with that site are gone.
    pub(crate) fn broken(&mut self, other: usize) {
        for dialled in [true, false] {
            if let Some(session) = self.sessions.remove(&(other, dialled)) {
                self.router.disconnected(session);
            }
        }
        self.feeds.retain(|_, feed| feed.from != other);
        self.serving.retain(|(to, _), _| *to != other);
    }

    fn connects(&mut self, other: usize) {
        for dialled in [true, false] {
            if self.sessions.contains_key(&(other, dialled)) {
                continue;
            }
            self.last += 1;
            self.sessions.insert((other, dialled), self.last);
            let node = node(other);
            self.router.connected(self.last, Via { node, dialled });
        }
    }

    /// The origins and sites that others have subscribed to and from here.
    pub(crate) fn served(&self) -> Vec<(usize, usize)> {
        self.serving.keys().copied().collect()
    }

    fn fails(&mut self, origin: usize, now: Duration) {
        if let Some(feed) = self.feeds.remove(&origin) {
            self.router.refused(feed.session, node(origin), now + AGAIN);
        }
    }
}

impl Site {
    /// How far it holds every origin's journal durably.
    pub(crate) fn holds(&self) -> Vector {
        let end = |x: usize| (node(x), end_of(self.durably(x)));
        (0..self.sites).map(end).collect()
    }

    /// What it has of an origin's journal, durably.
    pub(crate) fn durably(&self, origin: usize) -> &[Arc<Transaction>] {
        match node(origin) == self.me {
            true => &self.journal[..self.durable],
            false => &self.received[origin][..self.received_durable[origin]],
        }
    }

    /// The hub looks around: `reaches` says who can be reached. Returns what it sends, and to whom.
    pub(crate) fn link(&mut self, reaches: impl Fn(usize) -> bool) -> Vec<(usize, Packet)> {
        let mut sends = Vec::new();
        for other in (0..self.sites).filter(|x| node(*x) != self.me) {
            match reaches(other) {
                true => self.links.connects(other),
                false => self.links.broken(other),
            }
        }
        for beat in self.daemon.beats.all() {
            self.links.router.beat(beat.node, beat.holds.clone());
        }
        let holds = self.holds();
        self.links.router.holds(holds.clone());
        for command in self.links.router.route(self.elapsed) {
            let (Command::Subscribe { session, origin } | Command::Unsubscribe { session, origin }) =
                command;
            let to = self.links.sessions.iter().find(|(_, id)| **id == session);
            let Some((&(to, _), _)) = to else { continue };
            let from = site_of(origin);
            if matches!(command, Command::Unsubscribe { .. }) {
                self.links.feeds.remove(&from);
                sends.push((to, Packet::Unsubscribe { origin: from }));
                continue;
            }
            self.numbers += 1;
            let feed = Feed {
                session,
                from: to,
                number: self.numbers,
            };
            self.links.feeds.insert(from, feed);
            let subscribe = Packet::Subscribe {
                origin: from,
                number: self.numbers,
                from: holds.get(origin),
            };
            sends.push((to, subscribe));
        }
        sends
    }

    pub(crate) fn subscribed(&mut self, who: usize, origin: usize, number: u64, next: Lsn) {
        let serving = Serving { number, next };
        self.links.serving.insert((who, origin), serving);
    }

    pub(crate) fn unsubscribed(&mut self, who: usize, origin: usize) {
        self.links.serving.remove(&(who, origin));
    }

    /// A piece of a journal for who has subscribed to it, or why not.
    pub(crate) fn serve(
        &mut self,
        to: usize,
        origin: usize,
        most: usize,
    ) -> Result<Option<Packet>, String> {
        let Some(serving) = self.links.serving.get(&(to, origin)) else {
            return Ok(None);
        };
        let (number, next) = (serving.number, serving.next);
        let own = node(origin) == self.me;
        let journal = match own {
            true => &self.journal[..self.offers(origin)],
            false => &self.received[origin][..self.offers(origin)],
        };
        // What is cut cannot be read; what an origin has not, it has lost, or will give other positions to.
        let cut = self.released.get(node(origin)) > next;
        if cut || own && next > end_of(journal) {
            self.links.serving.remove(&(to, origin));
            return Ok(Some(Packet::Refused { origin, number }));
        }
        let start = journal.partition_point(|t| t.position() <= next);
        let piece: Vec<_> = journal[start..].iter().take(most).cloned().collect();
        if piece.is_empty() {
            return Ok(None);
        }
        let (given, durable) = (end_of(&piece), end_of(self.durably(origin)));
        invariants::durable_first(node(origin), given, durable).map_err(|e| e.to_string())?;
        let number = number.to_owned();
        if let Some(serving) = self.links.serving.get_mut(&(to, origin)) {
            serving.next = given;
        }
        Ok(Some(Packet::Journal {
            origin,
            number,
            piece,
        }))
    }

    pub(crate) fn refused(&mut self, origin: usize, number: u64) {
        let feed = self.links.feeds.get(&origin);
        if feed.is_some_and(|feed| feed.number == number) {
            self.links.fails(origin, self.elapsed);
        }
    }

    /// A piece of a journal arrives: the chain says what of it is new, and whether it follows.
    pub(crate) fn receive(&mut self, origin: usize, number: u64, piece: Vec<Arc<Transaction>>) {
        let feed = self.links.feeds.get(&origin);
        if feed.is_none_or(|feed| feed.number != number) {
            return;
        }
        for transaction in piece {
            match self.append(origin, &transaction) {
                Ok(true) => self.received[origin].push(transaction),
                Ok(false) => {}
                Err(_) => {
                    self.paths.gaps += 1;
                    self.links.fails(origin, self.elapsed);
                    return;
                }
            }
        }
    }

    /// Whether a transaction is new in an origin's journal; an error if it does not follow.
    pub(crate) fn append(
        &mut self,
        origin: usize,
        transaction: &Transaction,
    ) -> Result<bool, Error> {
        let frame = Frame::Transaction {
            header: transaction.header.clone(),
            changes: Bytes::new(),
        };
        let chain = &mut self.chains[origin];
        let new = chain.admits(node(origin), &frame)?;
        if new {
            chain.take(frame);
        }
        Ok(new)
    }
}
