//! Looks at how full each server is, and what follows for the connections that there may be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::capacity::UNKNOWN;
use super::close::CloseReason;
use super::occupancy::{News, Occupancy};
use super::pools::Pools;
use super::server_conn::ServerConn;
use super::target::UpstreamTarget;
use crate::lock::lock;
use crate::track::unnamed_statement::UnnamedStatement;

impl Pools {
    /// Adapts the number of connections to the settings in force, and to what the servers are known to have.
    pub(super) fn fit_to_servers(&self) {
        let max_upstream = self.server_side.config.settings.load().pool.max_upstream;
        let (most, share) = max_upstream.map_or_else(|| self.limits_of_servers(), |most| (most, most));
        self.server_side.capacity.resize(most, share);
        self.serve_waiting();
    }

    /// The most connections that the servers have for this process, and its share of them.
    fn limits_of_servers(&self) -> (usize, usize) {
        let upstream_targets = self.server_side.config.upstream_targets();
        let limits = upstream_targets.all().into_iter().map(|upstream_target| {
            let known = upstream_target.room.limits(self.connections_at(upstream_target));
            known.unwrap_or((UNKNOWN, UNKNOWN))
        });
        let (most, share) = limits.reduce(|sum, one| (sum.0 + one.0, sum.1 + one.1)).unwrap_or((UNKNOWN, UNKNOWN));
        let ceiling = self.server_side.capacity.ceiling();
        (most.min(ceiling), share.min(ceiling))
    }

    /// Looks at how full each server is, on a connection that is idle anyway, where that is due.
    pub(super) fn look_at_servers(&self) {
        let config = &self.server_side.config;
        for upstream_target in config.upstream_targets().all() {
            if let Some(news) = upstream_target.room.overdue(Instant::now()) {
                tell(upstream_target, &news);
            }
            let Some(pool) = self.at(upstream_target).into_iter().find(|pool| pool.idle_count() > 0) else { continue };
            if !upstream_target.room.claim_look(Instant::now()) {
                continue;
            }
            let Some(pools) = self.this.upgrade() else { return };
            let returning = pool.begin_return();
            let Some(mut pooled) = pool.take_idle() else { continue };
            let upstream_target = Arc::clone(upstream_target);
            let limit = config.settings_of(&pool.key.database).timeouts.cleanup_timeout;
            tokio::spawn(async move {
                let Some(seen) = ask_on(&mut pooled, limit).await else { return };
                let conn_info = Arc::clone(&pooled.conn_info);
                pool.hand_out_asked(pooled);
                drop(returning);
                if let Some(seen) = seen {
                    let mut process = lock(&conn_info.process);
                    upstream_target.pooler.learn(&mut process, conn_info.pid, seen.process, &upstream_target.places());
                    drop(process);
                    pools.learn(&upstream_target, seen);
                }
            });
        }
    }

    /// Notes what a look has shown, and tells what is news.
    pub(super) fn learn(&self, upstream_target: &Arc<UpstreamTarget>, seen: Occupancy) {
        let before = upstream_target.room.seen();
        if before.is_none_or(|before| before.places() != seen.places()) {
            let ours = self.connections_at(upstream_target);
            let comes_to = if let Some(most) = self.server_side.config.settings.load().pool.max_upstream {
                format!("max_upstream = {most} is set")
            } else {
                let share = seen.share(ours).min(self.server_side.capacity.ceiling());
                format!("max_upstream = \"auto\" comes to {share}")
            };
            info!(
                "{comes_to}: PostgreSQL at {} has max_connections = {} ({} reserved, {} in use by others)",
                upstream_target.places(),
                seen.max_connections,
                seen.reserved,
                seen.used.saturating_sub(ours),
            );
        }
        let learned = upstream_target.room.learn(seen);
        if let Some(news) = learned.news {
            tell(upstream_target, &news);
        }
        if learned.outdated {
            self.outdate_sessions_at(upstream_target);
        }
        self.fit_to_servers();
    }
}

/// Asks on an idle connection how full its server is; `None` where that fails, and it is to be closed.
async fn ask_on(server_conn: &mut ServerConn, limit: Duration) -> Option<Option<Occupancy>> {
    server_conn.state.unnamed = UnnamedStatement::Absent;
    let (state, mut has_room) = (&mut server_conn.state, true);
    let before = state.params.clone();
    let ask = Occupancy::ask(&mut server_conn.conn, |name, value| has_room &= state.on_report(name, value));
    let answer = timeout(limit, ask).await;
    server_conn.state.on_new_defaults_since(&before);
    match answer {
        Ok(Ok(seen)) if has_room => Some(seen),
        _ => {
            server_conn.close_reason = CloseReason::Dead;
            None
        }
    }
}

/// Tells that a server is full, and by which roles its places are held.
fn tell(upstream_target: &UpstreamTarget, news: &News) {
    let numbers = news.0.as_ref().map_or_else(String::new, |seen| format!(": {}", seen.idle_ones()));
    warn!(
        "PostgreSQL at {} is full and refuses connections{numbers}; clients wait while it is tried again",
        upstream_target.places()
    );
}
