//! Connections that are about to come back, which a client that comes in the same moment may wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Pool;

/// Number of times that other tasks go first: their clients' last messages may not have been looked at yet.
const TURNS: usize = 3;

/// Longest wait of a login for a session that is being reset.
const PATIENCE: Duration = Duration::from_millis(20);

/// The sessions that are being made fit for their next client.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Returning {
    count: AtomicUsize,
    ended: Notify,
}

/// One of them.
#[derive(Debug)]
pub(in crate::upstream) struct Return(Arc<Pool>);

impl Drop for Return {
    fn drop(&mut self) {
        let returning = &self.0.returning;
        returning.count.fetch_sub(1, Ordering::SeqCst);
        returning.ended.notify_waiters();
        // It is idle now, and may make room.
        self.0.note_freed();
    }
}

impl Pool {
    /// A session of this pool is being made fit for its next client, or pgferry asks something there, until what this gives is dropped.
    pub(in crate::upstream) fn begin_return(self: &Arc<Self>) -> Return {
        self.returning.count.fetch_add(1, Ordering::SeqCst);
        Return(Arc::clone(self))
    }

    /// Returns whether there is any such session.
    pub(in crate::upstream) fn has_returning(&self) -> bool {
        self.returning.count.load(Ordering::SeqCst) > 0
    }

    /// Lets connections come back that clients are done with, where none is idle: in session mode a client that connects right
    /// behind another is to get its backend's pid.
    pub(crate) async fn let_return(&self) {
        let is_vain = || self.idle_count() > 0 || self.leased.load(Ordering::Relaxed) == 0 || self.has_waiters();
        for _ in 0..TURNS {
            if is_vain() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.returning.ended.notified();
            if is_vain() || self.returning.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            if timeout_at(deadline, ended).await.is_err() {
                return;
            }
        }
    }
}
