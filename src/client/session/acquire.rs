//! The connection that a session works on: its own reserved one, one that is idle, or one that is waited for while the client is watched.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Session;
use crate::client::presence::poll_gone;
use crate::config::Settings;
use crate::drain::Phase;
use crate::machine::first_request::first_query;
use crate::track::ServerState;
use crate::track::function_sources;
use crate::upstream::Lease;
use crate::upstream::pool::{CheckoutError, Patience};

/// Outcome of a wait for a connection.
pub(super) enum Acquired {
    /// It, and the time.
    Lease(Lease, Instant),
    /// The client cancelled its request.
    Cancelled,
    ClientGone,
    Failed(CheckoutError),
    Stopping,
    Killed,
}

impl Session<'_> {
    /// A connection on which functions mean what they mean to the client.
    pub(super) async fn acquire_fit(&mut self, settings: &Settings) -> Acquired {
        loop {
            let acquired = self.acquire(settings).await;
            match &acquired {
                // Dropping a lease closes its connection; a new one fits every client.
                Acquired::Lease(lease, _) if self.reads_otherwise(&lease.state) => {}
                // In the next pool it keeps the settings that it has been told.
                Acquired::Failed(CheckoutError::Moved) => {}
                _ => return acquired,
            }
        }
    }

    /// Returns whether the client's next request may run functions on a connection in state `server` that were read otherwise than it
    /// says.
    fn reads_otherwise(&self, server: &ServerState) -> bool {
        let lexis = self.state.lexis();
        !server.sources.fit(lexis) && {
            let next = first_query(&self.conn.input).map_or(lexis, |sql| function_sources::lexis_behind(sql, lexis));
            function_sources::were_read_otherwise(server, next)
        }
    }

    /// The reserved connection, or one that is idle, or one that is waited for while the client is watched.
    async fn acquire(&mut self, settings: &Settings) -> Acquired {
        let timings = &self.shared.counters().timings;
        if self.pool.is_outdated() {
            self.return_tentative_lease();
            if let Some(defaults) = self.pool.parameters.baseline() {
                self.state.keep_defaults(&defaults);
            }
            self.pool = self.shared.pools.successor(&self.pool);
        }
        let now = Instant::now();
        let own = self.tentative.take().and_then(|tentative| tentative.take());
        let at_once = own.or_else(|| self.pool.checkout_idle(&self.state.asked, now));
        let doubtful = match at_once {
            Some(lease) if !lease.is_doubtful(now) => {
                timings.wait.observe_none();
                self.pool.stats.assigned(Duration::ZERO);
                return Acquired::Lease(lease, now);
            }
            doubtful => doubtful,
        };
        let acquired = self.wait_for_lease(settings, now, doubtful).await;
        let waited = match &acquired {
            Acquired::Lease(_, at) => at.duration_since(now),
            _ => now.elapsed(),
        };
        timings.wait.observe(waited);
        if let Acquired::Lease(..) = acquired {
            self.pool.stats.assigned(waited);
        }
        acquired
    }

    async fn wait_for_lease(&mut self, settings: &Settings, since: Instant, doubtful: Option<Lease>) -> Acquired {
        self.handle.set_waiting(since);
        let Self { shared, handle, conn, pool, state, .. } = self;
        let (pauses, database) = (&shared.server_side.pauses, &pool.key.database);
        let begin = |doubtful: Option<Lease>| async {
            let mut since = since;
            if let Some(lease) = doubtful
                && let Some(lease) = Box::pin(pool.probed(lease, since)).await
            {
                return Ok(lease);
            }
            if pauses.of(database).paused {
                // A pause is meant; the client's timeout begins when it is over.
                Box::pin(pauses.resumed(database)).await;
                since = Instant::now();
            }
            let patience = Patience { limit: settings.timeouts.query_wait_timeout, setting: "query_wait_timeout" };
            pool.checkout(&state.asked, since, patience).await
        };
        let mut checkout = pin!(begin(doubtful));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(outcome) = checkout.as_mut().poll(cx) {
                    return Poll::Ready(
                        outcome.map_or_else(Acquired::Failed, |lease| Acquired::Lease(lease, Instant::now())),
                    );
                }
                if handle.wake.poll_woken(cx).is_pending() {
                    return poll_gone(conn, cx).map(|()| Acquired::ClientGone);
                }
                handle.publish_addrs(conn.stream());
                if handle.is_killed() {
                    return Poll::Ready(Acquired::Killed);
                }
                if handle.is_cancelled() {
                    return Poll::Ready(Acquired::Cancelled);
                }
                if shared.drain.phase() == Phase::Stopping {
                    return Poll::Ready(Acquired::Stopping);
                }
                if pauses.of(database).paused {
                    // It leaves the queue, and comes back when the pause is over.
                    checkout.set(begin(None));
                }
            }
        })
        .await
    }
}
