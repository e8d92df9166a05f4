//! The model of merged columns (`policy::columns`) over random schedules: sites with skewed clocks that
//! write, hear of each other late, twice or by others, lose their index, forget what is stable, and change
//! between merging columns and choosing whole rows. `EVERYWRITE_SEEDS` says how many.

use std::collections::BTreeMap;

use everywrite_conflict::policy::columns::{
    Column, Columns, Event, Merge, Register, Registers, Take,
};
use everywrite_conflict::policy::{Epoch, Rank};
use everywrite_conflict::{HybridClock, Lsn, NodeId, Position, Stamp, Vector, Version};

const MERGES: [Merge; 6] = [
    Merge::LastUpdateWins,
    Merge::LastUpdateWins,
    Merge::Delta,
    Merge::Greatest,
    Merge::Least,
    // A set of four elements, two bits each: 0 is not there, else it is, with a value.
    Merge::Union,
];
const ELEMENTS: u8 = 4;

type Key = u8;
type Row = [i64; MERGES.len()];

/// What an update changed: a column, or an element of one that is a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    column: usize,
    element: Option<u8>,
}

impl Part {
    fn of(column: usize) -> Vec<Part> {
        let part = |element| Part { column, element };
        match MERGES[column] {
            Merge::Union => (0..ELEMENTS).map(|e| part(Some(e))).collect(),
            _ => vec![part(None)],
        }
    }

    /// The bits of the column that are this part.
    fn bits(self) -> i64 {
        self.element.map_or(-1, |e| 3 << (2 * e))
    }

    fn value(self, row: &Row) -> i64 {
        row[self.column] & self.bits()
    }

    /// Takes it from `image`.
    fn copy(self, row: &mut Row, image: &Row) {
        row[self.column] = row[self.column] & !self.bits() | self.value(image);
    }

    fn name(self) -> Column {
        let column = Column::named(&self.column.to_string());
        self.element.map_or(column, |e| column.element(&[e]))
    }

    fn merge(self) -> Merge {
        MERGES[self.column]
    }
}

/// A part that changed: the difference, the height.
#[derive(Clone, Copy, Debug)]
struct Changed {
    part: Part,
    by: i64,
    height: i64,
}

/// What can be taken away, to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Only updates that have seen the row event that stands are taken.
    Belongs,
    /// A greatest or least value is inherited from.
    Inherit,
    /// What a change has seen it replaces, whatever the heights.
    Known,
    /// Only the columns that an update changed are taken.
    Changed,
    /// A difference is added, not a value taken.
    Difference,
    /// An element of a set has a register of its own.
    Element,
    /// Only the elements that an update touched are written.
    Touched,
}

/// xorshift64*: the same run for the same seed, everywhere.
struct Rnd(u64);

impl Rnd {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// An insert, a delete, or an update under a policy that chooses rows.
    Event(Key, Option<Row>),
    /// The row, and what of it changed.
    Update(Key, Row, Vec<Changed>),
    /// From here on columns are merged, or not.
    Policy(Epoch, bool),
}

#[derive(Clone, Debug)]
struct Transaction {
    at: Position,
    version: Version,
    vector: Vector,
    op: Op,
}

impl Transaction {
    fn covers(&self, position: Position) -> bool {
        let own = position.origin == self.at.origin && position.lsn <= self.at.lsn;
        own || self.vector.covers(position)
    }

    fn register(&self, height: i64) -> Register {
        let rank = Rank {
            height,
            ..self.version.rank()
        };
        Register {
            version: self.version.ranked(rank),
            source: self.at,
        }
    }
}

struct Site {
    me: NodeId,
    skew: i64,
    clock: HybridClock,
    rows: BTreeMap<Key, Row>,
    index: BTreeMap<Key, Columns>,
    /// For the epoch that an event inherits.
    epochs: BTreeMap<Key, Epoch>,
    policy: (Epoch, bool),
    journal: Vec<Transaction>,
    applied: Vector,
    without: Option<Rule>,
}

impl Site {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn name(&self, part: Part) -> Column {
        match self.has(Rule::Element) {
            true => part.name(),
            false => Column::named(&part.column.to_string()),
        }
    }

