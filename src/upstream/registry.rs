//! All pools and accounts, the cap over all of them, and the janitor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::account::Account;
use super::counters::{Closing, Counters};
use super::link::Closed;
use super::pool::{Pool, PoolKey};
use super::restore;
use super::route::Route;
use super::slots::{Slot, Slots};
use crate::auth::{Bucket, ProcessKey};
use crate::config::{Reset, Settings};
use crate::net::BufferPool;
use crate::track::statements::Catalog;

/// How long a used session may stay idle before it is reset without anybody asking for it.
const RESET_AFTER: Duration = Duration::from_millis(100);

/// How often the janitor comes when nothing is due soon.
const ROUND: Duration = Duration::from_secs(1);

/// After how long a pool without connections is forgotten.
const ABANDONED: Duration = Duration::from_secs(600);

/// How many (database, user)s may be remembered that have never logged in.
const STRANGERS: usize = 1000;

/// How many (database, user)s that nobody has seen before may be tried upstream at once, and how often one more.
const STRANGER_TRIES: (u32, Duration) = (20, Duration::from_millis(200));

/// Accounts by database and user.
type Accounts = HashMap<(Vec<u8>, Vec<u8>), Arc<Account>>;

/// All that the sessions of this process share on the upstream's side.
#[derive(Debug)]
pub struct Registry {
    /// The settings in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What happened, in numbers.
    pub counters: Counters,
    /// Storage for what is under way.
    pub buffers: Arc<BufferPool>,
    /// The prepared statements of all clients.
    pub catalog: Catalog,
    /// The process's own key.
    pub key: ProcessKey,
    pub(super) global: Arc<Slots>,
    pub(super) login_slots: Arc<Semaphore>,
    /// How many cancel requests may be under way.
    pub(super) cancel_slots: Semaphore,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    accounts: Mutex<Accounts>,
    strangers: Mutex<Bucket>,
    route: ArcSwap<Route>,
    generation: AtomicU64,
    links: AtomicU64,
    starving: AtomicBool,
    /// When the janitor last came, in milliseconds since `born`.
    last_round: AtomicU64,
    born: Instant,
    this: Weak<Self>,
}

impl Registry {
    /// No pools yet.
    #[must_use]
    pub fn new(settings: Arc<ArcSwap<Settings>>, route: Route, key: ProcessKey, buffers: Arc<BufferPool>) -> Arc<Self> {
        let now = settings.load_full();
        let (burst, interval) = STRANGER_TRIES;
        Arc::new_cyclic(|this| Self {
            settings,
            counters: Counters::default(),
            buffers,
            catalog: Catalog::default(),
            key,
            global: Slots::new(now.max_upstream),
            login_slots: Arc::new(Semaphore::new(now.max_dialling)),
            cancel_slots: Semaphore::new(now.max_dialling),
            pools: Mutex::default(),
            accounts: Mutex::default(),
            strangers: Mutex::new(Bucket::new(burst, interval, Instant::now())),
            route: ArcSwap::from_pointee(route),
            generation: AtomicU64::new(0),
            links: AtomicU64::new(1),
            starving: AtomicBool::new(false),
            last_round: AtomicU64::new(0),
            born: Instant::now(),
            this: this.clone(),
        })
    }

    /// The settings in force for the clients of `database`.
    #[must_use]
    pub fn settings_of(&self, database: &[u8]) -> Arc<Settings> {
        Arc::clone(self.settings.load().of(database))
    }

    /// The way to the upstream.
    #[must_use]
    pub fn route(&self) -> Arc<Route> {
        self.route.load_full()
    }

    /// The pool of `key`.
    #[must_use]
    pub fn pool(&self, key: &PoolKey) -> Arc<Pool> {
        if let Some(pool) = lock(&self.pools).get(key) {
            return Arc::clone(pool);
        }
        let account = self.account(&key.database, &key.user);
        let size = self.settings_of(&key.database).pool_size;
        let mut pools = lock(&self.pools);
        let pool = pools.entry(key.clone()).or_insert_with(|| Pool::new(key.clone(), account, size, self.this.clone()));
        Arc::clone(pool)
    }

    /// Forgets a pool that came to nothing: whoever asked for it was not let in. Otherwise strangers could fill the memory
    /// with pools.
    pub fn forget(&self, pool: &Arc<Pool>) {
        let mut pools = lock(&self.pools);
        // The table's and the caller's.
        let shared = Arc::strong_count(pool) > 2;
        if !shared && pool.is_unborn() && pools.get(&pool.key).is_some_and(|known| Arc::ptr_eq(known, pool)) {
            pools.remove(&pool.key);
        }
    }

    /// All pools there are.
    #[must_use]
    pub fn all_pools(&self) -> Vec<Arc<Pool>> {
        lock(&self.pools).values().cloned().collect()
    }

