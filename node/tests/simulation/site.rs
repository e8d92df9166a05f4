//! One site: a server and the daemon beside it, whose ledger is the real one. Capture, barriers, outbox.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use everywrite_conflict::policy::{Epoch, Setting};
use everywrite_conflict::{Entry, Lsn, NodeId, Position, Stamp, Vector, Version, invariants};
use everywrite_node::journal::Chain;
use everywrite_node::journal::record::Header;
use everywrite_node::settle::cutting::{Found, Stability};
use everywrite_node::settle::{Asked, Beats, Ledger, Touched};

use crate::data::{self, Key, Op, TABLES, Transaction};
use crate::link::Links;
use crate::postgres::{Record, Server};
use crate::rules::{Rule, Rules};
use crate::stream::Stream;

pub(crate) fn node(site: usize) -> NodeId {
    NodeId(site as u16 + 1)
}

pub(crate) fn site_of(node: NodeId) -> usize {
    usize::from(node.0) - 1
}

pub(crate) struct Site {
    pub(crate) me: NodeId,
    pub(crate) sites: usize,
    pub(crate) rules: Rules,
    pub(crate) skew: i64,
    /// How much faster than the others its clock goes, in thousandths.
    pub(crate) drift: i64,
    pub(crate) server: Server,
    /// The own journal; up to `durable` it survives the daemon and is shipped.
    pub(crate) journal: Vec<Arc<Transaction>>,
    pub(crate) durable: usize,
    /// The journals of the others, and how many transactions of each are synced: those are replayed and given on.
    pub(crate) received: Vec<Vec<Arc<Transaction>>>,
    pub(crate) received_durable: Vec<usize>,
    /// What each journal accepts.
    pub(crate) chains: Vec<Chain>,
    pub(crate) links: Links,
    /// Subscriptions have numbers of their own.
    pub(crate) numbers: u64,
    /// Up to where the journals are cut.
    pub(crate) released: Vector,
    /// The clock's stamp, kept with that.
    pub(crate) released_stamp: Stamp,
    /// The file of that name: up to where in the own journal no row is still to be looked at again.
    pub(crate) looked: Lsn,
    /// Barriers have other numbers in each run of the daemon.
    pub(crate) tokens: u64,
    /// Where entries of the index go that are too many for memory.
    pub(crate) folder: Option<tempfile::TempDir>,
    begun: Instant,
    /// What stands for the time since then.
    pub(crate) elapsed: Duration,
    pub(crate) daemon: Daemon,
    /// For the checks: the greatest version of each key that was forgotten here.
    pub(crate) forgot: BTreeMap<Key, Entry>,
    pub(crate) forgotten: usize,
    pub(crate) conflicts: usize,
    pub(crate) paths: Paths,
}

/// How often the rare ways were gone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paths {
    pub(crate) fast: usize,
    pub(crate) decided: usize,
    pub(crate) guarded: usize,
    pub(crate) chained: usize,
    pub(crate) careful: usize,
    pub(crate) blind: usize,
    pub(crate) looks: usize,
    pub(crate) repaired: usize,
    pub(crate) fetched: usize,
    pub(crate) replaced: usize,
    pub(crate) lost: usize,
    pub(crate) travelled: usize,
    pub(crate) overtaken: usize,
    pub(crate) undone: usize,
    pub(crate) crashes: usize,
    pub(crate) servers: usize,
    pub(crate) truncates: usize,
    pub(crate) split: usize,
    pub(crate) sessions: usize,
    pub(crate) cut: usize,
    pub(crate) gaps: usize,
    pub(crate) spilled: u64,
    pub(crate) asked: u64,
    pub(crate) found: u64,
}

