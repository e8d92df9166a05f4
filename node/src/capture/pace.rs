//! How often capture takes what the walsender has sent.
//!
//! Each round costs the same, however little it brings: a write and a sync here, a message, the
//! same again at every peer, and a group of replay. A quiet stream is taken at once. One with more than
//! [`GAP`] allows is taken in rounds of several transactions, the busier the larger: a commit then waits for up to four
//! gaps, and the cluster saves several times that in processor time.
//!
//! Where threads wait for a processor, a commit's way to its peers is as many waits as it has steps. Then rounds are
//! as far apart as that way is long anyway, also those of a stream that is not busy: what is saved shortens the waits
//! of all.
//!
//! Where nobody waits for a commit at once, the walsender is left alone for a moment after each portion, however
//! small: it wakes whoever sleeps at its socket with every message, and a row is one, which costs both sides more than
//! the row. So it is while what comes was committed a while ago, and for what brings no transaction: pieces of large
//! ones, and what replay wrote, which capture drops. The socket holds more than comes meanwhile.
//!
//! That helps only who does not watch the socket meanwhile: capture has a thread of its own, which sleeps.

use std::time::Duration;

use everywrite_conflict::Stamp;
use tokio::time::Instant;

/// The mean distance of rounds of single transactions: as many as the cluster has time for. Larger ones are farther apart.
const GAP: Duration = Duration::from_micros(1_600);
/// A round of so many transactions says that the server is busy enough for four times the distance; one of two, for twice.
/// The peer's server writes what comes together as sets.
const MANY: u64 = 4;
/// So many gaps may come at once: commits do not come evenly. With 8, one in a hundred and forty would wait of 500
/// commits a second at random moments, although these are fewer than what is allowed; with 24 none does.
const BURST: u32 = 24;
/// So long a thread waits also where nobody gains by larger rounds: for the other side of a hyperthread, an interrupt, and
/// on processors that are busy but not full.
const AT_HAND: Duration = Duration::from_micros(100);
/// About so many waits for a processor are on a commit's way, there and back: walsender, capture, the workers and journals of
/// two daemons, replay, the peer's server, each of which sleeps and is woken more than once.
const STEPS: u32 = 32;
/// A Unix socket of the usual size takes about 270 small messages; more wait at the walsender.
const FULL_MESSAGES: usize = 200;
/// A round of so many bytes is worth its cost, and more are likely to wait behind it.
const FULL_BYTES: usize = 32 << 10;

/// What was committed so long ago may wait for what comes next: the site catches up.
const BEHIND: Duration = Duration::from_millis(250);
/// So long a portion is waited for then. A walsender that decodes and does nothing else sends 50 to 150 messages.
const GATHER: Duration = Duration::from_micros(300);
/// The mean distance of rounds without a transaction.
const IDLE_GAP: Duration = Duration::from_micros(400);

/// What a round has read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// Transactions that went into the journal.
    pub transactions: u64,
    /// Messages of the walsender, keepalives aside.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// When the last message was sent, by the server's clock.
    pub sent_at: Stamp,
    /// When the last transaction was committed, by the same clock.
    pub committed_at: Stamp,
}

impl Round {
    fn is_full(self) -> bool {
        self.messages >= FULL_MESSAGES || self.bytes >= FULL_BYTES
    }

    /// Whether nobody waits for it at once.
    fn is_behind(self) -> bool {
        let late = self.sent_at.0.saturating_sub(self.committed_at.0);
        late > BEHIND.as_micros() as i64
    }
}

/// Counts rounds (two leaky buckets).
#[derive(Debug)]
pub(super) struct Pace {
    /// However busy the site is, no round of commits is farther from the one before.
    most: Duration,
    /// When the rounds so far would have ended with one [`GAP`] each.
    paid_until: Instant,
    /// The same of rounds without a transaction, with [`IDLE_GAP`].
    idle_until: Instant,
    /// While the site catches up: when the next portion is taken.
    gather_until: Instant,
}

