//! What keeps a connection from changing hands while a cancel request for it is under way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OnceCell};

use crate::lock::lock;

/// Keeps a connection from changing hands while a cancel request for it is under way: the request would hit the client that
/// has the connection when it arrives.
#[derive(Debug, Default)]
pub(crate) struct CancelGate {
    inside: AtomicUsize,
    left: Notify,
    /// The request that waits to be sent: however many are made meanwhile, it stands for all of them.
    waiting: Mutex<Option<Arc<WaitingCancel>>>,
}

/// A cancel request that waits to be sent.
#[derive(Debug, Default)]
struct WaitingCancel {
    sent: OnceCell<()>,
    /// Told when what it is for has ended.
    over: Notify,
}

/// A cancel request that is under way.
#[derive(Debug)]
pub(crate) struct CancelGuard(Arc<CancelGate>);

impl CancelGate {
    /// Notes a cancel request that begins.
    #[must_use]
    pub(crate) fn enter(self: &Arc<Self>) -> CancelGuard {
        self.inside.fetch_add(1, Ordering::SeqCst);
        CancelGuard(Arc::clone(self))
    }

    /// The request that waits to be sent.
    fn waiting(&self) -> MutexGuard<'_, Option<Arc<WaitingCancel>>> {
        lock(&self.waiting)
    }

    /// The query that the requests are for has ended: one that waits to be sent need not be, and holds the connection no longer.
    pub(crate) fn query_ends(&self) {
        if self.is_open() {
            return;
        }
        if let Some(request) = self.waiting().take() {
            request.over.notify_one();
        }
    }

    /// Returns whether no cancel request is under way.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.inside.load(Ordering::SeqCst) == 0
    }

    /// Waits until no cancel request is under way.
    pub(crate) async fn opened(&self) {
        loop {
            let left = self.left.notified();
            if self.is_open() {
                return;
            }
            left.await;
        }
    }
}

impl CancelGuard {
    /// Sends a cancel request, or waits for the end of one that is yet to be sent: `send` is given what is to be called when
    /// the sending begins.
    pub(crate) async fn once<F: Future<Output = ()>>(&self, send: impl FnOnce(SendingCancel) -> F) {
        let request = Arc::clone(self.0.waiting().get_or_insert_default());
        let begun = SendingCancel { gate: Arc::clone(&self.0), request: Arc::clone(&request) };
        request.sent.get_or_init(|| send(begun)).await;
    }
}

/// A cancel request that stands for all that come until it is sent.
#[derive(Debug)]
pub(crate) struct SendingCancel {
    gate: Arc<CancelGate>,
    request: Arc<WaitingCancel>,
}

impl SendingCancel {
    /// Waits until what it is for has ended.
    pub(crate) async fn over(&self) {
        self.request.over.notified().await;
    }

    /// Notes that the request is being sent: those that come from now on need one of their own, since the query may be
    /// another one by then.
    pub(crate) fn note(self) {
        let mut waiting = self.gate.waiting();
        if waiting.as_ref().is_some_and(|request| Arc::ptr_eq(request, &self.request)) {
            *waiting = None;
        }
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        self.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_waits_ends_with_what_it_is_for() {
        let gate = Arc::new(CancelGate::default());
        let waits = || {
            let guard = gate.enter();
            tokio::spawn(async move { guard.once(|request| async move { request.over().await }).await })
        };
        let first = [waits(), waits()];
        while gate.waiting().is_none() {
            tokio::task::yield_now().await;
        }
        gate.query_ends();
        assert!(gate.waiting().is_none(), "one that comes now is for something else");
        for request in first {
            request.await.expect("no panic");
        }
        assert!(gate.is_open());
    }
}
