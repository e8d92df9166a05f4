//! The clock that stamps local transactions (I6).

use crate::Stamp;

/// A hybrid logical clock: follows the server's commit timestamps, but never gives a stamp that
/// is not above its last one and above every stamp replayed here.
///
/// It must survive restarts: make it [`restored`](Self::restored) with the last stamp of this
/// node's own journal, and [`saw`](Self::saw) the last stamp of every other origin's journal
/// (an origin's stamps only grow, so its last one stands for all). For this a journal keeps the
/// header of its last transaction even when everything in it has been released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HybridClock {
    last: Stamp,
    seen: Stamp,
}

impl Default for HybridClock {
    fn default() -> Self {
        HybridClock {
            last: Stamp::MIN,
            seen: Stamp::MIN,
        }
    }
}

impl HybridClock {
    /// A clock whose last stamp was `last`.
    pub fn restored(last: Stamp) -> Self {
        HybridClock {
            last,
            seen: Stamp::MIN,
        }
    }

    /// The stamp of the next local transaction, in the order of capture.
    pub fn stamp(&mut self, commit_time: Stamp) -> Stamp {
        let stamp = self.next(commit_time);
        self.last = stamp;
        stamp
    }

    /// What it would be now.
    pub fn next(&self, commit_time: Stamp) -> Stamp {
        commit_time.max(self.last.next()).max(self.seen.next())
    }

    /// A transaction with `stamp` is about to be replayed here. To be called before its first
    /// statement is sent, under the same lock that capture holds while it stamps.
    pub fn saw(&mut self, stamp: Stamp) {
        self.seen = self.seen.max(stamp);
    }

    /// The last stamp given.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// The greatest stamp replayed.
    pub fn seen(&self) -> Stamp {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stamps_grow_whatever_the_clock_does(steps: Vec<(bool, i32)>) {
            let mut clock = HybridClock::default();
            let mut above = Stamp::MIN;
            for (local, time) in steps {
                let time = Stamp(i64::from(time));
                if local {
                    let stamp = clock.stamp(time);
                    prop_assert!(stamp > above && stamp >= time);
                    above = stamp;
                } else {
                    clock.saw(time);
                    above = above.max(time);
                }
            }
        }
    }
}