impl Pace {
    /// `most`: the longest gap between two rounds of commits (`longest-round`).
    pub(super) fn new(most: Duration, now: Instant) -> Self {
        Pace {
            most,
            paid_until: now,
            idle_until: now,
            gather_until: now,
        }
    }

    /// A round has ended. One that brought no transaction costs nothing elsewhere.
    /// `wait`: for how long threads wait for a processor, in the mean.
    pub(super) fn took(&mut self, round: Round, wait: Duration, now: Instant) {
        let gap = match round.transactions {
            _ if round.is_full() || round.messages == 0 => return,
            0 => {
                self.idle_until = self.idle_until.max(now) + IDLE_GAP;
                return;
            }
            _ if round.is_behind() => {
                self.gather_until = now + GATHER;
                return;
            }
            1 => GAP,
            2..MANY => GAP * 2,
            _ => GAP * 4,
        };
        let way = wait.saturating_sub(AT_HAND) * STEPS;
        self.paid_until = self.paid_until.max(now) + gap.max(way).min(self.most);
    }

    /// When the next round may begin, if that is not at once.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        let paid = self.paid_until.checked_sub(GAP * BURST)?;
        let idle = self.idle_until.checked_sub(IDLE_GAP * BURST)?;
        let due = paid.max(idle).max(self.gather_until);
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a round that is behind.
    const LATE: Stamp = Stamp(1_000_000);

    /// As by the settings when they say nothing.
    const MOST: Duration = Duration::from_millis(25);

    /// Processors are at hand.
    const NO_WAIT: Duration = Duration::ZERO;

    /// (rounds, messages) of a second in which a message of so many bytes comes every `arrival`;
    /// each ends a transaction if `commits`.
    fn second(arrival: Duration, bytes: usize, commits: bool) -> (u32, usize) {
        waiting(arrival, bytes, commits, NO_WAIT)
    }

    /// The same where threads wait so long for a processor.
    fn waiting(arrival: Duration, bytes: usize, commits: bool, wait: Duration) -> (u32, usize) {
        at_most(MOST, arrival, bytes, commits, wait)
    }

    /// The same with rounds no farther apart than `most`.
    fn at_most(
        most: Duration,
        arrival: Duration,
        bytes: usize,
        commits: bool,
        wait: Duration,
    ) -> (u32, usize) {
        let began = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(most, began);
        let (mut now, mut rounds, mut taken) = (began, 0, 0);
        while now < began + Duration::from_secs(1) {
            if let Some(due) = pace.wait(now) {
                now = due;
                continue;
            }
            let here = (now - began).as_micros() / arrival.as_micros() + 1;
            let messages = usize::try_from(here).unwrap() - taken;
            if messages == 0 {
                now += arrival.min(Duration::from_micros(50));
                continue;
            }
            let round = Round {
                transactions: if commits { messages as u64 } else { 0 },
                messages,
                bytes: messages * bytes,
                ..Round::default()
            };
            pace.took(round, wait, now);
            rounds += 1;
            taken += messages;
        }
        (rounds, taken)
    }

    #[test]
    fn a_quiet_stream_never_waits() {
        assert_eq!(second(Duration::from_millis(2), 600, true), (500, 500));
        assert_eq!(second(Duration::from_millis(1), 600, false), (1_000, 1_000));
    }

    #[test]
    fn commits_at_random_moments_do_not_wait_while_they_are_few_enough() {
        let began = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(MOST, began);
        let (mut now, mut commit, mut random) = (began, began, 7_u64);
        let (mut waited, commits) = (0, 100_000);
        for _ in 0..commits {
            // The moments of a Poisson process of 500 a second.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let share = ((random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
            commit += Duration::from_secs_f64(-share.ln() / 500.0);
            if commit <= now {
                continue; // taken in the round before, which has waited
            }
            now = commit;
            if let Some(due) = pace.wait(now) {
                (now, waited) = (due, waited + 1);
            }
            let round = Round {
                transactions: 1,
                messages: 3,
                bytes: 300,
                ..Round::default()
            };
            pace.took(round, NO_WAIT, now);
        }
        assert!(waited < commits / 1_000, "{waited}");
    }

