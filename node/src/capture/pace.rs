//! How often capture takes what the walsender has sent.
//!
//! Each round costs the same, however little it brings: a write and a sync here, a message, the
//! same again at every peer, and a group of replay. A quiet stream is taken at once. One with more than
//! [`GAP`] allows is taken in rounds of several transactions: a commit then waits for up to one
//! gap, and the cluster saves several times that in processor time.

use std::time::Duration;

use tokio::time::Instant;

/// The mean distance of rounds that a busy stream gets: well below the time that a commit takes to
/// become visible elsewhere, and long enough for several of a busy server's commits.
const GAP: Duration = Duration::from_micros(1_600);
/// A round of so many transactions says that the server is busy enough for twice the distance.
const MANY: u64 = 4;
/// So many rounds may come at once: commits do not come evenly.
const BURST: u32 = 8;
/// A round of so many bytes is worth its cost, and more are likely to wait behind it.
const LARGE_BYTES: usize = 32 << 10;

/// Counts rounds (a leaky bucket).
#[derive(Debug)]
pub(super) struct Pace {
    /// When the rounds so far would have ended with one [`GAP`] each.
    paid_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace { paid_until: now }
    }

    /// A round that put so many transactions into the journal, and read so many bytes for them.
    /// One that brought none (pieces of a transaction, what replay wrote) costs nothing elsewhere.
    pub(super) fn took(&mut self, transactions: u64, bytes: usize, now: Instant) {
        let gap = match transactions {
            0 => return,
            _ if bytes >= LARGE_BYTES => return,
            1..MANY => GAP,
            _ => GAP * 2,
        };
        self.paid_until = self.paid_until.max(now) + gap;
    }

    /// When the next round may begin, if that is not at once.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        let due = self.paid_until.checked_sub(GAP * BURST)?;
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (rounds, transactions) of a second in which one comes every `arrival`.
    fn second(arrival: Duration, bytes: usize) -> (u32, u64) {
        let began = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(began);
        let (mut now, mut rounds, mut taken) = (began, 0, 0);
        while now < began + Duration::from_secs(1) {
            if let Some(due) = pace.wait(now) {
                now = due;
                continue;
            }
            let here = (now - began).as_micros() / arrival.as_micros() + 1;
            let waiting = u64::try_from(here).unwrap() - taken;
            if waiting == 0 {
                now += Duration::from_micros(50);
                continue;
            }
            pace.took(waiting, bytes, now);
            rounds += 1;
            taken += waiting;
        }
        (rounds, taken)
    }

    #[test]
    fn a_quiet_stream_never_waits() {
        assert_eq!(second(Duration::from_millis(2), 600), (500, 500));
    }

    #[test]
    fn a_busy_one_is_taken_in_rounds() {
        let (rounds, taken) = second(Duration::from_micros(1_000), 600);
        assert!((620..=640).contains(&rounds), "{rounds}");
        assert!(taken >= 990, "{taken}");
        let (rounds, taken) = second(Duration::from_micros(300), 600);
        assert!((310..=330).contains(&rounds), "{rounds}");
        assert!(taken >= 3_300, "{taken}");
    }

    #[test]
    fn large_rounds_follow_each_other() {
        let (rounds, _) = second(Duration::from_micros(100), LARGE_BYTES);
        assert_eq!(rounds, 10_000);
    }
}
