//! Whole clusters over the real ledger, index, clock, folding, decisions, beats and cutting, and over the rules of
//! replay, over thousands of random schedules.
//!
//! ```text
//!  seeds     which runs                     shapes   what kinds of clusters
//!  world     one run: sites, a network, a schedule from one seed; then all heals, then `checks`
//!  network   late, in any order, twice, or never; cut one way, between pairs, around a site
//!  site      a daemon: capture, barriers, outbox; `link`: who gives it the others' journals
//!  stream    replay of an origin; `group`, `careful`, `truncate`; `repair`, `restart`, `steward`
//!  postgres  its server: rows, WAL, flush; what a crash takes back
//!  rules     what the shells do; `bites`: without any one of it some run fails
//! ```
//!
//! The checks know what really happened: what each server had when a transaction committed, not what
//! its daemon believes.

/// Tells what happens, in a run that is repeated to be read.
macro_rules! tell {
    ($($what:tt)*) => {
        if crate::TELL.load(std::sync::atomic::Ordering::Relaxed) {
            println!($($what)*);
        }
    };
}

mod bites;
mod careful;
mod checks;
mod data;
mod group;
mod link;
mod network;
mod postgres;
mod repair;
mod restart;
mod rnd;
mod rules;
mod seeds;
mod shapes;
mod site;
mod steward;
mod stream;
mod truncate;
mod world;

static TELL: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Repeats one run and tells it: `EVERYWRITE_SEED=7 EVERYWRITE_SHAPE=2 cargo test -- --nocapture
/// one_run`.
#[test]
fn one_run() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let Some(seed) = number("EVERYWRITE_SEED") else {
        return;
    };
    let shape = shapes::SHAPES[number("EVERYWRITE_SHAPE").unwrap_or(2) as usize];
    TELL.store(true, std::sync::atomic::Ordering::Relaxed);
    println!("{:?}", world::run(seed, rules::Rules::asked(), shape));
}
