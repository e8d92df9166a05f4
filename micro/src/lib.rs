//! The hot paths of the daemon, one by one, on inputs that are always the same.
//!
//! | module    | paths |
//! |-----------|-------|
//! | `inputs`  | what the servers and the peers would send |
//! | [`capture`] | replication stream → journal frames |
//! | [`journal`] | frames → disk and back |
//! | [`link`]    | journal bytes ↔ connection |
//! | [`fold`]    | journal frames → net changes |
//! | [`index`]   | what is known of keys |
//!
//! `cargo bench` measures them in seconds (`benches/micro.rs`), `make counts` in instructions
//! (`main.rs`). How to read both: `docs/performance.md`.
//!
//! A path works in rounds of about a thousand rows. All that its rounds need is made before the
//! first one: so twice as many rounds over the same preparation cost exactly the work of one half
//! more, and what grows (the index) has grown as in a daemon that has run for a while.

pub mod capture;
pub mod fold;
pub mod index;
pub mod journal;
pub mod link;

mod inputs;

/// Does one round; called with 0, 1, 2 and so on.
pub type Work = Box<dyn FnMut(usize)>;

/// One hot path.
pub struct Path {
    /// `stage/what`.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// How many of them a round has.
    pub units: u64,
    /// Prepares so many rounds.
    pub start: Box<dyn Fn(usize) -> Work + Send + Sync>,
}

impl Path {
    fn new(
        name: &'static str,
        unit: &'static str,
        units: usize,
        start: impl Fn(usize) -> Work + Send + Sync + 'static,
    ) -> Self {
        Path {
            name,
            unit,
            units: units as u64,
            start: Box::new(start),
        }
    }
}

/// All of them, in the order of the flow.
pub fn paths() -> Vec<Path> {
    let stages = [
        capture::paths(),
        journal::paths(),
        link::paths(),
        fold::paths(),
        index::paths(),
    ];
    stages.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn every_path_does_its_rounds() {
        for path in paths() {
            let mut work = (path.start)(3);
            (0..3).for_each(&mut work);
        }
    }
}
