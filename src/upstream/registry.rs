//! All pools and what is known of roles, the cap over all of them, and the janitor.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::auth_query::ReclaimableSlots;
use super::capacity;
use super::conn_info::ConnInfo;
use super::counters::{CloseReason, Counters};
use super::limiter::Limiter;
use super::login_slots::LoginSlots;
use super::loops::LocalBackends;
use super::occupancy::Hunger;
use super::pause::PauseState;
use super::permits::Permits;
use super::pool::{Pool, PoolKey, Sharing};
use super::pool_stats::PoolStats;
use super::quota::Quotas;
use super::role_auth::{RoleAuth, Succession};
use super::server_conn::Closed;
use super::session_code::SessionCodes;
use super::slots::Slots;
use super::target::{TargetHost, UpstreamTarget, UpstreamTargets};
use crate::auth::ProcessKey;
use crate::config::Settings;
use crate::lock::lock;
use crate::net::BufferPool;
use crate::track::statements::StatementIds;

/// How many (database, user)s may be remembered that have never logged in.
const MAX_UNVERIFIED_ROLES: usize = 1000;

/// How long clients must have got no connection for that to be trouble.
const STARVED: Duration = Duration::from_secs(10);

/// A database and a user.
pub(crate) type DatabaseUser = (Vec<u8>, Vec<u8>);

/// Accounts by database and user.
type RoleAuths = HashMap<DatabaseUser, Arc<RoleAuth>>;

/// All that the sessions of this process share on the upstream's side.
#[derive(Debug)]
pub(crate) struct Registry {
    /// The settings in force.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What happened, in numbers.
    pub counters: Counters,
    /// Storage for what is under way.
    pub buffers: Arc<BufferPool>,
    /// Numbers for prepared statements, which are unique in the process.
    statement_ids: Arc<StatementIds>,
    /// What is switched off by hand.
    pub pauses: PauseState,
    /// The process's own key.
    pub key: ProcessKey,
    pub(super) global: Arc<Slots>,
    /// Number of those places that may be taken without making room first.
    pub(super) share: AtomicUsize,
    /// What is known of the code in the databases.
    pub session_codes: SessionCodes,
    /// For how long connections could not be had.
    pub hunger: Hunger,
    /// The login attempts and cancel requests of each source.
    pub limiter: Limiter,
    /// The logins that may be under way.
    pub login_slots: Arc<LoginSlots>,
    /// Backends on this machine, some of which may be clients as well.
    pub local_backends: LocalBackends,
    /// Number of cancel requests that may be under way.
    pub(super) cancel_slots: Arc<Permits>,
    pub(super) pools: Mutex<BTreeMap<PoolKey, Arc<Pool>>>,
    role_auths: Mutex<RoleAuths>,
    /// What clients had done for them, by database and user: it outlives the pools.
    stats: Mutex<HashMap<DatabaseUser, Arc<PoolStats>>>,
    /// The slots of users with limited clients or connections.
    pub(super) quotas: Quotas,
    upstream_targets: ArcSwap<UpstreamTargets>,
    generation: AtomicU64,
    conn_ids: AtomicU64,
    pub(super) rebalance_requested: AtomicBool,
    /// The connections that secrets are looked up on.
    pub(super) auth_query_slots: ReclaimableSlots,
    /// Notified when a slot or a connection came free while another task found none.
    pub(super) freed: Notify,
    /// Most server connections where the servers alone say how many there may be.
    pub(super) most_server_conns: usize,
    /// Notified when the cap over all pools has changed.
    pub(super) resized: Notify,
    /// Time at which the janitor last came, in milliseconds since `born`.
    pub(super) last_round: AtomicU64,
    pub(super) born: Instant,
    pub(super) this: Weak<Self>,
}

