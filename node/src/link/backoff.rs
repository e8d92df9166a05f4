//! When to dial again: at once after a failure, then ever slower. Pure.

use std::time::Duration;

/// A connection that lived so long was a good one: the next failure starts over.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// The pace of one peer's reconnections.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Backoff {
            first,
            max,
            next: Duration::ZERO,
        }
    }

    /// How long to wait after a connection that was up for `lived` (zero if it never was).
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD_AFTER {
            self.next = Duration::ZERO;
        }
        let wait = self.next;
        self.next = (wait * 2).clamp(self.first, self.max);
        wait
    }

    /// Something changed: try at once.
    pub(super) fn reset(&mut self) {
        self.next = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_at_once_then_doubling_to_a_limit() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(500));
        let waits: Vec<_> = (0..6).map(|_| backoff.after(Duration::ZERO)).collect();
        assert_eq!(waits, [ms(0), ms(100), ms(200), ms(400), ms(500), ms(500)]);
        assert_eq!(backoff.after(GOOD_AFTER), ms(0));
        assert_eq!(backoff.after(ms(10)), ms(100));
    }
}
