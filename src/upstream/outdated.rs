//! Connections that are in the way of what a client does to the server's databases and roles, or out of date behind it.

use std::sync::Arc;

use super::pools::Pools;
use super::role_auth::Succession;
use super::target::UpstreamTarget;

impl Pools {
    /// Has the connections closed that lead to the `doomed` database of the server behind clients' `database`: those that are
    /// idle now, and the others as they come free.
    pub(crate) fn vacate(&self, database: &[u8], doomed: &[u8]) {
        let config = &self.server_side.config;
        for pool in self.at(&config.upstream_target(database)) {
            if config.real_database(&pool.key.database) == doomed {
                pool.reconnect();
            }
        }
        self.server_side.auth_query_slots.reclaim();
    }

    /// Notes that what sessions begin with has changed on the server behind clients' `database`: they go on with new connections.
    pub(crate) fn outdate_sessions(&self, database: &[u8]) {
        self.server_side.roles.forget_refusals();
        let upstream_target = self.server_side.config.upstream_target(database);
        upstream_target.room.sessions_are_replaced();
        self.outdate_sessions_at(&upstream_target);
    }

    pub(super) fn outdate_sessions_at(&self, upstream_target: &Arc<UpstreamTarget>) {
        let mut pools = self.at(upstream_target);
        pools.sort_by_key(|pool| Arc::as_ptr(&pool.role_auth));
        pools.dedup_by_key(|pool| Arc::as_ptr(&pool.role_auth));
        for pool in pools {
            self.succeed(&pool.role_auth, Succession::SameRole);
        }
    }
}