    /// For how long the workers have not come round to anything.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last_round.load(Ordering::Relaxed)))
    }

    /// Why clients can't be served, if a pool without a connection could not open one: see [`Pool::trouble`].
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let pools = self.all_pools();
        let (pool, fault) = pools.iter().find_map(|pool| Some((pool, pool.trouble()?)))?;
        let (database, user) = (String::from_utf8_lossy(&pool.key.database), String::from_utf8_lossy(&pool.key.user));
        Some(format!("database \"{database}\", user \"{user}\": {fault}"))
    }

    /// How many pools there are.
    #[must_use]
    pub fn pools(&self) -> usize {
        lock(&self.pools).len()
    }

    /// What is known of a (database, user).
    #[must_use]
    pub fn account(&self, database: &[u8], user: &[u8]) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        let key = (database.to_vec(), user.to_vec());
        if let Some(account) = accounts.get(&key) {
            return Arc::clone(account);
        }
        if accounts.len() >= STRANGERS {
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_blank());
        }
        Arc::clone(accounts.entry(key).or_default())
    }

    /// How long to wait before somebody nobody has seen before may be tried upstream; `None` when that is longer than
    /// `patience`.
    pub(super) fn stranger(&self, now: Instant, patience: Duration) -> Option<Duration> {
        lock(&self.strangers).take(now, patience)
    }

    /// A place under the cap over all pools, for a connection that belongs to none.
    #[must_use]
    pub fn try_slot(&self) -> Option<Slot> {
        self.global.try_take()
    }

    /// Takes note of an attempt to connect that failed.
    pub fn note_connect_error(&self, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::AddrNotAvailable {
            self.counters.no_port.add();
        }
    }

    /// How many upstream connections are idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        lock(&self.pools).values().map(|pool| pool.idle_count()).sum()
    }

    /// Counts a connection out.
    pub fn closed(&self, how: Closed, why: Closing) {
        self.counters.close(why);
        match how {
            Closed::Politely => {}
            Closed::Reset => drop(self.counters.reset.add()),
            Closed::First => drop(self.counters.time_waits.add()),
        }
    }

    /// A number for a new connection.
    pub(super) fn next_link_id(&self) -> u64 {
        self.links.fetch_add(1, Ordering::Relaxed)
    }

    /// The generation of settings that connections must belong to.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// How many upstream connections there are, in any state.
    #[must_use]
    pub fn open(&self) -> usize {
        self.global.used()
    }

    /// How many upstream connections are in clients' hands.
    #[must_use]
    pub fn leased(&self) -> usize {
        lock(&self.pools).values().map(|pool| pool.leased.load(Ordering::Relaxed)).sum()
    }

    /// Applies the settings in force after `old`: new sizes, `route`, and new connections where the upstream changed.
    pub fn apply(&self, old: &Settings, route: Route) {
        self.route.store(Arc::new(route));
        let new = self.settings.load_full();
        if new.upstream != old.upstream || new.rules != old.rules || new.users != old.users {
            self.generation.fetch_add(1, Ordering::Relaxed);
            lock(&self.accounts).clear();
            // Sessions keep the pools they have; new ones get new pools.
            lock(&self.pools).clear();
        }
        self.global.resize(new.max_upstream);
        for slots in [&*self.login_slots, &self.cancel_slots] {
            // Those that are taken when their number shrinks are not missed for long.
            slots.add_permits(new.max_dialling.saturating_sub(old.max_dialling));
            slots.forget_permits(old.max_dialling.saturating_sub(new.max_dialling));
        }
        let pools = self.all_pools();
        for pool in pools {
            pool.resize(new.of(&pool.key.database).pool_size);
        }
    }

    /// A pool found no place under the cap over all pools: makes one by closing somebody else's idle connection.
    pub(super) fn starve(&self, hungry: &Pool) {
        self.starving.store(true, Ordering::SeqCst);
        let pools = self.all_pools();
        let others = pools.iter().filter(|pool| !std::ptr::eq(&raw const ***pool, hungry));
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(|pool| std::cmp::Reverse(pool.idle_count()));
        match others.first().and_then(|richest| richest.take_idle()) {
            Some(mut idle) => idle.closing = Closing::Surplus,
            // It is given back and then taken from there.
            None => drop(others.iter().find(|pool| pool.call_in())),
        }
    }

    /// A place or a connection came free: lets those try who found none.
    pub(super) fn feed_starving(&self) {
        if !self.starving.swap(false, Ordering::SeqCst) {
            return;
        }
        let pools = self.all_pools();
        for pool in pools.iter().filter(|pool| pool.has_waiters()) {
            pool.kick();
        }
    }

    /// Looks after idle connections for as long as the process lives.
    pub async fn janitor(self: Arc<Self>) {
        let mut dirty = false;
        loop {
            let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last_round.store(age, Ordering::Relaxed);
            tokio::time::sleep(if dirty { RESET_AFTER } else { ROUND }).await;
            dirty = false;
            let pools = self.all_pools();
            for pool in &pools {
                let settings = self.settings_of(&pool.key.database);
                let reset_due = (settings.reset == Reset::Always).then_some(RESET_AFTER);
                let (resets, some_dirty) = pool.tidy(&settings, reset_due);
                dirty |= some_dirty;
                for upstream in resets {
                    let pool = Arc::clone(pool);
                    let limit = settings.cleanup_timeout;
                    tokio::spawn(async move {
                        if let Some(mut fresh) = restore::reset_idle(upstream, limit).await {
                            pool.learn_reset(&mut fresh);
                            pool.hand_out(fresh);
                        }
                    });
                }
            }
            drop(pools);
            lock(&self.pools)
                .retain(|_, pool| Arc::strong_count(pool) > 1 || !(pool.is_unborn() || pool.is_abandoned(ABANDONED)));
        }
    }

    /// Closes every idle connection, the server first.
    pub fn close_idle(&self) {
        let pools = self.all_pools();
        for pool in pools {
            while let Some(mut idle) = pool.take_idle() {
                idle.closing = Closing::Shutdown;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
