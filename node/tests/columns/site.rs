//! One simulated site: a server whose rows change at once, and a daemon of the real ledger, stability and cutting,
//! which does about them what the node's shells do, one step at a time.
//!
//! ```text
//!  write ─► rows, WAL ─► capture: stamp, vector ─► journal ─► durable ─► others' streams
//!  stream: announce ─► lock ─► (barrier: capture) ─► decide ─► write ─► commit ─► answer
//! ```

mod capture;
mod decide;
mod looks;
mod restart;
mod settle;
mod stream;
mod truncate;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Instant;

use everywrite_conflict::policy::columns::Column;
use everywrite_conflict::policy::{Epoch, Policy, Setting};
use everywrite_conflict::{Lsn, NodeId, Position, Stamp, Vector};
use everywrite_node::settle::cutting::Cutting;
use everywrite_node::settle::{Beats, Ledger, Stability};

use crate::data::{KEYS, Key, Part, Rnd, Row, Rule, TABLE, Transaction, policy};
use crate::server::{Server, Session, Set, Stored};
use looks::Looks;
use stream::Stream;

/// A local transaction that is committed, and not captured yet.
#[derive(Clone, Debug)]
enum Written {
    /// An insert, or a delete.
    Event(Key, Option<Row>),
    Move(Key, Key, Row),
    Update(Key, Row, Row),
    Truncate,
    Policy(u32, Policy),
    Barrier(u64),
}

#[derive(Clone, Debug)]
struct Local {
    at: Lsn,
    time: Stamp,
    what: Written,
}

/// A barrier that capture has not met yet.
#[derive(Debug)]
struct Barrier {
    token: u64,
    /// What was replayed, and flushed, before it.
    progress: Vector,
    /// Where in the WAL that was.
    here: Lsn,
}

/// Barriers are counted on by every run of the daemon.
#[derive(Debug, Default)]
struct Barriers {
    last: u64,
    waiting: Option<Barrier>,
    /// The last one that was passed, and where that was: what was written locally before is captured.
    passed: u64,
    horizon: Lsn,
}

pub(crate) struct Site {
    pub(crate) me: NodeId,
    pub(crate) skew: i64,
    members: Vec<NodeId>,
    pub(crate) server: Server,
    ledger: Ledger,
    stability: Stability,
    cutting: Cutting,
    /// Kept in a file.
    looked: Lsn,
    pub(crate) beats: Beats,
    spoken: u64,
    /// Where entries go that leave memory.
    folder: Option<PathBuf>,
    begun: Instant,
    /// Committed, and not captured.
    written: VecDeque<Local>,
    /// Captured, and not durable: what a crash takes out of the journal is captured again.
    stamped: VecDeque<Local>,
    /// What nobody was told of that is captured.
    untold: Option<Lsn>,
    connected: bool,
    pub(crate) journal: Vec<Transaction>,
    /// How many of them a crash leaves.
    durable: usize,
    /// Up to here nothing of the journals is left.
    released: Vector,
    /// The clock's stamp, kept with that.
    released_stamp: Stamp,
    barriers: Barriers,
    streams: BTreeMap<NodeId, Stream>,
    looks: Looks,
    without: Option<Rule>,
    pub(crate) told: Told,
}

/// How often it happened, to see that the runs try it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Forgotten,
    Begun,
    Merged,
    Moved,
    StampedAgain,
    CommitWaitedFor,
    TakenBack,
    SessionLost,
    DecidedAgain,
    LeftMemory,
    Recalled,
    LookedAgain,
    Cut,
    CameBack,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told(pub(crate) [usize; 14]);

impl Told {
    fn add(&mut self, what: What, times: usize) {
        self.0[what as usize] += times;
    }

    pub(crate) fn and(mut self, other: Told) -> Told {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }
}

