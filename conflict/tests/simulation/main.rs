//! The rules of the design carried out by the real index, clock, folding and decisions, over
//! thousands of random schedules.
//!
//! ```text
//!  seeds     which runs                     shapes   what kinds of clusters
//!  world     one run: sites, a network, a schedule from one seed; then all heals, then `checks`
//!  index     of a site, with files beside it; a second one that never spills must say the same
//!  network   late, in any order, twice, or never; cut one way, between pairs, around a site
//!  site      a daemon: capture, outbox, beats, forgetting; `replay`, `repair`, `restart`
//!  postgres  its server: rows, WAL, flush; what a crash takes back
//!  rules     what each of them keeps; `bites`: without any one of them some run fails
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
mod checks;
mod data;
mod index;
mod network;
mod postgres;
mod repair;
mod replay;
mod restart;
mod rnd;
mod rules;
mod seeds;
mod shapes;
mod site;
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
    println!("{:?}", world::run(seed, rules::Rules::all(), shape));
}
