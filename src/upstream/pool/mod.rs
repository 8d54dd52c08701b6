//! The connections of one (database, user, startup settings).
//!
//! `idle` keeps those nobody uses, in a set of `deadpool`'s; `waiting` the queue of those who wait while all are in use,
//! to the first of whom a connection goes that comes back or opens. Opening never happens in a client's future, and at
//! most `max_connecting` times at once (`opening`). Slots are what a connection exists by.

mod idle;
mod loans;
mod opening;
mod orders;
mod state;
mod tidy;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use idle::Idle;
use loans::Loans;
pub use loans::{Called, Loan};
pub use state::State;

use super::account::{Account, Succession};
use super::card::Cards;
use super::counters::Closing;
use super::dial::DialError;
use super::lease::Upstream;
use super::link::{Closed, Link};
use super::queue::Queue;
use super::registry::Registry;
use super::route;
use super::slots::Slots;
use super::traffic::Traffic;
use crate::error::{Blame, Fault, sqlstate};
use crate::track::Wanted;
use crate::track::parameter_cache::ParameterCache;
use crate::track::statements::{StatementCache, StatementIds};

/// The database that new ones are copied from.
const TEMPLATE: &[u8] = b"template1";

/// What connections have in common that serve the same clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolKey {
    /// The database.
    pub database: Vec<u8>,
    /// The role.
    pub user: Vec<u8>,
    /// Startup parameters that can't follow a client by `SET`.
    pub extra: Vec<(Vec<u8>, Vec<u8>)>,
}

impl PoolKey {
    /// The database and the role, for logs.
    #[must_use]
    pub fn shown(&self) -> (String, String) {
        (String::from_utf8_lossy(&self.database).into_owned(), String::from_utf8_lossy(&self.user).into_owned())
    }
}

/// Why a client gets no connection.
#[derive(Clone, Debug)]
pub enum CheckoutError {
    /// Opening one failed.
    Dial(DialError),
    /// All were in use for as long as the client may wait.
    Exhausted(Fault),
    /// The role that the client logged in as has been renamed or dropped.
    Replaced,
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
            Self::Replaced => Fault::fatal(
                Blame::Upstream,
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: its role was renamed or dropped, and its name is another role's",
            )
            .hint("Connect again."),
            Self::Closed => Fault::fatal(
                Blame::Limits,
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: pgferry is shutting down",
            ),
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
    /// What the database is called on the server.
    pub real_database: Vec<u8>,
    /// Numbers for prepared statements.
    pub statement_ids: Arc<StatementIds>,
    /// All pools.
    pub registry: Weak<Registry>,
}

/// A client whose login is tried upstream.
#[derive(Debug)]
pub struct LogsIn<'a>(&'a Pool);

