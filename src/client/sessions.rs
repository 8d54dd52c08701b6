//! All sessions, by the pids that clients know.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::cancel_key::{CancelKey, RandomPool};
use super::session_handle::{SessionHandle, SessionPhase, SessionTarget};
use crate::lock::lock;
use crate::track::ServerParams;
use crate::track::number_hasher::NumberHash;
use crate::upstream::pooler::FIRST_INVENTED;

/// Time that sessions get to publish their addresses: one that does not come to it is at work.
const ADDRS_TIMEOUT: Duration = Duration::from_millis(50);

/// All sessions, by the pid they were given.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
    next: AtomicU64,
    random_pool: Mutex<RandomPool>,
}

/// By pids of pgferry's own choosing, or PostgreSQL's: a client can't choose them to collide.
type Table = HashMap<i32, Arc<SessionHandle>, NumberHash>;

/// A session to be registered.
#[derive(Debug)]
pub(crate) struct SessionSpec {
    /// Target of the session.
    pub target: SessionTarget,
    /// Its secret.
    pub secret: CancelKey,
    /// The pid of its backend, if it has one.
    pub backend: Option<i32>,
    /// The reported settings that it was told.
    pub view: ServerParams,
    /// Time at which it came.
    pub connected_at: Instant,
}

/// A session's place in the table, until it ends.
#[derive(Debug)]
pub(crate) struct RegistrationGuard<'a> {
    sessions: &'a Sessions,
    /// Handle of the session.
    pub handle: Arc<SessionHandle>,
}

impl Sessions {
    /// Gives a session its pid: that of its backend if it has one and no session was given the same.
    pub(crate) fn register(&self, spec: SessionSpec) -> RegistrationGuard<'_> {
        let SessionSpec { target, secret, backend, view, connected_at } = spec;
        let mut table = self.table();
        let (id, pid) = loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if let Some(real) = backend.filter(|pid| *pid > 0 && !table.contains_key(pid)) {
                break (id, real);
            }
            let span = u64::from((i32::MAX - FIRST_INVENTED).unsigned_abs());
            // Smaller than `span`, which fits.
            let pid = FIRST_INVENTED + i32::try_from(id % span).unwrap_or_default();
            if !table.contains_key(&pid) {
                break (id, pid);
            }
        };
        let handle = Arc::new(SessionHandle::new(id, pid, secret, target, connected_at, view));
        table.insert(pid, Arc::clone(&handle));
        RegistrationGuard { sessions: self, handle }
    }

    /// Wakes every session, to look at the process's phase.
    pub(crate) fn wake_all(&self) {
        for handle in self.table().values() {
            handle.wake.wake();
        }
    }

    /// All sessions, the oldest first.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Arc<SessionHandle>> {
        let mut all: Vec<_> = self.table().values().cloned().collect();
        all.sort_by_key(|handle| handle.id);
        all
    }

    /// The session that was given `pid`.
    pub(super) fn find(&self, pid: i32) -> Option<Arc<SessionHandle>> {
        self.table().get(&pid).cloned()
    }

    /// All sessions, once they have said what the ends of their connections are: those that come to it.
    pub(crate) async fn with_addrs(&self) -> Vec<Arc<SessionHandle>> {
        let all = self.all();
        all.iter().filter(|handle| handle.addrs().is_none()).for_each(|handle| handle.request_addrs());
        let deadline = Instant::now() + ADDRS_TIMEOUT;
        let silent = |handle: &Arc<SessionHandle>| handle.addrs().is_none() && Arc::strong_count(handle) > 2;
        while all.iter().any(silent) && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        all
    }

    /// Number of sessions that wait for a connection.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.table().values().filter(|handle| matches!(handle.state().phase, SessionPhase::Waiting)).count()
    }

    /// Number of sessions.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    pub(super) fn random_pool(&self) -> MutexGuard<'_, RandomPool> {
        lock(&self.random_pool)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Drop for RegistrationGuard<'_> {
    fn drop(&mut self) {
        self.sessions.table().remove(&self.handle.pid);
    }
}
