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
    crashes: u64,
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
        policies: 0,
    }
}

/// With policies that are set so often.
const fn policies(shape: Shape, policies: u64) -> Shape {
    Shape { policies, ..shape }
}

const SHAPES: [Shape; 14] = [
    shape(2, 0, 250, 4, 3, 0, 0),
    shape(2, 30, 400, 4, 3, 1, 10),
    shape(3, 15, 400, 5, 4, 1, 10),
    shape(4, 50, 700, 6, 4, 1, 0),
    shape(7, 50, 1200, 8, 6, 1, 0),
    // Calm enough for the fast way.
    shape(2, 20, 400, 8, 8, 1, 80),
    shape(3, 40, 600, 12, 20, 1, 80),
    // Daemons that keep dying.
    shape(2, 30, 400, 5, 4, 5, 30),
    shape(3, 30, 500, 6, 5, 4, 40),
    // With policies: calm, torn, many sites, dying daemons, many switches.
    policies(shape(3, 15, 400, 5, 4, 0, 10), 1),
    policies(shape(3, 40, 600, 5, 4, 1, 30), 1),
    policies(shape(5, 50, 900, 6, 4, 1, 10), 1),
    policies(shape(2, 30, 400, 4, 4, 4, 30), 2),
    policies(shape(3, 15, 400, 3, 3, 1, 40), 8),
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
    all(SHAPES[0], seeds(200));
    all(SHAPES[1], seeds(200));
}

#[test]
fn three_sites_converge() {
    all(SHAPES[2], seeds(200));
}

#[test]
fn calm_sites_converge() {
    all(SHAPES[5], seeds(200));
    all(SHAPES[6], seeds(100));
}

#[test]
fn dying_daemons_converge() {
    all(SHAPES[7], seeds(200));
    all(SHAPES[8], seeds(100));
}

#[test]
fn four_sites_converge() {
    all(SHAPES[3], seeds(100));
}

#[test]
fn seven_sites_converge() {
    all(SHAPES[4], seeds(25));
}

#[test]
fn sites_with_policies_converge() {
    for shape in SHAPES.iter().skip(9) {
        all(*shape, seeds(100));
    }
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

/// Runs that fail without a rule: tried first, so that the test is fast. If the schedules change,
/// others are looked for.
const KNOWN: [(Rule, u64, usize); 19] = [
    (Rule::Hybrid, 1, 8),
    (Rule::Travel, 0, 8),
    (Rule::Set, 3, 3),
    (Rule::Current, 148, 5),
    (Rule::Stable, 5, 7),
    (Rule::Durable, 6, 8),
    (Rule::Flight, 525, 6),
    (Rule::Base, 9, 5),
    (Rule::Sure, 1943, 8),
    (Rule::Repair, 453, 5),
    (Rule::Captured, 9, 6),
    (Rule::Undo, 6, 8),
    (Rule::AtCapture, 20, 0),
    (Rule::Split, 12, 6),
    (Rule::Very, 0, 3),
    (Rule::Restore, 25, 1),
    (Rule::Inherit, 0, 10),
    (Rule::Epoch, 0, 9),
    (Rule::Known, 7, 11),
];

/// These need two rare things at once, and thousands of runs may go well without them.
const RARE: [Rule; 3] = [Rule::Keep, Rule::Tail, Rule::Looked];

/// The first run, by seed and shape, that fails without a rule and not with it.
fn bites(rule: Rule, seeds: u64) -> Option<(u64, usize, String)> {
    let known = KNOWN.into_iter().filter(|k| k.0 == rule);
    let known = known.map(|(_, seed, shape)| (seed, shape));
    let only = std::env::var("EVERYWRITE_SHAPE").ok();
    let only = only.and_then(|s| s.parse::<usize>().ok());
    let shapes = (0..SHAPES.len()).filter(move |s| only.is_none_or(|o| o == *s));
    let all = (0..seeds).flat_map(move |seed| shapes.clone().map(move |shape| (seed, shape)));
    known.chain(all).find_map(|(seed, shape)| {
        let why = run(seed, Rules::without(rule), SHAPES[shape]).err()?;
        let with = run(seed, Rules::all(), SHAPES[shape]);
        with.is_ok().then_some((seed, shape, why))
    })
}

#[test]
fn every_rule_is_needed() {
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("EVERYWRITE_RULE").ok();
    let mut idle = Vec::new();
    for rule in Rule::ALL {
        let named = |only: &String| *only == format!("{rule:?}");
        if !only.as_ref().map_or_else(|| !RARE.contains(&rule), named) {
            continue;
        }
        match bites(rule, seeds(200)) {
            Some((seed, shape, why)) => {
                println!("without (Rule::{rule:?}, {seed}, {shape}), {why}");
            }
            None => idle.push(rule),
        }
    }
    let _ = std::panic::take_hook();
    assert!(idle.is_empty(), "nothing happens without {idle:?}");
}