impl Drop for LogsIn<'_> {
    fn drop(&mut self) {
        self.0.logging_in.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of one key.
#[derive(Debug)]
pub struct Pool {
    /// Whose they are.
    pub key: PoolKey,
    /// What is known of that user there.
    pub account: Arc<Account>,
    idle: Idle<Upstream>,
    queue: Mutex<Queue<Upstream>>,
    /// As many as there may be, the reserve included.
    slots: Arc<Slots>,
    /// How many of them are not the reserve.
    size: AtomicUsize,
    registry: Weak<Registry>,
    this: Weak<Self>,
    /// What is known of the settings that its connections report.
    pub parameters: ParameterCache,
    /// The prepared statements of its clients.
    pub statements: StatementCache,
    /// What the clients of its database and user had done for them.
    pub traffic: Arc<Traffic>,
    /// Its connections, as seen from outside.
    pub cards: Cards,
    /// Connections of lower numbers are to be closed.
    oldest: AtomicU64,
    /// The generation of settings it belongs to.
    generation: u64,
    /// Its connections are closed as they come free: while one is open to `template1`, nobody can create a database.
    leaves_server: bool,
    /// It is known that clients will come.
    awaited: AtomicBool,
    /// What the last client asked for: the next one probably asks for the same.
    wanted: Mutex<Wanted>,
    loans: Mutex<Loans>,
    /// How many clients have their login tried upstream, or wait for that.
    logging_in: AtomicUsize,
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

/// Closes connections for which there is no place any more.
fn close_surplus(surplus: impl IntoIterator<Item = Upstream>) {
    for mut upstream in surplus {
        // Dropping it closes it.
        upstream.closing = Closing::Surplus;
    }
}

impl Pool {
    /// An empty pool for `size` connections, and `reserve` more while those who have them keep them.
    #[must_use]
    pub fn new(key: PoolKey, size: usize, reserve: usize, shared: Sharing) -> Arc<Self> {
        let Sharing { account, traffic, generation, real_database, statement_ids, registry } = shared;
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            key,
            account,
            idle: Idle::default(),
            queue: Mutex::default(),
            slots: Slots::new(size.saturating_add(reserve)),
            size: AtomicUsize::new(size),
            registry,
            this: this.clone(),
            parameters: ParameterCache::default(),
            statements: StatementCache::new(statement_ids),
            traffic,
            cards: Cards::default(),
            oldest: AtomicU64::new(0),
            generation,
            leaves_server: real_database == TEMPLATE,
            awaited: AtomicBool::new(false),
            wanted: Mutex::default(),
            loans: Mutex::default(),
            logging_in: AtomicUsize::new(0),
            leased: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
        })
    }

    /// Gives a connection to whoever has waited longest, or keeps it.
    pub(super) fn hand_out(&self, upstream: Upstream) {
        self.put(&mut self.queue(), upstream);
    }

    fn put(&self, queue: &mut Queue<Upstream>, upstream: Upstream) {
        if let Some(nobodys) = queue.deliver(upstream) {
            self.idle.put(nobodys);
        }
    }

    /// Takes a connection back from a lease.
    pub(super) fn take_back(&self, mut upstream: Upstream) {
        let unfit = self.unfit(&upstream, upstream.returned);
        let mut queue = self.queue();
        queue.turnover.happened();
        let unneeded = (self.leaves_server && queue.waiting() == 0).then_some(Closing::Idle);
        if let Some(why) = unfit.or(unneeded) {
            drop(queue);
            upstream.closing = why;
            drop(upstream);
        } else {
            self.put(&mut queue, upstream);
            drop(queue);
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.feed_starving();
            registry.hunger.stilled();
        }
    }

    /// Notes that a connection has been closed.
    pub(super) fn closed(&self, how: Closed, why: Closing) {
        let Some(registry) = self.registry.upgrade() else { return };
        registry.closed(how, why);
        self.queue().turnover.happened();
        self.kick();
        registry.feed_starving();
    }

    /// Takes an idle connection out: the one that has been idle longest.
    pub(super) fn take_idle(&self) -> Option<Upstream> {
        let mut taken = false;
        self.sift(|_| !std::mem::replace(&mut taken, true)).into_iter().next()
    }

    /// Takes the idle connections out that `unfit` picks, longest idle first.
    fn sift(&self, unfit: impl FnMut(&Upstream) -> bool) -> Vec<Upstream> {
        // Nobody begins to wait while they are looked at.
        let _queue = self.queue();
        self.idle.sift(unfit)
    }

    /// Whether an idle connection can be used at `now`; if not, dropping it closes it.
    fn is_fit(&self, upstream: &mut Upstream, now: Instant) -> bool {
        let unfit = self.unfit(upstream, now);
        if unfit.is_none() && upstream.was_just_used(now) {
            return true;
        }
        let before = upstream.state.base.clone();
        if unfit.is_some() || !upstream.look() {
            upstream.closing = unfit.unwrap_or(Closing::Dead);
            return false;
        }
        if upstream.state.base != before {
            // What it has just said may be that it is another kind of server by now.
            if let Some(why) = self.unfit(upstream, now) {
                upstream.closing = why;
                return false;
            }
            self.parameters.learn_base(&mut upstream.state);
        }
        true
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
        if self.account.succession().is_some() {
            return Some(Closing::Identity);
        }
        if link.card.is_retired() || route::misfit(link.target, &link.state.params).is_some() {
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
        registry.generation() != self.generation || self.account.succession() == Some(Succession::SameRole)
    }

    /// Adapts to a new size.
    pub(super) fn resize(&self, size: usize, reserve: usize) {
        self.size.store(size, Ordering::Relaxed);
        self.slots.resize(size.saturating_add(reserve));
        let mut surplus = self.slots.used().saturating_sub(self.slots.cap());
        close_surplus(self.sift(|_| {
            let goes = surplus > 0;
            surplus = surplus.saturating_sub(1);
            goes
        }));
        self.kick();
    }

    /// How many connections it may have, the reserve not counted.
    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// How many connections it has, in any state.
    pub(super) fn connections(&self) -> usize {
        self.slots.used()
    }

    /// Whether it has never had a connection.
    pub(super) fn is_unborn(&self) -> bool {
        self.slots.used() == 0 && self.parameters.baseline().is_none()
    }

    /// Whether nobody has used it for `span` and it has no connection.
    pub(super) fn is_abandoned(&self, span: Duration) -> bool {
        self.slots.used() == 0 && lock(&self.last_used).elapsed() > span
    }

    /// Counts a client whose login is tried upstream, until what is returned is dropped.
    #[must_use]
    pub fn logs_in(&self) -> LogsIn<'_> {
        self.logging_in.fetch_add(1, Ordering::Relaxed);
        LogsIn(self)
    }

    /// How many clients have their login tried upstream, or wait for that.
    #[must_use]
    pub fn logging_in(&self) -> usize {
        self.logging_in.load(Ordering::Relaxed)
    }

    /// Notes that a client came at `now`.
    pub fn touch(&self, now: Instant) {
        *lock(&self.last_used) = now;
    }

    /// How many connections are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle.count()
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.queue().waiting() > 0
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
