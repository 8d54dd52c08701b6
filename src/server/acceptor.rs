//! The tasks that accept clients and serve them. At every listener one of them waits. It serves the client that it accepts, after
//! the tasks that are ready by then, and has another task wait in its place. A task without a client rests until it is to wait
//! somewhere again: where clients come and go all the time, making a task for each costs more than waking one.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use super::listener_handle::{ListenerHandle, StopSignal};
use super::shutdown::{ShutdownToken, ShutdownTrackers};
use crate::admin::{AdminState, console};
use crate::client;
use crate::lock::lock;
use crate::net::{Conn, Listener, Stream};
use crate::wake::Wake;

/// Number of tasks that may rest.
const MAX_IDLE_TASKS: usize = 64;

/// A client that has just come.
#[derive(Debug)]
struct Accepted {
    conn: Conn,
    /// Held while its work is waited for.
    client: Option<ShutdownToken>,
    /// Held as long as it is there.
    _all: Option<ShutdownToken>,
}

/// All tasks.
#[derive(Debug)]
pub(super) struct AcceptorPool {
    admin_state: Arc<AdminState>,
    trackers: ShutdownTrackers,
    /// Parked tasks, the latest last.
    idle_tasks: Mutex<Vec<Arc<IdleTask>>>,
}

/// Parking place of a task.
#[derive(Debug, Default)]
struct IdleTask {
    handle: Mutex<Option<Box<ListenerHandle>>>,
    wake: Wake,
}

impl IdleTask {
    async fn woken(&self) -> Box<ListenerHandle> {
        loop {
            let handle = lock(&self.handle).take();
            if let Some(handle) = handle {
                return handle;
            }
            self.wake.woken().await;
        }
    }
}

impl AcceptorPool {
    pub(super) fn new(admin_state: Arc<AdminState>, trackers: ShutdownTrackers) -> Arc<Self> {
        Arc::new(Self { admin_state, trackers, idle_tasks: Mutex::default() })
    }

    /// Has clients taken from `listener`. Meanwhile it counts as a client, so that those that have connected when
    /// all comes to its end are not forgotten.
    pub(super) fn open(self: &Arc<Self>, listener: Arc<Listener>, stop: Arc<StopSignal>) {
        self.spawn_acceptor(Box::new(ListenerHandle::new(listener, stop, self.trackers.all.upgrade())));
    }

    /// Has a task wait for clients at the listener of `handle`.
    fn spawn_acceptor(self: &Arc<Self>, handle: Box<ListenerHandle>) {
        let rested = lock(&self.idle_tasks).pop();
        match rested {
            Some(idle_task) => {
                *lock(&idle_task.handle) = Some(handle);
                idle_task.wake.wake();
            }
            None => drop(tokio::spawn(work(Arc::clone(self), handle))),
        }
    }

    /// Takes the next client, from the listener of `first` if there is one, and otherwise where `idle_task` is woken for; `None` where
    /// no more are taken.
    async fn next(
        self: &Arc<Self>,
        first: &mut Option<Box<ListenerHandle>>,
        idle_task: &mut Option<Arc<IdleTask>>,
    ) -> Option<Accepted> {
        let mut handle = match first.take() {
            Some(handle) => handle,
            None => idle_task.get_or_insert_default().woken().await,
        };
        let stream = handle.next().await?;
        // First of all, so that nothing that happens to this client is the listener's matter.
        self.spawn_acceptor(handle);
        Some(self.accepted(stream))
    }

    fn accepted(&self, stream: Stream) -> Accepted {
        let conn = Conn::new(stream, Arc::clone(&self.admin_state.shared.server_side.buffers));
        let ShutdownTrackers { clients, all } = &self.trackers;
        Accepted { conn, client: clients.upgrade(), _all: all.upgrade() }
    }

    /// Returns whether there is room for a task to rest; then it is woken through `idle_task`.
    fn park(&self, idle_task: &Arc<IdleTask>) -> bool {
        let mut idle_tasks = lock(&self.idle_tasks);
        let room = idle_tasks.len() < MAX_IDLE_TASKS;
        if room {
            idle_tasks.push(Arc::clone(idle_task));
        }
        room
    }
}

/// Lets the tasks go first that are ready by now. They keep the server at work while the new client is greeted; if clients were
/// greeted before the work of earlier ones is done, the work of a few connections would be spread over the whole pool.
/// Unlike `tokio::task::yield_now`, it does not ask the kernel first what else has happened.
async fn behind_ready_tasks() {
    let mut woken = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut woken, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Takes one client after another and serves it. A panic ends the task and its client's session, and nothing else.
///
/// Not an `async fn`, for the sake of the memory that a client takes: see [`client::session::run`].
fn work(acceptors: Arc<AcceptorPool>, handle: Box<ListenerHandle>) -> impl Future<Output = ()> {
    let mut idle_task: Option<Arc<IdleTask>> = None;
    let mut first = Some(handle);
    async move {
        loop {
            let Some(mut accepted) = acceptors.next(&mut first, &mut idle_task).await else { return };
            behind_ready_tasks().await;
            let admin_user = client::serve(&acceptors.admin_state.shared, &mut accepted.conn).await;
            // The shutdown does not wait for sessions of the console.
            accepted.client = None;
            if let Some(admin_user) = admin_user {
                Box::pin(console::serve(&acceptors.admin_state, &mut accepted.conn, admin_user)).await;
            }
            // It is closed before it counts as gone.
            drop(accepted);
            if !acceptors.park(idle_task.get_or_insert_default()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Size of what a function returns, in bytes.
    fn returned_bytes<A, B, R>(_: fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn the_task_of_a_client_is_small() {
        // With what the runtime puts around it, and its alignment of 128 bytes, that makes 768 bytes for each idle client.
        assert!(returned_bytes(work) <= 656, "{}", returned_bytes(work));
    }

    #[tokio::test]
    async fn who_rests_is_called_before_and_after_it_lies_down() {
        let dir = tempfile::tempdir().expect("a directory");
        let idle_task = Arc::new(IdleTask::default());
        for early in [true, false] {
            let handle = ListenerHandle::of_test(&dir.path().join("s")).0;
            let call = || {
                *lock(&idle_task.handle) = Some(Box::new(handle));
                idle_task.wake.wake();
            };
            let mut called = std::pin::pin!(idle_task.woken());
            if early {
                call();
            } else {
                let waits = tokio::time::timeout(Duration::ZERO, called.as_mut()).await;
                assert!(waits.is_err(), "nothing has woken it");
                call();
            }
            called.await;
        }
    }
}