impl Registry {
    /// No pools yet.
    #[must_use]
    pub(crate) fn new(
        settings: Arc<ArcSwap<Settings>>,
        upstream_targets: UpstreamTargets,
        key: ProcessKey,
        buffers: Arc<BufferPool>,
        most_server_conns: usize,
    ) -> Arc<Self> {
        let now = settings.load_full();
        let assumed = now.max_upstream.unwrap_or(capacity::UNKNOWN.min(most_server_conns));
        Arc::new_cyclic(|this| Self {
            settings,
            counters: Counters::default(),
            buffers,
            statement_ids: Arc::default(),
            pauses: PauseState::default(),
            key,
            global: Slots::new(assumed),
            share: AtomicUsize::new(assumed),
            session_codes: SessionCodes::default(),
            hunger: Hunger::default(),
            limiter: Limiter::default(),
            login_slots: LoginSlots::new(now.max_connecting),
            local_backends: LocalBackends::default(),
            cancel_slots: Permits::new(now.max_connecting),
            pools: Mutex::default(),
            role_auths: Mutex::default(),
            stats: Mutex::default(),
            quotas: Quotas::default(),
            upstream_targets: ArcSwap::from_pointee(upstream_targets),
            generation: AtomicU64::new(0),
            conn_ids: AtomicU64::new(1),
            rebalance_requested: AtomicBool::new(false),
            auth_query_slots: ReclaimableSlots::default(),
            freed: Notify::new(),
            most_server_conns,
            resized: Notify::new(),
            last_round: AtomicU64::new(0),
            born: Instant::now(),
            this: this.clone(),
        })
    }

    /// The settings in force for the clients of `database`.
    #[must_use]
    pub(crate) fn settings_of(&self, database: &[u8]) -> Arc<Settings> {
        Arc::clone(self.settings.load().of(database))
    }

    /// The way to the upstream of `database`.
    #[must_use]
    pub(crate) fn upstream_target(&self, database: &[u8]) -> Arc<UpstreamTarget> {
        Arc::clone(self.upstream_targets.load().of(database))
    }

    /// What hosts' names stood for when they were last looked up, and how long ago that was.
    #[must_use]
    pub(crate) fn resolved(&self) -> Vec<(String, Duration, Vec<SocketAddr>)> {
        let upstream_targets = self.upstream_targets();
        let all = upstream_targets.all();
        all.iter()
            .flat_map(|upstream_target| upstream_target.endpoints.iter().filter_map(TargetHost::resolved))
            .collect()
    }

    /// All ways.
    #[must_use]
    pub(crate) fn upstream_targets(&self) -> Arc<UpstreamTargets> {
        self.upstream_targets.load_full()
    }

    /// The pool of `key`.
    #[must_use]
    pub(crate) fn pool(&self, key: &PoolKey) -> Arc<Pool> {
        let is_current = |pool: &&Arc<Pool>| pool.role_auth.succession().is_none();
        if let Some(pool) = lock(&self.pools).get(key).filter(is_current) {
            return Arc::clone(pool);
        }
        let (size, reserve) = self.size_of(key);
        let stats = self.pool_stats_of(&key.database, &key.user);
        loop {
            let role_auth = self.role_auth(&key.database, &key.user);
            let mut pools = lock(&self.pools);
            let known = pools.get(key).filter(is_current).map(Arc::clone);
            let pool = known.unwrap_or_else(|| {
                let (stats, generation) = (Arc::clone(&stats), self.generation());
                let statement_ids = Arc::clone(&self.statement_ids);
                let (real_database, registry) = (self.real_database(&key.database), self.this.clone());
                let shared = Sharing { role_auth, stats, generation, real_database, statement_ids, registry };
                let pool = Pool::new(key.clone(), size, reserve, shared);
                pools.insert(key.clone(), Arc::clone(&pool));
                pool
            });
            // A `RoleAuth` that was followed by another just now has its pools removed, or this one is made again.
            if is_current(&&pool) {
                return pool;
            }
        }
    }

    /// Number of connections that the pool of `key` may have, and how many more while clients keep theirs.
    fn size_of(&self, key: &PoolKey) -> (usize, usize) {
        let settings = self.settings_of(&key.database);
        let own = settings.limits.get(&key.user).and_then(|limits| limits.pool_size);
        (own.unwrap_or(settings.pool_size), settings.reserve_pool_size.unwrap_or(usize::MAX))
    }

