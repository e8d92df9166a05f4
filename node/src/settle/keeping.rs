//! Why journals are kept although no member needs them any more, for whoever wonders that they grow.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What is passed by within this time is not worth a word: rounds come every two seconds.
const LONG: Duration = Duration::from_secs(30);

/// What has to come before journals are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Capture has to come past what was committed here when it was found that they may go.
    Capture,
    /// Rows that this site wrote have to be looked at again.
    Looks,
    /// Deletes that were decided here have to leave.
    Deletes,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kept::Capture => {
                "capture is not past what was committed here when they were found to be free; its state says why"
            }
            Kept::Looks => {
                "rows written here have to be looked at again, because something came in meanwhile: a session may hold their locks \
                 (everywrite repair in pg_stat_activity)"
            }
            Kept::Deletes => {
                "deletes that were decided here have not left yet: the table everywrite.outbox could not be emptied; the log says why"
            }
        })
    }
}

/// Whether it is so, and since when.
#[derive(Debug, Default)]
pub struct Keeping(Mutex<Option<(Kept, Instant)>>);

impl Keeping {
    /// A round has found this.
    pub fn found(&self, kept: Option<Kept>, now: Instant) {
        let mut last = self.0.lock();
        *last = kept.map(|kept| match *last {
            Some((before, since)) if before == kept => (kept, since),
            _ => (kept, now),
        });
    }

    /// What they have been kept for, if that has been so for long.
    pub fn for_long(&self, now: Instant) -> Option<Kept> {
        let (kept, since) = (*self.0.lock())?;
        (now.saturating_duration_since(since) >= LONG).then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_so_for_long_is_told_until_it_is_over() {
        let keeping = Keeping::default();
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        keeping.found(Some(Kept::Deletes), begun);
        keeping.found(Some(Kept::Deletes), later(29));
        assert_eq!(keeping.for_long(later(29)), None);
        assert_eq!(keeping.for_long(later(30)), Some(Kept::Deletes));
        keeping.found(Some(Kept::Looks), later(31));
        assert_eq!(keeping.for_long(later(32)), None);
        keeping.found(None, later(33));
        assert_eq!(keeping.for_long(later(99)), None);
    }
}
