//! A timer for moments that are shorter than the runtime's millisecond.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::{Errno, read};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket;

/// A timer of the kernel's that the runtime watches. It takes a descriptor.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// The system's: there may be no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(socket::watch(timer, Interest::READABLE)?))
    }

    /// Has it go off in `time`, and not when it would have before. With no time it never does.
    ///
    /// # Errors
    /// The system's; none is known.
    pub(super) fn set(&self, time: Duration) -> io::Result<()> {
        let it_value = time.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Returns whether it has gone off since it was set; if not, the task is woken when it does.
    ///
    /// # Errors
    /// The system's; none is known.
    pub(super) fn poll_gone_off(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match read(&self.0, &mut [0; 8]) {
                // The runtime has heard of it before it was set anew.
                Err(Errno::AGAIN) => ready.clear_ready(),
                done => return Poll::Ready(done.map(drop).map_err(Into::into)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn it_goes_off_when_it_was_set_to_last_and_once() {
        let timer = Timer::new().expect("a descriptor");
        let began = Instant::now();
        let short = Duration::from_micros(1);
        timer.set(short).expect("set");
        // Only the runtime hears of that.
        timer.0.readable().await.expect("gone off").retain_ready();
        let long = Duration::from_millis(3);
        timer.set(long).expect("set");
        poll_fn(|cx| timer.poll_gone_off(cx)).await.expect("gone off");
        assert!(began.elapsed() >= long);
        let again = poll_fn(|cx| Poll::Ready(timer.poll_gone_off(cx))).await;
        assert!(again.is_pending(), "it has not been set");
        timer.set(short).expect("set");
        poll_fn(|cx| timer.poll_gone_off(cx)).await.expect("gone off");
    }
}
