//! When files are tried again that could not be written: nobody waits for them, entries stay in memory
//! or in the files that there are.

use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The first pause; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_secs(1);

/// Attempts at one kind of file. What fails is said once, and once that it goes on.
#[derive(Debug)]
pub(in crate::settle) struct Attempts {
    longest: Duration,
    failing: Mutex<Option<Failing>>,
}

#[derive(Debug)]
struct Failing {
    pause: Duration,
    until: Instant,
    /// What was said last.
    reason: String,
}

impl Attempts {
    /// None has failed. `longest`: no pause is longer.
    pub(in crate::settle) fn new(longest: Duration) -> Self {
        Attempts {
            longest,
            failing: Mutex::new(None),
        }
    }

    /// Whether it is time for one.
    pub(in crate::settle) fn due(&self, now: Instant) -> bool {
        self.failing.lock().as_ref().is_none_or(|f| f.until <= now)
    }

    /// One has failed. `say` it to people, if this is news.
    pub(in crate::settle) fn failed(&self, now: Instant, err: &io::Error, say: impl FnOnce()) {
        let mut failing = self.failing.lock();
        let (pause, before) = match failing.take() {
            Some(f) => ((f.pause * 2).min(self.longest), Some(f.reason)),
            None => (PAUSE, None),
        };
        let reason = err.to_string();
        if before.as_ref() != Some(&reason) {
            say();
        }
        *failing = Some(Failing {
            pause,
            until: now + pause,
            reason,
        });
    }

    /// One has succeeded. `say` it to people, if one before had failed.
    pub(in crate::settle) fn succeeded(&self, say: impl FnOnce()) {
        if self.failing.lock().take().is_some() {
            say();
        }
    }

    /// The next one is due at once.
    #[cfg(test)]
    pub(in crate::settle) fn hurry(&self) {
        if let Some(failing) = &mut *self.failing.lock() {
            failing.until = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_each_reason_is_said_once() {
        let attempts = Attempts::new(Duration::from_secs(10));
        let mut now = Instant::now();
        let (mut said, mut pauses) = (0, Vec::new());
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for _ in 0..6 {
            assert!(attempts.due(now));
            attempts.failed(now, &full, || said += 1);
            let begun = now;
            while !attempts.due(now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - begun).as_secs());
        }
        assert_eq!((said, &pauses[..]), (1, &[1, 2, 4, 8, 10, 10][..]));
        attempts.failed(now, &io::ErrorKind::ReadOnlyFilesystem.into(), || said += 1);
        assert_eq!(said, 2);
        attempts.succeeded(|| said += 1);
        attempts.succeeded(|| said += 1);
        assert!(said == 3 && attempts.due(now));
        attempts.failed(now, &full, || said += 1);
        assert!(said == 4 && attempts.due(now + Duration::from_secs(1)));
    }
}
