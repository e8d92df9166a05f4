//! Round trip and clock skew from pings. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// How many pings count: the one with the shortest round trip says most about the clocks,
/// because it waited least; older ones are forgotten, because clocks drift.
const KEPT: usize = 8;

/// What the last pings said.
#[derive(Debug, Default)]
pub(super) struct Skew {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    rtt: Duration,
    skew_us: i64,
}

impl Skew {
    /// Adds an answered ping: when it was sent by this node's clock, how long the answer took,
    /// and the other node's clock in the answer. It is taken to be read half-way.
    pub(super) fn add(&mut self, sent_unix_us: i64, rtt: Duration, theirs_unix_us: i64) {
        let half_us = i64::try_from(rtt.as_micros() / 2).unwrap_or(i64::MAX);
        let skew_us = theirs_unix_us.saturating_sub(sent_unix_us.saturating_add(half_us));
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { rtt, skew_us });
    }

    /// The newest round trip.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.samples.back().map(|s| s.rtt)
    }

    /// Their clock minus ours, microseconds, wrong by at most half the shortest round trip.
    pub(super) fn skew_us(&self) -> Option<i64> {
        self.samples.iter().min_by_key(|s| s.rtt).map(|s| s.skew_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_answer_decides_and_is_forgotten_in_time() {
        let ms = Duration::from_millis;
        let mut skew = Skew::default();
        assert_eq!((skew.rtt(), skew.skew_us()), (None, None));
        skew.add(1_000_000, ms(2), 6_001_000);
        skew.add(2_000_000, ms(400), 7_399_000);
        assert_eq!(skew.rtt(), Some(ms(400)));
        assert_eq!(skew.skew_us(), Some(5_000_000));
        for _ in 0..KEPT {
            skew.add(0, ms(10), 9_005_000);
        }
        assert_eq!(skew.skew_us(), Some(9_000_000));
        skew.add(i64::MIN, Duration::MAX, i64::MAX);
        skew.add(i64::MAX, Duration::MAX, i64::MIN);
    }
}
