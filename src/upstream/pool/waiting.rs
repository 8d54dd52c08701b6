//! How a client comes by a connection: an idle one, or a place in a fair queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CheckoutError, Pool, lock};
use crate::track::Wanted;
use crate::upstream::account::Succession;
use crate::upstream::lease::{Lease, Upstream};
use crate::upstream::queue::{InVain, Receiver};

/// A place in the queue. Whoever leaves it hands on what was delivered in the same moment.
struct Place<'a> {
    receiver: Receiver<Upstream>,
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
            Ok(Ok(upstream)) => self.pool.hand_out(upstream),
            _ => self.pool.queue().leave(self.number),
        }
    }
}

impl Pool {
    /// A connection, at once or when one comes free or open, in the order of asking; `since` is now. Cancel-safe:
    /// whoever stops waiting costs no connection.
    ///
    /// # Errors
    /// As [`CheckoutError`] lists, after `patience` at the latest.
    pub async fn checkout(
        self: &Arc<Self>,
        wanted: &Wanted,
        since: Instant,
        patience: Duration,
    ) -> Result<Lease, CheckoutError> {
        if self.account.succession() == Some(Succession::AnotherRole) {
            return Err(CheckoutError::Replaced);
        }
        let mut place = loop {
            if let Some(place) = self.enter(since.checked_add(patience)) {
                break place;
            }
            if let Some(lease) = self.checkout_idle(wanted, Instant::now()) {
                return Ok(lease);
            }
        };
        self.note_wanted(wanted);
        self.kick();
        // Whoever has a connection without using it gives it up.
        self.call_in();
        let got = (&mut place.receiver).await;
        place.done = true;
        match got {
            // Opened as the other role, or before that was known.
            Ok(Ok(_)) if self.account.succession() == Some(Succession::AnotherRole) => Err(CheckoutError::Replaced),
            Ok(Ok(upstream)) => Ok(Lease::new(upstream, Arc::clone(self))),
            Ok(Err(InVain::Dial(error))) => Err(CheckoutError::Dial(error)),
            Ok(Err(InVain::Late)) => Err(CheckoutError::Exhausted(self.exhausted(patience))),
            Err(_) => Err(CheckoutError::Closed),
        }
    }

    /// A connection if one is idle `now`.
    #[must_use]
    pub fn checkout_idle(self: &Arc<Self>, wanted: &Wanted, now: Instant) -> Option<Lease> {
        let mut upstream = self.idle.take()?;
        self.note_wanted(wanted);
        loop {
            if self.is_fit(&mut upstream, now) {
                return Some(Lease::new(upstream, Arc::clone(self)));
            }
            // Dropping the unfit one closes it.
            upstream = self.idle.take()?;
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
            && queue.watch(until)
        {
            self.send_away_at(until);
        }
        Some(Place { receiver, number, done: false, pool: self })
    }

    /// Sends those away whose patience is over at `at`, and so on for as long as anybody waits.
    fn send_away_at(&self, mut at: Instant) {
        let pool = self.this.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep_until(at.into()).await;
                let Some(pool) = pool.upgrade() else { return };
                match pool.queue().send_away(at, Instant::now()) {
                    Some(next) => at = next,
                    None => return,
                }
            }
        });
    }

    fn note_wanted(&self, wanted: &Wanted) {
        let mut last = lock(&self.wanted);
        if *last != *wanted {
            last.clone_from(wanted);
        }
    }
}
