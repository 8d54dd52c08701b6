//! Slots that are given up as soon as others need them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The slots that connections outside of pools give up when they are needed.
#[derive(Debug, Default)]
pub(crate) struct ReclaimableSlots {
    count: Arc<AtomicUsize>,
    needed: Arc<Notify>,
}

/// One of them, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Reclaimable(Arc<AtomicUsize>);

impl Drop for Reclaimable {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ReclaimableSlots {
    /// Has all of them given up as soon as their connections are unused; returns whether there are any.
    pub(super) fn reclaim(&self) -> bool {
        self.needed.notify_waiters();
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Counts one more; the second value completes when it is to be given up.
    pub(super) fn add(&self) -> (Reclaimable, OwnedNotified) {
        self.count.fetch_add(1, Ordering::SeqCst);
        (Reclaimable(Arc::clone(&self.count)), Arc::clone(&self.needed).notified_owned())
    }
}