impl Site {
    /// A site whose daemon has not begun; `folder`: entries leave memory.
    pub(crate) fn new(
        me: NodeId,
        members: &[NodeId],
        skew: i64,
        folder: Option<PathBuf>,
        without: Option<Rule>,
    ) -> Self {
        Site {
            me,
            skew,
            members: members.to_vec(),
            server: Server::default(),
            ledger: Ledger::new(me),
            stability: Stability::new(me, members),
            cutting: Cutting::default(),
            looked: Lsn::ZERO,
            beats: Beats::default(),
            spoken: 0,
            folder,
            begun: Instant::now(),
            written: VecDeque::new(),
            stamped: VecDeque::new(),
            untold: None,
            connected: false,
            journal: Vec::new(),
            durable: 0,
            released: Vector::new(),
            released_stamp: Stamp::MIN,
            barriers: Barriers::default(),
            streams: BTreeMap::new(),
            looks: Looks::default(),
            without,
            told: Told::default(),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// A policy that holds from the beginning, at every site.
    pub(crate) fn begins_with(&mut self, rules: usize) {
        let (number, origin) = (1, NodeId(1));
        let setting = Setting {
            relation: TABLE,
            epoch: Epoch { number, origin },
            policy: policy(Some(rules)),
        };
        let lsn = Lsn::ZERO;
        let at = Position { origin, lsn };
        let begun = true;
        self.server.now.settings.push(Set { setting, at, begun });
        self.server.flush();
    }

    /// An application writes, unless it would have to wait for a session of replay. `calm`: rows stay.
    pub(crate) fn write(&mut self, time: i64, calm: bool, rnd: &mut Rnd) {
        let key = rnd.below(KEYS.into()) as Key;
        let rows = &mut self.server.now.rows;
        let stored = rows.get(&key).map(|s| s.row);
        let what = match (if calm { 60 } else { rnd.below(60) }, stored) {
            (0, _) => {
                let known = self.server.now.settings.iter();
                let number = known.map(|s| s.setting.epoch.number).max().unwrap_or(0) + 1;
                let rules = [Some(0), Some(0), Some(1), None][rnd.below(4)];
                Written::Policy(number, policy(rules))
            }
            (1, _) => Written::Truncate,
            (2..5, Some(_)) => Written::Event(key, None),
            (5..8, Some(row)) => {
                let to = rnd.below(KEYS.into()) as Key;
                if rows.contains_key(&to) {
                    return;
                }
                let mut moved = row;
                if rnd.below(2) == 0 {
                    moved[0] = rnd.row()[0];
                }
                Written::Move(key, to, moved)
            }
            (_, None) => Written::Event(key, Some(rnd.row())),
            (_, Some(old)) => {
                let (mut row, new) = (old, rnd.row());
                for part in Part::all().filter(|_| rnd.below(2) == 0) {
                    part.copy(&mut row, &new);
                }
                Written::Update(key, old, row)
            }
        };
        let free = match &what {
            Written::Event(key, _) | Written::Update(key, ..) => self.server.is_free(Some(*key)),
            Written::Move(from, to, _) => {
                self.server.is_free(Some(*from)) && self.server.is_free(Some(*to))
            }
            Written::Truncate => self.server.is_free(None),
            Written::Policy(..) | Written::Barrier(_) => true,
        };
        if free {
            self.commit(Stamp(time + self.skew), what);
        }
    }

    /// A local transaction commits.
    fn commit(&mut self, time: Stamp, what: Written) -> Lsn {
        let at = self.server.ends();
        let (rows, local) = (&mut self.server.now.rows, Some(at));
        match &what {
            Written::Event(key, Some(row)) | Written::Update(key, _, row) => {
                rows.insert(*key, Stored { row: *row, local });
            }
            Written::Move(from, to, row) => {
                rows.remove(from);
                rows.insert(*to, Stored { row: *row, local });
                self.told.add(What::Moved, 1);
            }
            Written::Event(key, None) => drop(rows.remove(key)),
            Written::Truncate => rows.clear(),
            Written::Policy(number, policy) => {
                let setting = self.setting(*number, policy.clone());
                let (origin, lsn) = (self.me, at);
                let at = Position { origin, lsn };
                let begun = false;
                self.server.now.settings.push(Set { setting, at, begun });
            }
            Written::Barrier(_) => {}
        }
        self.server.flush();
        self.written.push_back(Local { at, time, what });
        at
    }

    fn setting(&self, number: u32, policy: Policy) -> Setting {
        let origin = self.me;
        Setting {
            relation: TABLE,
            epoch: Epoch { number, origin },
            policy,
        }
    }

    fn name(&self, part: Part) -> Column {
        match self.has(Rule::Element) {
            true => part.name(),
            false => part.column(),
        }
    }

    /// The end of the own journal, on disk.
    pub(crate) fn own_end(&self) -> Lsn {
        let durable = &self.journal[..self.durable];
        durable.last().map_or(Lsn::ZERO, |t| t.at.lsn)
    }

    /// What others may read.
    pub(crate) fn shipped(&self) -> &[Transaction] {
        &self.journal[..self.durable]
    }

    /// The server, with or without the machine's memory, crashes; the daemon goes on.
    pub(crate) fn server_crashes(&mut self) {
        let lost = |o| self.server.now.applied.get(o) > self.server.flushed.applied.get(o);
        let lost = self.members.iter().filter(|n| lost(**n)).count();
        self.told.add(What::TakenBack, lost);
        self.server.crash();
        self.connected = false;
        self.looks.session_lost();
        let committed = |s: &mut Stream| s.session_lost();
        self.streams.values_mut().for_each(committed);
    }

    /// One session is ended by somebody.
    pub(crate) fn session_ends(&mut self, origin: NodeId) {
        self.server.release(Session::Stream(origin));
        if let Some(stream) = self.streams.get_mut(&origin) {
            stream.session_lost();
        }
    }

    /// Takes what the ledger counts into what is told.
    pub(crate) fn count(&mut self) {
        let outside = self.ledger.outside();
        self.told.add(What::Recalled, outside.found as usize);
    }

    /// What it still has to do or remembers, for the end of a run.
    pub(crate) fn left(&self) -> Option<String> {
        let (keys, _) = self.ledger.sizes();
        let outside = self.ledger.outside();
        let repairs = self.ledger.repairs();
        let of_application = |l: &&Local| !matches!(l.what, Written::Barrier(_));
        let waits = self.written.iter().filter(of_application).count();
        let left = keys > 0 || outside.keys > 0 || repairs > 0 || waits > 0;
        left.then(|| {
            format!(
                "site {} still has {keys} keys in memory, {} in files, {repairs} second looks, {waits} transactions to capture",
                self.me, outside.keys
            )
        })
    }
}
