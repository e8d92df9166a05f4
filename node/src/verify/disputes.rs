//! Judges keys whose rows differ between sites: on its way, or different for good. Pure.
//!
//! All sites read the keys in rounds. A round begins when the one before it has ended everywhere, and
//! each site reads only once it has applied everything that any site's reading of the round before
//! can have seen (and its own capture has passed it). A key
//!
//! - is **equal** when one round finds the same row, or none, at every site;
//! - **differs** when it is not equal, and each site finds the very same row version, or none, in
//!   three rounds that follow each other;
//! - is **still changing** when neither has come about after a while.
//!
//! Why that is no false alarm, if replication does what it promises: let a site hold version v of the
//! key in all three rounds, the greatest that any site holds. It was written before the end of
//! the first round, so it is applied at every site before the second one's readings. A site that still
//! holds another version is one that refuses what it should have taken, or that holds a greater
//! one: v was not the greatest. A site that holds none in the second round either refuses v or has a
//! delete that is greater than v; that was visible there in the second round, so it is applied
//! where v stands before the third one, and v is gone. Two rounds would not do: a row may be absent, come, and
//! be deleted again between two readings that both find none. A row version is told by its
//! transaction id, not by its content, so that a value that comes back is not taken for one that stayed.
//!
//! Readings of a site that has decided something which has not left it yet (the outbox, second looks) are not
//! used; see `answer`.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use everywrite_conflict::{NodeId, Vector};

use super::question::{Key, Row};

/// Keys of one round: a question of bounded size.
pub const KEYS_MAX: usize = 1_000;
/// And bytes of them: a question has to fit into one control frame of the link.
const KEY_BYTES_MAX: usize = 1 << 20;
/// Readings that must agree; see the module.
const ROUNDS: u32 = 3;
/// Between two rounds at first: replication needs about as long.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// And at most, for keys that are written all the time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a site says to a round.
#[derive(Clone, Debug)]
pub enum Reading {
    /// One row a key, in the order of the round's keys, and all that they can have seen.
    Rows {
        /// The rows.
        rows: Vec<Row>,
        /// What they can have seen.
        seen: Vector,
    },
    /// It has not applied yet what it should have; why, for a person.
    Behind(String),
}

/// Read these keys at every site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Names the answers.
    pub number: u64,
    /// Which rows.
    pub keys: Vec<Key>,
    /// Once all this is applied.
    pub after: Vector,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The same everywhere.
    Equal,
    /// Different for good; what each site holds.
    Differs(BTreeMap<NodeId, Row>),
    /// Written again and again while it was looked at.
    StillChanging,
    /// A site does not apply what others have: who, and why.
    Undecided(NodeId, String),
}

struct Case {
    key: Key,
    since: Duration,
    /// The last round's rows.
    rows: BTreeMap<NodeId, Row>,
    /// Rounds in which every site held the same as in the one before.
    steady: u32,
}

struct Open {
    number: u64,
    readings: BTreeMap<NodeId, Reading>,
}

/// The disputed keys of one table.
pub struct Disputes {
    sites: Vec<NodeId>,
    /// How long a key is looked at.
    patience: Duration,
    waiting: VecDeque<Key>,
    known: HashSet<Key>,
    cases: Vec<Case>,
    open: Option<Open>,
    seen: Vector,
    last: u64,
    next_at: Duration,
    behind: Option<(NodeId, String)>,
}

impl Disputes {
    /// Of these sites; each key is looked at for at most `patience`.
    pub fn new(sites: Vec<NodeId>, patience: Duration) -> Self {
        Disputes {
            sites,
            patience,
            waiting: VecDeque::new(),
            known: HashSet::new(),
            cases: Vec::new(),
            open: None,
            seen: Vector::new(),
            last: 0,
            next_at: Duration::ZERO,
            behind: None,
        }
    }

