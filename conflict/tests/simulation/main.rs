//! The rules of the design carried out by the real index, clock, folding and decisions, over
//! thousands of random schedules. `EVERYWRITE_SEEDS` says how many of each shape.

/// Tells what happens, in a run that is repeated to be read.
macro_rules! tell {
    ($($what:tt)*) => {
        if crate::TELL.load(std::sync::atomic::Ordering::Relaxed) {
            println!($($what)*);
        }
    };
}

mod data;
mod postgres;
mod repair;
mod replay;
mod restart;
mod rnd;
mod rules;
mod site;
mod world;

use rules::{Rule, Rules};
use world::{End, Shape, run};

static TELL: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

const fn shape(
    sites: usize,
    skew: i64,
    steps: usize,
    keys: usize,
    values: usize,
    crashes: bool,
    rests: u64,
) -> Shape {
    Shape {
        sites,
        skew,
        steps,
        keys,
        values,
        crashes,
        rests,
    }
}

const SHAPES: [Shape; 7] = [
    shape(2, 0, 250, 4, 3, false, 0),
    shape(2, 30, 400, 4, 3, true, 10),
    shape(3, 15, 400, 5, 4, true, 10),
    shape(4, 50, 700, 6, 4, true, 0),
    shape(7, 50, 1200, 8, 6, true, 0),
    // Calm enough for the fast way.
    shape(2, 20, 400, 8, 8, true, 80),
    shape(3, 40, 600, 12, 20, true, 80),
];

fn seeds(default: u64) -> u64 {
    let given = std::env::var("EVERYWRITE_SEEDS").ok();
    given.and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn all(shape: Shape, seeds: u64) -> End {
    let mut sum = End::default();
    for seed in 0..seeds {
        match run(seed, Rules::all(), shape) {
            Ok(end) => {
                sum.forgotten += end.forgotten;
                sum.conflicts += end.conflicts;
                sum.paths.add(&end.paths);
            }
            Err(why) if std::env::var("EVERYWRITE_GO_ON").is_ok() => {
                println!("seed {seed} of {} sites: {why}", shape.sites);
            }
            Err(why) => panic!("seed {seed} of {shape:?}: {why}"),
        }
    }
    println!("{shape:?}: {sum:?}");
    sum
}

#[test]
fn two_sites_converge() {
    all(SHAPES[0], seeds(300));
    all(SHAPES[1], seeds(300));
}

#[test]
fn three_sites_converge() {
    all(SHAPES[2], seeds(300));
}

#[test]
fn calm_sites_converge() {
    all(SHAPES[5], seeds(300));
    all(SHAPES[6], seeds(150));
}

#[test]
fn four_sites_converge() {
    all(SHAPES[3], seeds(150));
}

#[test]
fn seven_sites_converge() {
    all(SHAPES[4], seeds(40));
}

/// Repeats one run and tells it: `EVERYWRITE_SEED=7 EVERYWRITE_SHAPE=2 cargo test -- --nocapture
/// one_run`.
#[test]
fn one_run() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let Some(seed) = number("EVERYWRITE_SEED") else {
        return;
    };
    let shape = SHAPES[number("EVERYWRITE_SHAPE").unwrap_or(2) as usize];
    TELL.store(true, std::sync::atomic::Ordering::Relaxed);
    println!("{:?}", run(seed, Rules::all(), shape));
}

/// The first seed with which the cluster fails without a rule.
fn bites(rule: Rule, seeds: u64) -> Option<(u64, Shape, String)> {
    for seed in 0..seeds {
        for shape in SHAPES {
            if let Err(why) = run(seed, Rules::without(rule), shape)
                && run(seed, Rules::all(), shape).is_ok()
            {
                return Some((seed, shape, why));
            }
        }
    }
    None
}

#[test]
fn every_rule_is_needed() {
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("EVERYWRITE_RULE").ok();
    let mut idle = Vec::new();
    for rule in Rule::ALL {
        if only
            .as_ref()
            .is_some_and(|only| *only != format!("{rule:?}"))
        {
            continue;
        }
        match bites(rule, seeds(300)) {
            Some((seed, shape, why)) => {
                println!(
                    "without {rule:?}: seed {seed}, {} sites: {why}",
                    shape.sites
                );
            }
            None => idle.push(rule),
        }
    }
    let _ = std::panic::take_hook();
    println!("nothing happens without {idle:?}");
    assert!(idle.is_empty(), "nothing happens without {idle:?}");
}
