//! Compares one table: asks what the pure parts say, and tells them the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use everywrite_conflict::NodeId;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};

use super::error::Error;
use super::progress::Progress;
use super::sites::Sites;
use crate::verify::disputes::{Disputes, Reading, Round, Verdict};
use crate::verify::question::{
    Asked, Behind, Boundaries, Digest, Hashes, History, Key, Keys, Read, Row, RowHashes, Rows,
    Said, Spec, marks, vector,
};
use crate::verify::ranges::{self, Command, Ranges, Reply};

/// Rows of a range: a question of some milliseconds, whose differing rows are few.
const STEP: u32 = 4_096;
/// Rows of a range where each range reads the whole table.
const STEP_BY_HASH: u32 = 100_000;
/// Characters of a row that are shown.
const SHOWN: u32 = 400;
/// How long a site may wait for what others had, in one question: the questions about ranges
/// wait behind it.
const WAIT: Duration = Duration::from_secs(1);
/// Keys without a verdict beyond which no more ranges are asked for: memory.
const DISPUTED_MAX: usize = 50_000;
/// Entries of the conflict history that are looked at in one question.
const HISTORY: u32 = 10_000;

/// How tables are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// How long a key that differs is looked at.
    pub(super) patience: Duration,
    /// Differing keys of a table beyond which it is left.
    pub(super) limit: usize,
}

/// What was found in one table.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Rows compared, at the site that has most; with `--conflicts` keys.
    pub(super) rows: u64,
    /// Ranges compared.
    pub(super) ranges: u64,
    /// Keys that differed at first.
    pub(super) disputed: u64,
    /// What every site holds of each key that differs.
    pub(super) differ: BTreeMap<Key, BTreeMap<NodeId, Row>>,
    /// Keys that never rested.
    pub(super) still_changing: BTreeSet<Key>,
    /// Keys that could not be judged: which site was behind, and why.
    pub(super) undecided: BTreeMap<Key, (NodeId, String)>,
    /// There may be more differences: the limit was reached.
    pub(super) more: bool,
}

enum Tag {
    Boundaries(u64),
    Digest(u64),
    Hashes(u64),
    Read(u64),
}

type Answered = (Tag, NodeId, Result<Said, Error>);

/// One table on its way.
pub(super) struct Comparison<'a> {
    sites: &'a Sites,
    spec: &'a Spec,
    options: Options,
    began: Instant,
    ranges: Option<Ranges>,
    at_most: u32,
    disputes: Disputes,
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    found: Found,
}

impl<'a> Comparison<'a> {
    /// Of all rows.
    pub(super) fn whole(
        sites: &'a Sites,
        spec: &'a Spec,
        leader: NodeId,
        options: Options,
    ) -> Self {
        let mut comparison = Self::of_keys(sites, spec, options);
        let step = if spec.by_hash { STEP_BY_HASH } else { STEP };
        let sizes = ranges::Options { step };
        comparison.at_most = sizes.at_most();
        comparison.ranges = Some(Ranges::new(sites.nodes(), leader, sizes));
        comparison
    }

    /// Of some keys, added afterwards.
    pub(super) fn of_keys(sites: &'a Sites, spec: &'a Spec, options: Options) -> Self {
        Comparison {
            sites,
            spec,
            options,
            began: Instant::now(),
            ranges: None,
            at_most: 0,
            disputes: Disputes::new(sites.nodes(), options.patience),
            answers: FuturesUnordered::new(),
            found: Found::default(),
        }
    }

