//! The connections of one (database, user, startup settings).
//!
//! `deadpool` keeps the idle ones (last in, first out, so that those nobody needs grow old) and the queue of those
//! who wait while all are in use. Around it: opening never happens in a client's future, at most `max_dialling` at
//! once; a connection that comes back goes to whoever waits for one being opened; and slots, not deadpool's permits,
//! are what a connection exists by.

mod learned;
mod loans;
mod opening;
mod orders;
mod state;
mod tidy;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use tokio::sync::oneshot;

use learned::Learned;
pub use learned::Welcome;
use loans::Loans;
pub use loans::{Called, Loan};
pub use state::State;

use super::account::Account;
use super::card::Cards;
use super::counters::Closing;
use super::dial::DialError;
use super::lease::{Lease, Upstream};
use super::link::{Closed, Link};
use super::queue::Queue;
use super::registry::Registry;
use super::route;
use super::slots::Slots;
use super::traffic::Traffic;
use crate::error::{Blame, Fault, sqlstate};
use crate::track::Wanted;

/// What connections have in common that serve the same clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database.
    pub database: Vec<u8>,
    /// The role.
    pub user: Vec<u8>,
    /// Startup parameters that can't follow a client by `SET`.
    pub extra: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a client gets no connection.
#[derive(Clone, Debug)]
pub enum CheckoutError {
    /// Opening one failed.
    Dial(DialError),
    /// All were in use for as long as the client may wait.
    Exhausted(Fault),
    /// pgferry is going away.
    Closed,
}

impl CheckoutError {
    /// What a client is told.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Dial(error) => error.fault(),
            Self::Exhausted(fault) => fault.clone(),
            Self::Closed => Fault::fatal(
                Blame::Limits,
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: pgferry is shutting down",
            ),
        }
    }
}

/// deadpool's manager: gets connections from the pool around it.
#[derive(Debug)]
pub struct Dialler {
    pool: Weak<Pool>,
}

impl Manager for Dialler {
    type Type = Upstream;
    type Error = CheckoutError;

    async fn create(&self) -> Result<Upstream, CheckoutError> {
        let pool = self.pool.upgrade().ok_or(CheckoutError::Closed)?;
        let entered = pool.queue().enter();
        match entered {
            Ok(spare) => Ok(spare),
            Err(receiver) => {
                pool.kick();
                let mut place = Place { receiver, pool };
                (&mut place.receiver).await.map_err(|_| CheckoutError::Closed)?.map_err(CheckoutError::Dial)
            }
        }
    }

    async fn recycle(&self, upstream: &mut Upstream, _: &Metrics) -> RecycleResult<CheckoutError> {
        let pool = self.pool.upgrade();
        let now = Instant::now();
        let unfit = pool.as_ref().map_or(Some(Closing::Shutdown), |pool| pool.unfit(upstream, now));
        if unfit.is_none() && upstream.was_just_used(now) {
            return Ok(());
        }
        let before = upstream.base.clone();
        if unfit.is_some() || !upstream.look() {
            upstream.closing = unfit.unwrap_or(Closing::Dead);
            return Err(RecycleError::message("no longer fit"));
        }
        if let Some(pool) = pool.filter(|_| upstream.base != before) {
            // What it has just said may be that it is another kind of server by now.
            if let Some(why) = pool.unfit(upstream, now) {
                upstream.closing = why;
                return Err(RecycleError::message("no longer fit"));
            }
            pool.learn_base(upstream);
        }
        Ok(())
    }
}

/// A place in the queue. Whoever leaves it hands on what was delivered in the same moment.
struct Place {
    receiver: oneshot::Receiver<Result<Upstream, DialError>>,
    pool: Arc<Pool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(upstream)) = self.receiver.try_recv() {
            self.pool.hand_out(upstream);
        }
    }
}

