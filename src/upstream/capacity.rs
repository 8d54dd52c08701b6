//! How many connections there may be over all pools, and which of them make room for others.
//!
//! Where `max_upstream` is "auto" the servers say how many they have. Up to its share a pool opens connections as it needs
//! them; beyond it, idle ones of other pools are closed first. The last word is the server's: what it refuses is tried again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::counters::CloseReason;
use super::dial::{DialError, NewConn};
use super::lease::PooledConn;
use super::occupancy::{News, Occupancy};
use super::pool::Pool;
use super::registry::Registry;
use super::slots::Slot;
use super::target::UpstreamTarget;
use crate::track::unnamed_statement::UnnamedStatement;

/// Number of connections that a server is taken to have until it has said so: PostgreSQL's default for `max_connections`.
pub(crate) const UNKNOWN: usize = 100;

/// A place under the cap over all pools that belongs to none of them.
#[derive(Debug)]
pub(crate) struct UnpooledSlot {
    slot: Option<Slot>,
    registry: Weak<Registry>,
}

impl Drop for UnpooledSlot {
    fn drop(&mut self) {
        drop(self.slot.take());
        if let Some(registry) = self.registry.upgrade() {
            registry.serve_waiting_pools();
        }
    }
}

impl Registry {
    /// Number of connections that may be open without making room first.
    #[must_use]
    pub(crate) fn share(&self) -> usize {
        self.share.load(Ordering::Relaxed)
    }

    /// The most connections that there may be.
    #[must_use]
    pub(crate) fn max_upstream(&self) -> usize {
        self.global.cap()
    }

    /// Waits until [`Registry::max_upstream`] has changed. Cancel-safe.
    pub(crate) async fn resized(&self) {
        self.resized.notified().await;
    }

    /// Adapts the number of connections to the settings in force, and to what the servers are known to have.
    pub(super) fn fit_to_servers(&self) {
        let (most, share) =
            self.settings.load().max_upstream.map_or_else(|| self.limits_of_servers(), |most| (most, most));
        if most != self.global.cap() {
            self.global.resize(most);
            self.resized.notify_one();
        }
        self.share.store(share, Ordering::Relaxed);
        self.serve_waiting_pools();
    }

    /// The most connections that the servers have for this process, and its share of them.
    fn limits_of_servers(&self) -> (usize, usize) {
        let upstream_targets = self.upstream_targets();
        let limits = upstream_targets.all().into_iter().map(|upstream_target| {
            let known = upstream_target.room.limits(self.ours_at(upstream_target));
            known.unwrap_or((UNKNOWN, UNKNOWN))
        });
        let (most, share) = limits.reduce(|sum, one| (sum.0 + one.0, sum.1 + one.1)).unwrap_or((UNKNOWN, UNKNOWN));
        (most.min(self.most_server_conns), share.min(self.most_server_conns))
    }

    /// Number of connections that the pools of `upstream_target` have.
    #[must_use]
    pub(crate) fn ours_at(&self, upstream_target: &Arc<UpstreamTarget>) -> usize {
        self.pools_at(upstream_target).iter().map(|pool| pool.connections()).sum()
    }

