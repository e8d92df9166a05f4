//! What the simulated sites write, and by which rules it is merged.

use everywrite_conflict::policy::columns::{Column, Merge};
use everywrite_conflict::policy::{Policy, Rank, Setting};
use everywrite_conflict::{KeyHash, Position, RelationHash, Vector, Version};

use Merge::{Delta, Greatest, LastUpdateWins, Least, Union};

pub(crate) const TABLE: RelationHash = RelationHash(1);
pub(crate) const COLUMNS: usize = 6;
/// Two rules that a policy may set: which column is merged how. The last one is a set of four elements, two
/// bits each: 0 is not there, else it is, with a value.
pub(crate) const RULES: [[Merge; COLUMNS]; 2] = [
    [
        LastUpdateWins,
        LastUpdateWins,
        Delta,
        Greatest,
        Least,
        Union,
    ],
    [
        Delta,
        LastUpdateWins,
        LastUpdateWins,
        Least,
        Delta,
        LastUpdateWins,
    ],
];
const SET: usize = 5;
const ELEMENTS: u8 = 4;
pub(crate) const KEYS: u8 = 3;

pub(crate) type Key = u8;
pub(crate) type Row = [i64; COLUMNS];

pub(crate) fn hash(key: Key) -> KeyHash {
    KeyHash(key.into())
}

/// What a policy is: none of these merges columns, or one of the rules does.
pub(crate) fn policy(rules: Option<usize>) -> Policy {
    match rules {
        None => Policy::LastUpdateWins,
        Some(n) => Policy::ColumnWise {
            merges: (0..)
                .zip(RULES[n])
                .map(|(c, m): (usize, _)| (c.to_string(), m))
                .collect(),
            floors: Vec::new(),
        },
    }
}

/// What can be taken away, to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Only updates that have seen the row event that stands are taken.
    Belongs,
    /// Only the columns that an update changed are taken.
    Changed,
    /// A difference is added, not a value taken.
    Difference,
    /// An element of a set has a register of its own.
    Element,
    /// Only the elements that an update touched are written.
    Touched,
    /// Nobody merges before the policy is stable.
    Late,
    /// Capture waits until it is known which commit came first.
    Exact,
    /// What was stamped before a group commits is durable before.
    Durable,
    /// A row that is not there, or that was written lately, is decided when capture is behind that.
    Barrier,
    /// What a lost session left is asked of the server.
    Asked,
    /// An update of a row that came back behind its delete is a row event. One seed in a thousand needs it, so it
    /// has a test of its own.
    Back,
}

/// Those that many seeds need.
pub(crate) const ALL: [Rule; 10] = [
    Rule::Belongs,
    Rule::Changed,
    Rule::Difference,
    Rule::Element,
    Rule::Touched,
    Rule::Late,
    Rule::Exact,
    Rule::Durable,
    Rule::Barrier,
    Rule::Asked,
];

/// What an update changed: a column, or an element of one that is a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) column: usize,
    element: Option<u8>,
}

impl Part {
    /// The parts of a row that are written apart.
    pub(crate) fn all() -> impl Iterator<Item = Part> {
        let elements = (0..ELEMENTS).map(|e| (SET, Some(e)));
        let columns = (0..SET).map(|column| (column, None)).chain(elements);
        columns.map(|(column, element)| Part { column, element })
    }

    /// The parts of a row that are merged apart.
    pub(crate) fn of(rules: usize) -> impl Iterator<Item = Part> {
        let set = RULES[rules][SET] == Union;
        let whole = Part {
            column: SET,
            element: None,
        };
        let parts = Part::all().filter(move |p| set || p.element.is_none());
        parts.chain((!set).then_some(whole))
    }

    /// The bits of the column that are this part.
    fn bits(self) -> i64 {
        self.element.map_or(-1, |e| 3 << (2 * e))
    }

    pub(crate) fn value(self, row: &Row) -> i64 {
        row[self.column] & self.bits()
    }

    /// Takes it from `image`.
    pub(crate) fn copy(self, row: &mut Row, image: &Row) {
        row[self.column] = row[self.column] & !self.bits() | self.value(image);
    }

    pub(crate) fn name(self) -> Column {
        let column = self.column();
        self.element.map_or(column, |e| column.element(&[e]))
    }

    pub(crate) fn column(self) -> Column {
        Column::named(&self.column.to_string())
    }
}

/// A part that changed: the difference, the height.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) part: Part,
    pub(crate) by: i64,
    pub(crate) height: i64,
}

/// An update that is merged.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) rules: usize,
    pub(crate) image: Row,
    pub(crate) changes: Vec<Changed>,
}

/// What a transaction leaves of a row, whole.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) row: Option<Row>,
    /// There was no row before.
    pub(crate) inserts: bool,
    /// With its rank.
    pub(crate) version: Version,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// An insert, a delete, or an update that is not merged; of two rows if the key changed.
    Events(Vec<Event>),
    Update(Key, Update),
    Truncate,
    Policy(Setting),
}

#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) at: Position,
    /// Of a truncate with its rank, of an update with its policy's epoch.
    pub(crate) version: Version,
    pub(crate) vector: Vector,
    /// Of that, what it has surely seen.
    pub(crate) seen: Vector,
    pub(crate) op: Op,
}

impl Transaction {
    pub(crate) fn claims(&self, position: Position) -> bool {
        self.has_seen(position) || self.vector.covers(position)
    }

    pub(crate) fn has_seen(&self, position: Position) -> bool {
        match position.origin == self.at.origin {
            true => position.lsn <= self.at.lsn,
            false => self.seen.covers(position),
        }
    }

    /// Its version, and what it leaves of a row, if it is a row event of it.
    pub(crate) fn leaves(&self, key: Key) -> Option<(Version, Option<Row>)> {
        match &self.op {
            Op::Events(events) => {
                let of = events.iter().find(|e| e.key == key);
                of.map(|e| (e.version, e.row))
            }
            Op::Truncate => Some((self.version, None)),
            Op::Update(..) | Op::Policy(_) => None,
        }
    }

    pub(crate) fn events(&self) -> &[Event] {
        match &self.op {
            Op::Events(events) => events,
            Op::Update(..) | Op::Truncate | Op::Policy(_) => &[],
        }
    }

    /// The version of one of its changes.
    pub(crate) fn version_of(&self, change: &Changed) -> Version {
        let height = change.height;
        let rank = Rank {
            height,
            ..self.version.rank()
        };
        self.version.ranked(rank)
    }
}

/// xorshift64*: the same run for the same seed, everywhere.
pub(crate) struct Rnd(u64);

impl Rnd {
    pub(crate) fn new(seed: u64) -> Self {
        Rnd(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    pub(crate) fn row(&mut self) -> Row {
        let mut row = [(); COLUMNS].map(|()| self.below(20) as i64);
        row[SET] = self.below(256) as i64;
        row
    }
}
