//! Whether a busy stream is left to gather for a moment.
//!
//! Each round of capture costs a wake-up here and in the server, a sync of two journals, a message
//! to every peer and a group there. With many small transactions these cost more than the
//! transactions themselves. A short pause lets the next round have several of them. A stream with
//! few transactions is never paused: there only latency counts.

use std::time::Duration;

/// How long transactions are counted. Long enough that chance does not make a calm stream look
/// busy: 500 a second, independent of each other, come to that many once in 6,000 windows.
const WINDOW: Duration = Duration::from_millis(50);
/// A stream with that many transactions in a window is busy: 900 a second.
const BUSY: u32 = 45;
/// A round with as many messages is large enough. A Unix socket takes about 250 messages until
/// the server has to wait, so what comes faster must not be held up.
const LARGE: u32 = 64;

/// How long a pause is: the shortest that the timer knows.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Counts what comes. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began: Duration,
    transactions: u32,
    busy: bool,
}

impl Pace {
    /// A round is over, in which so much came. True: pause before the next one.
    pub(super) fn round(&mut self, now: Duration, transactions: u32, messages: u32) -> bool {
        self.transactions += transactions;
        let passed = now.saturating_sub(self.began);
        if passed >= WINDOW {
            self.busy = WINDOW * self.transactions >= passed * BUSY;
            self.began = now;
            self.transactions = 0;
        }
        self.busy && messages < LARGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of `messages` with one transaction each, every so many microseconds, for a second;
    /// how many of them ended in a pause.
    fn pauses(period_us: u64, messages: u32) -> usize {
        let mut pace = Pace::default();
        let times = (0..1_000_000).step_by(usize::try_from(period_us).unwrap_or(1));
        times
            .filter(|us| pace.round(Duration::from_micros(*us), 1, messages))
            .count()
    }

    #[test]
    fn a_busy_stream_pauses_and_a_calm_one_does_not() {
        assert_eq!(pauses(2_000, 3), 0);
        assert!(pauses(250, 7) > 3_700);
    }

    #[test]
    fn a_round_that_is_large_is_not_followed_by_a_pause() {
        assert_eq!(pauses(250, 64), 0);
    }

    #[test]
    fn the_first_transaction_after_a_rest_does_not_wait() {
        let mut pace = Pace::default();
        for us in (0..100_000).step_by(100) {
            pace.round(Duration::from_micros(us), 1, 3);
        }
        assert!(!pace.round(Duration::from_secs(1), 1, 3));
    }
}
