//! Whoever waits for what has just been written into the WAL rings here, and capture takes it at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// A bell for a thread that rests.
#[derive(Debug, Default)]
pub struct Hurry {
    rung: AtomicBool,
    resting: OnceLock<Thread>,
}

impl Hurry {
    /// Ends the rest, or the next one if nobody rests now.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if let Some(thread) = self.resting.get() {
            thread.unpark();
        }
    }

    /// Sleeps for so long at most. True: somebody has rung since the last rest. Always of the same thread.
    pub(super) fn rest(&self, most: Duration) -> bool {
        self.resting.get_or_init(std::thread::current);
        // Who rings behind this look unparks, and the park returns at once.
        if self.rung.swap(false, Ordering::SeqCst) {
            return true;
        }
        std::thread::park_timeout(most);
        self.rung.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_bell_rung_before_the_rest_ends_it() {
        let hurry = Hurry::default();
        hurry.ring();
        assert!(hurry.rest(Duration::from_secs(60)));
        assert!(!hurry.rest(Duration::from_micros(10)));
    }

    #[test]
    fn a_bell_ends_a_rest() {
        let hurry = Arc::new(Hurry::default());
        let (asleep, other) = (Arc::clone(&hurry), Arc::clone(&hurry));
        let rests = std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_secs(60);
            while Instant::now() < until {
                if asleep.rest(Duration::from_secs(60)) {
                    return true;
                }
            }
            false
        });
        std::thread::sleep(Duration::from_millis(20));
        other.ring();
        assert!(rests.join().unwrap());
    }
}