    fn pool_stats_of(&self, database: &[u8], user: &[u8]) -> Arc<PoolStats> {
        let mut stats = lock(&self.stats);
        if stats.len() >= MAX_UNVERIFIED_ROLES {
            // Those that have never logged in.
            stats.retain(|_, stats| Arc::strong_count(stats) > 1 || stats.logins.get() > 0);
        }
        Arc::clone(stats.entry((database.to_vec(), user.to_vec())).or_default())
    }

    /// What clients had done for them since the process began, by database and user.
    #[must_use]
    pub(crate) fn all_pool_stats(&self) -> Vec<(DatabaseUser, Arc<PoolStats>)> {
        let stats = lock(&self.stats);
        stats.iter().map(|(key, stats)| (key.clone(), Arc::clone(stats))).collect()
    }

    /// The pools of one database, or of all.
    #[must_use]
    pub(crate) fn pools_of(&self, database: Option<&[u8]>) -> Vec<Arc<Pool>> {
        let mut pools = self.all_pools();
        pools.retain(|pool| database.is_none_or(|name| pool.key.database == name));
        pools
    }

    /// The pool that stands in for one that belongs to settings no longer in force. What its user has logged in with
    /// before is tried there as well.
    #[must_use]
    pub(crate) fn successor(&self, outdated: &Pool) -> Arc<Pool> {
        let pool = self.pool(&outdated.key);
        pool.role_auth.presume(&outdated.role_auth);
        pool
    }

    /// Forgets a pool that came to nothing: its client was rejected. Otherwise unknown clients could fill the memory
    /// with pools. One with an upstream that could not be asked is kept for a while, for the console.
    pub(crate) fn forget(&self, pool: &Arc<Pool>) {
        let mut pools = lock(&self.pools);
        if pools.len() < MAX_UNVERIFIED_ROLES && pool.role_auth.last_trouble(Instant::now()).is_some() {
            return;
        }
        // The table's and the caller's.
        let shared = Arc::strong_count(pool) > 2;
        if !shared && pool.never_connected() && pools.get(&pool.key).is_some_and(|known| Arc::ptr_eq(known, pool)) {
            pools.remove(&pool.key);
        }
    }

    /// Has `role_auth` followed by another: its pools are no longer found, and their connections closed as they come free.
    pub(super) fn succeed(&self, role_auth: &Arc<RoleAuth>, succession: Succession) {
        let next = Arc::new(role_auth.next());
        for known in lock(&self.role_auths).values_mut().filter(|known| Arc::ptr_eq(known, role_auth)) {
            *known = Arc::clone(&next);
        }
        role_auth.end(succession);
        let former: Vec<_> = {
            let mut pools = lock(&self.pools);
            let keys = pools.iter().filter(|(_, pool)| Arc::ptr_eq(&pool.role_auth, role_auth));
            let keys: Vec<_> = keys.map(|(key, _)| key.clone()).collect();
            keys.iter().filter_map(|key| pools.remove(key)).collect()
        };
        for pool in former {
            pool.close_unused(CloseReason::Identity);
        }
    }

    /// Closes the connections of `role_auth` that no client uses, and the others as they come free.
    pub(super) fn retire(&self, role_auth: &Arc<RoleAuth>) {
        for conn_info in self.conn_infos_of(role_auth) {
            conn_info.retire();
        }
        for pool in self.all_pools().iter().filter(|pool| Arc::ptr_eq(&pool.role_auth, role_auth)) {
            pool.close_unused(CloseReason::Identity);
        }
    }

    /// The open connections of `role_auth`.
    pub(super) fn conn_infos_of(&self, role_auth: &Arc<RoleAuth>) -> Vec<Arc<ConnInfo>> {
        let pools = self.all_pools();
        pools
            .iter()
            .filter(|pool| Arc::ptr_eq(&pool.role_auth, role_auth))
            .flat_map(|pool| pool.conn_infos.all())
            .collect()
    }

    /// All pools there are.
    #[must_use]
    pub(crate) fn all_pools(&self) -> Vec<Arc<Pool>> {
        lock(&self.pools).values().cloned().collect()
    }

