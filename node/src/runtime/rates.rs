//! Counters → rates.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A rate is taken over about this long.
const WINDOW: Duration = Duration::from_secs(3);

/// Remembers counters at intervals.
#[derive(Debug, Default)]
pub(super) struct Rates {
    seen: Mutex<HashMap<String, Vec<(Instant, u64)>>>,
}

impl Rates {
    /// The rate of the counter `name`, which stands at `count` now, a second.
    pub(super) fn of(&self, name: &str, count: u64, now: Instant) -> f64 {
        let mut seen = self.seen.lock();
        let points = seen.entry(name.to_owned()).or_default();
        points.push((now, count));
        // The newest point that is old enough is the base; older ones are not needed.
        while points.len() > 2
            && points
                .get(1)
                .is_some_and(|p| now.duration_since(p.0) >= WINDOW)
        {
            points.remove(0);
        }
        let Some(base) = points.first() else {
            return 0.0;
        };
        let seconds = now.duration_since(base.0).as_secs_f64();
        if seconds < 0.2 {
            0.0
        } else {
            count.saturating_sub(base.1) as f64 / seconds
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_its_rate() {
        let rates = Rates::default();
        let start = Instant::now();
        let mut last = 0.0;
        for tick in 0..20 {
            last = rates.of("x", tick * 50, start + Duration::from_millis(500 * tick));
        }
        assert!((last - 100.0).abs() < 1.0, "{last}");
    }
}
