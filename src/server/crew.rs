//! The tasks that serve clients. One whose client is gone rests until the next one comes: where clients come and go all the
//! time, making a task for each costs more than waking one.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::admin::{Desk, console};
use crate::client::{self, Shared};
use crate::net::{Conn, Stream};
use crate::wake::Wake;

/// How many tasks may rest.
const RESTING: usize = 64;

/// Held by those who are to be waited for.
type Held = mpsc::Sender<Infallible>;

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
    next: Mutex<Option<Arrival>>,
    wake: Wake,
}

impl Seat {
    async fn next(&self) -> Arrival {
        loop {
            let next = lock(&self.next).take();
            if let Some(next) = next {
                return next;
            }
            self.wake.woken().await;
        }
    }
}

impl Crew {
    pub fn new(desk: Arc<Desk>, presence: Presence) -> Arc<Self> {
        Arc::new(Self { desk, presence, resting: Mutex::default() })
    }

    /// What those whom it serves share.
    pub fn shared(&self) -> &Shared {
        &self.desk.shared
    }

    /// Has the client at `stream` served.
    pub fn serve(self: &Arc<Self>, stream: Stream) {
        let conn = Conn::new(stream, Arc::clone(&self.shared().registry.buffers));
        let Presence { clients, all } = &self.presence;
        let arrival = Arrival { conn, client: clients.upgrade(), _all: all.upgrade() };
        let rested = lock(&self.resting).pop();
        match rested {
            Some(seat) => {
                *lock(&seat.next) = Some(arrival);
                seat.wake.wake();
            }
            None => drop(tokio::spawn(work(Arc::clone(self), arrival))),
        }
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

/// Serves one client after another. A panic ends the task, and takes nobody but its client along.
///
/// Not an `async fn`, for the sake of the memory that a client takes: see [`client::session::run`].
fn work(crew: Arc<Crew>, mut arrival: Arrival) -> impl Future<Output = ()> {
    let mut seat: Option<Arc<Seat>> = None;
    async move {
        loop {
            let guest = client::serve(&crew.desk.shared, &mut arrival.conn).await;
            // Nobody waits for those who watch.
            arrival.client = None;
            if let Some(guest) = guest {
                Box::pin(console::serve(&crew.desk, &mut arrival.conn, guest)).await;
            }
            // It is closed before anybody is told that it is gone.
            drop(arrival);
            let seat = seat.get_or_insert_default();
            if !crew.rest(seat) {
                return;
            }
            arrival = seat.next().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::net::BufferPool;

    #[tokio::test]
    async fn who_rests_is_given_the_next_client_before_and_after_it_lies_down() {
        let arrival = || {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let ours = Stream::accepted_unix(ours.into()).expect("a stream");
            let conn = Conn::new(ours, BufferPool::new(1024, 1));
            (Arrival { conn, client: None, _all: None }, theirs)
        };
        let seat = Arc::new(Seat::default());
        for early in [true, false] {
            let (arrival, _theirs) = arrival();
            let give = || {
                *lock(&seat.next) = Some(arrival);
                seat.wake.wake();
            };
            let mut next = std::pin::pin!(seat.next());
            if early {
                give();
            } else {
                let waits = tokio::time::timeout(Duration::ZERO, next.as_mut()).await;
                assert!(waits.is_err(), "nobody has come");
                give();
            }
            next.await;
        }
    }
}