    /// For how long the workers have not come round to anything.
    #[must_use]
    pub(crate) fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last_round.load(Ordering::Relaxed)))
    }

    /// Reason why clients can't be served, if a pool without a connection could not open one (see [`Pool::trouble`]), or if for
    /// [`STARVED`] no client got one that wanted one.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some((since, why)) = self.hunger.lasts(Instant::now()).filter(|(since, _)| *since >= STARVED) {
            return Some(format!("no client could be served for {} s for want of connections: {why}", since.as_secs()));
        }
        let pools = self.all_pools();
        let (pool, client_error) = pools.iter().find_map(|pool| Some((pool, pool.outage()?)))?;
        let (database, user) = (String::from_utf8_lossy(&pool.key.database), String::from_utf8_lossy(&pool.key.user));
        Some(format!("database \"{database}\", user \"{user}\": {client_error}"))
    }

    /// Number of pools.
    #[must_use]
    pub(crate) fn pools(&self) -> usize {
        lock(&self.pools).len()
    }

    /// What is known of a (database, user).
    #[must_use]
    pub(crate) fn role_auth(&self, database: &[u8], user: &[u8]) -> Arc<RoleAuth> {
        let mut role_auths = lock(&self.role_auths);
        let key = (database.to_vec(), user.to_vec());
        if let Some(role_auth) = role_auths.get(&key) {
            return Arc::clone(role_auth);
        }
        if role_auths.len() >= MAX_UNVERIFIED_ROLES {
            role_auths.retain(|_, role_auth| Arc::strong_count(role_auth) > 1 || !role_auth.is_blank());
        }
        Arc::clone(role_auths.entry(key).or_default())
    }

    /// Takes note of an attempt to connect that failed.
    pub(crate) fn note_connect_error(&self, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::AddrNotAvailable {
            self.counters.no_port.add();
        }
    }

    /// Number of upstream connections that are idle.
    #[must_use]
    pub(crate) fn idle(&self) -> usize {
        lock(&self.pools).values().map(|pool| pool.idle_count()).sum()
    }

    /// Counts a connection out.
    pub(crate) fn closed(&self, how: Closed, why: CloseReason) {
        self.counters.close(why);
        match how {
            Closed::Politely => {}
            Closed::Reset => drop(self.counters.reset.add()),
            Closed::First => drop(self.counters.time_waits.add()),
        }
    }

    /// A number for a new connection.
    pub(super) fn next_conn_id(&self) -> u64 {
        self.conn_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The generation of settings that connections must belong to.
    #[must_use]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Number of upstream connections, in any state.
    #[must_use]
    pub(crate) fn open(&self) -> usize {
        self.global.used()
    }

    /// Number of upstream connections that are in clients' hands.
    #[must_use]
    pub(crate) fn leased(&self) -> usize {
        lock(&self.pools).values().map(|pool| pool.leased.load(Ordering::Relaxed)).sum()
    }

    /// Applies the settings in force after `old`: new sizes, `upstream_targets`, and new connections where the upstream changed.
    pub(crate) fn apply(&self, old: &Settings, upstream_targets: UpstreamTargets) {
        self.upstream_targets.store(Arc::new(upstream_targets));
        let new = self.settings.load_full();
        if new.ways() != old.ways() || new.rules != old.rules || new.users != old.users {
            self.generation.fetch_add(1, Ordering::Relaxed);
            lock(&self.role_auths).clear();
            // Sessions move to new pools when they are between two pieces of work.
            let outdated = std::mem::take(&mut *lock(&self.pools));
            for pool in outdated.values() {
                pool.close_unused(CloseReason::Reload);
            }
        }
        self.fit_to_servers();
        self.login_slots.resize(new.max_connecting);
        self.cancel_slots.resize(new.max_connecting);
        self.quotas.resize(&new);
        let pools = self.all_pools();
        for pool in pools {
            let (size, reserve) = self.size_of(&pool.key);
            pool.resize(size, reserve);
        }
    }

    /// Closes every idle connection, the server first.
    pub(crate) fn close_idle(&self) {
        for pool in self.all_pools() {
            pool.close_idle(CloseReason::Shutdown);
        }
    }
}
