//! Places for clients, of which those that have not logged in hold none that others need: while all are taken, the client that
//! has let itself be waited for longest makes room for the next one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error::{Blame, Fault, sqlstate};
use crate::upstream::slots::{Slot, Slots};

/// Most clients that may begin to log in without a place: for cancel requests, the console, and to be told why.
const PLACELESS: usize = 64;

/// Longest time that an evicted client takes to go.
const EVICTION: Duration = Duration::from_secs(1);

/// Places for clients.
#[derive(Debug)]
pub struct Places {
    slots: Arc<Slots>,
    /// Counts the clients with a place that have not logged in.
    newcomers: Arc<Slots>,
    changed: Arc<Notify>,
    placed: Room,
    placeless: Room,
}

/// A client's place.
#[derive(Debug)]
pub struct Place {
    _slot: Slot,
    newcomer: Option<Slot>,
}

impl Place {
    /// The client has logged in, and makes room for no other.
    pub fn logged_in(&mut self) {
        self.newcomer = None;
    }
}

/// Clients that are waited for before they have logged in.
#[derive(Debug)]
pub struct Room {
    waiting: Mutex<Waiting>,
    /// Told when there is another client to evict.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// The oldest first.
    evictions: BTreeMap<u64, Arc<Notify>>,
}

/// A client's entry in a room.
struct Entry<'a> {
    room: &'a Room,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.room.lock().evictions.remove(&self.number);
    }
}

impl Room {
    fn new(changed: &Arc<Notify>) -> Self {
        Self { waiting: Mutex::default(), changed: Arc::clone(changed) }
    }

    /// Does `work`, which waits for a client; `None` when the client is evicted.
    pub async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let evicted = Arc::new(Notify::new());
        let number = {
            let mut waiting = self.lock();
            let number = waiting.next;
            waiting.next += 1;
            waiting.evictions.insert(number, Arc::clone(&evicted));
            number
        };
        self.changed.notify_waiters();
        let _entry = Entry { room: self, number };
        tokio::select! {
            biased;
            outcome = work => Some(outcome),
            () = evicted.notified() => None,
        }
    }

    /// Evicts the client that has been waited for longest; says whether there was one.
    fn evict(&self) -> bool {
        let oldest = self.lock().evictions.pop_first();
        oldest.is_some_and(|(_, evicted)| {
            evicted.notify_one();
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// `count` free places.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let changed = Arc::new(Notify::new());
        let (placed, placeless) = (Room::new(&changed), Room::new(&changed));
        Self { slots: Slots::new(count), newcomers: Slots::new(usize::MAX), changed, placed, placeless }
    }

    /// How many there are.
    #[must_use]
    pub fn cap(&self) -> usize {
        self.slots.cap()
    }

    /// How many are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.slots.used()
    }

    /// Changes how many there are.
    pub fn resize(&self, count: usize) {
        self.slots.resize(count);
    }

    /// Takes a place if one is free.
    #[must_use]
    pub fn try_take(&self) -> Option<Place> {
        Some(Place { _slot: self.slots.try_take()?, newcomer: self.newcomers.try_take() })
    }

    /// Takes a place, for which a client that has not logged in is evicted if need be; `None` when none can be had.
    pub async fn take(&self) -> Option<Place> {
        let taken = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(place) = self.try_take() {
                    return Some(place);
                }
                // One that has been evicted is about to go, one that pgferry is at work for about to be waited for.
                if !self.placed.evict() && self.newcomers.used() == 0 {
                    return None;
                }
                changed.await;
            }
        };
        timeout(EVICTION, taken).await.ok().flatten()
    }

    /// Whether all are taken.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        self.slots.is_full()
    }

    /// Gives a place back.
    pub fn give_back(&self, place: Option<Place>) {
        if place.is_some() {
            drop(place);
            self.changed.notify_waiters();
        }
    }

    /// Where a client is waited for that has `place`.
    #[must_use]
    pub fn room(&self, place: Option<&Place>) -> &Room {
        if place.is_some() {
            return &self.placed;
        }
        let crowd = self.placeless.lock().evictions.len();
        if crowd >= PLACELESS {
            self.placeless.evict();
        }
        &self.placeless
    }

    /// What a client is told for which there is no place.
    #[must_use]
    pub fn none_left(&self) -> Fault {
        Fault::fatal(Blame::Limits, sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .detail(format!("{} clients are connected to this pgferry.", self.cap()))
            .hint("Raise max_client_conn, and the limit on open files if it is lower.")
    }
}

/// What a client is told that is evicted.
#[must_use]
pub fn evicted() -> Fault {
    Fault::fatal(Blame::Limits, sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
        .detail("Another client needed the place of this one, which had not logged in yet.")
        .hint("Raise max_client_conn, and the limit on open files if it is lower.")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_client_that_is_waited_for_longest_makes_room() {
        let places = Arc::new(Places::new(2));
        let silent = |place: Place| {
            let places = Arc::clone(&places);
            tokio::spawn(async move {
                let evicted = places.room(Some(&place)).wait(pending::<()>()).await.is_none();
                places.give_back(Some(place));
                evicted
            })
        };
        let mut logged_in = places.try_take().expect("free");
        logged_in.logged_in();
        let first = silent(places.try_take().expect("free"));
        tokio::task::yield_now().await;
        let second = silent(places.take().await.expect("the first goes"));
        assert!(first.await.expect("no panic"));
        tokio::task::yield_now().await;
        let mut third = places.take().await.expect("the second goes");
        third.logged_in();
        assert!(second.await.expect("no panic"));
        assert!(places.take().await.is_none(), "all others have logged in");
        drop((logged_in, third));
    }

    #[tokio::test]
    async fn those_without_a_place_are_few() {
        let places = Places::new(0);
        let over = Notify::new();
        let room = || places.room(None).wait(over.notified());
        let mut waits: Vec<_> = (0..PLACELESS).map(|_| Box::pin(room())).collect();
        for wait in &mut waits {
            assert!(timeout(Duration::ZERO, wait).await.is_err(), "there is room for all of them");
        }
        let mut next = Box::pin(room());
        assert!(timeout(Duration::ZERO, &mut next).await.is_err());
        assert!(waits.remove(0).await.is_none(), "the oldest goes");
        over.notify_waiters();
        assert!(waits.remove(0).await.is_some() && next.await.is_some());
    }
}
