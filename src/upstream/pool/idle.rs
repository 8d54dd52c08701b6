//! The idle connections of a pool.

use std::sync::Arc;

use arc_swap::ArcSwap;
use deadpool::unmanaged;

/// Number of connections that a set has room for at first.
const ROOM: usize = 8;

/// A set of idle connections: the one that came last goes first, so that those that are not needed grow old.
///
/// `T` is a connection. It is put into under the lock of the pool's queue only, so that no client begins to wait while one comes in.
#[derive(Debug)]
pub(super) struct Idle<T> {
    // deadpool's sets keep the size they are made with, and make room for as many.
    set: ArcSwap<unmanaged::Pool<T>>,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self { set: ArcSwap::from_pointee(unmanaged::Pool::new(ROOM)) }
    }
}

impl<T> Idle<T> {
    /// Puts a connection in.
    pub(super) fn put(&self, mut connection: T) {
        loop {
            let set = self.set.load();
            match set.try_add(connection) {
                Ok(()) => return,
                Err((back, _)) => connection = back,
            }
            // Nothing else is put in meanwhile, and one is taken from either.
            let larger = unmanaged::Pool::new(set.status().max_size * 2);
            let mut all: Vec<_> = std::iter::from_fn(|| set.try_remove().ok()).collect();
            while let Some(Ok(())) = all.pop().map(|oldest| larger.try_add(oldest)) {}
            self.set.store(Arc::new(larger));
        }
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
    pub(super) fn take_matching(&self, unfit: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut all: Vec<_> = std::iter::from_fn(|| self.take()).collect();
        all.reverse();
        let (picked, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(unfit);
        for connection in kept {
            self.put(connection);
        }
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(with: std::ops::Range<u32>) -> Idle<u32> {
        let idle = Idle::default();
        with.for_each(|connection| idle.put(connection));
        idle
    }

    fn emptied(idle: &Idle<u32>) -> Vec<u32> {
        std::iter::from_fn(|| idle.take()).collect()
    }

    #[test]
    fn the_last_one_goes_first_and_a_look_changes_no_order() {
        let idle = filled(0..5);
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
    fn there_is_room_for_any_number_in_the_same_order() {
        let idle = filled(0..100);
        assert_eq!(idle.count(), 100);
        assert!(emptied(&idle).into_iter().eq((0..100).rev()));
    }
}
