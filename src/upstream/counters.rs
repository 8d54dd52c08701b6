//! What happened, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more, and returns how many there were before.
    pub fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clients that logged in.
    pub logins: Counter,
    /// Clients that were refused.
    pub refused: Counter,
    /// Passwords that had to be tried upstream.
    pub tried: Counter,
    /// TCP (or unix) connections opened to the upstream, cancel requests not counted.
    pub opened: Counter,
    /// Upstream connections closed.
    pub closed: Counter,
    /// Attempts to open an upstream connection that failed.
    pub failed: Counter,
    /// Upstream connections that did not answer the good-bye and were reset.
    pub reset: Counter,
    /// Cancel requests sent to the upstream.
    pub cancels: Counter,
    /// Leases kept because of session state.
    pub pins: Counter,
}
