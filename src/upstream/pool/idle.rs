//! The connections of a pool that nobody uses.

use std::sync::Arc;

use arc_swap::ArcSwap;
use deadpool::unmanaged;

use crate::upstream::lease::Upstream;

/// A bounded set of idle connections: the one that came last goes first, so that those nobody needs grow old.
///
/// It is put into under the lock of the pool's queue only, so that nobody begins to wait while something comes in.
#[derive(Debug)]
pub(super) struct Idle {
    // deadpool's sets keep the size they are made with.
    set: ArcSwap<unmanaged::Pool<Upstream>>,
}

impl Idle {
    /// An empty set for `size` connections.
    pub(super) fn new(size: usize) -> Self {
        Self { set: ArcSwap::from_pointee(unmanaged::Pool::new(size)) }
    }

    /// Puts a connection in.
    ///
    /// # Errors
    /// Hands it back when the set is full, which it is only after it was made smaller.
    pub(super) fn put(&self, upstream: Upstream) -> Result<(), Upstream> {
        self.set.load().try_add(upstream).map_err(|(upstream, _)| upstream)
    }

    /// Takes the connection out that came last.
    pub(super) fn take(&self) -> Option<Upstream> {
        self.set.load().try_remove().ok()
    }

    /// How many there are, and at least as many as can be taken right now.
    pub(super) fn count(&self) -> usize {
        self.set.load().status().available
    }

    /// Takes those out that `unfit` picks; it is shown them from the one on that has been idle longest.
    pub(super) fn sift(&self, mut unfit: impl FnMut(&Upstream) -> bool) -> Vec<Upstream> {
        let mut all: Vec<_> = std::iter::from_fn(|| self.take()).collect();
        all.reverse();
        let (mut picked, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|upstream| unfit(upstream));
        picked.extend(kept.into_iter().filter_map(|upstream| self.put(upstream).err()));
        picked
    }

    /// Adapts to a new size; returns those for whom there is no place any more.
    pub(super) fn resize(&self, size: usize) -> Vec<Upstream> {
        let old = self.set.swap(Arc::new(unmanaged::Pool::new(size)));
        let mut all: Vec<_> = std::iter::from_fn(|| old.try_remove().ok()).collect();
        let surplus = all.split_off(all.len().min(size));
        // The newest goes in last.
        let overtaken = all.into_iter().rev().filter_map(|upstream| self.put(upstream).err());
        surplus.into_iter().chain(overtaken).collect()
    }
}