/// What the daemon has in memory.
pub(crate) struct Daemon {
    pub(crate) ledger: Ledger,
    pub(crate) stability: Stability,
    pub(crate) beats: Beats,
    /// The number of the next record of the local WAL that capture reads.
    pub(crate) next_record: usize,
    /// Its connection is gone, and it has not noticed.
    pub(crate) capture_lost: bool,
    /// No session was made since the server crashed.
    pub(crate) noticed: bool,
    pub(crate) barriers: VecDeque<Barrier>,
    /// Where the guard of the fast path was taken.
    pub(crate) horizon: Lsn,
    /// The first barrier is passed: replay may begin.
    pub(crate) ready: bool,
    pub(crate) streams: BTreeMap<NodeId, Stream>,
    pub(crate) looks: VecDeque<Look>,
    /// What was found in the last round of cutting.
    pub(crate) found: Option<Found>,
    /// For the checks: the policies that are set, by table.
    pub(crate) epochs: [Epoch; TABLES as usize],
}

/// A barrier that capture has not met yet.
#[derive(Debug)]
pub(crate) struct Barrier {
    token: u64,
    here: Lsn,
    progress: Vector,
}

/// A row, or a table, that has to be looked at again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) table: u8,
    pub(crate) key: Option<Key>,
    pub(crate) version: Version,
}

impl Site {
    pub(crate) fn new(me: usize, sites: usize, rules: Rules, skew: i64, spills: bool) -> Self {
        let folder = spills.then(|| {
            let memory = std::path::Path::new("/dev/shm");
            match memory.is_dir() {
                true => tempfile::tempdir_in(memory),
                false => tempfile::tempdir(),
            }
            .expect("a folder for what leaves memory")
        });
        let mut site = Site {
            me: node(me),
            sites,
            rules,
            skew,
            drift: 0,
            server: Server::default(),
            journal: Vec::new(),
            durable: 0,
            received: vec![Vec::new(); sites],
            received_durable: vec![0; sites],
            chains: vec![Chain::default(); sites],
            links: Links::new(node(me), sites),
            numbers: 0,
            released: Vector::new(),
            released_stamp: Stamp::MIN,
            looked: Lsn::ZERO,
            tokens: 0,
            folder,
            begun: Instant::now(),
            elapsed: Duration::ZERO,
            daemon: Daemon::new(node(me), sites, Ledger::new(node(me))),
            forgot: BTreeMap::new(),
            forgotten: 0,
            conflicts: 0,
            paths: Paths::default(),
        };
        site.start();
        site
    }

    /// How many transactions of a site's journal others may have from here.
    pub(crate) fn offers(&self, origin: usize) -> usize {
        match node(origin) == self.me {
            true => self.durable,
            false => self.received_durable[origin],
        }
    }

    /// A clock that never steps back.
    pub(crate) fn now(&self) -> Instant {
        self.begun + self.elapsed
    }

    pub(crate) fn durable_end(&self) -> Lsn {
        end_of(&self.journal[..self.durable])
    }

    // ---- the server is asked ----

    /// How far every origin is applied, flushed: whoever has a new session asks, and compares.
    pub(crate) fn progress(&mut self) -> Vector {
        loop {
            let asked: Asked = self.daemon.ledger.asks();
            self.server.flush();
            let progress = self.server.now.progress.clone();
            if self.daemon.ledger.reconcile(&asked, &progress) {
                return progress;
            }
        }
    }

    /// Sets a barrier in the local WAL.
    pub(crate) fn set_barrier(&mut self) {
        let asked = self.daemon.ledger.asks();
        self.server.flush();
        let progress = self.server.now.progress.clone();
        self.tokens += 1;
        let token = self.tokens;
        let here = self.server.advance();
        self.server
            .commit_local(Stamp::MIN, Vec::new(), Some(token));
        self.server.flush();
        // An answer that is too old: the streams, which begin anew, ask for themselves.
        let _ = self.daemon.ledger.reconcile(&asked, &progress);
        self.daemon.ledger.reaches(here);
        let barrier = Barrier {
            token,
            here,
            progress,
        };
        self.daemon.barriers.push_back(barrier);
    }

    /// Returns when capture has announced everything that was committed before.
    pub(crate) fn pass(&mut self) {
        self.set_barrier();
        self.capture(usize::MAX);
    }