    fn write(&mut self, time: i64, rnd: &mut Rnd) {
        let key = rnd.below(3) as Key;
        let fresh = |rnd: &mut Rnd| {
            MERGES.map(|merge| match merge {
                Merge::Union => rnd.below(256) as i64,
                _ => rnd.below(20) as i64,
            })
        };
        let op = match (rnd.below(10), self.rows.get(&key).copied()) {
            (0, _) => {
                let number = self.policy.0.number + 1;
                let origin = self.me;
                Op::Policy(Epoch { number, origin }, rnd.below(3) > 0)
            }
            (1..3, Some(_)) => Op::Event(key, None),
            (_, None) => Op::Event(key, Some(fresh(rnd))),
            (_, Some(old)) => {
                let new = fresh(rnd);
                let mut row = old;
                let mut changes = Vec::new();
                for part in (0..MERGES.len()).flat_map(Part::of) {
                    if rnd.below(2) == 0 && part.value(&new) != part.value(&old) {
                        part.copy(&mut row, &new);
                        let (now, was) = (part.value(&new), part.value(&old));
                        let known = self.index.get(&key);
                        let inherited = known.map(|k| k.inherited(self.name(part), |_| true));
                        let inherited = inherited.filter(|_| self.has(Rule::Inherit));
                        let height = part.merge().height(now);
                        let height = height.max(inherited.unwrap_or(i64::MIN));
                        let by = now - was;
                        changes.push(Changed { part, by, height });
                    }
                }
                match self.policy.1 {
                    true => Op::Update(key, row, changes),
                    false => Op::Event(key, Some(row)),
                }
            }
        };
        let stamp = self.clock.stamp(Stamp(time + self.skew));
        let lsn = Lsn(self.journal.len() as u64 + 1);
        let origin = self.me;
        let mut epoch = self.policy.0;
        if let Op::Event(key, _) | Op::Update(key, ..) = &op {
            epoch = epoch.max(self.epochs.get(key).copied().unwrap_or_default());
        }
        let height = 0;
        let transaction = Transaction {
            at: Position { origin, lsn },
            version: Version::new(stamp, origin).ranked(Rank { epoch, height }),
            vector: self.applied.clone(),
            op,
        };
        self.journal.push(transaction.clone());
        self.apply(&transaction, true);
    }

    /// Applies a transaction; without `rows` only the index learns of it.
    fn apply(&mut self, t: &Transaction, rows: bool) {
        self.clock.saw(t.version.stamp);
        self.applied.raise(t.at.origin, t.at.lsn);
        let known = self.has(Rule::Known) || t.at.origin == self.me;
        let covers = |p: Position| known && t.covers(p);
        match &t.op {
            Op::Policy(epoch, merges) => {
                if self.policy.0 < *epoch {
                    self.policy = (*epoch, *merges);
                }
            }
            Op::Event(key, row) => {
                let index = self.index.entry(*key).or_default();
                if index.event(t.register(0), row.is_none(), covers) == Event::Stands {
                    self.epochs.insert(*key, t.version.rank().epoch);
                    match row {
                        Some(row) if rows => drop(self.rows.insert(*key, *row)),
                        None if rows => drop(self.rows.remove(key)),
                        _ => {}
                    }
                }
            }
            Op::Update(key, image, changes) => {
                let all = !self.has(Rule::Changed);
                let belongs = !self.has(Rule::Belongs);
                let difference = self.has(Rule::Difference);
                let touched = self.has(Rule::Touched);
                let names: Vec<Column> = changes.iter().map(|c| self.name(c.part)).collect();
                let index = self.index.entry(*key).or_default();
                if !belongs && !index.belongs(|p| t.covers(p)) {
                    return;
                }
                let row = self.rows.get_mut(key);
                let mut row = row.filter(|_| rows);
                for (&Changed { part, by, height }, name) in changes.iter().zip(names) {
                    let take = index.update(name, part.merge(), t.register(height), covers);
                    let Some(row) = &mut row else { continue };
                    match take {
                        Take::Difference if difference && t.at.origin != self.me => {
                            row[part.column] += by;
                        }
                        Take::Value if !touched => row[part.column] = image[part.column],
                        Take::Value | Take::Difference => part.copy(row, image),
                        Take::Nothing => {}
                    }
                }
                if let Some(row) = row.filter(|_| all) {
                    *row = *image;
                }
            }
        }
    }

