//! How a client comes by a connection: an idle one, or a place in a fair queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lease::{Lease, PooledConn};
use super::{CheckoutError, Pool};
use crate::lock::lock;
use crate::track::RequestedParams;
use crate::upstream::close::CloseReason;
use crate::upstream::own_statements;
use crate::upstream::queue::{Receiver, WaitError};
use crate::upstream::role_auth::Succession;

/// Time that the server has to answer on a doubtful connection: the kernel sends the question anew several times meanwhile.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A place in the queue. Dropping it hands on a connection that was delivered in the same moment.
struct Place<'a> {
    receiver: Receiver<PooledConn>,
    number: u64,
    /// Nothing will arrive any more.
    done: bool,
    pool: &'a Pool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(Ok(pooled)) => self.pool.hand_out(pooled),
            _ => self.pool.queue().leave(self.number),
        }
    }
}

/// Longest wait for a connection, and the setting that it follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub limit: Duration,
    pub setting: &'static str,
}

impl Pool {
    /// A connection, at once or when one comes free or open, in the order of asking; `since` is now. Cancel-safe:
    /// a client that stops waiting costs no connection.
    ///
    /// # Errors
    /// As [`CheckoutError`] lists, after `patience` at the latest.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        asked: &RequestedParams,
        since: Instant,
        patience: Patience,
    ) -> Result<Lease, CheckoutError> {
        if self.role_auth.succession() == Some(Succession::AnotherRole) {
            return Err(CheckoutError::Replaced);
        }
        let mut place = loop {
            if let Some(place) = self.enter(since.checked_add(patience.limit)) {
                break place;
            }
            if let Some(lease) = self.checkout_idle(asked, Instant::now()) {
                return Ok(lease);
            }
        };
        self.note_asked(asked);
        self.open_as_needed();
        // A client that has a connection without using it gives it up.
        self.recall_oldest();
        let got = (&mut place.receiver).await;
        place.done = true;
        match got {
            // Opened as the other role, or before that was known.
            Ok(Ok(_)) if self.role_auth.succession() == Some(Succession::AnotherRole) => Err(CheckoutError::Replaced),
            Ok(Ok(pooled)) => Ok(Lease::new(pooled, Arc::clone(self))),
            Ok(Err(WaitError::Connect(error))) => Err(CheckoutError::Dial(error)),
            Ok(Err(WaitError::Timeout)) => Err(CheckoutError::Exhausted(self.exhausted(patience))),
            Ok(Err(WaitError::Moved)) => Err(CheckoutError::Moved),
            Err(_) => Err(CheckoutError::Closed),
        }
    }

    /// A connection if one is idle `now`.
    #[must_use]
    pub(crate) fn checkout_idle(self: &Arc<Self>, asked: &RequestedParams, now: Instant) -> Option<Lease> {
        Some(Lease::new(self.take_fit(asked, now)?, Arc::clone(self)))
    }

    /// Returns `lease`, a doubtful one at `since`, if its server answers. If it does not, the other idle connections there that were
    /// doubtful then are closed too: the network may have lost all of them, and each would take as long to show it.
    pub(crate) async fn probed(&self, mut lease: Lease, since: Instant) -> Option<Lease> {
        if own_statements::probe(&mut lease, PROBE_TIMEOUT).await {
            let now = Instant::now();
            lease.returned = now;
            self.parameters.note_answer(now);
            let Some(unfit) = self.take_reports(&mut lease, now) else { return Some(lease) };
            lease.close_reason = unfit;
            return None;
        }
        lease.close_reason = CloseReason::Dead;
        let remote = &lease.conn_info.remote;
        for mut pooled in self.take_matching(|other| other.is_doubtful(since) && other.conn_info.remote == *remote) {
            // Dropping it closes it.
            pooled.close_reason = CloseReason::Dead;
        }
        None
    }

    /// Sends the clients that wait to the pool that has taken the place of this one: what is opened here from now on begins with something
    /// else than they have been told.
    pub(in crate::upstream) fn move_waiters_on(&self) {
        self.queue().move_on();
    }

    /// Takes an idle connection out that is fit `now`.
    pub(super) fn take_fit(&self, asked: &RequestedParams, now: Instant) -> Option<PooledConn> {
        let mut pooled = self.idle.take()?;
        self.note_asked(asked);
        loop {
            if self.is_fit(&mut pooled, now) {
                return Some(pooled);
            }
            // Dropping the unfit one closes it.
            pooled = self.idle.take()?;
        }
    }

    /// A place at the end of the queue, unless a connection is idle.
    fn enter(&self, until: Option<Instant>) -> Option<Place<'_>> {
        let mut queue = self.queue();
        // Idle connections come in under the lock that is held here, so that none can be missed.
        if self.idle.count() > 0 {
            return None;
        }
        let (number, receiver) = queue.enter(until);
        if let Some(until) = until
            && queue.set_next_expiry(until)
        {
            self.expire_at(until);
        }
        Some(Place { receiver, number, done: false, pool: self })
    }

    /// Expires waiters at `at`, and later ones at their time, for as long as any waits.
    fn expire_at(&self, mut at: Instant) {
        let pool = self.this.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep_until(at.into()).await;
                let Some(pool) = pool.upgrade() else { return };
                match pool.queue().expire(at, Instant::now()) {
                    Some(next) => at = next,
                    None => return,
                }
            }
        });
    }

    fn note_asked(&self, asked: &RequestedParams) {
        let mut last = lock(&self.asked);
        if *last != *asked {
            last.clone_from(asked);
        }
    }
}
