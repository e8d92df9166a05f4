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
/// Fewer runs than that say nothing.
const RUNS: u64 = 16;

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
    ask_at: Instant,
    wait: Duration,
}

impl Processors {
    /// Of the thread that calls.
    pub(super) fn of_this_thread(now: Instant) -> Self {
        Processors {
            file: File::open("/proc/thread-self/schedstat").ok(),
            counted: Counted::default(),
            ask_at: now,
            wait: Duration::ZERO,
        }
    }

    /// The mean wait of lately, half a second or so. Zero where it is not known.
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
            self.learn(counted);
        }
        self.wait
    }

    fn learn(&mut self, counted: Counted) {
        let runs = counted.runs.saturating_sub(self.counted.runs);
        if runs < RUNS {
            return;
        }
        let waited = counted.waited.saturating_sub(self.counted.waited);
        let first = self.counted == Counted::default();
        self.counted = counted;
        // What was counted before the first look may be of any time.
        if !first {
            self.wait = (self.wait * 3 + Duration::from_nanos(waited / runs)) / 4;
        }
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
        let mut processors = Processors {
            file: None,
            counted: Counted::default(),
            ask_at: Instant::now(),
            wait: Duration::ZERO,
        };
        let (mut waited, mut runs) = (1_000_000_000, 5);
        for us in [800; 20].into_iter().chain([50; 20]) {
            (waited, runs) = (waited + us * 20, runs + 20);
            processors.learn(some(waited, runs));
            assert!(processors.wait <= Duration::from_micros(800));
            if runs == 20 * 20 + 5 {
                assert!(processors.wait > Duration::from_micros(780));
            }
        }
        let wait = processors.wait;
        assert!(wait < Duration::from_micros(60), "{wait:?}");
        // Too little to say anything.
        processors.learn(some(waited + 1_000_000, runs + 2));
        assert_eq!(processors.wait, wait);
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
