//! Finds the keys whose rows may differ, by ranges and hashes. Pure: answers in, questions out.
//!
//! ```text
//!  unexplored ──boundaries──► range ──digest, all sites──► equal: done
//!      ▲                                    │ differs
//!      └── too many rows ◄──────────────────┴──hashes, all sites──► keys that differ
//! ```
//!
//! What comes out are candidates, nothing more: the sites' answers are of different moments, and a
//! row that is on its way differs for a while. `disputes` judges them.
//!
//! Invariant: every row of every site is in some range that is compared, even if the sites sort keys
//! differently. The ranges of one table are the gaps of one list of places, from before the first
//! row to behind the last. Walk along the list with any row and any order of keys: at its begin the row lies
//! behind the place, at its end before it, so there is a gap on whose left side it lies behind and on whose right side
//! it does not. Other orders therefore cost time (a row may be in several gaps), never completeness.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use everywrite_conflict::NodeId;

use super::question::{Key, Range, RangeDigest, RowHash};

/// Places asked for at once: the answer of a good size, and a question that takes a moment.
const PLACES: u32 = 64;
/// Ranges under way: each site has the next question at hand when it has answered one.
const WINDOW: usize = 4;
/// A range is split into so many when it cannot be answered whole.
const SPLIT: u32 = 16;

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rows of a range.
    pub step: u32,
}

impl Options {
    /// With more rows a range is split before it is answered: the sites hold different numbers of rows.
    pub fn at_most(self) -> u32 {
        self.step.saturating_mul(4)
    }
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One site: where do `step` rows end?
    Boundaries {
        /// Names the answer.
        id: u64,
        /// Whom.
        site: NodeId,
        /// Of what.
        range: Range,
        /// Rows.
        step: u32,
        /// Places.
        at_most: u32,
    },
    /// Every site: what is the digest?
    Digest {
        /// Names the answers.
        id: u64,
        /// Of what.
        range: Range,
    },
    /// Every site: the hashes.
    Hashes {
        /// Names the answers.
        id: u64,
        /// Of what.
        range: Range,
    },
    /// These keys differed.
    Candidates(Vec<Key>),
}

/// What a site says to `Digest` and `Hashes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    /// The answer.
    Is(T),
    /// More rows than are answered at once.
    TooMany,
}

/// A range that was cut down to one row cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a row is too large to be read in the time that a statement may take, or the sites sort the keys differently"
)]
pub struct Unreadable;

enum State {
    Boundaries,
    Digest(BTreeMap<NodeId, Reply<RangeDigest>>),
    Hashes(BTreeMap<NodeId, Reply<Vec<RowHash>>>),
}

struct Work {
    range: Range,
    cut: Cut,
    state: State,
}

/// How a range was cut to size.
#[derive(Clone, Copy)]
struct Cut {
    /// By whose rows.
    site: NodeId,
    /// So many; fewer where whole ranges could not be answered.
    step: u32,
    /// It had to be cut again.
    again: bool,
}

/// One table on its way.
pub struct Ranges {
    sites: Vec<NodeId>,
    /// Parts of the table whose ranges are not known yet, and how they are to be cut.
    unexplored: Vec<(Range, Cut)>,
    waiting: VecDeque<(Range, Cut)>,
    under_way: HashMap<u64, Work>,
    last: u64,
    compared: u64,
    ranges: u64,
    stopped: bool,
}

impl Ranges {
    /// Of all rows; `leader` says where ranges end: best the site with the most rows.
    pub fn new(sites: Vec<NodeId>, leader: NodeId, options: Options) -> Self {
        let cut = Cut {
            site: leader,
            step: options.step,
            again: false,
        };
        Ranges {
            sites,
            unexplored: vec![(Range::default(), cut)],
            waiting: VecDeque::new(),
            under_way: HashMap::new(),
            last: 0,
            compared: 0,
            ranges: 0,
            stopped: false,
        }
    }

    /// Rows compared so far, at the site that has most.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Ranges compared so far.
    pub fn ranges(&self) -> u64 {
        self.ranges
    }

