//! How many connections there may be, exactly, also while the number changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of places.
#[derive(Debug)]
pub struct Slots {
    cap: AtomicUsize,
    used: AtomicUsize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// `cap` free places.
    #[must_use]
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { cap: AtomicUsize::new(cap), used: AtomicUsize::new(0) })
    }

    /// Takes a place if one is free.
    #[must_use]
    pub fn try_take(self: &Arc<Self>) -> Option<Slot> {
        self.try_take_of(usize::MAX)
    }

    /// Takes one of the first `share` places if one is free.
    #[must_use]
    pub fn try_take_of(self: &Arc<Self>, share: usize) -> Option<Slot> {
        let cap = self.cap.load(Ordering::Relaxed).min(share);
        let taken =
            self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| (used < cap).then_some(used + 1));
        taken.is_ok().then(|| Slot(Arc::clone(self)))
    }

    /// Number of slots.
    #[must_use]
    pub fn cap(&self) -> usize {
        self.cap.load(Ordering::Relaxed)
    }

    /// Number of slots taken. More than [`Slots::cap`] only after the cap was lowered.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether none is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used() >= self.cap()
    }

    /// Returns whether more are taken than there are, since the cap was lowered.
    #[must_use]
    pub fn over(&self) -> bool {
        self.used() > self.cap()
    }

    /// Changes how many there are. Places that are taken stay taken.
    pub fn resize(&self, cap: usize) {
        self.cap.store(cap, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_exact_through_resizes() {
        let slots = Slots::new(10);
        let mut taken: Vec<_> = std::iter::from_fn(|| slots.try_take()).collect();
        assert_eq!(taken.len(), 10);
        slots.resize(5);
        assert!(slots.over() && slots.try_take().is_none());
        taken.truncate(4);
        assert!(slots.try_take().is_some());
        slots.resize(10);
        taken.extend(std::iter::from_fn(|| slots.try_take()));
        assert_eq!((taken.len(), slots.used()), (10, 10));
        taken.truncate(6);
        assert!(slots.try_take_of(6).is_none() && slots.try_take_of(7).is_some());
    }
}
