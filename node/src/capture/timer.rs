//! A pause shorter than a millisecond, which is the runtime's own measure.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the system (`timerfd_create(2)`).
#[derive(Debug)]
pub(super) struct Timer {
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Timer {
    /// Without a system timer the pauses are the runtime's.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for descriptors that somebody else may close; this one is owned"
    )]
    pub(super) fn new() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(io::Error::from)
            .and_then(AsyncFd::new);
        Timer { fd: fd.ok() }
    }

    /// Returns after `pause`. May be dropped while it waits.
    pub(super) async fn sleep(&mut self, pause: Duration) {
        let set = match &self.fd {
            Some(fd) => set(fd, pause).await,
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        if set.is_err() {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn set(fd: &AsyncFd<OwnedFd>, pause: Duration) -> io::Result<()> {
    let at = Itimerspec {
        it_interval: Timespec::default(),
        // A pause of nothing would switch it off.
        it_value: Timespec::try_from(pause.max(Duration::from_nanos(1)))
            .map_err(|_| io::ErrorKind::InvalidInput)?,
    };
    timerfd_settime(fd.get_ref(), TimerfdTimerFlags::empty(), &at)?;
    loop {
        // An earlier pause that was given up may have left it ready: then there is nothing to read.
        let mut ready = fd.readable().await?;
        let mut count = [0_u8; 8];
        let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut count[..])?));
        if let Ok(read) = read {
            return read.map(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_also_after_a_pause_that_was_given_up() {
        let mut timer = Timer::new();
        assert!(timer.fd.is_some());
        let long = timer.sleep(Duration::from_secs(100));
        let cut = tokio::time::timeout(Duration::from_millis(5), long).await;
        assert!(cut.is_err());
        for pause in [Duration::ZERO, Duration::from_micros(300)] {
            let begun = std::time::Instant::now();
            timer.sleep(pause).await;
            assert!(begun.elapsed() >= pause);
        }
    }
}
