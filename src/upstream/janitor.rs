//! What is done once in a while: idle connections are looked after, hosts' names looked up again, pools forgotten.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::info;

use super::registry::Registry;
use super::target::{Address, TargetHost};
use crate::lock::lock;

/// Idle time after which a used session is reset without being asked for.
const RESET_AFTER: Duration = Duration::from_millis(100);

/// How often the janitor comes when nothing is due soon.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// After how long a pool without connections is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

impl Registry {
    /// Looks after idle connections for as long as the process lives.
    pub(crate) async fn janitor(self: Arc<Self>) {
        let mut dirty = false;
        loop {
            let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last_round.store(age, Ordering::Relaxed);
            tokio::time::sleep(if dirty { RESET_AFTER } else { ROUND_INTERVAL }).await;
            dirty = false;
            let pools = self.all_pools();
            for pool in &pools {
                let settings = self.settings_of(&pool.key.database);
                let keep = self.upstream_target(&pool.key.database).room.keep();
                let (chores, some_dirty) = pool.maintain(&settings, RESET_AFTER, keep);
                dirty |= some_dirty;
                for (pooled, chore) in chores {
                    let pool = Arc::clone(pool);
                    let limit = settings.cleanup_timeout;
                    tokio::spawn(async move { pool.see_to(pooled, chore, limit).await });
                }
            }
            drop(pools);
            self.look_up_again();
            self.look_at_servers();
            let now = Instant::now();
            lock(&self.pools).retain(|_, pool| {
                let came_to_nothing = || pool.never_connected() && pool.role_auth.last_trouble(now).is_none();
                Arc::strong_count(pool) > 1
                    || pool.expects_clients()
                    || !(came_to_nothing() || pool.is_abandoned(FORGET_AFTER))
            });
        }
    }

    /// Looks hosts' names up again where that is due, in the background: connections to addresses that a name no longer
    /// stands for are closed as they come free.
    fn look_up_again(&self) {
        let age = self.settings.load().dns_max_ttl;
        let upstream_targets = self.upstream_targets();
        let due = |endpoint: &TargetHost| endpoint.resolved().is_some_and(|(_, since, _)| since >= age);
        for upstream_target in upstream_targets.all() {
            for at in (0..upstream_target.endpoints.len()).filter(|at| due(&upstream_target.endpoints[*at])) {
                let (upstream_target, registry) = (Arc::clone(upstream_target), self.this.clone());
                tokio::spawn(async move {
                    let vanished = upstream_target.endpoints[at].vanished(age).await;
                    if let Some(registry) = registry.upgrade().filter(|_| !vanished.is_empty()) {
                        info!("{} no longer stands for {vanished:?}", upstream_target.endpoints[at].host);
                        registry.leave(&vanished);
                    }
                });
            }
        }
    }

    /// Has connections to these addresses closed as they come free.
    fn leave(&self, addresses: &[SocketAddr]) {
        for conn_info in self.all_pools().iter().flat_map(|pool| pool.conn_infos.all()) {
            if let Address::Tcp(address) = &conn_info.remote
                && addresses.contains(address)
            {
                conn_info.retire();
            }
        }
    }
}
