//! Waking one task to look what there is to do.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;

/// Wakes the one task that waits for it. A wake while no task waits is kept, one of them.
///
/// Unlike tokio's `Notify` it knows no queue, so that waiting takes no memory beyond this: every client that is idle
/// waits for two of them.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    woken: AtomicBool,
    waker: AtomicWaker,
}

impl Wake {
    /// Wakes the task that waits, or will.
    pub(crate) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Returns whether it was woken since the last time; if not, the task is woken when it is. Only one task may ask.
    pub(crate) fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.woken.swap(false, Ordering::SeqCst) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // It may have happened in between.
        if self.woken.swap(false, Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits to be woken. Cancel-safe.
    pub(crate) async fn woken(&self) {
        poll_fn(|cx| self.poll_woken(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_wake_is_kept_and_taken_once() {
        let wake = Arc::new(Wake::default());
        wake.wake();
        wake.wake();
        wake.woken().await;
        let waiting = tokio::spawn({
            let wake = Arc::clone(&wake);
            async move { wake.woken().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "two wakes while no task waited are one");
        wake.wake();
        waiting.await.expect("woken");
    }
}