/// What a pool has in common with others.
#[derive(Debug)]
pub struct Sharing {
    /// What is known of its user.
    pub account: Arc<Account>,
    /// What its user's clients had done for them.
    pub traffic: Arc<Traffic>,
    /// The generation of settings.
    pub generation: u64,
    /// All pools.
    pub registry: Weak<Registry>,
}

/// The connections of one key.
#[derive(Debug)]
pub struct Pool {
    /// Whose they are.
    pub key: PoolKey,
    /// What is known of that user there.
    pub account: Arc<Account>,
    idle: managed::Pool<Dialler>,
    queue: Mutex<Queue<Upstream>>,
    slots: Arc<Slots>,
    registry: Weak<Registry>,
    this: Weak<Self>,
    learned: Mutex<Learned>,
    /// What the clients of its database and user had done for them.
    pub traffic: Arc<Traffic>,
    /// Its connections, as seen from outside.
    pub cards: Cards,
    /// Connections of lower numbers are to be closed.
    oldest: AtomicU64,
    /// The generation of settings it belongs to.
    generation: u64,
    /// It is known that clients will come.
    awaited: AtomicBool,
    /// What the last client asked for: the next one probably asks for the same.
    wanted: Mutex<Wanted>,
    loans: Mutex<Loans>,
    /// How many connections are on loan.
    pub(super) leased: AtomicUsize,
    /// How many of those wait for the server.
    pub(super) active: AtomicUsize,
    /// When somebody last asked for a connection.
    last_used: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(key: PoolKey, size: usize, shared: Sharing) -> Arc<Self> {
        let Sharing { account, traffic, generation, registry } = shared;
        Arc::new_cyclic(|this: &Weak<Self>| {
            let builder = managed::Pool::builder(Dialler { pool: this.clone() });
            // Building fails only for timeouts without a runtime, and none is set.
            let Ok(idle) = builder.max_size(size).queue_mode(QueueMode::Lifo).build() else {
                unreachable!("a pool without timeouts needs no runtime")
            };
            Self {
                key,
                account,
                idle,
                queue: Mutex::default(),
                slots: Slots::new(size),
                registry,
                this: this.clone(),
                learned: Mutex::default(),
                traffic,
                cards: Cards::default(),
                oldest: AtomicU64::new(0),
                generation,
                awaited: AtomicBool::new(false),
                wanted: Mutex::default(),
                loans: Mutex::default(),
                leased: AtomicUsize::new(0),
                active: AtomicUsize::new(0),
                last_used: Mutex::new(Instant::now()),
            }
        })
    }

    /// A connection, at once or when one comes free or open, in the order of asking. Cancel-safe: whoever stops
    /// waiting costs no connection.
    ///
    /// # Errors
    /// As [`CheckoutError`] lists, after `patience` at the latest.
    pub async fn checkout(self: &Arc<Self>, wanted: &Wanted, patience: Duration) -> Result<Lease, CheckoutError> {
        self.note_wanted(wanted);
        let mut get = pin!(self.idle.get());
        let mut expired = pin!(tokio::time::sleep(patience));
        let mut called = false;
        let got = poll_fn(|cx| {
            if let Poll::Ready(got) = get.as_mut().poll(cx) {
                return Poll::Ready(Some(got));
            }
            if !std::mem::replace(&mut called, true) {
                // Whoever has a connection without using it gives it up.
                self.call_in();
            }
            expired.as_mut().poll(cx).map(|()| None)
        });
        match got.await {
            Some(Ok(object)) => Ok(Lease::new(object, Arc::clone(self))),
            Some(Err(PoolError::Backend(error))) => Err(error),
            Some(Err(_)) => Err(CheckoutError::Closed),
            None => Err(CheckoutError::Exhausted(self.exhausted(patience))),
        }
    }

