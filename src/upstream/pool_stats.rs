//! What clients had done for them, in numbers, by pool.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::counter::Counter;

/// Statistics of a pool's clients. Times are in microseconds.
#[derive(Debug, Default)]
pub(crate) struct PoolStats {
    /// Clients that logged in.
    logins: Counter,
    /// Number of pools, by database and user, that had their first client before this one had.
    rank: OnceLock<u64>,
    /// Number of times that a client was given a connection to work on.
    pub assignments: Counter,
    /// Time that clients waited for one.
    pub waited: Counter,
    /// Requests that the server was ready after: simple queries, and whatever a `Sync` ended.
    pub queries: Counter,
    /// Time that the server worked on them.
    pub query_time: Counter,
    /// Transactions that ended, single statements included.
    pub transactions: Counter,
    /// Time that they lasted.
    pub transaction_time: Counter,
    /// Bytes received from clients after their login.
    pub received: Counter,
    /// Bytes sent to clients after their login.
    pub sent: Counter,
    /// `Parse` messages of clients.
    pub client_parses: Counter,
    /// `Parse` messages sent to the server.
    pub server_parses: Counter,
    /// `Bind` messages of clients.
    pub binds: Counter,
}

/// The same of one client, until it is handed to the pool between two pieces of work: plain numbers, which cost nothing.
#[derive(Debug, Default)]
pub(crate) struct LocalStats {
    /// Its `Parse` messages.
    pub client_parses: u64,
    /// `Parse` messages sent to the server.
    pub server_parses: u64,
    /// Its `Bind` messages.
    pub binds: u64,
    queries: u64,
    transactions: u64,
    query_time: Duration,
    transaction_time: Duration,
    query_since: Option<Instant>,
    transaction_since: Option<Instant>,
}

impl LocalStats {
    /// The server begins to work for the client.
    pub(crate) fn begins(&mut self, now: Instant) {
        self.query_since.get_or_insert(now);
        self.transaction_since.get_or_insert(now);
    }

    /// The server is ready: it has done a request, for the time that is returned.
    pub(crate) fn query_ends(&mut self, now: Instant) -> Duration {
        let lasted = self.query_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        self.queries += 1;
        self.query_time += lasted;
        lasted
    }

    /// The server is ready, and has done a request that was a transaction of its own, for the time that is returned.
    pub(crate) fn lone_query_ends(&mut self, now: Instant) -> Duration {
        debug_assert!(self.query_since == self.transaction_since, "it began with its transaction");
        let lasted = self.query_ends(now);
        self.transaction_since = None;
        self.transactions += 1;
        self.transaction_time += lasted;
        lasted
    }

    /// No transaction is open any more: one has ended, and lasted for the time that is returned.
    pub(crate) fn transaction_ends(&mut self, now: Instant) -> Duration {
        let lasted = self.transaction_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        self.transactions += 1;
        self.transaction_time += lasted;
        lasted
    }
}

impl PoolStats {
    /// Takes over what a client's session has counted, and the bytes `received` from it and `sent` to it.
    pub(crate) fn take(&self, local: &mut LocalStats, received: u64, sent: u64) {
        let since = (local.query_since, local.transaction_since);
        let counted = std::mem::take(local);
        (local.query_since, local.transaction_since) = since;
        let numbers = [
            (&self.received, received),
            (&self.sent, sent),
            (&self.client_parses, counted.client_parses),
            (&self.server_parses, counted.server_parses),
            (&self.binds, counted.binds),
            (&self.queries, counted.queries),
            (&self.transactions, counted.transactions),
            (&self.query_time, micros(counted.query_time)),
            (&self.transaction_time, micros(counted.transaction_time)),
        ];
        for (counter, number) in numbers {
            if number > 0 {
                counter.add_many(number);
            }
        }
    }

    /// A client has logged in; `ranks` counts the pools of which one has.
    pub(super) fn note_login(&self, ranks: &Counter) {
        if self.logins.add() == 0 {
            // It is set only here.
            let _ = self.rank.set(ranks.add());
        }
    }

    /// Clients that logged in.
    #[must_use]
    pub(crate) fn logins(&self) -> &Counter {
        &self.logins
    }

    /// Place in the order in which first clients logged in; last as long as there was none.
    pub(super) fn rank(&self) -> u64 {
        self.rank.get().copied().unwrap_or(u64::MAX)
    }

    /// A client was given a connection, after waiting for it.
    pub(crate) fn assigned(&self, waited: Duration) {
        self.assignments.add();
        if !waited.is_zero() {
            self.waited.add_many(micros(waited));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_transactions_are_told_apart() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut local = LocalStats::default();
        local.begins(at(0));
        local.begins(at(1));
        assert_eq!(local.query_ends(at(2)), Duration::from_millis(2));
        let stats = PoolStats::default();
        stats.take(&mut local, 10, 0);
        local.begins(at(5));
        assert_eq!(local.query_ends(at(6)), Duration::from_millis(1));
        assert_eq!(local.transaction_ends(at(6)), Duration::from_millis(6), "from its first request on");
        local.begins(at(6));
        assert_eq!(local.query_ends(at(9)), Duration::from_millis(3), "from when the server came to it");
        local.transaction_ends(at(9));
        stats.take(&mut local, 5, 7);
        assert_eq!((stats.queries.get(), stats.transactions.get()), (3, 2));
        assert_eq!((stats.received.get(), stats.sent.get()), (15, 7));
        assert_eq!((stats.query_time.get(), stats.transaction_time.get()), (6_000, 9_000));
        assert_eq!(local.queries, 0, "nothing is counted twice");
    }
}