    #[test]
    fn a_busy_one_is_taken_in_rounds() {
        let (rounds, taken) = second(Duration::from_micros(1_000), 600, true);
        assert!((200..=230).contains(&rounds), "{rounds}");
        assert!(taken >= 990, "{taken}");
        let (rounds, taken) = second(Duration::from_micros(300), 600, true);
        assert!((155..=195).contains(&rounds), "{rounds}");
        assert!(taken >= 3_300, "{taken}");
    }

    #[test]
    fn rounds_are_as_far_apart_as_threads_wait_for_processors() {
        let every = Duration::from_micros(2_500);
        let rounds = |wait| waiting(every, 600, true, Duration::from_micros(wait)).0;
        // 400 commits a second, each by itself, while processors are at hand.
        assert_eq!((rounds(0), rounds(150), rounds(175)), (400, 400, 400));
        let (some, long, endless) = (rounds(250), rounds(900), rounds(1_000_000));
        assert!((205..=235).contains(&some), "{some}");
        assert!((40..=43).contains(&long), "{long}");
        assert_eq!(long, endless);
        // A busy stream is taken in larger rounds then, too.
        let busy = Duration::from_micros(300);
        let (rounds, taken) = waiting(busy, 100, true, Duration::from_micros(900));
        assert!((40..=43).contains(&rounds), "{rounds}");
        assert!(taken >= 3_240, "{taken}");
    }

    #[test]
    fn no_round_is_farther_from_the_one_before_than_is_allowed() {
        let (long, busy) = (Duration::from_millis(1), Duration::from_micros(300));
        let rounds = |most| at_most(Duration::from_millis(most), busy, 100, true, long).0;
        let (none, five) = (rounds(0), rounds(5));
        assert_eq!(none, 3_334);
        assert!((195..=235).contains(&five), "{five}");
    }

    #[test]
    fn what_replay_wrote_waits_only_while_there_is_much_of_it() {
        let (rounds, taken) = second(Duration::from_micros(500), 100, false);
        assert_eq!((rounds, taken), (2_000, 2_000));
        let (rounds, taken) = second(Duration::from_micros(50), 100, false);
        assert!((2_500..=2_530).contains(&rounds), "{rounds}");
        assert!(taken >= 19_990, "{taken}");
        let (rounds, _) = second(Duration::from_micros(100), FULL_BYTES, true);
        assert_eq!(rounds, 10_000);
    }

    /// Each round finds the socket full: the walsender is never made to wait for longer than that.
    #[test]
    fn a_backlog_of_small_messages_is_taken_as_it_comes() {
        let now = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(MOST, now);
        for _ in 0..1_000 {
            let round = Round {
                transactions: 90,
                messages: 270,
                bytes: 27_000,
                sent_at: LATE,
                ..Round::default()
            };
            pace.took(round, NO_WAIT, now);
            assert_eq!(pace.wait(now), None);
        }
    }

    #[test]
    fn who_catches_up_waits_for_portions() {
        let mut now = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(MOST, now);
        let some = Round {
            transactions: 1,
            messages: 12,
            bytes: 1_200,
            sent_at: LATE,
            ..Round::default()
        };
        for _ in 0..1_000 {
            pace.took(some, NO_WAIT, now);
            assert_eq!(pace.wait(now), Some(now + GATHER));
            now += GATHER;
            assert_eq!(pace.wait(now), None);
        }
        let full = Round {
            messages: FULL_MESSAGES,
            ..some
        };
        pace.took(full, NO_WAIT, now);
        assert_eq!(pace.wait(now), None);
    }
}
