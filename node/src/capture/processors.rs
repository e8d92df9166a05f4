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
/// The mean is that of about so long. A moment in which all processors are taken says nothing about the next.
const MEAN: Duration = Duration::from_secs(1);
/// Fewer runs than that say little: others are taken for runs that did not wait.
const RUNS: f64 = 16.0;

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
    /// Nanoseconds of waiting and runs, each the less the longer ago.
    waited: f64,
    runs: f64,
}

impl Processors {
    /// Of the thread that calls.
    pub(super) fn of_this_thread(now: Instant) -> Self {
        Processors {
            file: File::open("/proc/thread-self/schedstat").ok(),
            counted: Counted::default(),
            counted_at: now,
            ask_at: now,
            waited: 0.0,
            runs: 0.0,
        }
    }

    /// The mean wait of a run in the last second or so. Zero where it is not known.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        if now >= self.ask_at {
            self.ask_at = now + ASK;
            let mut text = [0; 96];
            if let Some(file) = &self.file
                && let Ok(length) = file.read_at(&mut text, 0)
                && let Ok(text) = std::str::from_utf8(&text[..length])
                && let Some(counted) = Counted::read(text)
            {
                self.learn(counted, now);
            }
        }
        Duration::from_nanos((self.waited / self.runs.max(RUNS)) as u64)
    }

    fn learn(&mut self, counted: Counted, now: Instant) {
        let before = std::mem::replace(&mut self.counted, counted);
        let passed = now.saturating_duration_since(self.counted_at);
        self.counted_at = now;
        if before == Counted::default() {
            return; // What was counted before the first look may be of any time.
        }
        let left = (-passed.as_secs_f64() / MEAN.as_secs_f64()).exp();
        let more = |now: u64, before: u64| now.saturating_sub(before) as f64;
        self.waited = self.waited * left + more(counted.waited, before.waited);
        self.runs = self.runs * left + more(counted.runs, before.runs);
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
    fn the_mean_follows_what_each_run_waits_within_seconds() {
        let mut now = Instant::now();
        let mut processors = Processors {
            file: None,
            ..Processors::of_this_thread(now)
        };
        let (mut waited, mut runs) = (1_000_000_000, 5);
        let mut some_more = |processors: &mut Processors, each: u64, more: u64, after| {
            (waited, runs, now) = (waited + each * more, runs + more, now + after);
            processors.learn(some(waited, runs), now);
            processors.ask_at = now + ASK;
            processors.wait(now).as_micros()
        };
        let first = some_more(&mut processors, 100, 20, ASK);
        assert_eq!(first, 0, "the first look");
        let waits: Vec<u128> = (0..100)
            .map(|_| some_more(&mut processors, 800, 20, ASK))
            .collect();
        assert!(waits[0] >= 700 && waits[1..].iter().all(|wait| (799..=800).contains(wait)));
        // A moment says little: 20 runs of some 400 that waited ten times as long.
        for _ in 0..100 {
            some_more(&mut processors, 80, 20, ASK);
        }
        let moment = some_more(&mut processors, 800, 20, ASK);
        assert!((100..=140).contains(&moment), "{moment}");
        // Nor do few runs, after a while in which there were none.
        let few = some_more(&mut processors, 1_600, 1, MEAN * 20);
        assert!((99..=101).contains(&few), "{few}");
        assert_eq!(some_more(&mut processors, 0, 0, MEAN * 20), 0);
    }

    #[test]
    fn this_thread_is_counted() {
        let now = Instant::now();
        let mut processors = Processors::of_this_thread(now);
        if processors.file.is_none() {
            return; // not this kernel
        }
        for round in 0..4 {
            for _ in 0..16 {
                std::thread::sleep(Duration::from_micros(50));
            }
            processors.wait(now + ASK * round);
        }
        assert!(processors.counted.runs >= 48);
        assert!(processors.runs >= 32.0);
        assert!(processors.wait(now) < Duration::from_secs(1));
    }
}