    /// These keys may differ. Those that are being looked at are not begun anew.
    pub fn add(&mut self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if self.known.insert(key.clone()) {
                self.waiting.push_back(key);
            }
        }
    }

    /// No more keys are looked at than are already; whether some are left out.
    pub fn stop(&mut self) -> bool {
        let left_out = !self.waiting.is_empty();
        for key in self.waiting.drain(..) {
            self.known.remove(&key);
        }
        left_out
    }

    /// Keys without a verdict.
    pub fn len(&self) -> usize {
        self.cases.len() + self.waiting.len()
    }

    /// Whether every key has its verdict.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next round may begin, if there is one to begin. Times are of any clock that only
    /// goes forward.
    pub fn due(&self) -> Option<Duration> {
        (self.open.is_none() && !self.is_empty()).then_some(self.next_at)
    }

    /// The next round, if it is due.
    pub fn next_round(&mut self, now: Duration) -> Option<Round> {
        if self.due()? > now {
            return None;
        }
        let bytes = |key: &Key| key.values.iter().map(|v| v.len() + 8).sum::<usize>();
        let mut room = KEY_BYTES_MAX;
        for case in &self.cases {
            room = room.saturating_sub(bytes(&case.key));
        }
        while self.cases.len() < KEYS_MAX && (room > 0 || self.cases.is_empty()) {
            let Some(key) = self.waiting.pop_front() else {
                break;
            };
            room = room.saturating_sub(bytes(&key));
            self.cases.push(Case {
                key,
                since: now,
                rows: BTreeMap::new(),
                steady: 0,
            });
        }
        self.last += 1;
        self.open = Some(Open {
            number: self.last,
            readings: BTreeMap::new(),
        });
        Some(Round {
            number: self.last,
            keys: self.cases.iter().map(|c| c.key.clone()).collect(),
            after: self.seen.clone(),
        })
    }

    /// One site's reading. With the last one of the round come the verdicts that it allows.
    ///
    /// A site must answer `Behind` while anything that it has decided itself has not entered its
    /// stream, or has not been looked at again.
    pub fn answer(
        &mut self,
        number: u64,
        site: NodeId,
        reading: Reading,
        now: Duration,
    ) -> Vec<(Key, Verdict)> {
        let Some(open) = self.open.as_mut().filter(|o| o.number == number) else {
            return Vec::new();
        };
        open.readings.insert(site, reading);
        if open.readings.len() < self.sites.len() {
            return Vec::new();
        }
        let Some(Open { readings, .. }) = self.open.take() else {
            return Vec::new();
        };
        self.behind = readings.iter().find_map(|(&site, reading)| match reading {
            Reading::Behind(reason) => Some((site, reason.clone())),
            Reading::Rows { rows, .. } if rows.len() != self.cases.len() => {
                Some((site, "it answered for other rows".to_owned()))
            }
            Reading::Rows { .. } => None,
        });
        // What some have seen is waited for in any case; rows count only if all have read.
        for reading in readings.values() {
            if let Reading::Rows { seen, .. } = reading {
                self.seen.merge(seen);
            }
        }
        if self.behind.is_none() {
            self.compare(readings);
        }
        self.judge(now)
    }

    fn compare(&mut self, readings: BTreeMap<NodeId, Reading>) {
        let mut columns: Vec<(NodeId, std::vec::IntoIter<Row>)> = readings
            .into_iter()
            .filter_map(|(site, reading)| match reading {
                Reading::Rows { rows, .. } => Some((site, rows.into_iter())),
                Reading::Behind(_) => None,
            })
            .collect();
        for case in &mut self.cases {
            let rows: BTreeMap<NodeId, Row> = columns
                .iter_mut()
                .filter_map(|(site, rows)| Some((*site, rows.next()?)))
                .collect();
            let same = |site, row: &Row| {
                case.rows
                    .get(site)
                    .is_some_and(|before| same_version(before, row))
            };
            let steady = rows.iter().all(|(site, row)| same(site, row));
            case.steady = if steady { case.steady + 1 } else { 0 };
            case.rows = rows;
        }
    }

    fn judge(&mut self, now: Duration) -> Vec<(Key, Verdict)> {
        let mut verdicts = Vec::new();
        let (patience, sites, behind) = (self.patience, self.sites.len(), &self.behind);
        let mut youngest = Duration::MAX;
        self.cases.retain_mut(|case| {
            let whole = case.rows.len() == sites;
            let age = now.saturating_sub(case.since);
            let verdict = if whole && equal(&case.rows) {
                Verdict::Equal
            } else if whole && case.steady + 1 >= ROUNDS {
                Verdict::Differs(std::mem::take(&mut case.rows))
            } else if age < patience {
                youngest = youngest.min(age);
                return true;
            } else if let Some((site, reason)) = behind {
                Verdict::Undecided(*site, reason.clone())
            } else {
                Verdict::StillChanging
            };
            verdicts.push((case.key.clone(), verdict));
            false
        });
        for (key, _) in &verdicts {
            self.known.remove(key);
        }
        // New keys are mostly on their way and settled soon; old ones are written all the time.
        let pause = if self.waiting.is_empty() {
            youngest
        } else {
            Duration::ZERO
        };
        self.next_at = now + (pause / 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        verdicts
    }
}

fn same_version(one: &Row, other: &Row) -> bool {
    let id = |row: &Row| row.version.as_ref().map(|v| (v.xmin, v.sha256.clone()));
    id(one) == id(other)
}

/// The same content, or no row, everywhere.
fn equal(rows: &BTreeMap<NodeId, Row>) -> bool {
    let content = |row: &Row| row.version.as_ref().map(|v| v.sha256.clone());
    let mut all = rows.values();
    let Some(first) = all.next().map(content) else {
        return true;
    };
    all.all(|row| content(row) == first)
}

#[cfg(test)]
#[path = "disputes_tests.rs"]
mod tests;