    /// These keys are to be judged.
    pub(super) fn add(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.disputes.add(keys);
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// A site does not answer, or not in time.
    pub(super) async fn run(mut self, progress: &mut Progress) -> Result<Found, Error> {
        loop {
            self.ask_what_can_be_asked();
            let due = self.disputes.due();
            if self.answers.is_empty() && due.is_none() {
                break;
            }
            let until_due = async {
                match due {
                    Some(due) => {
                        tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
                    }
                    None => std::future::pending().await,
                }
            };
            // Both arms are cancellation-safe: an answer that is not taken stays in the set.
            let answered = tokio::select! {
                Some(answered) = self.answers.next() => answered,
                () = until_due => continue,
            };
            self.take(answered)?;
            let rows = self.ranges.as_ref().map_or(0, Ranges::compared);
            progress.at(rows, self.disputes.len(), self.found.differ.len());
        }
        if let Some(ranges) = &self.ranges {
            self.found.rows = ranges.compared();
            self.found.ranges = ranges.ranges();
        }
        Ok(self.found)
    }

    fn ask_what_can_be_asked(&mut self) {
        if self.found.differ.len() >= self.options.limit
            && let Some(ranges) = &mut self.ranges
        {
            self.found.more |= !ranges.done();
            ranges.stop();
            self.found.more |= self.disputes.stop();
        }
        if let Some(round) = self.disputes.next_round(self.began.elapsed()) {
            self.read(&round);
        }
        while self.disputes.len() < DISPUTED_MAX
            && let Some(command) = self.ranges.as_mut().and_then(Ranges::next_command)
        {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        let spec = self.spec.clone();
        match command {
            Command::Boundaries {
                id,
                site,
                range,
                step,
                at_most,
            } => {
                let asked = Asked::Boundaries(Boundaries {
                    spec,
                    range,
                    step,
                    at_most,
                });
                self.ask(site, asked, Tag::Boundaries(id));
            }
            Command::Digest { id, range } => {
                for site in self.sites.nodes() {
                    let asked = Asked::Digest(Digest {
                        spec: spec.clone(),
                        range: range.clone(),
                        at_most: self.at_most,
                    });
                    self.ask(site, asked, Tag::Digest(id));
                }
            }
            Command::Hashes { id, range } => {
                for site in self.sites.nodes() {
                    let asked = Asked::Hashes(Hashes {
                        spec: spec.clone(),
                        range: range.clone(),
                        at_most: self.at_most,
                    });
                    self.ask(site, asked, Tag::Hashes(id));
                }
            }
            Command::Candidates(keys) => {
                self.found.disputed += keys.len() as u64;
                let differ = &self.found.differ;
                let new = keys.into_iter().filter(|key| !differ.contains_key(key));
                self.disputes.add(new);
            }
        }
    }

    fn read(&mut self, round: &Round) {
        for site in self.sites.nodes() {
            let asked = Asked::Read(Read {
                spec: self.spec.clone(),
                keys: round.keys.clone(),
                after: marks(&round.after),
                shown: SHOWN,
                wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
            });
            self.ask(site, asked, Tag::Read(round.number));
        }
    }

    fn ask(&mut self, site: NodeId, asked: Asked, tag: Tag) {
        let answer = self.sites.ask(site, asked);
        self.answers
            .push(async move { (tag, site, answer.await) }.boxed());
    }

    fn take(&mut self, (tag, site, said): Answered) -> Result<(), Error> {
        let confused = || Error::Confused(self.sites.name(site));
        let said = said?;
        let ranges = self.ranges.as_mut();
        let command = match (tag, said, ranges) {
            (Tag::Boundaries(id), Said::Keys(Keys { keys, .. }), Some(ranges)) => {
                ranges.boundaries(id, keys);
                None
            }
            (Tag::Digest(id), Said::Digest(digest), Some(ranges)) => {
                ranges.digest(id, site, Reply::Is(digest))?
            }
            (Tag::Digest(id), Said::TooMany(_), Some(ranges)) => {
                ranges.digest(id, site, Reply::TooMany)?
            }
            (Tag::Hashes(id), Said::Hashes(RowHashes { rows }), Some(ranges)) => {
                ranges.hashes(id, site, Reply::Is(rows))?
            }
            (Tag::Hashes(id), Said::TooMany(_), Some(ranges)) => {
                ranges.hashes(id, site, Reply::TooMany)?
            }
            (Tag::Read(round), Said::Rows(Rows { rows, seen }), _) => {
                let seen = vector(&seen);
                self.reading(round, site, Reading::Rows { rows, seen });
                None
            }
            (Tag::Read(round), Said::Behind(Behind { reason }), _) => {
                self.reading(round, site, Reading::Behind(reason));
                None
            }
            _ => return Err(confused()),
        };
        if let Some(command) = command {
            self.carry_out(command);
        }
        Ok(())
    }

    fn reading(&mut self, round: u64, site: NodeId, reading: Reading) {
        let now = self.began.elapsed();
        for (key, verdict) in self.disputes.answer(round, site, reading, now) {
            match verdict {
                Verdict::Equal => {}
                Verdict::Differs(rows) => {
                    self.found.differ.insert(key, rows);
                }
                Verdict::StillChanging => {
                    self.found.still_changing.insert(key);
                }
                Verdict::Undecided(site, reason) => {
                    self.found.undecided.insert(key, (site, reason));
                }
            }
        }
    }
}

/// All keys of a table that the conflict history of any site names.
pub(super) async fn history(sites: &Sites, spec: &Spec) -> Result<BTreeSet<Key>, Error> {
    let mut all = BTreeSet::new();
    for node in sites.nodes() {
        let mut after = 0;
        loop {
            let asked = Asked::History(History {
                spec: spec.clone(),
                after,
                at_most: HISTORY,
            });
            let Said::Keys(Keys { keys, last }) = sites.ask(node, asked).await? else {
                return Err(Error::Confused(sites.name(node)));
            };
            all.extend(keys);
            if last <= after {
                break;
            }
            after = last;
        }
    }
    Ok(all)
}
