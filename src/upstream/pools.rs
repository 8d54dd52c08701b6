//! All pools.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::close::CloseReason;
use super::conn_info::ConnInfo;
use super::dial::DialError;
use super::occupancy::Room;
use super::pool::neighbours::Neighbours;
use super::pool::{Pool, PoolKey};
use super::role_auth::{RoleAuth, Succession};
use super::roles::MAX_UNVERIFIED_ROLES;
use super::server_side::ServerSide;
use super::target::{UpstreamTarget, UpstreamTargets};
use crate::config::Settings;
use crate::lock::lock;

/// Pools without connections that are kept of one role in one database. Clients have more than one where they ask for settings that
/// can't follow them, and each startup packet may ask for others.
const MAX_EMPTY_POOLS: usize = 64;

/// A pool that clients no longer find.
#[derive(Debug)]
struct FormerPool {
    pool: Arc<Pool>,
    /// Reason why its connections are closed.
    why: CloseReason,
    /// Knowledge of the server that they are at.
    room: Arc<Room>,
}

/// All pools, by key.
#[derive(Debug)]
pub(crate) struct Pools {
    /// State that they have in common.
    pub server_side: Arc<ServerSide>,
    by_key: Mutex<BTreeMap<PoolKey, Arc<Pool>>>,
    /// Pools that clients no longer find, as long as they have connections or clients that wait.
    former: Mutex<Vec<FormerPool>>,
    /// Time at which the janitor last came, in milliseconds since `born`.
    last_round: AtomicU64,
    born: Instant,
    pub(super) this: Weak<Self>,
}

