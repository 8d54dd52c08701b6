//! Servers that take no new connections while they wait for the open ones to end: PostgreSQL's smart shutdown.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::info;

use super::pools::Pools;
use super::target::{Address, UpstreamTarget};

impl Pools {
    /// Has connections to servers that wait for them to end closed as they come free.
    pub(super) fn leave_stopping_servers(&self) {
        for upstream_target in self.server_side.config.upstream_targets().all() {
            let stopping = upstream_target.take_stopping();
            if !stopping.is_empty() {
                self.leave(upstream_target, &stopping);
            }
        }
    }

    fn leave(&self, upstream_target: &Arc<UpstreamTarget>, stopping: &HashSet<Address>) {
        let mut left = 0;
        for pool in self.at(upstream_target) {
            let conn_infos = pool.conn_infos.all();
            let there = conn_infos.iter().filter(|conn_info| stopping.contains(&conn_info.remote));
            for conn_info in there.filter(|conn_info| !conn_info.is_retired()) {
                conn_info.retire();
                left += 1;
            }
            // Clients that have not used theirs need none.
            while pool.recall_oldest() {}
        }
        self.server_side.auth_query_slots.reclaim();
        if left > 0 {
            info!(
                "PostgreSQL at {} takes no new connections, and may wait for the {left} open ones to end: they are closed as they come free",
                upstream_target.places()
            );
        }
    }
}