    fn met(&mut self, token: u64) {
        self.daemon.ledger.barrier(token);
        while let Some(barrier) = self.daemon.barriers.front().filter(|b| b.token <= token) {
            self.daemon.horizon = barrier.here;
            self.daemon
                .ledger
                .flushed_is(&barrier.progress, barrier.here);
            self.daemon.ready = true;
            self.daemon.barriers.pop_front();
        }
    }

    // ---- capture ----

    /// Reads the next commits of the local WAL, as far as it is flushed.
    pub(crate) fn capture(&mut self, most: usize) {
        if self.daemon.capture_lost {
            self.progress();
            self.daemon.ledger.server_started();
            self.daemon.capture_lost = false;
        }
        let mut captured = Lsn::ZERO;
        for _ in 0..most {
            let next = self.server.wal.get(self.daemon.next_record);
            let Some(record) = next.filter(|r| r.end <= self.server.flushed.insert) else {
                // A keepalive.
                captured = self.server.flushed.insert;
                break;
            };
            let record = record.clone();
            self.daemon.next_record += 1;
            captured = record.end;
            if !record.ops.is_empty() && record.end > end_of(&self.journal) {
                self.stamp(&record);
            }
            if let Some(token) = record.barrier {
                self.met(token);
            }
        }
        if captured > Lsn::ZERO {
            self.daemon.ledger.captured(captured);
        }
    }

    fn stamp(&mut self, record: &Record) {
        let position = record.end;
        for op in &record.ops {
            if let Op::Policy(setting) = op {
                self.daemon.set_policy(
                    setting,
                    Position {
                        origin: self.me,
                        lsn: position,
                    },
                );
            }
        }
        let ledger = &self.daemon.ledger;
        let (mut touched, mut travelling) = (Vec::new(), Vec::new());
        for op in &record.ops {
            match op {
                Op::Lost(..) => data::touched(op, &mut travelling),
                _ => data::touched(op, &mut touched),
            }
        }
        let keys: Vec<Touched> = touched.iter().map(|t| t.0).collect();
        let leaving: Vec<Touched> = travelling.iter().map(|t| t.0).collect();
        let stamped = ledger.capture(position, record.time, &keys, &leaving, &[]);
        let mut leaves = stamped.leaves.iter();
        let leave = |op: &Op| match op {
            Op::Lost(..) => leaves.next().copied().unwrap_or(false),
            _ => true,
        };
        let mut ops = record.ops.clone();
        let all = ops.len();
        ops.retain(leave);
        self.paths.overtaken += all - ops.len();
        let lost = |op: &&Op| matches!(op, Op::Lost(..));
        self.paths.travelled += ops.iter().filter(lost).count();
        self.paths.truncates += ops
            .iter()
            .filter(|op| matches!(op, Op::Truncate(_)))
            .count();
        if self.rules.complete() {
            // What the server had at the commit, whatever the daemon believes of it.
            let last = self.journal.last().map_or(Stamp::MIN, |t| t.header.stamp);
            invariants::clocks(stamped.stamp, last, record.newest)
                .and_then(|()| {
                    invariants::names_what_was_there(self.me, &stamped.vector, &record.there)
                })
                .unwrap_or_else(|broken| panic!("{broken}"));
        }
        let header = Header {
            position,
            previous: end_of(&self.journal),
            stamp: stamped.stamp,
            commit_time: record.time,
            xid: 0,
            vector: stamped.vector,
            seen: stamped.seen,
            changes: ops.len() as u32,
        };
        let transaction = Transaction {
            origin: self.me,
            vector: Arc::new(header.vector.clone()),
            header,
            ranks: stamped.ranks.map_or_else(Default::default, |ranks| *ranks),
            ops,
            epochs: self.daemon.epochs,
        };
        tell!(
            "  site {} captures {transaction:?}, repairs {:?}",
            site_of(self.me),
            stamped.repairs
        );
        for repair in &stamped.repairs {
            let of = |t: &&(Touched, Option<Key>)| {
                t.0.relation == repair.relation && t.0.key == repair.key
            };
            let Some((t, key)) = touched.iter().find(of) else {
                continue;
            };
            let version = transaction
                .ranks
                .greatest(t.relation, t.key, transaction.plain());
            let look = Look {
                table: data::number(t.relation),
                key: *key,
                version,
            };
            self.look_again(look);
        }
        match self.append(site_of(self.me), &transaction) {
            Ok(true) => self.journal.push(Arc::new(transaction)),
            other => panic!("the own journal does not take its next transaction: {other:?}"),
        }
    }