    /// A connection if one is idle right now, and nobody waits for it.
    #[must_use]
    pub fn checkout_idle(self: &Arc<Self>, wanted: &Wanted) -> Option<Lease> {
        if self.idle_count() == 0 {
            return None;
        }
        self.note_wanted(wanted);
        let now = managed::Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
        let get = pin!(self.idle.timeout_get(&now));
        // Where an idle connection turns out to be dead, another one would have to be waited for.
        match get.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(object)) => Some(Lease::new(object, Arc::clone(self))),
            _ => None,
        }
    }

    fn note_wanted(&self, wanted: &Wanted) {
        let mut last = lock(&self.wanted);
        if *last != *wanted {
            last.clone_from(wanted);
        }
    }

    /// Gives a connection to whoever waits for one being opened, or keeps it.
    pub(super) fn hand_out(&self, upstream: Upstream) {
        self.queue().deliver(upstream);
    }

    /// Takes a connection back from a lease.
    pub(super) fn take_back(&self, mut object: Object<Dialler>) {
        if let Some(why) = self.unfit(&object, object.returned) {
            object.closing = why;
            drop(Object::take(object));
        } else if self.queue().has_waiters() {
            self.hand_out(Object::take(object));
        } else {
            drop(object);
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.feed_starving();
        }
    }

    /// Notes that a connection has been closed.
    pub(super) fn closed(&self, how: Closed, why: Closing) {
        let Some(registry) = self.registry.upgrade() else { return };
        registry.closed(how, why);
        self.kick();
        registry.feed_starving();
    }

    /// Takes an idle or spare connection out: the one that has been idle longest.
    pub(super) fn take_idle(&self) -> Option<Upstream> {
        let spares = self.queue().take_spares(|_| true);
        let mut spares = spares.into_iter();
        if let Some(spare) = spares.next() {
            spares.for_each(|other| self.hand_out(other));
            return Some(spare);
        }
        let mut taken = false;
        let result = self.idle.retain(|_, _| std::mem::replace(&mut taken, true));
        result.removed.into_iter().next()
    }

    /// Why a connection must go at `now`, if it must.
    fn unfit(&self, link: &Link, now: Instant) -> Option<Closing> {
        let Some(registry) = self.registry.upgrade() else { return Some(Closing::Shutdown) };
        if registry.generation() != link.generation {
            return Some(Closing::Reload);
        }
        if link.id < self.oldest.load(Ordering::Relaxed) || registry.switches.of(&self.key.database).paused {
            return Some(Closing::Command);
        }
        if link.card.is_retired() || route::misfit(link.target, &link.params).is_some() {
            return Some(Closing::Moved);
        }
        if link.retire_at.is_some_and(|at| now >= at) {
            return Some(Closing::Lifetime);
        }
        self.slots.over().then_some(Closing::Surplus)
    }

    /// Whether it belongs to settings that are no longer in force.
    #[must_use]
    pub fn is_outdated(&self, registry: &Registry) -> bool {
        registry.generation() != self.generation
    }

    /// Adapts to a new size.
    pub(super) fn resize(&self, size: usize) {
        self.slots.resize(size);
        self.idle.resize(size);
        self.kick();
    }

    /// Whether it has never had a connection.
    pub(super) fn is_unborn(&self) -> bool {
        self.slots.used() == 0 && self.baseline().is_none()
    }

    /// Whether nobody has used it for `span` and it has no connection.
    pub(super) fn is_abandoned(&self, span: Duration) -> bool {
        self.slots.used() == 0 && lock(&self.last_used).elapsed() > span
    }

    /// Notes that a client came at `now`.
    pub fn touch(&self, now: Instant) {
        *lock(&self.last_used) = now;
    }

    /// How many connections are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle.status().available + self.queue().spares()
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.queue().has_waiters()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Upstream>> {
        lock(&self.queue)
    }

    fn database(&self) -> String {
        String::from_utf8_lossy(&self.key.database).into_owned()
    }

    fn user(&self) -> String {
        String::from_utf8_lossy(&self.key.user).into_owned()
    }
}
