//! What is under way between the sites: late, in any order, twice, or never.
//!
//! A direction between two sites may be cut. Whoever asks another site needs both.

use std::collections::BTreeSet;
use std::sync::Arc;

use everywrite_conflict::Lsn;
use everywrite_node::settle::Beat;

use crate::data::Transaction;
use crate::rnd::Rnd;

/// What a site sends to another.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// An origin's journal is asked for, from behind a position.
    Subscribe {
        origin: usize,
        number: u64,
        from: Lsn,
    },
    /// And not any more.
    Unsubscribe { origin: usize },
    /// It cannot be had.
    Refused { origin: usize, number: u64 },
    /// A piece of it.
    Journal {
        origin: usize,
        number: u64,
        piece: Vec<Arc<Transaction>>,
    },
    /// How far sites are: who sends it, and what it has heard of others.
    Beats(Vec<Arc<Beat>>),
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) packet: Packet,
}

/// What comes next.
pub(crate) enum Arrives {
    Nothing,
    Packet(Sent),
    /// What is lost breaks the connections of the two.
    Lost(usize, usize),
}

/// Everything that is on its way, and what is cut.
#[derive(Debug, Default)]
pub(crate) struct Network {
    sent: Vec<Sent>,
    /// (from, to).
    cut: BTreeSet<(usize, usize)>,
    /// A site that nobody reaches, and until which step.
    away: Option<(usize, usize)>,
    /// For the counts of a run.
    pub(crate) cuts: usize,
    pub(crate) twice: usize,
}

impl Network {
    /// Puts a packet on its way. False: the direction is cut, and it is gone.
    pub(crate) fn send(&mut self, from: usize, to: usize, packet: Packet) -> bool {
        let passes = self.passes(from, to);
        if passes {
            self.sent.push(Sent { from, to, packet });
        }
        passes
    }

    /// One of the packets on their way, usually in the order of its direction, perhaps not for the last time.
    pub(crate) fn arrives(&mut self, rnd: &mut Rnd) -> Arrives {
        if self.sent.is_empty() {
            return Arrives::Nothing;
        }
        let mut at = rnd.below(self.sent.len());
        if rnd.chance(70) {
            let way = (self.sent[at].from, self.sent[at].to);
            let first = self.sent.iter().position(|s| (s.from, s.to) == way);
            at = first.unwrap_or(at);
        }
        let twice = rnd.chance(10);
        let lost = rnd.chance(2);
        let sent = match twice {
            true => self.sent[at].clone(),
            false => self.sent.remove(at),
        };
        self.twice += usize::from(twice && !lost);
        match lost || !self.passes(sent.from, sent.to) {
            true => Arrives::Lost(sent.from, sent.to),
            false => Arrives::Packet(sent),
        }
    }

    /// The oldest packet, when everything passes.
    pub(crate) fn next(&mut self) -> Option<Sent> {
        (!self.sent.is_empty()).then(|| self.sent.remove(0))
    }

    /// Whether what is sent now arrives.
    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        let away = |site| self.away.is_some_and(|(gone, _)| gone == site);
        !self.cut.contains(&(from, to)) && !away(from) && !away(to)
    }

    /// Whether one can ask the other and is answered.
    pub(crate) fn reaches(&self, one: usize, other: usize) -> bool {
        one == other || (self.passes(one, other) && self.passes(other, one))
    }

    /// Something is cut, or heals.
    pub(crate) fn changes(&mut self, rnd: &mut Rnd, sites: usize) {
        let one = rnd.below(sites);
        let other = (one + 1 + rnd.below(sites - 1)) % sites;
        match rnd.below(10) {
            // One direction.
            0..3 => {
                self.cut.insert((one, other));
            }
            // A pair.
            3..5 => self.cut.extend([(one, other), (other, one)]),
            // One site and all others.
            5 => {
                let others = (0..sites).filter(|s| *s != one);
                self.cut.extend(others.flat_map(|s| [(one, s), (s, one)]));
            }
            6..8 => self.cut.retain(|&(from, to)| (from, to) != (one, other)),
            _ => self.cut.clear(),
        }
        self.cuts += self.cut.len();
    }

    /// A site is gone until that step.
    pub(crate) fn goes_away(&mut self, site: usize, until: usize) {
        if self.away.is_none() {
            self.away = Some((site, until));
        }
    }

    /// It is that step.
    pub(crate) fn step(&mut self, step: usize) {
        self.away = self.away.filter(|(_, until)| step < *until);
    }

    /// Everything passes, and what was under way is gone: who needs it asks again.
    pub(crate) fn heals(&mut self) {
        self.cut.clear();
        self.away = None;
        self.sent.clear();
    }
}
