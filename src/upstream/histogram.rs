//! How long things took: counts by duration, as Prometheus wants them.

use std::time::Duration;

use super::counter::Counter;

/// The upper bounds of the buckets, in microseconds: from what a local answer takes to what a timeout allows.
pub(crate) const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];

/// Durations, counted.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// By bucket; the last one holds what is above all bounds.
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

/// A histogram as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Number of values up to the bound of the same index; the last is the number of all.
    pub cumulative: [u64; BOUNDS.len() + 1],
    /// The sum of all.
    pub sum: Duration,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|bound| *bound < micros)].add();
        self.micros.add_many(micros);
    }

    /// Counts one that took no time worth a look at the clock.
    pub(crate) fn observe_none(&self) {
        self.buckets[0].add();
    }

    /// Returns the counts so far.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut total = 0;
        let cumulative = std::array::from_fn(|at| {
            total += self.buckets[at].get();
            total
        });
        Snapshot { cumulative, sum: Duration::from_micros(self.micros.get()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_that_holds_them() {
        let histogram = Histogram::default();
        histogram.observe_none();
        histogram.observe(Duration::from_micros(100));
        histogram.observe(Duration::from_micros(101));
        histogram.observe(Duration::from_secs(3600));
        let seen = histogram.snapshot();
        assert_eq!(seen.cumulative[..3], [2, 3, 3]);
        assert_eq!(seen.cumulative[BOUNDS.len() - 1..], [3, 4]);
        assert_eq!(seen.sum, Duration::from_micros(201) + Duration::from_secs(3600));
        assert!(BOUNDS.is_sorted());
    }
}
