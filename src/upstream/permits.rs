//! How many pieces of work may be under way at a time, exactly, also after that number changed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::lock::lock;

/// Permits that are waited for in the order of asking.
#[derive(Debug)]
pub(crate) struct Permits {
    free: Semaphore,
    total: Mutex<usize>,
    /// Number of permits that were held when the total shrank, and that end when they come back.
    excess: AtomicUsize,
}

/// A permit that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    /// `total` free permits.
    #[must_use]
    pub(crate) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(total), total: Mutex::new(total), excess: AtomicUsize::new(0) })
    }

    /// Changes how many there are. Work that is under way beyond the new number goes on; nothing else begins before it ends.
    pub(crate) fn resize(&self, new: usize) {
        let mut total = lock(&self.total);
        for _ in new..*total {
            if self.free.forget_permits(1) == 0 {
                self.excess.fetch_add(1, Ordering::AcqRel);
            }
        }
        for _ in *total..new {
            if !self.end_excess() {
                self.free.add_permits(1);
            }
        }
        *total = new;
    }

    /// Returns whether there was one permit too many, which is thereby accounted for.
    fn end_excess(&self) -> bool {
        self.excess.fetch_update(Ordering::AcqRel, Ordering::Acquire, |excess| excess.checked_sub(1)).is_ok()
    }

    /// A permit if one is free and nothing waits for it.
    #[must_use]
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        loop {
            self.free.try_acquire().ok()?.forget();
            // One that was on its way to a client when the total shrank is free where that has gone away.
            if !self.end_excess() {
                return Some(Permit(Arc::clone(self)));
            }
        }
    }

    /// Waits for a permit. Cancel-safe.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        loop {
            match self.free.acquire().await {
                Ok(taken) => taken.forget(),
                Err(_) => unreachable!("the semaphore is never closed"),
            }
            if !self.end_excess() {
                return Permit(Arc::clone(self));
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.0.end_excess() {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn their_number_holds_through_changes_while_some_are_held() {
        let permits = Permits::new(4);
        let mut held: Vec<_> = (0..4).filter_map(|_| permits.try_acquire()).collect();
        permits.resize(2);
        held.truncate(2);
        assert!(permits.try_acquire().is_none(), "two are held, and two there are");
        permits.resize(3);
        held.extend(permits.try_acquire());
        assert_eq!((held.len(), permits.try_acquire().is_none()), (3, true));
        permits.resize(1);
        permits.resize(2);
        drop(held);
        let held: Vec<_> = (0..5).filter_map(|_| permits.try_acquire()).collect();
        assert_eq!(held.len(), 2);
    }

    #[tokio::test]
    async fn one_that_was_on_its_way_as_their_number_shrank_counts() {
        let permits = Permits::new(1);
        let held = permits.try_acquire();
        let mut waits = Box::pin(permits.acquire());
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // It goes to what waits, which does not take it.
        drop(held);
        permits.resize(0);
        drop(waits);
        assert!(permits.try_acquire().is_none(), "there is none");
        permits.resize(1);
        assert!(permits.try_acquire().is_some(), "there is one");
    }
}
