//! Without any one of the rules some run fails.

use crate::rules::{Rule, Rules};
use crate::seeds;
use crate::shapes::SHAPES;
use crate::world::run;

/// Runs that fail without a rule: tried first, so that the test is fast. If the schedules change,
/// others are looked for.
const KNOWN: [(Rule, u64, usize); 17] = [
    (Rule::Hybrid, 2, 6),
    (Rule::Travel, 0, 1),
    (Rule::Set, 0, 0),
    (Rule::Current, 4, 2),
    (Rule::Stable, 1, 12),
    (Rule::Durable, 9, 0),
    (Rule::Base, 0, 9),
    (Rule::Repair, 80, 13),
    (Rule::Captured, 42, 7),
    (Rule::Undo, 0, 11),
    (Rule::AtCapture, 0, 11),
    (Rule::Split, 147, 12),
    (Rule::Very, 0, 3),
    (Rule::Restore, 5, 16),
    (Rule::Inherit, 0, 11),
    (Rule::Epoch, 0, 10),
    (Rule::Known, 0, 9),
];

/// These need two rare things at once, and thousands of runs may go well without them.
const RARE: [Rule; 5] = [
    Rule::Keep,
    Rule::Tail,
    Rule::Looked,
    Rule::Flight,
    Rule::Sure,
];

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
        match bites(rule, seeds::each(200)) {
            Some((seed, shape, why)) => {
                println!("without (Rule::{rule:?}, {seed}, {shape}), {why}");
            }
            None => idle.push(rule),
        }
    }
    let _ = std::panic::take_hook();
    assert!(idle.is_empty(), "nothing happens without {idle:?}");
}
