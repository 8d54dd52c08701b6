//! How many logins may be under way upstream at a time.
//!
//! A login in which the server has asked for a password keeps its slot while the client answers, which takes a client that
//! has its password at hand no time; but not when another login wants the slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::permits::{Permit, Permits};

/// Time that a client has for its answer while other logins wait.
const BUSY_ANSWER_TIMEOUT: Duration = Duration::from_millis(20);

/// Time that it has while none does.
const QUIET_ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

/// The logins that may be under way.
#[derive(Debug)]
pub(crate) struct LoginSlots {
    permits: Arc<Permits>,
    waiting: AtomicUsize,
    wanted: Notify,
}

/// A login that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct LoginSlot(#[allow(dead_code, reason = "held")] Permit);

/// A login that waits for its slot.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl LoginSlots {
    /// `count` free slots.
    #[must_use]
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(count), waiting: AtomicUsize::new(0), wanted: Notify::new() })
    }

    /// Changes how many there are.
    pub(crate) fn resize(&self, count: usize) {
        self.permits.resize(count);
    }

    /// Takes a slot, in the order of asking. Cancel-safe.
    pub(crate) async fn take(&self) -> LoginSlot {
        if let Some(permit) = self.permits.try_acquire() {
            return LoginSlot(permit);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        self.wanted.notify_waiters();
        LoginSlot(self.permits.acquire().await)
    }

    /// Completes when a login that only waits for its client should give its slot up.
    pub(super) async fn patience_ends(&self) {
        sleep(BUSY_ANSWER_TIMEOUT).await;
        let wanted = async {
            loop {
                let mut notified = std::pin::pin!(self.wanted.notified());
                notified.as_mut().enable();
                if self.waiting.load(Ordering::SeqCst) > 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::select! {
            () = wanted => {}
            () = sleep(QUIET_ANSWER_TIMEOUT.saturating_sub(BUSY_ANSWER_TIMEOUT)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_its_client_gives_way() {
        let slots = LoginSlots::new(1);
        let began = tokio::time::Instant::now();
        let taken = slots.take().await;
        slots.patience_ends().await;
        assert_eq!(began.elapsed(), QUIET_ANSWER_TIMEOUT);
        let next = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take().await }
        });
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        slots.patience_ends().await;
        assert_eq!(began.elapsed(), BUSY_ANSWER_TIMEOUT);
        drop(taken);
        drop(next.await);
        assert_eq!(slots.waiting.load(Ordering::SeqCst), 0);
    }
}