    /// A row that may stand although it is gone.
    pub(crate) fn look_again(&mut self, look: Look) {
        if self.rules.has(Rule::Repair) {
            self.daemon.ledger.repair_begins();
            self.daemon.looks.push_back(look);
        }
    }

    /// The journal's fsync. What is shipped and what replay builds on is behind it.
    pub(crate) fn fsync(&mut self) {
        self.durable = self.journal.len();
    }

    /// The same of the other sites' journals here.
    pub(crate) fn fsync_received(&mut self) {
        self.received_durable = self.received.iter().map(Vec::len).collect();
    }

    /// Waits until the own journal is durable up to there.
    pub(crate) fn wait_durable(&mut self, lsn: Lsn) {
        if self.durable_end() < lsn && self.rules.has(Rule::Durable) {
            self.fsync();
        }
    }

    // ---- decided deletes ----

    /// A session without origin takes outbox rows into the stream, in the transaction that removes them.
    pub(crate) fn send_outbox(&mut self, time: Stamp, most: usize) {
        let outbox = &mut self.server.now.outbox;
        let mut ops = Vec::new();
        while ops.len() < most
            && let Some((_, (key, version))) = outbox.pop_first()
        {
            ops.push(Op::Lost(key, version));
        }
        if !ops.is_empty() {
            self.server.commit_local(time, ops, None);
            self.server.flush();
        }
    }
}

impl Daemon {
    pub(crate) fn new(me: NodeId, sites: usize, ledger: Ledger) -> Self {
        let members: Vec<NodeId> = (0..sites).map(node).collect();
        let others = members.iter().filter(|n| **n != me);
        Daemon {
            ledger,
            stability: Stability::new(me, &members),
            beats: Beats::default(),
            next_record: 0,
            capture_lost: false,
            noticed: true,
            barriers: VecDeque::new(),
            horizon: Lsn::ZERO,
            ready: false,
            streams: others.map(|n| (*n, Stream::new(*n))).collect(),
            looks: VecDeque::new(),
            found: None,
            epochs: [Epoch::default(); TABLES as usize],
        }
    }

    /// A table's policy was set, at that position.
    pub(crate) fn set_policy(&mut self, setting: &Setting, at: Position) {
        let epoch = &mut self.epochs[usize::from(data::number(setting.relation))];
        *epoch = setting.epoch.max(*epoch);
        let since = [(at.origin, at.lsn)].into_iter().collect();
        self.ledger.set_policy(setting.clone(), Some(since));
    }
}

pub(crate) fn end_of(journal: &[Arc<Transaction>]) -> Lsn {
    journal.last().map_or(Lsn::ZERO, |t| t.position())
}

impl Paths {
    pub(crate) fn add(&mut self, other: &Paths) {
        self.fast += other.fast;
        self.decided += other.decided;
        self.guarded += other.guarded;
        self.chained += other.chained;
        self.careful += other.careful;
        self.blind += other.blind;
        self.looks += other.looks;
        self.repaired += other.repaired;
        self.fetched += other.fetched;
        self.replaced += other.replaced;
        self.lost += other.lost;
        self.travelled += other.travelled;
        self.overtaken += other.overtaken;
        self.undone += other.undone;
        self.crashes += other.crashes;
        self.servers += other.servers;
        self.truncates += other.truncates;
        self.split += other.split;
        self.sessions += other.sessions;
        self.cut += other.cut;
        self.gaps += other.gaps;
        self.spilled += other.spilled;
        self.asked += other.asked;
        self.found += other.found;
    }
}