    /// Whether everything is compared.
    pub fn done(&self) -> bool {
        self.stopped && self.under_way.is_empty()
            || self.unexplored.is_empty() && self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// Nothing new is asked from here on; what is under way is still answered.
    pub fn stop(&mut self) {
        self.unexplored.clear();
        self.waiting.clear();
        self.stopped = true;
    }

    /// What can be asked now. Call it until nothing more comes.
    pub fn next_command(&mut self) -> Option<Command> {
        if self.stopped {
            self.waiting.clear();
            self.unexplored.clear();
        }
        if self.under_way.len() >= WINDOW {
            return None;
        }
        self.last += 1;
        let id = self.last;
        if let Some((range, cut)) = self.waiting.pop_front() {
            let state = State::Digest(BTreeMap::new());
            let command = Command::Digest {
                id,
                range: range.clone(),
            };
            self.under_way.insert(id, Work { range, cut, state });
            return Some(command);
        }
        // One list of places at a time: they may be split further, and memory is bounded.
        let exploring = |w: &Work| matches!(w.state, State::Boundaries);
        if self.under_way.values().any(exploring) {
            return None;
        }
        let (range, cut) = self.unexplored.pop()?;
        let command = Command::Boundaries {
            id,
            site: cut.site,
            range: range.clone(),
            step: cut.step,
            at_most: PLACES,
        };
        let state = State::Boundaries;
        self.under_way.insert(id, Work { range, cut, state });
        Some(command)
    }

    /// The answer to `Boundaries`.
    pub fn boundaries(&mut self, id: u64, places: Vec<Key>) {
        let Some(Work {
            range,
            cut,
            state: State::Boundaries,
        }) = self.under_way.remove(&id)
        else {
            return;
        };
        let more = places.len() >= PLACES as usize;
        let mut after = range.after;
        for place in places {
            let upto = Some(place.clone());
            self.waiting.push_back((Range { after, upto }, cut));
            after = Some(place);
        }
        let upto = range.upto;
        if more {
            self.unexplored.push((Range { after, upto }, cut));
        } else {
            self.waiting.push_back((Range { after, upto }, cut));
        }
    }

    /// One site's answer to `Digest`.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn digest(
        &mut self,
        id: u64,
        site: NodeId,
        reply: Reply<RangeDigest>,
    ) -> Result<Option<Command>, Unreadable> {
        let Some(Work {
            state: State::Digest(replies),
            ..
        }) = self.under_way.get_mut(&id)
        else {
            return Ok(None);
        };
        replies.insert(site, reply);
        if replies.len() < self.sites.len() {
            return Ok(None);
        }
        let most = replies.values().filter_map(|r| match r {
            Reply::Is(digest) => Some(digest.rows),
            Reply::TooMany => None,
        });
        let (most, too_many) = (most.max().unwrap_or(0), too_many(replies));
        let mut all = replies.values();
        let first = all.next();
        let equal = all.all(|reply| Some(reply) == first);
        if let Some(site) = too_many {
            self.split(id, site)?;
            return Ok(None);
        }
        if equal {
            self.under_way.remove(&id);
            self.count(most);
            return Ok(None);
        }
        let Some(work) = self.under_way.get_mut(&id) else {
            return Ok(None);
        };
        work.state = State::Hashes(BTreeMap::new());
        Ok(Some(Command::Hashes {
            id,
            range: work.range.clone(),
        }))
    }

    /// One site's answer to `Hashes`.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn hashes(
        &mut self,
        id: u64,
        site: NodeId,
        reply: Reply<Vec<RowHash>>,
    ) -> Result<Option<Command>, Unreadable> {
        let Some(Work {
            state: State::Hashes(replies),
            ..
        }) = self.under_way.get_mut(&id)
        else {
            return Ok(None);
        };
        replies.insert(site, reply);
        if replies.len() < self.sites.len() {
            return Ok(None);
        }
        if let Some(site) = too_many(replies) {
            self.split(id, site)?;
            return Ok(None);
        }
        let Some(Work {
            state: State::Hashes(replies),
            ..
        }) = self.under_way.remove(&id)
        else {
            return Ok(None);
        };
        let mut most = 0;
        let mut found: HashMap<Key, (usize, BTreeSet<u64>)> = HashMap::new();
        for reply in replies.into_values() {
            let Reply::Is(rows) = reply else { continue };
            most = most.max(rows.len() as u64);
            for row in rows {
                let (sites, hashes) = found.entry(row.key).or_default();
                *sites += 1;
                hashes.insert(row.hash);
            }
        }
        self.count(most);
        let mut differ: Vec<Key> = found
            .into_iter()
            .filter(|(_, (sites, hashes))| *sites != self.sites.len() || hashes.len() != 1)
            .map(|(key, _)| key)
            .collect();
        differ.sort_unstable();
        Ok((!differ.is_empty()).then_some(Command::Candidates(differ)))
    }

    fn count(&mut self, rows: u64) {
        self.compared += rows;
        self.ranges += 1;
    }

    /// `site` has too many rows in the range: it says where smaller ones end.
    fn split(&mut self, id: u64, site: NodeId) -> Result<(), Unreadable> {
        let Some(Work { range, cut, .. }) = self.under_way.remove(&id) else {
            return Ok(());
        };
        // Cut by another site's rows it may hold any number of this one's, so its own cut it to
        // size. If they have not, it is too slow, and smaller steps must help.
        let step = if cut.again || cut.site == site {
            if cut.step <= 1 {
                return Err(Unreadable);
            }
            (cut.step / SPLIT).max(1)
        } else {
            cut.step
        };
        let again = true;
        self.unexplored.push((range, Cut { site, step, again }));
        Ok(())
    }
}

fn too_many<T>(replies: &BTreeMap<NodeId, Reply<T>>) -> Option<NodeId> {
    replies
        .iter()
        .find(|(_, reply)| matches!(reply, Reply::TooMany))
        .map(|(&site, _)| site)
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
