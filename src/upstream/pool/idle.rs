//! The idle connections of a pool.

use std::sync::Arc;

use arc_swap::ArcSwap;
use deadpool::unmanaged;

/// A bounded set of idle connections: the one that came last goes first, so that surplus ones grow old.
///
/// `T` is a connection. It is put into under the lock of the pool's queue only, so that no client begins to wait while one comes in.
#[derive(Debug)]
pub(super) struct Idle<T> {
    // deadpool's sets keep the size they are made with.
    set: ArcSwap<unmanaged::Pool<T>>,
}

impl<T> Idle<T> {
    /// An empty set for `size` connections.
    pub(super) fn new(size: usize) -> Self {
        Self { set: ArcSwap::from_pointee(unmanaged::Pool::new(size)) }
    }

    /// Puts a connection in.
    ///
    /// # Errors
    /// Hands it back when the set is full, which it is only after it was made smaller.
    pub(super) fn put(&self, connection: T) -> Result<(), T> {
        self.set.load().try_add(connection).map_err(|(connection, _)| connection)
    }

    /// Takes the connection out that came last.
    pub(super) fn take(&self) -> Option<T> {
        self.set.load().try_remove().ok()
    }

    /// Number of idle connections: at least as many as can be taken right now.
    pub(super) fn count(&self) -> usize {
        self.set.load().status().available
    }

    /// Takes those out that `unfit` picks; it is shown them from the one on that has been idle longest.
    pub(super) fn take_matching(&self, mut unfit: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut all: Vec<_> = std::iter::from_fn(|| self.take()).collect();
        all.reverse();
        let (mut picked, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|connection| unfit(connection));
        picked.extend(kept.into_iter().filter_map(|connection| self.put(connection).err()));
        picked
    }

    /// Adapts to a new size; returns those for whom there is no place any more.
    pub(super) fn resize(&self, size: usize) -> Vec<T> {
        let old = self.set.swap(Arc::new(unmanaged::Pool::new(size)));
        let mut all: Vec<_> = std::iter::from_fn(|| old.try_remove().ok()).collect();
        let surplus = all.split_off(all.len().min(size));
        // The newest goes in last.
        let overtaken = all.into_iter().rev().filter_map(|connection| self.put(connection).err());
        surplus.into_iter().chain(overtaken).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(size: usize, with: std::ops::Range<u32>) -> Idle<u32> {
        let idle = Idle::new(size);
        with.for_each(|connection| idle.put(connection).expect("room for all"));
        idle
    }

    fn emptied(idle: &Idle<u32>) -> Vec<u32> {
        std::iter::from_fn(|| idle.take()).collect()
    }

    #[test]
    fn the_last_one_goes_first_and_a_look_changes_no_order() {
        let idle = filled(5, 0..5);
        let mut shown = Vec::new();
        let picked = idle.take_matching(|connection| {
            shown.push(*connection);
            connection % 2 == 1
        });
        assert_eq!((shown, picked), (vec![0, 1, 2, 3, 4], vec![1, 3]));
        assert_eq!(idle.count(), 3);
        assert_eq!(emptied(&idle), [4, 2, 0]);
        assert_eq!((idle.count(), idle.take()), (0, None));
    }

    #[test]
    fn a_smaller_set_keeps_those_used_last() {
        let idle = filled(4, 0..4);
        assert_eq!(idle.resize(2), [1, 0]);
        assert_eq!((idle.put(9), idle.count()), (Err(9), 2), "it is full");
        assert!(idle.resize(3).is_empty());
        assert_eq!(idle.put(9), Ok(()));
        assert_eq!(emptied(&idle), [9, 3, 2]);
    }
}