impl Pools {
    /// No pools yet.
    #[must_use]
    pub(crate) fn new(server_side: Arc<ServerSide>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            server_side,
            by_key: Mutex::default(),
            former: Mutex::default(),
            last_round: AtomicU64::new(0),
            born: Instant::now(),
            this: this.clone(),
        })
    }

    /// The pool of `key`, made if there is none.
    #[must_use]
    pub(crate) fn get(&self, key: &PoolKey) -> Arc<Pool> {
        let is_current = |pool: &&Arc<Pool>| pool.role_auth.succession().is_none();
        if let Some(pool) = lock(&self.by_key).get(key).filter(is_current) {
            return Arc::clone(pool);
        }
        let roles = &self.server_side.roles;
        let stats = roles.stats(&key.database, &key.user);
        loop {
            let mut pools = lock(&self.by_key);
            let known = pools.get(key).filter(is_current).map(Arc::clone);
            let pool = known.unwrap_or_else(|| {
                // Under the lock, under which new settings replace the pools of the former ones: what a new one is made of belongs together.
                let (size, role_auth) = (self.size_of(key), roles.auth(&key.database, &key.user));
                let neighbours: Weak<dyn Neighbours> = self.this.clone();
                let server_side = Arc::clone(&self.server_side);
                let pool = Pool::new(key.clone(), size, role_auth, Arc::clone(&stats), server_side, neighbours);
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
        let settings = self.server_side.config.settings_of(&key.database);
        let own = settings.auth.limits.get(&key.user).and_then(|limits| limits.pool_size);
        (own.unwrap_or(settings.pool.pool_size), settings.pool.reserve_pool_size.unwrap_or(usize::MAX))
    }

    /// All pools that clients find.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Arc<Pool>> {
        lock(&self.by_key).values().cloned().collect()
    }

    /// All pools with connections: those that clients find, and the former ones.
    #[must_use]
    pub(crate) fn with_former(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.extend(lock(&self.former).iter().map(|former| Arc::clone(&former.pool)));
        pools
    }

    /// The pools of one database, or of all, the former ones included.
    #[must_use]
    pub(crate) fn of(&self, database: Option<&[u8]>) -> Vec<Arc<Pool>> {
        let mut pools = self.with_former();
        pools.retain(|pool| database.is_none_or(|name| pool.key.database == name));
        pools
    }

    /// The pools with connections to `upstream_target`.
    pub(super) fn at(&self, upstream_target: &Arc<UpstreamTarget>) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.retain(|pool| self.server_side.config.is_at(&pool.key.database, upstream_target));
        pools
    }

    /// Number of connections to the server of `upstream_target`, those of former pools included.
    #[must_use]
    pub(crate) fn connections_at(&self, upstream_target: &Arc<UpstreamTarget>) -> usize {
        let mut pools = self.at(upstream_target);
        let former = lock(&self.former);
        let there = former.iter().filter(|former| Arc::ptr_eq(&former.room, &upstream_target.room));
        pools.extend(there.map(|former| Arc::clone(&former.pool)));
        drop(former);
        pools.iter().map(|pool| pool.connections()).sum()
    }

    /// Number of pools.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        lock(&self.by_key).len()
    }

    /// Number of connections that are idle.
    #[must_use]
    pub(crate) fn idle(&self) -> usize {
        self.with_former().iter().map(|pool| pool.idle_count()).sum()
    }

    /// Number of connections that are in clients' hands.
    #[must_use]
    pub(crate) fn leased(&self) -> usize {
        self.with_former().iter().map(|pool| pool.leased()).sum()
    }

    /// The pool that stands in for one that belongs to settings no longer in force. What its user has logged in with
    /// before is tried there as well.
    #[must_use]
    pub(crate) fn successor(&self, outdated: &Pool) -> Arc<Pool> {
        let pool = self.get(&outdated.key);
        pool.role_auth.presume(&outdated.role_auth);
        pool
    }

    /// Forgets a pool that came to nothing: its client was rejected. Otherwise unknown clients could fill the memory
    /// with pools. One with an upstream that could not be asked is kept for a while, for the console.
    pub(crate) fn forget(&self, pool: &Arc<Pool>) {
        let mut pools = lock(&self.by_key);
        if pools.len() < MAX_UNVERIFIED_ROLES && pool.role_auth.last_trouble(Instant::now()).is_some() {
            return;
        }
        // The table's and the caller's.
        let shared = Arc::strong_count(pool) > 2;
        if !shared && pool.never_connected() && pools.get(&pool.key).is_some_and(|known| Arc::ptr_eq(known, pool)) {
            pools.remove(&pool.key);
        }
    }

    /// Forgets the pools that `is_done` picks, unless a client has one.
    pub(super) fn forget_unused(&self, is_done: impl Fn(&Pool) -> bool) {
        lock(&self.by_key).retain(|_, pool| Arc::strong_count(pool) > 1 || !is_done(pool));
    }

    /// Forgets those pools without connections that a role has too many of in one database, the longest unused first.
    pub(super) fn forget_surplus(&self) {
        let mut pools = lock(&self.by_key);
        let mut empty: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, pool) in pools.iter() {
            if Arc::strong_count(pool) == 1 && pool.is_abandoned(Duration::ZERO) && !pool.expects_clients() {
                empty.entry((&key.database, &key.user)).or_default().push((pool.last_used(), key));
            }
        }
        let mut surplus: Vec<PoolKey> = Vec::new();
        for mut of_role in empty.into_values().filter(|of_role| of_role.len() > MAX_EMPTY_POOLS) {
            of_role.sort_unstable_by_key(|(used, _)| Reverse(*used));
            surplus.extend(of_role.drain(MAX_EMPTY_POOLS..).map(|(_, key)| key.clone()));
        }
        for key in surplus {
            pools.remove(&key);
        }
    }

    /// Has `role_auth` followed by another: its pools are no longer found, and their connections closed as they come free.
    pub(super) fn succeed(&self, role_auth: &Arc<RoleAuth>, succession: Succession) {
        let next = Arc::new(role_auth.next());
        self.server_side.roles.replace(role_auth, &next);
        role_auth.end(succession);
        let former: Vec<_> = {
            let mut pools = lock(&self.by_key);
            let keys = pools.iter().filter(|(_, pool)| Arc::ptr_eq(&pool.role_auth, role_auth));
            let keys: Vec<_> = keys.map(|(key, _)| key.clone()).collect();
            keys.iter().filter_map(|key| pools.remove(key)).collect()
        };
        for pool in &former {
            pool.move_waiters_on();
        }
        self.set_aside(former, CloseReason::Identity, &self.server_side.config.upstream_targets());
    }

    /// Has the connections of `pools`, which clients no longer find and which went to `targets`, closed as they come free.
    fn set_aside(&self, pools: Vec<Arc<Pool>>, why: CloseReason, targets: &UpstreamTargets) {
        let former = |pool: &Arc<Pool>| {
            let room = Arc::clone(&targets.of(&pool.key.database).room);
            FormerPool { pool: Arc::clone(pool), why, room }
        };
        lock(&self.former).extend(pools.iter().map(former));
        for pool in pools {
            pool.close_unused(why);
        }
    }

    /// Closes what came free in former pools, and forgets those that have come to their end.
    pub(super) fn clear_former(&self) {
        let mut former = lock(&self.former);
        former.retain(|former| former.pool.has_connections() || former.pool.has_waiters());
        let left: Vec<_> = former.iter().map(|former| (Arc::clone(&former.pool), former.why)).collect();
        drop(former);
        for (pool, why) in left {
            pool.close_unused(why);
        }
    }

    /// The upstream lets the user of `role_auth` in no more, as `error` shows: forgets what would, closes the connections that no
    /// client uses, and the others as they come free.
    pub(super) fn deny(&self, role_auth: &Arc<RoleAuth>, error: &DialError) {
        role_auth.deny(&self.server_side.key, error);
        for conn_info in self.conn_infos_of(role_auth) {
            conn_info.retire();
        }
        for pool in self.all().iter().filter(|pool| Arc::ptr_eq(&pool.role_auth, role_auth)) {
            pool.close_unused(CloseReason::Identity);
        }
    }

    /// The open connections of `role_auth`.
    pub(super) fn conn_infos_of(&self, role_auth: &Arc<RoleAuth>) -> Vec<Arc<ConnInfo>> {
        let pools = self.all();
        pools
            .iter()
            .filter(|pool| Arc::ptr_eq(&pool.role_auth, role_auth))
            .flat_map(|pool| pool.conn_infos.all())
            .collect()
    }

    /// Notes that the janitor comes round.
    pub(super) fn note_round(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_round.store(age, Ordering::Relaxed);
    }

    /// For how long the workers have not come round to anything.
    #[must_use]
    pub(crate) fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last_round.load(Ordering::Relaxed)))
    }

    /// Reason why clients can't be served, if a pool without a connection could not open one (see [`Pool::trouble`]), or if no
    /// client that wanted one got one for long.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some((lasts, why)) = self.server_side.starvation.trouble(Instant::now()) {
            return Some(format!("no client could be served for {} s for want of connections: {why}", lasts.as_secs()));
        }
        let pools = self.all();
        let (pool, client_error) = pools.iter().find_map(|pool| Some((pool, pool.outage()?)))?;
        let (database, user) = pool.key.shown();
        Some(format!("database \"{database}\", user \"{user}\": {client_error}"))
    }

    /// Applies the settings in force after `old`: new sizes, `upstream_targets`, and new connections where the upstream changed.
    pub(crate) fn apply(&self, old: &Arc<Settings>, upstream_targets: UpstreamTargets) {
        let ServerSide { config, roles, logins, quotas, .. } = &*self.server_side;
        let former_targets = config.upstream_targets();
        config.redirect(upstream_targets);
        let new = config.settings.load_full();
        let all_change = new.auth.rules != old.auth.rules || new.auth.users != old.auth.users;
        let changes = |database: &[u8]| all_change || new.of(database).route() != old.of(database).route();
        // Sessions move to new pools when they are between two pieces of work.
        let outdated: Vec<_> = {
            let mut pools = lock(&self.by_key);
            roles.forget_auths(changes);
            let of_changed = |(key, _): &(PoolKey, Arc<Pool>)| changes(&key.database);
            let (outdated, kept): (BTreeMap<_, _>, _) = std::mem::take(&mut *pools).into_iter().partition(of_changed);
            *pools = kept;
            outdated.into_values().collect()
        };
        let former: Vec<_> = lock(&self.former).iter().map(|former| Arc::clone(&former.pool)).collect();
        for pool in outdated.iter().chain(former.iter().filter(|pool| changes(&pool.key.database))) {
            pool.outdate();
        }
        self.set_aside(outdated, CloseReason::Reload, &former_targets);
        self.fit_to_servers();
        logins.resize(new.pool.max_connecting);
        quotas.resize(&new);
        for pool in self.all() {
            pool.resize(self.size_of(&pool.key));
        }
    }

    /// Closes every connection that no client has, now and as they come back: there will be no other clients.
    pub(crate) fn close(&self) {
        self.close_idle();
        for pool in self.with_former() {
            pool.resize((0, 0));
        }
    }

    /// Closes every idle connection, the server first.
    pub(crate) fn close_idle(&self) {
        for pool in self.with_former() {
            pool.close_idle(CloseReason::Shutdown);
        }
    }
}
