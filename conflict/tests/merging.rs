//! Sites that merge what lost ([`everywrite_conflict::policy::merging`]), over random schedules: in the end
//! all hold the same row, nothing that an application wrote is missing in it, and it comes to an end.
//!
//! One key, three or four sites, links that keep the order of each origin. A site that receives a write decides
//! by version; what lost to its own write it merges when it gets to it. Without either of the two rules that
//! are not plain, some schedule fails: the last tests show it.

use everywrite_conflict::policy::merging::{May, Standing, Turns};
use everywrite_conflict::{Lsn, NodeId, Vector};

/// What is left out of the rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// What lost here and was seen by the next winner is forgotten.
    Keeping,
    /// Merging never waits.
    Waiting,
}

/// What the function does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    /// All that both rows have.
    Union,
    /// Another row each time.
    Never,
}

#[derive(Clone)]
struct Write {
    origin: usize,
    seq: u64,
    stamp: u64,
    row: u64,
    /// How many writes of each site its site had.
    seen: Vec<u64>,
}

impl Write {
    fn covers(&self, other: &Write) -> bool {
        self.origin == other.origin || self.seen[other.origin] >= other.seq
    }

    fn version(&self) -> (u64, usize) {
        (self.stamp, self.origin)
    }
}

struct Site {
    standing: usize,
    has: Vec<u64>,
    /// Losers that are to be merged.
    open: Vec<usize>,
    turns: Turns<()>,
    /// For each write that is here how many of its own the site had.
    own_at: Vec<Option<u64>>,
    last_stamp: u64,
    skew: u64,
}

struct World {
    writes: Vec<Write>,
    sites: Vec<Site>,
    /// By origin and number.
    journal: Vec<Vec<usize>>,
    function: Function,
    without: Without,
    random: u64,
    now: u64,
    merges: u32,
    all: u64,
}

impl World {
    fn new(sites: usize, function: Function, without: Without, seed: u64) -> World {
        let first = Write {
            origin: 0,
            seq: 0,
            stamp: 0,
            row: 0,
            seen: vec![0; sites],
        };
        let mut world = World {
            writes: vec![first],
            sites: Vec::new(),
            journal: vec![Vec::new(); sites],
            function,
            without,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 0,
            merges: 0,
            all: 0,
        };
        for _ in 0..sites {
            let skew = world.below(20);
            world.sites.push(Site {
                standing: 0,
                has: vec![0; sites],
                open: Vec::new(),
                turns: Turns::default(),
                own_at: vec![Some(0)],
                last_stamp: 0,
                skew,
            });
        }
        world
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % n
    }

    fn write(&mut self, at: usize, row: u64) -> usize {
        let site = &mut self.sites[at];
        site.has[at] += 1;
        site.last_stamp = (self.now + site.skew).max(site.last_stamp + 1);
        let write = Write {
            origin: at,
            seq: site.has[at],
            stamp: site.last_stamp,
            row,
            seen: site.has.clone(),
        };
        let id = self.writes.len();
        site.standing = id;
        self.writes.push(write);
        self.journal[at].push(id);
        self.arrived(at, id);
        id
    }

    fn arrived(&mut self, at: usize, id: usize) {
        let site = &mut self.sites[at];
        site.own_at.resize(id.max(site.own_at.len() - 1) + 1, None);
        site.own_at[id] = Some(site.has[at]);
    }

    /// The next write of `from`, if it is ready here.
    fn receive(&mut self, at: usize, from: usize) -> bool {
        let next = usize::try_from(self.sites[at].has[from]).unwrap();
        let Some(&id) = self.journal[from].get(next) else {
            return false;
        };
        let write = self.writes[id].clone();
        let site = &mut self.sites[at];
        let ready = (0..site.has.len()).all(|o| o == from || write.seen[o] <= site.has[o]);
        if !ready {
            return false;
        }
        site.has[from] = write.seq;
        site.last_stamp = site.last_stamp.max(write.stamp);
        let standing = self.writes[site.standing].clone();
        let conflict = !write.covers(&standing);
        if write.version() > standing.version() {
            site.standing = id;
            if conflict {
                let (writes, without) = (&self.writes, self.without);
                site.open
                    .retain(|&loser| without != Without::Keeping && write.covers(&writes[loser]));
            }
        } else if standing.origin == at {
            site.open.push(id);
        }
        self.arrived(at, id);
        true
    }

    /// What every site has, and has said all it had written before.
    fn stable(&self, at: usize) -> Vector {
        let mut stable = Vector::new();
        for (origin, journal) in self.journal.iter().enumerate() {
            let everywhere = |id: &usize| {
                self.sites.iter().enumerate().all(|(other, site)| {
                    let own = site.own_at.get(*id).copied().flatten();
                    own.is_some_and(|own| self.sites[at].has[other] >= own)
                })
            };
            let last = journal.iter().take_while(|id| everywhere(id)).count();
            stable.set(node(origin), Lsn(last as u64));
        }
        stable
    }

