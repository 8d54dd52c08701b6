//! How many connections there may be over all pools.
//!
//! Where `max_upstream` is "auto" the servers say how many they have. Up to its share a pool opens connections as it needs
//! them; beyond it, idle ones of other pools are closed first. The last word is the server's: what it refuses is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::timeout;

use super::slots::{Slot, Slots};

/// Number of connections that a server is taken to have until it has said so: PostgreSQL's default for `max_connections`.
pub(super) const UNKNOWN: usize = 100;

/// Prospects of a slot coming free, where none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prospect {
    /// One will: a connection that no client uses is being closed for it, or has been asked for.
    Coming,
    /// One may: pgferry itself is at work on a connection that no client uses.
    Possible,
    /// Clients use all.
    None,
}

/// The slots that all pools share.
#[derive(Debug)]
pub(crate) struct Capacity {
    slots: Arc<Slots>,
    /// Number of those slots that may be taken without making room first.
    share: AtomicUsize,
    /// Number of slots that open files allow, whatever the servers say.
    ceiling: usize,
    /// True if a pool has found no slot since one last came free.
    wanted: AtomicBool,
    /// Notified when a slot came free while one was wanted.
    freed: Notify,
    /// Notified when the number of slots has changed.
    resized: Notify,
}

impl Capacity {
    /// Slots for `max_upstream` connections, or as many as a server is taken to have; no more than `ceiling` in that case.
    #[must_use]
    pub(super) fn new(max_upstream: Option<usize>, ceiling: usize) -> Self {
        let assumed = max_upstream.unwrap_or(UNKNOWN.min(ceiling));
        Self {
            slots: Slots::new(assumed),
            share: AtomicUsize::new(assumed),
            ceiling,
            wanted: AtomicBool::new(false),
            freed: Notify::new(),
            resized: Notify::new(),
        }
    }

    /// Number of connections that may be open without making room first.
    #[must_use]
    pub(crate) fn share(&self) -> usize {
        self.share.load(Ordering::Relaxed)
    }

    /// The most connections that there may be.
    #[must_use]
    pub(crate) fn max_upstream(&self) -> usize {
        self.slots.cap()
    }

    /// The most that there may be where the servers say how many they have.
    pub(super) fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Number of connections, in any state.
    #[must_use]
    pub(crate) fn used(&self) -> usize {
        self.slots.used()
    }

    /// Returns whether no slot is free.
    pub(super) fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// Takes one of the first `share` slots if one is free.
    pub(super) fn try_take_of(&self, share: usize) -> Option<Slot> {
        self.slots.try_take_of(share)
    }

    /// Takes a slot, within `patience`; while none of the share is free, `make_room` is called. Cancel-safe.
    pub(super) async fn take(&self, patience: Duration, make_room: impl Fn() -> Prospect) -> Option<Slot> {
        let taken = async {
            loop {
                let mut freed = std::pin::pin!(self.freed());
                freed.as_mut().enable();
                if let Some(slot) = self.slots.try_take_of(self.share()) {
                    return Some(slot);
                }
                let prospect = make_room();
                let slot = if prospect == Prospect::Coming { None } else { self.slots.try_take() };
                if slot.is_some() || prospect == Prospect::None {
                    return slot;
                }
                freed.await;
            }
        };
        timeout(patience, taken).await.ok().flatten()
    }

    /// Completes when a slot or a connection comes free that was wanted.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Changes how many slots there are, and how many of them may be taken without making room first.
    pub(super) fn resize(&self, most: usize, share: usize) {
        if most != self.slots.cap() {
            self.slots.resize(most);
            self.resized.notify_one();
        }
        self.share.store(share, Ordering::Relaxed);
    }

    /// Waits until [`Capacity::max_upstream`] has changed. Cancel-safe.
    pub(crate) async fn resized(&self) {
        self.resized.notified().await;
    }

    /// Notes that no slot, or none of a user's, was found.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Returns whether a slot or a connection was wanted before one came free now, and wakes the tasks that wait for it.
    pub(super) fn note_freed(&self) -> bool {
        // Looked at first: writing would cost more, and this is asked whenever a connection comes back.
        let wanted = self.wanted.load(Ordering::SeqCst) && self.wanted.swap(false, Ordering::SeqCst);
        if wanted {
            self.freed.notify_waiters();
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_beyond_the_share_is_taken_where_no_pool_makes_room() {
        let capacity = Capacity::new(Some(2), usize::MAX);
        capacity.resize(2, 1);
        let within = capacity.take(Duration::from_secs(5), || unreachable!("one is free")).await;
        let beyond = capacity.take(Duration::from_secs(5), || Prospect::Possible).await;
        assert!(within.is_some() && beyond.is_some() && capacity.is_full());
        assert!(capacity.take(Duration::from_secs(5), || Prospect::None).await.is_none(), "the cap is exact");
    }

    #[tokio::test]
    async fn a_task_that_waits_gets_the_slot_that_comes_free() {
        let capacity = Arc::new(Capacity::new(Some(1), usize::MAX));
        let held = capacity.try_take_of(1).expect("a free one");
        let waits = Arc::clone(&capacity);
        let waits = tokio::spawn(async move {
            let make_room = || {
                waits.want();
                Prospect::Coming
            };
            waits.take(Duration::from_secs(30), make_room).await.is_some()
        });
        while !capacity.wanted.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        drop(held);
        assert!(capacity.note_freed() && !capacity.note_freed());
        assert!(waits.await.expect("no panic"));
    }

    #[test]
    fn an_unknown_server_is_taken_to_have_what_postgresql_has_by_default() {
        assert_eq!(Capacity::new(None, usize::MAX).max_upstream(), UNKNOWN);
        assert_eq!(Capacity::new(None, 30).max_upstream(), 30, "open files allow no more");
        assert_eq!(Capacity::new(Some(400), 30).max_upstream(), 400, "a setting is taken at its word");
    }
}
