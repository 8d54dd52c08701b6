//! A line of statistics in the log, every `log_stats_interval`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::info;

use crate::client::Shared;
use crate::upstream::histogram::{BOUNDS, Snapshot};

/// Interval at which to look whether the line is due by now: a reload may have it come sooner, or at all.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Logs a line every `log_stats_interval`, as long as the process lives. Nothing is said of a time in which nothing happened.
pub(crate) async fn log(shared: Arc<Shared>) {
    let mut before = CounterTotals::of(&shared);
    loop {
        let interval = shared.settings().log.log_stats_interval;
        let left = if let Some(interval) = interval {
            interval.saturating_sub(before.at.elapsed())
        } else {
            before = CounterTotals::of(&shared);
            CHECK_INTERVAL
        };
        if !left.is_zero() {
            sleep(left.min(CHECK_INTERVAL)).await;
            continue;
        }
        let now = CounterTotals::of(&shared);
        if let Some(stats) = now.since(&before) {
            info!(
                clients_now = shared.sessions.count(),
                waiting_now = shared.sessions.waiting(),
                upstream_now = shared.server_side.capacity.used(),
                "{stats}"
            );
        }
        before = now;
    }
}

/// Counts at one moment.
#[derive(Clone, Debug)]
struct CounterTotals {
    at: Instant,
    logins: u64,
    refused: u64,
    opened: u64,
    failed: u64,
    query: Snapshot,
    transaction: Snapshot,
    wait: Snapshot,
}

impl CounterTotals {
    fn of(shared: &Shared) -> Self {
        let counters = shared.counters();
        Self {
            at: Instant::now(),
            logins: counters.logins.get(),
            refused: counters.refused.get(),
            opened: counters.opened.get(),
            failed: counters.failed.get(),
            query: counters.timings.query.snapshot(),
            transaction: counters.timings.transaction.snapshot(),
            wait: counters.timings.wait.snapshot(),
        }
    }

    /// Returns the statistics since `before`, if anything happened.
    fn since(&self, before: &Self) -> Option<IntervalStats> {
        let seconds = (self.at - before.at).as_secs_f64();
        let (queries, query_ms) = mean(&self.query, &before.query);
        let (waits, wait_ms) = mean(&self.wait, &before.wait);
        let transactions = count(&self.transaction) - count(&before.transaction);
        let clients = self.logins - before.logins;
        let opened = self.opened - before.opened;
        let refused = self.refused - before.refused;
        let failed = self.failed - before.failed;
        let any = [queries, waits, clients, opened, refused, failed].iter().any(|number| *number > 0);
        any.then_some(IntervalStats {
            seconds,
            clients,
            opened,
            transactions,
            queries,
            query_ms,
            wait_ms,
            refused,
            failed,
        })
    }
}

fn count(snapshot: &Snapshot) -> u64 {
    snapshot.cumulative[BOUNDS.len()]
}

/// Number of events in between, and their average duration in milliseconds.
fn mean(now: &Snapshot, before: &Snapshot) -> (u64, f64) {
    let number = count(now) - count(before);
    let took = now.sum.saturating_sub(before.sum);
    (number, rate(took.as_micros().try_into().unwrap_or(u64::MAX), 1000.0 * float(number.max(1))))
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn float(number: u64) -> f64 {
    number as f64
}

fn rate(number: u64, per: f64) -> f64 {
    float(number) / per
}

/// Statistics of an interval.
#[derive(Clone, Debug)]
struct IntervalStats {
    seconds: f64,
    clients: u64,
    opened: u64,
    transactions: u64,
    queries: u64,
    query_ms: f64,
    wait_ms: f64,
    refused: u64,
    failed: u64,
}

impl fmt::Display for IntervalStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |number| rate(number, self.seconds);
        write!(
            f,
            "last {:.0} s: {:.1} clients/s over {} new upstream connections, {:.1} transactions/s, {:.1} queries/s; on \
             average a query took {:.2} ms, a wait for a connection {:.2} ms",
            self.seconds,
            each(self.clients),
            self.opened,
            each(self.transactions),
            each(self.queries),
            self.query_ms,
            self.wait_ms
        )?;
        if self.refused + self.failed > 0 {
            write!(f, "; {} clients refused, {} upstream connections failed", self.refused, self.failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::histogram::Histogram;

    #[test]
    fn a_time_is_told_if_anything_happened() {
        let (query, none) = (Histogram::default(), Histogram::default());
        let totals = |seconds, logins| CounterTotals {
            at: seconds,
            logins,
            refused: 0,
            opened: 1,
            failed: 0,
            query: query.snapshot(),
            transaction: query.snapshot(),
            wait: none.snapshot(),
        };
        let start = Instant::now();
        let before = totals(start, 5);
        assert!(totals(start + Duration::from_secs(60), 5).since(&before).is_none());
        query.observe(Duration::from_millis(2));
        query.observe(Duration::from_millis(4));
        let stats = totals(start + Duration::from_secs(10), 25).since(&before).expect("something").to_string();
        assert_eq!(
            stats,
            "last 10 s: 2.0 clients/s over 0 new upstream connections, 0.2 transactions/s, 0.2 queries/s; on average a \
             query took 3.00 ms, a wait for a connection 0.00 ms"
        );
    }
}
