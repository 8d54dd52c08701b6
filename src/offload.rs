//! Blocking work away from the workers.

use std::io;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;

/// A place where blocking work is done, one piece after another, on the runtime's threads for that. However many tasks ask, a
/// piece that hangs (a file of a dead network file system, a name service without an answer) holds one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct SerialExecutor(Arc<Mutex<()>>);

impl SerialExecutor {
    /// Waits for a turn. Turns are given in the order of asking.
    pub(crate) async fn turn(&self) -> Turn {
        Turn { _guard: Arc::clone(&self.0).lock_owned().await }
    }

    /// Does `work` in its turn. It goes on to its end when the caller stops waiting.
    ///
    /// # Errors
    /// When it panicked, or the runtime has ended.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.turn().await.run(work).await
    }
}

/// A turn to do blocking work.
#[derive(Debug)]
pub(crate) struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Turn {
    /// Does `work`. It goes on to its end when the caller stops waiting, and the next turn begins after that.
    ///
    /// # Errors
    /// When it panicked, or the runtime has ended.
    pub(crate) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let done = spawn_blocking(move || {
            let outcome = work();
            drop(self);
            outcome
        });
        done.await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_holds_one_thread_and_no_worker() {
        let executor = SerialExecutor::default();
        let (release, hung) = mpsc::channel::<()>();
        let first = timeout(Duration::from_millis(10), executor.run(move || hung.recv().is_err())).await;
        assert!(first.is_err(), "this thread is free meanwhile");
        let (began, has_begun) = mpsc::channel::<()>();
        let second = timeout(Duration::from_millis(10), executor.run(move || began.send(()))).await;
        assert!(second.is_err() && has_begun.try_recv().is_err(), "one piece at a time, also when its caller has gone");
        drop(release);
        assert_eq!(executor.run(|| 3).await.expect("done"), 3);
        assert!(executor.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(executor.run(|| 4).await.expect("done"), 4, "a panic does not close the executor");
    }
}