    fn merge(&mut self, at: usize) -> bool {
        if self.sites[at].open.is_empty() {
            return false;
        }
        let id = self.sites[at].standing;
        let standing = Standing {
            write: id as u64,
            own: self.writes[id].origin == at && id > 0,
        };
        let stable = self.stable(at);
        let site = &mut self.sites[at];
        match site.turns.may(&(), standing, &stable) {
            _ if self.without == Without::Waiting => {}
            May::Merge => {}
            May::Wait => return false,
            May::Ask => {
                let mut all = Vector::new();
                for (origin, &has) in site.has.iter().enumerate() {
                    all.set(node(origin), Lsn(has));
                }
                site.turns.wait(&(), standing, all);
                return false;
            }
        }
        let began = self.writes[id].row;
        let mut row = began;
        for loser in std::mem::take(&mut site.open) {
            let lost = self.writes[loser].row;
            if lost == row {
                continue;
            }
            row = match self.function {
                Function::Union => row | lost,
                // The same for swapped arguments.
                Function::Never => row.wrapping_add(lost).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            };
        }
        if row != began {
            let id = self.write(at, row);
            self.sites[at].turns.merged(&(), id as u64);
            self.merges += 1;
        }
        true
    }

    /// Random steps until nothing happens any more. False: it did not come to an end.
    fn run(&mut self, applications: u32) -> bool {
        let sites = self.sites.len() as u64;
        let mut left = applications;
        let mut quiet = 0;
        for _ in 0..20_000 {
            self.now += 1;
            let at = usize::try_from(self.below(sites)).unwrap();
            let moved = match self.below(if left > 0 { 8 } else { 7 }) {
                0..=4 => {
                    let from = usize::try_from(self.below(sites)).unwrap();
                    from != at && self.receive(at, from)
                }
                7 => {
                    left -= 1;
                    let bit = 1 << left;
                    self.all |= bit;
                    let row = self.writes[self.sites[at].standing].row;
                    self.write(at, row | bit);
                    true
                }
                _ => self.merge(at),
            };
            quiet = if moved { 0 } else { quiet + 1 };
            if left == 0 && quiet > 400 && self.at_rest() {
                return true;
            }
        }
        false
    }

    fn at_rest(&self) -> bool {
        self.sites.iter().all(|s| {
            let all = self.journal.iter().zip(&s.has);
            s.open.is_empty() && all.into_iter().all(|(j, &has)| j.len() as u64 == has)
        })
    }

    /// What is wrong in the end.
    fn judge(&self) -> Result<(), String> {
        let standing: Vec<usize> = self.sites.iter().map(|s| s.standing).collect();
        if standing.iter().any(|s| *s != standing[0]) {
            return Err(format!("diverged: {standing:?}"));
        }
        let row = self.writes[standing[0]].row;
        match self.function {
            Function::Union if row != self.all => Err(format!("lost {:b}", self.all & !row)),
            _ => Ok(()),
        }
    }
}

fn node(site: usize) -> NodeId {
    NodeId(u16::try_from(site + 1).unwrap())
}

fn runs(function: Function, without: Without, seeds: u64) -> Result<u32, String> {
    let mut most = 0;
    for seed in 0..seeds {
        let sites = 3 + usize::try_from(seed % 2).unwrap();
        let mut world = World::new(sites, function, without, seed + 1);
        let applications = 2 + u32::try_from(seed % 13).unwrap();
        if !world.run(applications) {
            return Err(format!("seed {seed}: no end, {} merges", world.merges));
        }
        world
            .judge()
            .map_err(|wrong| format!("seed {seed}: {wrong}"))?;
        most = most.max(world.merges);
    }
    Ok(most)
}

#[test]
fn nothing_is_lost_and_all_agree() {
    runs(Function::Union, Without::Nothing, 20_000).unwrap();
}

#[test]
fn a_function_that_always_says_something_new_comes_to_an_end() {
    runs(Function::Never, Without::Nothing, 5_000).unwrap();
}

#[test]
fn without_what_the_next_winner_had_seen_something_is_lost() {
    let wrong = runs(Function::Union, Without::Keeping, 20_000).unwrap_err();
    assert!(wrong.contains("lost"), "{wrong}");
}

/// In step, two sites that each have a newer row than the one that comes merge for ever; one that waits until
/// what stands is stable ends it.
#[test]
fn without_waiting_there_is_no_end() {
    let merges = |without| {
        let mut world = World::new(2, Function::Never, without, 1);
        let mut last = 0;
        for round in 0..400 {
            // What is on its way arrives two rounds later, and each site has written meanwhile.
            for at in 0..2 {
                world.now += 1;
                if round < 4 {
                    world.write(at, round + 10 * at as u64);
                }
                if round > 2 && world.receive(at, 1 - at) && world.merge(at) {
                    last = round;
                }
                if round > 2 {
                    world.merge(at);
                }
            }
        }
        last
    };
    assert!(
        merges(Without::Nothing) < 100,
        "{}",
        merges(Without::Nothing)
    );
    assert!(
        merges(Without::Waiting) > 390,
        "{}",
        merges(Without::Waiting)
    );
}