    /// The daemon starts again: the index comes from the journals, in the order of the stamps.
    fn crash(&mut self, journals: &[Vec<Transaction>]) {
        self.index.clear();
        let all = journals.iter().flatten();
        let mut there: Vec<_> = all.filter(|t| self.applied.covers(t.at)).collect();
        there.sort_by_key(|t| (t.version.stamp, t.version.origin));
        for t in there {
            self.apply(t, false);
        }
    }
}

/// A write is stable at a site when all have it, and the site has what each had written before.
fn stable(sites: &[Site], me: usize, heard: &BTreeMap<(usize, NodeId), (Lsn, Lsn)>) -> Vector {
    let mut vector = Vector::new();
    for origin in sites.iter().map(|s| s.me) {
        let mut least = sites[me].applied.get(origin);
        for (other, site) in sites.iter().enumerate() {
            if other == me || site.me == origin {
                continue;
            }
            // What the other has told: it had replayed so much before what is behind `end`.
            let &(end, applied) = heard
                .get(&(other, origin))
                .unwrap_or(&(Lsn::MAX, Lsn::ZERO));
            let ripe = sites[me].applied.get(site.me) >= end;
            least = least.min(if ripe { applied } else { Lsn::ZERO });
        }
        vector.set(origin, least);
    }
    vector
}

/// The rows by definition: of each key the greatest event, and what belongs to it.
fn expected(journals: &[Vec<Transaction>]) -> BTreeMap<Key, Row> {
    let over = |a: (&Transaction, Version), b: (&Transaction, Version)| {
        a.0.covers(b.0.at) || (!b.0.covers(a.0.at) && a.1 > b.1)
    };
    let mut rows = BTreeMap::new();
    for key in 0..3 {
        let mut event: Option<(&Transaction, Option<Row>)> = None;
        for t in journals.iter().flatten() {
            if let Op::Event(k, row) = &t.op
                && *k == key
                && event.is_none_or(|(e, _)| over((t, t.version), (e, e.version)))
            {
                event = Some((t, *row));
            }
        }
        let Some((event, Some(mut row))) = event else {
            continue;
        };
        let mut last: BTreeMap<Part, (&Transaction, Version)> = BTreeMap::new();
        for t in journals.iter().flatten() {
            let Op::Update(k, image, changes) = &t.op else {
                continue;
            };
            if *k != key || !t.covers(event.at) {
                continue;
            }
            for &Changed { part, by, height } in changes {
                let version = t.register(height).version;
                if part.merge() == Merge::Delta {
                    row[part.column] += by;
                } else if last.get(&part).is_none_or(|l| over((t, version), *l)) {
                    last.insert(part, (t, version));
                    part.copy(&mut row, image);
                }
            }
        }
        rows.insert(key, row);
    }
    rows
}

