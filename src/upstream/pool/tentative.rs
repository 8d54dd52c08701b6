//! Connections that clients have and have not used: given at login so that a client knows its backend's pid, and called
//! back as soon as another client waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::Pool;
use super::lease::{Lease, PooledConn};
use crate::config::Reset;
use crate::lock::lock;
use crate::track::RequestedParams;
use crate::track::server_state::UsedBy;
use crate::upstream::close::CloseReason;
use crate::upstream::own_statements;
use crate::upstream::server_conn::RECENTLY_USED;
use crate::upstream::session_code;
use crate::wake::Wake;

/// Treatment of a tentative lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    /// Another client needs the connection.
    Needed,
    /// Its session is to be reset, since the client does not use it.
    Reset,
}

/// Signal that tells a client of that.
#[derive(Debug, Default)]
struct RecallSignal {
    back: AtomicBool,
    reset: AtomicBool,
    wake: Wake,
}

/// A connection that its client has not used, and that does not count as leased. Dropping it closes the connection, as with any
/// lease.
#[derive(Debug)]
pub(crate) struct TentativeLease {
    // Empty only once it has been taken.
    pooled: Option<PooledConn>,
    number: u64,
    recall: Arc<RecallSignal>,
    pool: Arc<Pool>,
    since: Instant,
}

/// The tentative leases of a pool, the oldest first.
#[derive(Debug, Default)]
pub(super) struct TentativeLeases {
    open: BTreeMap<u64, Open>,
    next: u64,
}

#[derive(Debug)]
struct Open {
    recall: Arc<RecallSignal>,
    since: Instant,
    /// A client has used the connection, and it has not been reset since.
    used: bool,
}

impl Pool {
    /// A connection to reserve, if one is idle right now.
    #[must_use]
    pub(crate) fn reserve_idle(self: &Arc<Self>, asked: &RequestedParams) -> Option<TentativeLease> {
        let since = Instant::now();
        let pooled = self.take_fit(asked, since)?;
        let recall = Arc::new(RecallSignal::default());
        let mut tentative_leases = lock(&self.tentative_leases);
        let number = tentative_leases.next;
        tentative_leases.next += 1;
        let used = pooled.state.used != UsedBy::Nothing;
        tentative_leases.open.insert(number, Open { recall: Arc::clone(&recall), since, used });
        drop(tentative_leases);
        let tentative = TentativeLease { pooled: Some(pooled), number, recall, pool: Arc::clone(self), since };
        if self.has_waiters() {
            // A client has come to wait in the same moment.
            tentative.recall.make(&tentative.recall.back);
        }
        Some(tentative)
    }

    /// Requests a reset of used ones that have been reserved for longer than `after`; returns whether there are
    /// others.
    pub(super) fn reset_tentative(&self, after: Duration) -> bool {
        let mut others = false;
        for open in lock(&self.tentative_leases).open.values_mut().filter(|open| open.used) {
            if open.since.elapsed() >= after {
                open.used = false;
                open.recall.make(&open.recall.reset);
            } else {
                others = true;
            }
        }
        others
    }

    /// Recalls the oldest tentative lease; says whether there is one.
    pub(in crate::upstream) fn recall_oldest(&self) -> bool {
        let oldest = lock(&self.tentative_leases).open.pop_first();
        oldest.is_some_and(|(_, open)| {
            open.recall.make(&open.recall.back);
            true
        })
    }
}

impl RecallSignal {
    fn make(&self, what: &AtomicBool) {
        what.store(true, Ordering::SeqCst);
        self.wake.wake();
    }
}

impl TentativeLease {
    /// The pid of the connection's backend.
    #[must_use]
    pub(crate) fn pid(&self) -> i32 {
        self.pooled.as_ref().map_or(0, |pooled| pooled.key.pid)
    }

    /// Waits until something is to become of it.
    pub(crate) fn poll_recalled(&self, cx: &mut Context<'_>) -> Poll<Recall> {
        loop {
            if self.recall.back.load(Ordering::SeqCst) {
                return Poll::Ready(Recall::Needed);
            }
            if self.recall.reset.swap(false, Ordering::SeqCst) {
                return Poll::Ready(Recall::Reset);
            }
            ready!(self.recall.wake.poll_woken(cx));
        }
    }

    /// The connection, to be used; `None`, closing it, if it is not fit any more.
    #[must_use]
    pub(crate) fn take(mut self) -> Option<Lease> {
        let mut pooled = self.pooled.take()?;
        let now = Instant::now();
        let looks_fine = now.saturating_duration_since(self.since) < RECENTLY_USED || pooled.check_alive();
        if pooled.state.has_new_base() {
            self.pool.parameters.learn_base(&mut pooled.state);
        }
        let unfit = self.pool.unfit(&pooled, now).or((!looks_fine).then_some(CloseReason::Dead));
        match unfit {
            None => Some(Lease::new(pooled, Arc::clone(&self.pool))),
            Some(why) => {
                pooled.close_reason = why;
                None
            }
        }
    }

    /// Gives the connection back as it was.
    pub(crate) fn give_back(mut self) {
        if let Some(pooled) = self.pooled.take() {
            self.pool.take_back(pooled);
        }
    }

    /// Resets the session within `limit` if a client has used it and that is due with `reset` in force; `None`, closing it, where that
    /// fails.
    pub(crate) async fn reset(mut self, reset: Reset, limit: Duration) -> Option<Self> {
        let pooled = self.pooled.as_mut()?;
        if session_code::needs_reset(reset, &pooled.state, Instant::now()) {
            if !own_statements::reset(pooled, limit).await {
                return None;
            }
            self.pool.parameters.learn_reset(&mut pooled.state);
        }
        Some(self)
    }
}

impl Drop for TentativeLease {
    fn drop(&mut self) {
        lock(&self.pool.tentative_leases).open.remove(&self.number);
    }
}
