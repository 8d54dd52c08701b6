//! Where a task waits for clients: one listener, until it is told that this is over.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::time::sleep;
use tracing::warn;

use super::shutdown::ShutdownToken;
use crate::auth::Bucket;
use crate::net::{Listener, Stream};
use crate::wake::Wake;

/// Time to wait before accepting again when the process or the system is out of descriptors.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(50);

/// Number of errors of a listener that are logged at once, and time per error after that: without descriptors it fails twenty times
/// a second.
const LOGGED_BURST: u32 = 3;
const LOGGED_INTERVAL: Duration = Duration::from_secs(10);

/// Number of clients that wait in the backlog that are still taken when a listener closes: as many as the kernel keeps by
/// default.
const MAX_BACKLOG_AT_END: u32 = 4096;

/// Signal that ends the accepting of clients.
#[derive(Debug, Default)]
pub(super) struct StopSignal {
    how: AtomicU8,
    wake: Wake,
}

impl StopSignal {
    const CLOSED: u8 = 1;
    const DETACHED: u8 = 2;

    /// It closes: clients that have connected are taken still, since a closed backlog would only break their connections.
    pub(super) fn close(&self) {
        self.signal(Self::CLOSED);
    }

    /// Another process has it: no client is taken from it any more.
    pub(super) fn detach(&self) {
        self.signal(Self::DETACHED);
    }

    fn signal(&self, how: u8) {
        self.how.store(how, Ordering::SeqCst);
        self.wake.wake();
    }
}

/// A listener that one acceptor task owns at a time.
#[derive(Debug)]
pub(super) struct ListenerHandle {
    listener: Arc<Listener>,
    stop: Arc<StopSignal>,
    /// Number of clients that may still be accepted, once it closes.
    last: Option<u32>,
    /// Limit on errors that are logged.
    logged: Bucket,
    /// Held until no client is taken from it any more.
    _all: Option<ShutdownToken>,
}

impl ListenerHandle {
    pub(super) fn new(listener: Arc<Listener>, stop: Arc<StopSignal>, all: Option<ShutdownToken>) -> Self {
        let logged = Bucket::new(LOGGED_BURST, LOGGED_INTERVAL, Instant::now());
        Self { listener, stop, last: None, logged, _all: all }
    }

    /// The next client; `None` when there will be none.
    pub(super) async fn next(&mut self) -> Option<Stream> {
        loop {
            match poll_fn(|cx| self.poll_next(cx)).await? {
                Ok(stream) => return Some(stream),
                Err(error) => self.note_error(&error, Instant::now()).pause().await,
            }
        }
    }

    /// Returns whether an error at `now` is to be logged: not where many have been lately.
    fn is_logged(&mut self, now: Instant) -> bool {
        self.logged.take(now, Duration::ZERO).is_some()
    }

    /// Notes a failure to accept.
    fn note_error(&mut self, error: &io::Error, now: Instant) -> AcceptFailure {
        let failure = AcceptFailure::of(error);
        if self.is_logged(now) {
            match failure {
                AcceptFailure::OfSystem => warn!("accepting clients is paused: {error}; they wait in the backlog"),
                AcceptFailure::OfClient => warn!("a client could not be accepted: {error}"),
            }
        }
        failure
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Stream>>> {
        loop {
            match self.stop.how.load(Ordering::SeqCst) {
                StopSignal::DETACHED => return Poll::Ready(None),
                StopSignal::CLOSED => {
                    let left = self.last.get_or_insert(MAX_BACKLOG_AT_END);
                    let Some(fewer) = left.checked_sub(1) else { return Poll::Ready(None) };
                    *left = fewer;
                    // Nothing that goes wrong now will be better in time.
                    return Poll::Ready(self.listener.accept_now().filter(Result::is_ok));
                }
                _ => {}
            }
            if let Poll::Ready(accepted) = self.listener.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            ready!(self.stop.wake.poll_woken(cx));
        }
    }
}

/// Consequence of a failure to accept: it concerns one client, or everything is in use for the moment; the listener goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptFailure {
    /// One client is lost.
    OfClient,
    /// The process or the system is out of descriptors or memory.
    OfSystem,
}

impl AcceptFailure {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Self::OfSystem,
            _ => Self::OfClient,
        }
    }

    async fn pause(self) {
        if self == Self::OfSystem {
            sleep(OUT_OF_FILES_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;

    impl ListenerHandle {
        /// Creates one at `path`, and what ends it.
        pub(crate) fn of_test(path: &Path) -> (Self, Arc<StopSignal>) {
            let stop = Arc::new(StopSignal::default());
            let listener = Listener::file(path, 0o777, None).expect("free");
            (Self::new(Arc::new(listener), Arc::clone(&stop), None), stop)
        }
    }

    #[tokio::test]
    async fn who_has_connected_is_taken_when_it_closes_and_not_when_it_is_left() {
        for (closes, taken) in [(true, 3), (false, 0)] {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("s");
            let (mut handle, stop) = ListenerHandle::of_test(&path);
            let _clients = [(); 3].map(|()| UnixStream::connect(&path).expect("heard"));
            let end = if closes { StopSignal::close } else { StopSignal::detach };
            end(&stop);
            for _ in 0..taken {
                handle.next().await.expect("a client");
            }
            assert!(handle.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_process_without_descriptors_does_not_flood_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut handle, _stop) = ListenerHandle::of_test(&dir.path().join("s"));
        let began = Instant::now();
        let logged = |attempt: &u32| handle.is_logged(began + OUT_OF_FILES_PAUSE * *attempt);
        // A minute of them.
        let attempts = 60_000 / u32::try_from(OUT_OF_FILES_PAUSE.as_millis()).expect("small");
        let logged = (0..attempts).filter(logged).count();
        assert!((3..=9).contains(&logged), "{logged} lines");
    }

    #[tokio::test]
    async fn who_waits_is_told_also_where_somebody_else_has_waited_before() {
        let dir = tempfile::tempdir().expect("a directory");
        for told_between in [false, true] {
            let (mut handle, stop) = ListenerHandle::of_test(&dir.path().join("s"));
            let none = tokio::time::timeout(Duration::ZERO, handle.next()).await;
            assert!(none.is_err(), "no client has come");
            if told_between {
                stop.close();
            }
            let waiting = tokio::spawn(async move { handle.next().await.is_none() });
            tokio::task::yield_now().await;
            assert_eq!(waiting.is_finished(), told_between);
            stop.close();
            assert!(waiting.await.expect("no panic"));
        }
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_client_also_where_somebody_else_has_waited_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let (mut handle, _stop) = ListenerHandle::of_test(&path);
        let none = tokio::time::timeout(Duration::ZERO, handle.next()).await;
        assert!(none.is_err(), "no client has come");
        let waiting = tokio::spawn(async move { handle.next().await.is_some() });
        tokio::task::yield_now().await;
        let _client = UnixStream::connect(&path).expect("heard");
        assert!(waiting.await.expect("no panic"));
    }
}
