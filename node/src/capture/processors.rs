//! How long a thread waits for a processor on this machine.
//!
//! The kernel counts for each thread how long it was ready to run and did not, and how often it has run
//! (`/proc/thread-self/schedstat`, Documentation/scheduler/sched-stats.rst). Their quotient is what each step of a
//! commit's way to its peers waits before it begins: some 50 µs while there are processors enough, a millisecond when
//! there are not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tokio::time::Instant;

/// How often the kernel is asked.
const ASK: Duration = Duration::from_millis(50);
/// Fewer runs than that are waited for …
const RUNS: u64 = 16;
/// … but no longer than this. What was known before is of another time then.
const OLD: Duration = Duration::from_secs(1);

/// What the kernel has counted: nanoseconds of waiting, runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    waited: u64,
    runs: u64,
}

impl Counted {
    /// Three numbers: nanoseconds on a processor, nanoseconds of waiting for one, runs.
    fn read(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().skip(1).map(str::parse);
        Some(Counted {
            waited: numbers.next()?.ok()?,
            runs: numbers.next()?.ok()?,
        })
    }
}

/// The waits of the thread that has made it.
#[derive(Debug)]
pub(super) struct Processors {
    /// None: this kernel does not count.
    file: Option<File>,
    counted: Counted,
    counted_at: Instant,
    ask_at: Instant,
    wait: Duration,
}

impl Processors {
    /// Of the thread that calls.
    pub(super) fn of_this_thread(now: Instant) -> Self {
        Processors {
            file: File::open("/proc/thread-self/schedstat").ok(),
            counted: Counted::default(),
            counted_at: now,
            ask_at: now,
            wait: Duration::ZERO,
        }
    }

    /// The mean wait of the last few tenths of a second. Zero where it is not known.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        if now < self.ask_at {
            return self.wait;
        }
        self.ask_at = now + ASK;
        let mut text = [0; 96];
        if let Some(file) = &self.file
            && let Ok(length) = file.read_at(&mut text, 0)
            && let Ok(text) = std::str::from_utf8(&text[..length])
            && let Some(counted) = Counted::read(text)
        {
            self.learn(counted, now);
        }
        self.wait
    }

    fn learn(&mut self, counted: Counted, now: Instant) {
        let runs = counted.runs.saturating_sub(self.counted.runs);
        let old = now.saturating_duration_since(self.counted_at) >= OLD;
        if runs == 0 || runs < RUNS && !old {
            return;
        }
        let waited = counted.waited.saturating_sub(self.counted.waited);
        let first = self.counted == Counted::default();
        (self.counted, self.counted_at) = (counted, now);
        let wait = Duration::from_nanos(waited / runs);
        self.wait = match () {
            // What was counted before the first look may be of any time.
            () if first => Duration::ZERO,
            () if old => wait,
            () => (self.wait * 3 + wait) / 4,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(waited_us: u64, runs: u64) -> Counted {
        Counted {
            waited: waited_us * 1_000,
            runs,
        }
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let read = Counted::read("521243 17000 3\n");
        assert_eq!(read, Some(some(17, 3)));
        assert_eq!(Counted::read(""), None);
        assert_eq!(Counted::read("1 2"), None);
        assert_eq!(Counted::read("1 a 3"), None);
    }

    #[test]
    fn the_mean_follows_what_each_run_waits() {
        let mut now = Instant::now();
        let mut processors = Processors {
            file: None,
            counted: Counted::default(),
            counted_at: now,
            ask_at: now,
            wait: Duration::ZERO,
        };
        let us = Duration::from_micros;
        let (mut waited, mut runs) = (1_000_000_000, 5);
        let mut some_more = |processors: &mut Processors, each: u64, more: u64, after| {
            (waited, runs, now) = (waited + each * more, runs + more, now + after);
            processors.learn(some(waited, runs), now);
            processors.wait
        };
        assert_eq!(
            some_more(&mut processors, 100, 20, ASK),
            us(0),
            "the first look"
        );
        let waits: Vec<Duration> = (0..20)
            .map(|_| some_more(&mut processors, 800, 20, ASK))
            .collect();
        assert!(waits.is_sorted() && waits[0] == us(200) && waits[19] > us(780));
        for _ in 0..20 {
            some_more(&mut processors, 50, 20, ASK);
        }
        let few = processors.wait;
        assert!(few < us(60), "{few:?}");
        assert_eq!(some_more(&mut processors, 9_000, 2, ASK), few);
        // A quiet second: what little there is counts, and nothing of before.
        let after = some_more(&mut processors, 300, 2, OLD);
        assert!(after == us(4_650), "{after:?}");
        assert_eq!(some_more(&mut processors, 30, 3, OLD), us(30));
        assert_eq!(some_more(&mut processors, 0, 0, OLD), us(30));
    }

    #[test]
    fn this_thread_is_counted() {
        let now = Instant::now();
        let mut processors = Processors::of_this_thread(now);
        if processors.file.is_none() {
            return; // not this kernel
        }
        for round in 0..4 {
            for _ in 0..RUNS {
                std::thread::sleep(Duration::from_micros(50));
            }
            processors.wait(now + ASK * round);
        }
        assert!(processors.counted.runs >= RUNS);
        assert!(processors.wait < Duration::from_secs(1));
    }
}