    /// Asks on a connection that has just been opened for `database` how full the server is, if it has not been asked.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub(super) async fn first_look(
        &self,
        new_conn: &mut NewConn,
        database: &[u8],
        limit: Duration,
    ) -> Result<(), DialError> {
        let upstream_target = self.upstream_target(database);
        if !upstream_target.room.claim_first_look(Instant::now()) {
            return Ok(());
        }
        let NewConn { conn, params, .. } = new_conn;
        let ask = Occupancy::ask(conn, |name, value| {
            params.set(name, value);
        });
        let seen = timeout(limit, ask).await;
        let seen =
            seen.map_err(|_| DialError::Broke("the server did not answer in time (server_connect_timeout)".into()))?;
        self.learn(&upstream_target, seen?);
        Ok(())
    }

    /// Has a look at how full each server is, on a connection that is idle anyway, where that is due.
    pub(super) fn look_at_servers(&self) {
        for upstream_target in self.upstream_targets().all() {
            if let Some(news) = upstream_target.room.overdue(Instant::now()) {
                tell(upstream_target, &news);
            }
            let pools = self.pools_at(upstream_target);
            let Some(pool) = pools.into_iter().find(|pool| pool.idle_count() > 0) else { continue };
            if !upstream_target.room.claim_look(Instant::now()) {
                continue;
            }
            let Some(registry) = self.this.upgrade() else { return };
            let Some(upstream) = pool.take_idle() else { continue };
            let (upstream_target, limit) =
                (Arc::clone(upstream_target), self.settings_of(&pool.key.database).cleanup_timeout);
            tokio::spawn(async move {
                if let Some((pooled_conn, seen)) = ask_on(upstream, limit).await {
                    pool.hand_out(pooled_conn);
                    registry.learn(&upstream_target, seen);
                }
            });
        }
    }

    fn learn(&self, upstream_target: &Arc<UpstreamTarget>, seen: Option<Occupancy>) {
        let Some(seen) = seen else { return };
        let before = upstream_target.room.seen();
        if before.as_ref().is_none_or(|before| before.places() != seen.places()) {
            let ours = self.ours_at(upstream_target);
            let comes_to = match self.settings.load().max_upstream {
                Some(most) => format!("max_upstream = {most} is set"),
                None => format!("max_upstream = \"auto\" comes to {}", seen.share(ours).min(self.most_server_conns)),
            };
            info!(
                "{comes_to}: PostgreSQL at {} has max_connections = {} ({} reserved, {} in use by others)",
                upstream_target.places(),
                seen.max_connections,
                seen.reserved,
                seen.used.saturating_sub(ours),
            );
        }
        let outdated = before.is_some_and(|before| before.settings != seen.settings);
        if let Some(news) = upstream_target.room.learn(seen) {
            tell(upstream_target, &news);
        }
        if outdated {
            self.outdate_sessions_at(upstream_target);
        }
        self.fit_to_servers();
    }

    /// The server has refused a connection of `pool` (or one that belongs to none, to `database`) because it has none left:
    /// has an idle one of another pool closed, the same role's first.
    pub(crate) fn server_is_full(&self, pool: Option<&Pool>, database: &[u8], error: &DialError) {
        let upstream_target = self.upstream_target(database);
        let now = Instant::now();
        self.hunger.felt(error.client_error().message(), now);
        if error.is_server_full() {
            upstream_target.room.refused(self.ours_at(&upstream_target), now);
            self.fit_to_servers();
        }
        let same_role = |other: &Pool| pool.is_none_or(|pool| pool.key.user == other.key.user);
        if !self.request_rebalance(pool, |other| self.is_at(other, &upstream_target) && same_role(other)) {
            self.request_rebalance(pool, |other| self.is_at(other, &upstream_target));
        }
    }

    /// A place under the cap over all pools, for a connection that belongs to none. Where all are taken, a connection that
    /// no client uses gives up its own; `None` where there is none such, or it has not closed within `patience`.
    pub(crate) async fn slot(&self, patience: Duration) -> Option<UnpooledSlot> {
        let slot = self.wait_for_slot(None, patience).await?;
        Some(UnpooledSlot { slot: Some(slot), registry: self.this.clone() })
    }

    /// As [`Registry::slot`], for `waiting_pool`.
    pub(super) async fn wait_for_slot(&self, waiting_pool: Option<&Pool>, patience: Duration) -> Option<Slot> {
        let taken = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                if let Some(slot) = self.global.try_take_of(self.share()) {
                    return Some(slot);
                }
                if !self.request_rebalance(waiting_pool, |_| true) {
                    return self.global.try_take();
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, taken).await.ok().flatten()
    }

    /// No place was found under a cap that is shared by those pools that `shares` picks: makes one by closing an idle
    /// connection of one of them, other than `waiting_pool`. Returns whether one will come free.
    pub(super) fn request_rebalance(&self, waiting_pool: Option<&Pool>, shares: impl Fn(&Pool) -> bool) -> bool {
        self.rebalance_requested.store(true, Ordering::SeqCst);
        let pools = self.all_pools();
        let is_waiting = |pool: &Pool| waiting_pool.is_some_and(|waiting_pool| std::ptr::eq(pool, waiting_pool));
        let others = pools.iter().filter(|pool| !is_waiting(pool) && shares(pool));
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(|pool| std::cmp::Reverse(pool.idle_count()));
        match others.first().and_then(|most_idle| most_idle.take_idle()) {
            Some(mut idle) => {
                idle.close_reason = CloseReason::Surplus;
                true
            }
            // It is given back and then taken from there.
            None if others.iter().any(|pool| pool.recall_oldest()) => true,
            None => self.auth_query_slots.reclaim(),
        }
    }

    /// Wakes the tasks that found no slot or connection, since one came free.
    pub(super) fn serve_waiting_pools(&self) {
        // Looked at first: writing would cost more, and this is asked whenever a connection comes back.
        if !self.rebalance_requested.load(Ordering::SeqCst) || !self.rebalance_requested.swap(false, Ordering::SeqCst) {
            return;
        }
        self.freed.notify_waiters();
        let pools = self.all_pools();
        for pool in pools.iter().filter(|pool| pool.has_waiters()) {
            pool.open_as_needed();
        }
    }
}

/// Asks on a connection how full its server is; `None`, closing the connection, where that fails.
async fn ask_on(mut pooled_conn: PooledConn, limit: Duration) -> Option<(PooledConn, Option<Occupancy>)> {
    let server_conn = &mut *pooled_conn;
    server_conn.state.unnamed = UnnamedStatement::Absent;
    let params = &mut server_conn.state.params;
    let ask = Occupancy::ask(&mut server_conn.conn, |name, value| {
        params.set(name, value);
    });
    let Ok(Ok(seen)) = timeout(limit, ask).await else {
        pooled_conn.close_reason = CloseReason::Dead;
        return None;
    };
    Some((pooled_conn, seen))
}

/// Tells that a server is full, and by whom its places are held.
fn tell(upstream_target: &UpstreamTarget, news: &News) {
    let numbers = news.0.as_ref().map_or_else(String::new, |seen| format!(": {}", seen.idle_ones()));
    warn!(
        "PostgreSQL at {} is full and refuses connections{numbers}; clients wait while it is tried again",
        upstream_target.places()
    );
}
