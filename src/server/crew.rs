//! The tasks that take clients and serve them. At every listener one of them waits; it serves whom it takes itself, at once,
//! and has another wait in its place. So a new client does not wait behind those who are ready by now, and no task is woken
//! for it. A task whose client is gone rests until it is to wait somewhere again: where clients come and go all the time,
//! making a task for each costs more than waking one.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::post::{Post, Stop};
use crate::admin::{Desk, console};
use crate::client;
use crate::net::{Bound, Conn, Stream};
use crate::wake::Wake;

/// How many tasks may rest.
const RESTING: usize = 64;

/// Held by those who are to be waited for.
pub(super) type Held = mpsc::Sender<Infallible>;

/// A client that has just come.
#[derive(Debug)]
struct Arrival {
    conn: Conn,
    /// Held while it is a client, whose work is waited for.
    client: Option<Held>,
    /// Held as long as it is there.
    _all: Option<Held>,
}

/// Who is there: whoever has clones of these is waited for.
#[derive(Debug)]
pub(super) struct Presence {
    /// Clients, whose work is waited for.
    pub clients: mpsc::WeakSender<Infallible>,
    /// Everybody, guests of the console too, who get a farewell.
    pub all: mpsc::WeakSender<Infallible>,
}

/// All tasks.
#[derive(Debug)]
pub(super) struct Crew {
    desk: Arc<Desk>,
    presence: Presence,
    /// Those that rest, the latest last.
    resting: Mutex<Vec<Arc<Seat>>>,
}

/// Where a task rests.
#[derive(Debug, Default)]
struct Seat {
    post: Mutex<Option<Box<Post>>>,
    wake: Wake,
}

impl Seat {
    async fn called(&self) -> Box<Post> {
        loop {
            let post = lock(&self.post).take();
            if let Some(post) = post {
                return post;
            }
            self.wake.woken().await;
        }
    }
}

impl Crew {
    pub fn new(desk: Arc<Desk>, presence: Presence) -> Arc<Self> {
        Arc::new(Self { desk, presence, resting: Mutex::default() })
    }

    /// Has clients taken from `listener`. While that is so it counts as somebody who is there: those who have connected when
    /// all comes to its end are not forgotten.
    pub fn open(self: &Arc<Self>, listener: Arc<Bound>, stop: Arc<Stop>) {
        self.man(Box::new(Post::new(listener, stop, self.presence.all.upgrade())));
    }

    /// Has somebody wait for clients at `post`.
    fn man(self: &Arc<Self>, post: Box<Post>) {
        let rested = lock(&self.resting).pop();
        match rested {
            Some(seat) => {
                *lock(&seat.post) = Some(post);
                seat.wake.wake();
            }
            None => drop(tokio::spawn(work(Arc::clone(self), post))),
        }
    }

    fn arrival(&self, stream: Stream) -> Arrival {
        let conn = Conn::new(stream, Arc::clone(&self.desk.shared.registry.buffers));
        let Presence { clients, all } = &self.presence;
        Arrival { conn, client: clients.upgrade(), _all: all.upgrade() }
    }

    /// Whether a task may rest at `seat`, where it is called from there.
    fn rest(&self, seat: &Arc<Seat>) -> bool {
        let mut resting = lock(&self.resting);
        let room = resting.len() < RESTING;
        if room {
            resting.push(Arc::clone(seat));
        }
        room
    }
}

/// Takes one client after another and serves it. A panic ends the task, and takes nobody but its client along.
///
/// Not an `async fn`, for the sake of the memory that a client takes: see [`client::session::run`].
fn work(crew: Arc<Crew>, post: Box<Post>) -> impl Future<Output = ()> {
    let mut seat: Option<Arc<Seat>> = None;
    let mut first = Some(post);
    async move {
        loop {
            let mut arrival = {
                let mut post = match first.take() {
                    Some(post) => post,
                    None => seat.get_or_insert_default().called().await,
                };
                let Some(stream) = post.next().await else { return };
                // First of all, so that nothing that happens to this client is the listener's matter.
                crew.man(post);
                crew.arrival(stream)
            };
            let guest = client::serve(&crew.desk.shared, &mut arrival.conn).await;
            // Nobody waits for those who watch.
            arrival.client = None;
            if let Some(guest) = guest {
                Box::pin(console::serve(&crew.desk, &mut arrival.conn, guest)).await;
            }
            // It is closed before anybody is told that it is gone.
            drop(arrival);
            if !crew.rest(seat.get_or_insert_default()) {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_rests_is_called_before_and_after_it_lies_down() {
        let dir = tempfile::tempdir().expect("a directory");
        let seat = Arc::new(Seat::default());
        for early in [true, false] {
            let post = Post::of_test(&dir.path().join("s")).0;
            let call = || {
                *lock(&seat.post) = Some(Box::new(post));
                seat.wake.wake();
            };
            let mut called = std::pin::pin!(seat.called());
            if early {
                call();
            } else {
                let waits = tokio::time::timeout(Duration::ZERO, called.as_mut()).await;
                assert!(waits.is_err(), "nobody has called");
                call();
            }
            called.await;
        }
    }
}
