//! What happened, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::track::Pins;

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
    /// The same by reason, in the order of [`Pins::NAMES`].
    pub pins_by_reason: [Counter; Pins::NAMES.len()],
}

impl Counters {
    /// A client keeps its connection because of `pins`.
    pub fn pinned(&self, pins: Pins) {
        self.pins.add();
        for ((pin, _), counter) in Pins::NAMES.iter().zip(&self.pins_by_reason) {
            if pins.contains(*pin) {
                counter.add();
            }
        }
    }

    /// The reasons for which clients have kept connections, with their counts.
    #[must_use]
    pub fn pin_reasons(&self) -> String {
        let counted = Pins::NAMES.iter().zip(&self.pins_by_reason).filter(|(_, counter)| counter.get() > 0);
        counted.map(|((_, name), counter)| format!("{name} {}", counter.get())).collect::<Vec<_>>().join(", ")
    }
}
