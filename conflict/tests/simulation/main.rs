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
mod replay;
mod rnd;
mod rules;
mod site;
mod world;

use rules::{Rule, Rules};
use world::{End, Shape, run};

static TELL: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

const SHAPES: [Shape; 5] = [
    Shape {
        sites: 2,
        skew: 0,
        steps: 250,
        keys: 4,
        values: 3,
        crashes: false,
    },
    Shape {
        sites: 2,
        skew: 30,
        steps: 400,
        keys: 4,
        values: 3,
        crashes: true,
    },
    Shape {
        sites: 3,
        skew: 15,
        steps: 400,
        keys: 5,
        values: 4,
        crashes: true,
    },
    Shape {
        sites: 4,
        skew: 50,
        steps: 700,
        keys: 6,
        values: 4,
        crashes: true,
    },
    Shape {
        sites: 7,
        skew: 50,
        steps: 1200,
        keys: 8,
        values: 6,
        crashes: true,
    },
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
                println!("seed {seed} of {} sites: {why}", shape.sites)
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
        for shape in [SHAPES[1], SHAPES[2], SHAPES[3]] {
            if let Err(why) = run(seed, Rules::without(rule), shape) {
                return Some((seed, shape, why));
            }
        }
    }
    None
}

#[test]
fn every_rule_is_needed() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut idle = Vec::new();
    for rule in Rule::ALL {
        match bites(rule, seeds(2000)) {
            Some((seed, shape, why)) => println!(
                "without {rule:?}: seed {seed}, {} sites: {why}",
                shape.sites
            ),
            None => idle.push(rule),
        }
    }
    let _ = std::panic::take_hook();
    assert!(idle.is_empty(), "nothing happens without {idle:?}");
}
