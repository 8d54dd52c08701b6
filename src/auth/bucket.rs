//! A token bucket: so many at once, so many a second.

use std::time::{Duration, Instant};

/// Token bucket: `burst` attempts at once, then one every `interval`.
#[derive(Debug)]
pub(crate) struct Bucket {
    burst: u32,
    interval: Duration,
    /// Time at which the bucket was, or will be, full again.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub(crate) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, interval, full_at: now }
    }

    /// Returns the wait for the next token.
    #[must_use]
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let debt = (self.full_at.max(now) + self.interval).saturating_duration_since(now);
        debt.saturating_sub(self.interval * self.burst)
    }

    /// Takes a token and says how long to wait before using it; `None`, taking nothing, when that would be longer
    /// than `patience`.
    pub(crate) fn take(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        let wait = self.wait(now);
        if wait > patience {
            return None;
        }
        self.spend(now, 1);
        Some(wait)
    }

    /// Takes `count` tokens, however many are left.
    pub(crate) fn spend(&mut self, now: Instant, count: u32) {
        self.full_at = self.full_at.max(now) + self.interval * count;
    }

    /// Puts `count` tokens back that were taken.
    pub(crate) fn give_back(&mut self, count: u32) {
        // Where that is before the clock's beginning, it is full all the same.
        self.full_at = self.full_at.checked_sub(self.interval * count).unwrap_or(self.full_at);
    }

    /// Returns whether no token is missing.
    #[must_use]
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::new(3, second, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start, Duration::ZERO), Some(Duration::ZERO));
        }
        assert_eq!(bucket.take(start, Duration::ZERO), None);
        assert_eq!(bucket.take(start, second), Some(second), "the fourth waits for its token");
        assert_eq!(bucket.take(start, second), None, "the fifth would wait two");
        assert_eq!(bucket.take(start + second * 2, Duration::ZERO), Some(Duration::ZERO));
        for _ in 0..3 {
            assert_eq!(bucket.take(start + second * 60, Duration::ZERO), Some(Duration::ZERO));
        }
        assert_eq!(bucket.take(start + second * 60, Duration::ZERO), None, "it never holds more than the burst");
        bucket.spend(start + second * 60, 5);
        assert_eq!(bucket.wait(start + second * 60), second * 6);
        bucket.give_back(6);
        assert_eq!(bucket.take(start + second * 60, Duration::ZERO), Some(Duration::ZERO));
        bucket.give_back(100);
        assert!(bucket.is_full(start + second * 60));
        for _ in 0..3 {
            assert_eq!(bucket.take(start + second * 60, Duration::ZERO), Some(Duration::ZERO));
        }
        assert_eq!(bucket.take(start + second * 60, Duration::ZERO), None, "nor for what is put back");
    }
}
