//! Connections that clients have and have not used: given at login so that a client knows its backend's pid, and called
//! in as soon as anybody waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::{Pool, lock};
use crate::track::Wanted;
use crate::track::server_state::UsedBy;
use crate::upstream::counters::Closing;
use crate::upstream::lease::Lease;
use crate::upstream::link::MOMENT;
use crate::upstream::restore;
use crate::wake::Wake;

/// What is to become of a loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// Somebody else needs the connection.
    In,
    /// What somebody has left in it is to be reset: nobody uses it.
    ToRest,
}

/// How a client is told that.
#[derive(Debug, Default)]
struct Call {
    back: AtomicBool,
    rest: AtomicBool,
    wake: Wake,
}

/// A connection that its client has not used. Dropping it closes the connection, as with any lease.
#[derive(Debug)]
pub struct Loan {
    // Empty only once it has been taken.
    lease: Option<Lease>,
    number: u64,
    call: Arc<Call>,
    pool: Arc<Pool>,
    since: Instant,
}

/// The loans of a pool, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Loans {
    open: BTreeMap<u64, Open>,
    next: u64,
}

#[derive(Debug)]
struct Open {
    call: Arc<Call>,
    since: Instant,
    /// Somebody has used the connection, and it has not been reset since.
    used: bool,
}

impl Pool {
    /// A connection on loan, if one is idle right now.
    #[must_use]
    pub fn lend(self: &Arc<Self>, wanted: &Wanted) -> Option<Loan> {
        let since = Instant::now();
        let mut lease = self.checkout_idle(wanted, since)?;
        lease.set_unused(true);
        let call = Arc::new(Call::default());
        let mut loans = lock(&self.loans);
        let number = loans.next;
        loans.next += 1;
        let used = lease.state.used != UsedBy::Nothing;
        loans.open.insert(number, Open { call: Arc::clone(&call), since, used });
        drop(loans);
        let loan = Loan { lease: Some(lease), number, call, pool: Arc::clone(self), since };
        if self.has_waiters() {
            // Somebody has come to wait in the same moment.
            loan.call.make(&loan.call.back);
        }
        Some(loan)
    }

    /// Has those reset that have been used by somebody and are on loan for longer than `after`; says whether there are
    /// others.
    pub(super) fn rest_loans(&self, after: Duration) -> bool {
        let mut others = false;
        for open in lock(&self.loans).open.values_mut().filter(|open| open.used) {
            if open.since.elapsed() >= after {
                open.used = false;
                open.call.make(&open.call.rest);
            } else {
                others = true;
            }
        }
        others
    }

    /// Calls the oldest loan in; says whether there is one.
    pub(in crate::upstream) fn call_in(&self) -> bool {
        let oldest = lock(&self.loans).open.pop_first();
        oldest.is_some_and(|(_, open)| {
            open.call.make(&open.call.back);
            true
        })
    }
}

impl Call {
    fn make(&self, what: &AtomicBool) {
        what.store(true, Ordering::SeqCst);
        self.wake.wake();
    }
}

impl Loan {
    /// The pid of the connection's backend.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.lease.as_ref().map_or(0, |lease| lease.key.pid)
    }

    /// Waits until something is to become of it.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<Called> {
        loop {
            if self.call.back.load(Ordering::SeqCst) {
                return Poll::Ready(Called::In);
            }
            if self.call.rest.swap(false, Ordering::SeqCst) {
                return Poll::Ready(Called::ToRest);
            }
            ready!(self.call.wake.poll_woken(cx));
        }
    }

    /// The connection, to be used; `None`, closing it, if it is not fit any more.
    #[must_use]
    pub fn take(mut self) -> Option<Lease> {
        let mut lease = self.lease.take()?;
        lease.set_unused(false);
        let now = Instant::now();
        let looks_fine = now.saturating_duration_since(self.since) < MOMENT || lease.look();
        let unfit = self.pool.unfit(&lease, now).or((!looks_fine).then_some(Closing::Dead));
        match unfit {
            None => Some(lease),
            Some(why) => {
                lease.closing = why;
                None
            }
        }
    }

    /// Gives the connection back as it was.
    pub fn give_back(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release_unused();
        }
    }

    /// Resets the session within `limit` if somebody has used it; `None`, closing it, where that fails.
    pub async fn reset(mut self, limit: Duration) -> Option<Self> {
        let lease = self.lease.as_mut()?;
        if lease.state.used != UsedBy::Nothing {
            if !restore::reset(lease, limit).await {
                return None;
            }
            self.pool.parameters.learn_reset(&mut lease.state);
        }
        Some(self)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        lock(&self.pool.loans).open.remove(&self.number);
    }
}
