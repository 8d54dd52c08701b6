//! Connections that are in the way of what a client does to the server's databases and roles, or out of date behind it.

use std::sync::Arc;

use super::pool::Pool;
use super::registry::Registry;
use super::role_auth::Succession;
use super::target::UpstreamTarget;

impl Registry {
    /// Has the connections closed that lead to the `doomed` database of the server behind clients' `database`: those that are
    /// idle now, and the others as they come free.
    pub(crate) fn vacate(&self, database: &[u8], doomed: &[u8]) {
        for pool in self.pools_at(&self.upstream_target(database)) {
            if self.real_database(&pool.key.database) == doomed {
                pool.reconnect();
            }
        }
        self.auth_query_slots.reclaim();
    }

    /// What sessions begin with has changed on the server behind clients' `database`: they go on with new connections.
    pub(crate) fn outdate_sessions(&self, database: &[u8]) {
        self.outdate_sessions_at(&self.upstream_target(database));
    }

    pub(super) fn outdate_sessions_at(&self, upstream_target: &Arc<UpstreamTarget>) {
        let mut pools = self.pools_at(upstream_target);
        pools.sort_by_key(|pool| Arc::as_ptr(&pool.role_auth));
        pools.dedup_by_key(|pool| Arc::as_ptr(&pool.role_auth));
        for pool in pools {
            self.succeed(&pool.role_auth, Succession::SameRole);
        }
    }

    /// The name that the database of clients' `database` has on the server.
    pub(super) fn real_database(&self, database: &[u8]) -> Vec<u8> {
        self.settings_of(database).real_database(database).to_vec()
    }

    /// The pools with connections to `upstream_target`.
    pub(super) fn pools_at(&self, upstream_target: &Arc<UpstreamTarget>) -> Vec<Arc<Pool>> {
        let mut pools = self.all_pools();
        pools.retain(|pool| self.is_at(pool, upstream_target));
        pools
    }

    pub(super) fn is_at(&self, pool: &Pool, upstream_target: &Arc<UpstreamTarget>) -> bool {
        Arc::ptr_eq(&self.upstream_target(&pool.key.database), upstream_target)
    }
}
