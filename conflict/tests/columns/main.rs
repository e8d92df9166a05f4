//! Merged columns over random schedules: the index, the policies and the clocks of the crate, in sites that
//! do about them what the node does.
//!
//! Sites with skewed clocks write rows, and policies in mid run; capture them behind the server; hear of
//! each other late and by others; have several streams on their way at once; forget what is stable, or let it
//! leave memory; and lose all that was in memory, with or without a server that loses commits. `EVERYWRITE_SEEDS` says how many runs; `many_seeds` is what `make mutations`
//! runs. What is not tried: changed keys.

mod data;
mod known;
mod site;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use data::{ALL, Changed, KEYS, Key, Op, Part, RULES, Rnd, Row, Rule, Transaction, Update};
use everywrite_conflict::policy::columns::{Column, Merge, Register, Registers, Take};
use everywrite_conflict::{Lsn, NodeId, Position, Stamp, Vector, Version};
use site::{Site, Told, What};

/// What each site has heard of another: behind that place of its stream it claims at least so much of an
/// origin.
type Heard = BTreeMap<(usize, NodeId), (Lsn, Lsn)>;

const STEPS: i64 = 600;
/// From here on nobody writes.
const HEAL: i64 = 480;

/// A write is stable at a site when all have it, and the site has what each had written before.
fn stable(sites: &[Site], me: usize, heard: &Heard) -> Vector {
    let mut vector = Vector::new();
    for origin in sites.iter().map(|s| s.me) {
        let mut least = sites[me].flushed_of(origin);
        for (other, site) in sites.iter().enumerate() {
            if other == me || site.me == origin {
                continue;
            }
            let &(end, applied) = heard
                .get(&(other, origin))
                .unwrap_or(&(Lsn::MAX, Lsn::ZERO));
            let ripe = sites[me].flushed.applied.get(site.me) >= end;
            least = least.min(if ripe { applied } else { Lsn::ZERO });
        }
        vector.set(origin, least);
    }
    vector
}

/// Of one origin's transactions, as far as they are durable, the one that a site takes next.
fn next<'a>(site: &Site, origin: &'a Site) -> Option<&'a Transaction> {
    let durable = &origin.journal[..origin.durable];
    let applied = site.server.applied.get(origin.me);
    durable.get(durable.partition_point(|t| t.at.lsn <= applied))
}

