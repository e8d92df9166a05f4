//! What is under way between the sites: late, in any order, twice, or never.
//!
//! A direction between two sites may be cut. Whoever asks another site needs both.

use std::collections::BTreeSet;

use crate::rnd::Rnd;
use crate::site::Beat;

/// What a site sends to another.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// Of that origin's journal I have so many transactions.
    Ask { origin: usize, have: usize },
    /// A piece of that origin's journal: the transactions with these numbers.
    Journal {
        origin: usize,
        from: usize,
        to: usize,
    },
    /// How far a site is.
    Beat(Beat),
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) packet: Packet,
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
    /// Puts a packet on its way. What is sent over a cut direction is gone.
    pub(crate) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        if self.passes(from, to) {
            self.sent.push(Sent { from, to, packet });
        }
    }

    /// One of the packets on their way: any one, perhaps not for the last time. Nothing if it is lost.
    pub(crate) fn arrives(&mut self, rnd: &mut Rnd) -> Option<Sent> {
        if self.sent.is_empty() {
            return None;
        }
        let at = rnd.below(self.sent.len());
        let twice = rnd.chance(15);
        let lost = rnd.chance(5);
        let sent = match twice {
            true => self.sent[at].clone(),
            false => self.sent.swap_remove(at),
        };
        self.twice += usize::from(twice && !lost);
        (!lost && self.passes(sent.from, sent.to)).then_some(sent)
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
