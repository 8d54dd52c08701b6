//! Places for clients, of which those that have not logged in hold none that others need: while all are taken, the client that
//! has let itself be waited for longest makes room for the next one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::lock::lock;
use crate::upstream::slots::{Slot, Slots};

/// Most clients that may begin to log in without a place: for cancel requests, the console, and to be told why.
const MAX_WITHOUT_SLOT: usize = 64;

/// Most clients that are waited for in the middle of a long answer: each holds as many bytes as it has sent.
const MAX_LONG_ANSWERS: usize = 256;

/// Longest time that an evicted client takes to go.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Places for clients.
#[derive(Debug)]
pub(crate) struct ClientSlots {
    slots: Arc<Slots>,
    /// Counts the clients with a place that have not logged in.
    not_logged_in: Arc<Slots>,
    changed: Arc<Notify>,
    /// Held by the client that gets the next place: of those that wait only one is woken for it.
    next: tokio::sync::Mutex<()>,
    placed: PendingLogins,
    placeless: PendingLogins,
}

/// A client's place.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    _slot: Slot,
    not_logged_in: Option<Slot>,
}

impl ClientSlot {
    /// The client has logged in, and makes room for no other.
    pub(crate) fn logged_in(&mut self) {
        self.not_logged_in = None;
    }
}

/// Clients that are waited for before they have logged in.
#[derive(Debug)]
pub(crate) struct PendingLogins {
    waiting: Mutex<Waiting>,
    /// Clients among them that have begun a long answer.
    long: Mutex<Waiting>,
    /// Told when there is another client to evict.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// The oldest first.
    evictions: BTreeMap<u64, Arc<Notify>>,
}

impl Waiting {
    /// Evicts the client that has been waited for longest; says whether there was one.
    fn evict(&mut self) -> bool {
        self.evictions.pop_first().is_some_and(|(_, evicted)| {
            evicted.notify_one();
            true
        })
    }
}

/// A client's entry among those that are waited for.
struct Entry<'a> {
    waiting: &'a Mutex<Waiting>,
    number: u64,
    evicted: Arc<Notify>,
}

impl<'a> Entry<'a> {
    fn new(waiting: &'a Mutex<Waiting>) -> Self {
        let evicted = Arc::new(Notify::new());
        let mut table = lock(waiting);
        let number = table.next;
        table.next += 1;
        table.evictions.insert(number, Arc::clone(&evicted));
        Self { waiting, number, evicted }
    }

    /// Does `work`; `None` when the client is evicted.
    async fn wait<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            outcome = work => Some(outcome),
            () = self.evicted.notified() => None,
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(self.waiting).evictions.remove(&self.number);
    }
}

impl PendingLogins {
    fn new(changed: &Arc<Notify>) -> Self {
        Self { waiting: Mutex::default(), long: Mutex::default(), changed: Arc::clone(changed) }
    }

    /// Does `work`, which waits for a client; `None` when the client is evicted.
    pub(crate) async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let entry = Entry::new(&self.waiting);
        self.changed.notify_waiters();
        entry.wait(work).await
    }

    /// Does `work`, which waits for the rest of a client's long answer; `None` when the client is evicted, because too many others have
    /// begun one since.
    pub(crate) async fn wait_for_long_answer<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let entry = Entry::new(&self.long);
        if lock(&self.long).evictions.len() > MAX_LONG_ANSWERS {
            lock(&self.long).evict();
        }
        entry.wait(work).await
    }

    fn evict(&self) -> bool {
        lock(&self.waiting).evict()
    }
}

impl ClientSlots {
    /// `count` free places.
    #[must_use]
    pub(crate) fn new(count: usize) -> Self {
        let changed = Arc::new(Notify::new());
        let (placed, placeless) = (PendingLogins::new(&changed), PendingLogins::new(&changed));
        Self {
            slots: Slots::new(count),
            not_logged_in: Slots::new(usize::MAX),
            changed,
            next: tokio::sync::Mutex::default(),
            placed,
            placeless,
        }
    }

    /// Number of slots.
    #[must_use]
    pub(crate) fn cap(&self) -> usize {
        self.slots.cap()
    }