/// The rows by definition: of each key the greatest event, and what belongs to it.
fn expected(sites: &[Site]) -> BTreeMap<Key, Row> {
    let over = |a: (&Transaction, Version), b: (&Transaction, Version)| {
        a.0.claims(b.0.at) || (!b.0.claims(a.0.at) && a.1 > b.1)
    };
    let mut all: Vec<&Transaction> = sites.iter().flat_map(|s| &s.journal).collect();
    all.sort_by_key(|t| (t.version.stamp, t.version.origin));
    let mut rows = BTreeMap::new();
    for key in 0..KEYS {
        let mut event: Option<(&Transaction, Option<Row>)> = None;
        for &t in &all {
            if let Some(row) = t.leaves(key)
                && event.is_none_or(|(e, _)| over((t, t.version), (e, e.version)))
            {
                event = Some((t, row));
            }
        }
        let Some((event, Some(mut row))) = event else {
            continue;
        };
        let mut last: BTreeMap<Part, (&Transaction, Version)> = BTreeMap::new();
        for &t in &all {
            let Op::Update(k, update) = &t.op else {
                continue;
            };
            if *k != key || !t.claims(event.at) {
                continue;
            }
            let Update {
                rules,
                image,
                changes,
            } = update;
            for change in changes {
                let Changed { part, by, .. } = *change;
                let version = t.version_of(change);
                if RULES[*rules][part.column] == Merge::Delta {
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

/// Gets the origin's next transaction on its way, or one that is there to its end.
fn replay(sites: &mut [Site], me: usize, rnd: &mut Rnd) {
    let on_way = sites[me].on_way();
    if on_way > 0 && rnd.below(2) == 0 {
        sites[me].land(rnd.below(on_way));
        return;
    }
    let origin = rnd.below(sites.len());
    if origin != me
        && let Some(t) = next(&sites[me], &sites[origin]).filter(|t| sites[me].takes(t))
    {
        let t = t.clone();
        sites[me].dispatch(&t);
    }
}

fn crash(sites: &mut [Site], me: usize, rnd: &mut Rnd) {
    let mut site = std::mem::replace(&mut sites[me], Site::new(NodeId(0), 0, None));
    let journals: Vec<&[Transaction]> = sites.iter().map(|s| &s.journal[..]).collect();
    site.crash(rnd.below(2) == 0, rnd.below(2) == 0, &journals);
    sites[me] = site;
}

fn run(seed: u64, count: usize, without: Option<Rule>) -> Result<Told, String> {
    let mut rnd = Rnd::new(seed);
    let mut sites: Vec<Site> = (0..count)
        .map(|n| Site::new(NodeId(n as u16 + 1), rnd.below(60) as i64 - 30, without))
        .collect();
    if rnd.below(2) > 0 {
        sites.iter_mut().for_each(|site| site.begins_with(0));
    }
    let mut heard: Vec<Heard> = vec![BTreeMap::new(); count];
    for step in 0..STEPS {
        let me = rnd.below(count);
        match rnd.below(26) {
            0..6 if step < HEAL => sites[me].write(1000 + step, &mut rnd),
            6 | 7 => drop(sites[me].capture()),
            8 if rnd.below(3) == 0 => sites[me].spill(&mut rnd),
            8 => sites[me].sync(),
            9..11 => {
                // A beat, which some do not hear.
                sites[me].barrier();
                let end = sites[me].here(sites[me].me);
                for (to, heard) in heard.iter_mut().enumerate() {
                    if to != me && rnd.below(6) > 0 {
                        for origin in sites.iter().map(|s| s.me) {
                            heard
                                .insert((me, origin), (end, sites[me].flushed.applied.get(origin)));
                        }
                    }
                }
            }
            11..13 => {
                let stable = stable(&sites, me, &heard[me]);
                sites[me].settle(&stable, &mut rnd);
            }
            13 if rnd.below(2) == 0 => crash(&mut sites, me, &mut rnd),
            _ => (0..6).for_each(|_| replay(&mut sites, me, &mut rnd)),
        }
    }
    for _ in 0..4000 {
        let mut idle = true;
        sites.iter_mut().for_each(Site::barrier);
        for me in 0..count {
            for origin in 0..count {
                while let Some(t) =
                    next(&sites[me], &sites[origin]).filter(|t| origin != me && sites[me].takes(t))
                {
                    let t = t.clone();
                    sites[me].dispatch(&t);
                    idle = false;
                    let last = sites[me].on_way() - 1;
                    sites[me].land(last);
                }
            }
            while sites[me].on_way() > 0 {
                sites[me].land(0);
                idle = false;
            }
        }
        if idle {
            break;
        }
    }
    let expected = expected(&sites);
    for site in &sites {
        for origin in &sites {
            if let Some(t) = next(site, origin).filter(|_| site.me != origin.me) {
                return Err(format!(
                    "site {} waits for ever for what {t:?} has seen",
                    site.me
                ));
            }
        }
        if site.server.rows != expected {
            return Err(format!(
                "site {}: {:?} is not {expected:?}",
                site.me, site.server.rows
            ));
        }
    }
    sites.iter_mut().for_each(Site::count);
    let told = sites
        .iter()
        .fold(Told::default(), |all, site| all.and(site.told));
    Ok(told)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

#[test]
fn merged_columns_converge() {
    let mut all = Told::default();
    for count in 2..=5 {
        for seed in 0..number("EVERYWRITE_SEEDS").unwrap_or(100) {
            match run(seed, count, None) {
                Ok(told) => all = all.and(told),
                Err(why) => panic!("seed {seed} of shape {count}: {why}"),
            }
        }
    }
    println!("{all:?}");
    // What comes back is rare: it needs a crash between two landings.
    for tried in &all.0[..What::CameBack as usize] {
        assert!(*tried > 0, "something was never tried: {all:?}");
    }
}

/// Until one fails, or the time is up.
#[test]
#[ignore = "make mutations"]
fn many_seeds_converge() {
    let (begun, mut runs) = (Instant::now(), 0);
    let limit = Duration::from_secs(number("EVERYWRITE_SECONDS").unwrap_or(60));
    let start = number("EVERYWRITE_START").unwrap_or(0);
    let mut failed = None;
    std::panic::set_hook(Box::new(|_| {}));
    while failed.is_none() && begun.elapsed() < limit {
        let (seed, count) = (start + runs / 4, 2 + (runs % 4) as usize);
        let outcome = std::panic::catch_unwind(|| run(seed, count, None));
        failed = match outcome {
            Ok(outcome) => outcome.err(),
            Err(panic) => Some(panic.downcast_ref::<String>().cloned().unwrap_or_default()),
        };
        failed = failed.map(|why| format!("seed {seed} of shape {count}: {why}"));
        runs += 1;
    }
    let _ = std::panic::take_hook();
    println!(
        "simulation: {runs} runs in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    if let Some(why) = failed {
        println!("{why}");
        panic!("{why}");
    }
}

/// One run, told.
#[test]
#[ignore = "to look at one seed"]
fn one_run() {
    let seed = number("EVERYWRITE_SEED").unwrap_or(0);
    let count = number("EVERYWRITE_SITES").unwrap_or(3) as usize;
    println!("{:?}", run(seed, count, None));
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
    for rule in ALL {
        let runs = (0..3000).flat_map(|seed| (2..=4).map(move |count| (seed, count)));
        let failing = |(seed, count)| {
            let outcome = std::panic::catch_unwind(|| run(seed, count, Some(rule)));
            let outcome = outcome.unwrap_or_else(|_| Err("an invariant is broken".to_owned()));
            Some((seed, count, outcome.err()?))
        };
        let (seed, count, why) = runs
            .into_iter()
            .find_map(failing)
            .unwrap_or_else(|| panic!("{rule:?} is idle"));
        println!("without {rule:?}, seed {seed} of {count} sites: {why}");
    }
}