fn run(seed: u64, count: usize, without: Option<Rule>) -> Result<usize, String> {
    let mut rnd = Rnd(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut sites: Vec<Site> = (0..count)
        .map(|n| Site {
            me: NodeId(n as u16 + 1),
            skew: rnd.below(60) as i64 - 30,
            clock: HybridClock::default(),
            rows: BTreeMap::new(),
            index: BTreeMap::new(),
            epochs: BTreeMap::new(),
            policy: (Epoch::default(), true),
            journal: Vec::new(),
            applied: Vector::new(),
            without,
        })
        .collect();
    let mut heard: Vec<BTreeMap<(usize, NodeId), (Lsn, Lsn)>> = vec![BTreeMap::new(); count];
    let mut forgotten = 0;
    for step in 0..400 {
        let heal = step >= 300;
        let me = rnd.below(count);
        let journals: Vec<_> = sites.iter().map(|s| s.journal.clone()).collect();
        match rnd.below(20) {
            0..6 if !heal => sites[me].write(1000 + step, &mut rnd),
            6 => {
                // A beat, which some do not hear.
                let end = Lsn(sites[me].journal.len() as u64);
                let applied: Vec<_> = sites.iter().map(|s| s.me).collect();
                for (to, heard) in heard.iter_mut().enumerate() {
                    if to != me && rnd.below(3) > 0 {
                        for origin in &applied {
                            heard.insert((me, *origin), (end, sites[me].applied.get(*origin)));
                        }
                    }
                }
            }
            7 => {
                let stable = stable(&sites, me, &heard[me]);
                for columns in sites[me].index.values_mut() {
                    let before = columns.clone();
                    columns.forget(|p| stable.covers(p));
                    forgotten += usize::from(*columns != before);
                }
            }
            8 => sites[me].crash(&journals),
            _ => {
                // The next transaction of some origin, if all is there that it has seen. What comes
                // twice is passed over.
                let origin = &journals[rnd.below(count)];
                let next = origin.iter().find(|t| !sites[me].applied.covers(t.at));
                if let Some(t) = next.filter(|t| sites[me].applied.covers_all(&t.vector)) {
                    sites[me].apply(t, true);
                }
            }
        }
    }
    let journals: Vec<_> = sites.iter().map(|s| s.journal.clone()).collect();
    for _ in 0..2000 {
        for site in &mut sites {
            for origin in &journals {
                let next = origin.iter().find(|t| !site.applied.covers(t.at));
                if let Some(t) = next.filter(|t| site.applied.covers_all(&t.vector)) {
                    site.apply(t, true);
                }
            }
        }
    }
    let expected = expected(&journals);
    for site in &sites {
        if site.rows != expected {
            return Err(format!(
                "site {}: {:?} is not {expected:?}",
                site.me, site.rows
            ));
        }
    }
    Ok(forgotten)
}

fn seeds() -> u64 {
    let given = std::env::var("EVERYWRITE_SEEDS").ok();
    given.and_then(|s| s.parse().ok()).unwrap_or(150)
}

#[test]
fn merged_columns_converge() {
    let mut forgotten = 0;
    for count in 2..=5 {
        for seed in 0..seeds() {
            match run(seed, count, None) {
                Ok(n) => forgotten += n,
                Err(why) => panic!("seed {seed} of {count} sites: {why}"),
            }
        }
    }
    assert!(forgotten > 0, "nothing was ever forgotten");
}

/// A set that changes in many elements at once is looked up, not searched through; it says the same.
#[test]
fn many_elements_are_known_like_few() {
    let origin = NodeId(1);
    let set = Column::named("tags");
    let element = |n: u64| set.element(&n.to_be_bytes());
    let change = |lsn: u64| Register {
        version: Version::new(Stamp(lsn as i64), origin),
        source: Position {
            origin,
            lsn: Lsn(lsn),
        },
    };
    let mut known = Registers::default();
    for n in 0..200 {
        let take = known.update(element(n), Merge::Union, change(n + 1), |_| false);
        assert_eq!(take, Take::Value);
    }
    for n in 0..200 {
        let earlier = known.update(element(n), Merge::Union, change(n), |_| false);
        assert_eq!(earlier, Take::Nothing);
    }
    assert_eq!(known.len(), 200);
    for left in [100, 10, 0] {
        known.forget(|source| source.lsn <= Lsn(200 - left));
        for n in 0..200 {
            let found = known.known(element(n)).map(|k| k.register);
            assert_eq!(found, (n >= 200 - left).then(|| change(n + 1)));
        }
    }
    assert!(known.is_empty());
}

#[test]
fn every_rule_is_needed() {
    for rule in [
        Rule::Belongs,
        Rule::Inherit,
        Rule::Known,
        Rule::Changed,
        Rule::Difference,
        Rule::Element,
        Rule::Touched,
    ] {
        let runs = (0..2000).flat_map(|seed| (2..=4).map(move |count| (seed, count)));
        let mut failing = runs
            .filter_map(|(seed, count)| Some((seed, count, run(seed, count, Some(rule)).err()?)));
        let (seed, count, why) = failing.next().unwrap_or_else(|| panic!("{rule:?} is idle"));
        println!("without {rule:?}, seed {seed} of {count} sites: {why}");
    }
}
