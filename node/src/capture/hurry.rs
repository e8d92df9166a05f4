//! Whoever waits for what has just been written into the WAL rings here, and capture takes it at once.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// While somebody waits the thread rests no longer: what is waited for has still to be sent by the walsender.
const NAP: Duration = Duration::from_micros(400);
/// What is waited for and does not come is not hurried for any longer.
const LONG: Duration = Duration::from_secs(1);

/// A bell for a thread that rests. It rings until what was waited for is met.
#[derive(Debug, Default)]
pub struct Hurry {
    rung_at: Mutex<Option<Instant>>,
    resting: OnceLock<Thread>,
}

impl Hurry {
    /// Ends the rest, and shortens all that follow until [`met`](Self::met).
    pub fn ring(&self) {
        *self.rung_at.lock() = Some(Instant::now());
        if let Some(thread) = self.resting.get() {
            thread.unpark();
        }
    }

    /// What was waited for is there.
    pub(super) fn met(&self) {
        *self.rung_at.lock() = None;
    }

    fn rings(&self) -> bool {
        let rung_at = *self.rung_at.lock();
        rung_at.is_some_and(|at| at.elapsed() < LONG)
    }

    /// Sleeps for so long at most, and much shorter while it rings. True: it rings. Always of the same thread.
    pub(super) fn rest(&self, most: Duration) -> bool {
        self.resting.get_or_init(std::thread::current);
        // Who rings behind this look unparks, and the park returns at once.
        let most = if self.rings() { most.min(NAP) } else { most };
        std::thread::park_timeout(most);
        self.rings()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_rings_until_what_was_waited_for_is_met() {
        let hurry = Hurry::default();
        assert!(!hurry.rest(Duration::from_micros(10)));
        hurry.ring();
        for _ in 0..3 {
            assert!(hurry.rest(Duration::from_secs(60)));
        }
        hurry.met();
        assert!(!hurry.rest(Duration::from_micros(10)));
        *hurry.rung_at.lock() = Instant::now().checked_sub(LONG);
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
        // Again and again: on a busy machine the thread may come to look a second late.
        while !rests.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            other.ring();
        }
        assert!(rests.join().unwrap());
    }
}