    /// Number of places taken.
    #[must_use]
    pub(crate) fn used(&self) -> usize {
        self.slots.used()
    }

    /// Changes how many there are.
    pub(crate) fn resize(&self, count: usize) {
        self.slots.resize(count);
    }

    /// Takes a place if one is free.
    #[must_use]
    pub(crate) fn try_take(&self) -> Option<ClientSlot> {
        Some(ClientSlot { _slot: self.slots.try_take()?, not_logged_in: self.not_logged_in.try_take() })
    }

    /// Takes a place, for which a client that has not logged in is evicted if need be; `None` when none can be had.
    pub(crate) async fn take(&self) -> Option<ClientSlot> {
        let taken = async {
            let _next = self.next.lock().await;
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(place) = self.try_take() {
                    return Some(place);
                }
                // One that has been evicted is about to go, one that pgferry is at work for about to be waited for.
                if !self.placed.evict() && self.not_logged_in.used() == 0 {
                    return None;
                }
                changed.await;
            }
        };
        timeout(EVICTION_TIMEOUT, taken).await.ok().flatten()
    }

    /// Returns whether all are taken.
    #[must_use]
    pub(crate) fn are_taken(&self) -> bool {
        self.slots.is_full()
    }

    /// Gives a place back.
    pub(crate) fn give_back(&self, place: Option<ClientSlot>) {
        if place.is_some() {
            drop(place);
            self.changed.notify_waiters();
        }
    }

    /// Returns the list in which a client with `place` is waited for.
    #[must_use]
    pub(crate) fn pending_logins(&self, place: Option<&ClientSlot>) -> &PendingLogins {
        if place.is_some() {
            return &self.placed;
        }
        let crowd = lock(&self.placeless.waiting).evictions.len();
        if crowd >= MAX_WITHOUT_SLOT {
            self.placeless.evict();
        }
        &self.placeless
    }

    /// Error for a client for which there is no place.
    #[must_use]
    pub(crate) fn none_left(&self) -> ClientError {
        ClientError::fatal(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .detail(format!("Clients connected to this pgferry: {}.", self.cap()))
            .hint("Raise max_client_conn, and the limit on open files if it is lower.")
    }
}

/// Error for a client that is evicted.
#[must_use]
pub(crate) fn evicted() -> ClientError {
    ClientError::fatal(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
        .detail("Another client needed the place of this one, which had not logged in yet.")
        .hint("Raise max_client_conn, and the limit on open files if it is lower.")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_client_that_is_waited_for_longest_makes_room() {
        let client_slots = Arc::new(ClientSlots::new(2));
        let silent = |place: ClientSlot| {
            let client_slots = Arc::clone(&client_slots);
            tokio::spawn(async move {
                let evicted = client_slots.pending_logins(Some(&place)).wait(pending::<()>()).await.is_none();
                client_slots.give_back(Some(place));
                evicted
            })
        };
        let mut logged_in = client_slots.try_take().expect("free");
        logged_in.logged_in();
        let first = silent(client_slots.try_take().expect("free"));
        tokio::task::yield_now().await;
        let second = silent(client_slots.take().await.expect("the first goes"));
        assert!(first.await.expect("no panic"));
        tokio::task::yield_now().await;
        let mut third = client_slots.take().await.expect("the second goes");
        third.logged_in();
        assert!(second.await.expect("no panic"));
        assert!(client_slots.take().await.is_none(), "all others have logged in");
        drop((logged_in, third));
    }

    #[tokio::test]
    async fn those_without_a_place_are_few() {
        let client_slots = ClientSlots::new(0);
        let over = Notify::new();
        let pending_logins = || client_slots.pending_logins(None).wait(over.notified());
        let mut waits: Vec<_> = (0..MAX_WITHOUT_SLOT).map(|_| Box::pin(pending_logins())).collect();
        for wait in &mut waits {
            assert!(timeout(Duration::ZERO, wait).await.is_err(), "there is room for all of them");
        }
        let mut next = Box::pin(pending_logins());
        assert!(timeout(Duration::ZERO, &mut next).await.is_err());
        assert!(waits.remove(0).await.is_none(), "the oldest goes");
        over.notify_waiters();
        assert!(waits.remove(0).await.is_some() && next.await.is_some());
    }
}
