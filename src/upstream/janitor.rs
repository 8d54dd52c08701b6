//! What is done once in a while: idle connections are looked after, hosts' names looked up again, pools forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::pools::Pools;
use super::target::{Address, TargetHost};

/// Idle time after which a used session is reset without being asked for.
const RESET_AFTER: Duration = Duration::from_millis(100);

/// Interval of the janitor's rounds when nothing is due soon.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// After how long a pool without connections is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

impl Pools {
    /// Looks after idle connections for as long as the process lives.
    pub(crate) async fn janitor(self: Arc<Self>) {
        let mut dirty = false;
        loop {
            self.note_round();
            tokio::time::sleep(if dirty { RESET_AFTER } else { ROUND_INTERVAL }).await;
            dirty = false;
            self.leave_stopping_servers();
            let config = &self.server_side.config;
            let pools = self.all();
            for pool in &pools {
                let settings = config.settings_of(&pool.key.database);
                let keep = config.upstream_target(&pool.key.database).room.keep();
                // From before they are taken out, so that a pool that looks for room meanwhile waits for them.
                let returning = pool.begin_return();
                let (chores, some_dirty) = pool.maintain(&settings, RESET_AFTER, keep);
                dirty |= some_dirty;
                for (pooled, chore) in chores {
                    let pool = Arc::clone(pool);
                    let limit = settings.timeouts.cleanup_timeout;
                    let returning = pool.begin_return();
                    tokio::spawn(async move {
                        let _returning = returning;
                        pool.see_to(pooled, chore, limit).await;
                    });
                }
                drop(returning);
            }
            drop(pools);
            self.clear_former();
            self.look_up_again();
            self.leave_former_addresses();
            self.look_at_servers();
            let now = Instant::now();
            self.forget_unused(|pool| {
                let came_to_nothing = || pool.never_connected() && pool.role_auth.last_trouble(now).is_none();
                !pool.expects_clients() && (came_to_nothing() || pool.is_abandoned(FORGET_AFTER))
            });
            self.forget_surplus();
        }
    }

    /// Looks hosts' names up again where that is due, in the background.
    fn look_up_again(&self) {
        let config = &self.server_side.config;
        let age = config.settings.load().upstream.dns_max_ttl;
        let upstream_targets = config.upstream_targets();
        let due = |endpoint: &TargetHost| endpoint.resolved().is_some_and(|(_, since, _)| since >= age);
        for upstream_target in upstream_targets.all() {
            for at in (0..upstream_target.endpoints.len()).filter(|at| due(&upstream_target.endpoints[*at])) {
                let upstream_target = Arc::clone(upstream_target);
                tokio::spawn(async move { upstream_target.endpoints[at].refresh(age).await });
            }
        }
    }

    /// Has connections closed as they come free that go to addresses to which no host's name resolves any more, whatever has looked it
    /// up: each connection that is opened does too.
    fn leave_former_addresses(&self) {
        let config = &self.server_side.config;
        let age = config.settings.load().upstream.dns_max_ttl;
        let mut left: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
        for pool in self.all().iter().filter(|pool| !pool.is_outdated()) {
            let upstream_target = config.upstream_target(&pool.key.database);
            for conn_info in pool.conn_infos.all() {
                let Address::Tcp(address) = conn_info.remote else { continue };
                if !conn_info.is_retired() && upstream_target.has_left(address, age) {
                    conn_info.retire();
                    left.entry(upstream_target.places()).or_default().insert(address);
                }
            }
        }
        for (places, addresses) in left {
            info!("{places} no longer resolves to {:?}", Vec::from_iter(addresses));
        }
    }
}
