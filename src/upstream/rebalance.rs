//! Which pools make room for others where all slots are taken.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::capacity::Prospect;
use super::close::CloseReason;
use super::dial::DialError;
use super::occupancy::Occupancy;
use super::pool::Pool;
use super::pool::neighbours::{Among, Neighbours};
use super::pools::Pools;
use super::quota::QuotaExceeded;
use super::role_auth::RoleAuth;
use super::server_side::ServerSide;
use super::slots::Slot;
use super::target::UpstreamTarget;

/// A slot under the cap over all pools that belongs to none of them.
#[derive(Debug)]
pub(crate) struct UnpooledSlot {
    slot: Option<Slot>,
    /// One among its user's connections, if it counts there.
    user: Option<Slot>,
    pools: Weak<Pools>,
}

impl Drop for UnpooledSlot {
    fn drop(&mut self) {
        drop((self.slot.take(), self.user.take()));
        if let Some(pools) = self.pools.upgrade() {
            pools.serve_waiting();
        }
    }
}

impl Neighbours for Pools {
    fn make_room(&self, pool: &Pool, among: Among) -> Prospect {
        match among {
            Among::All => self.make_room_for(Some(pool), |_| true),
            Among::SameRole => self.make_room_for(Some(pool), |other| other.key.user == pool.key.user),
        }
    }

    fn open_for_waiting(&self) {
        for pool in self.with_former().iter().filter(|pool| pool.has_waiters()) {
            pool.open_as_needed();
        }
    }

    fn server_is_full(&self, pool: &Pool, error: &DialError) {
        Self::server_is_full(self, Some(pool), &pool.key.database, error);
    }

    fn learn(&self, upstream_target: &Arc<UpstreamTarget>, seen: Occupancy) {
        Self::learn(self, upstream_target, seen);
    }

    fn deny(&self, role_auth: &Arc<RoleAuth>, error: &DialError) {
        Self::deny(self, role_auth, error);
    }
}

/// The pools, those with most idle connections first. Each is counted once: connections come and go meanwhile, and a sort by keys
/// that change panics.
fn most_idle_first<P>(pools: impl Iterator<Item = P>, idle_count: impl Fn(&P) -> usize) -> Vec<P> {
    let mut pools: Vec<P> = pools.collect();
    pools.sort_by_cached_key(|pool| std::cmp::Reverse(idle_count(pool)));
    pools
}

impl Pools {
    /// A slot under the cap over all pools, for a connection that belongs to none and has a slot of its `user`'s if it counts
    /// there. Where all are taken, a connection that no client uses gives up its own; `None` where there is none such, or it has
    /// not closed within `patience`.
    pub(crate) async fn slot(&self, user: Option<Slot>, patience: Duration) -> Option<UnpooledSlot> {
        let mut slots = UnpooledSlot { slot: None, user, pools: self.this.clone() };
        slots.slot = Some(self.server_side.capacity.take(patience, || self.make_room_for(None, |_| true)).await?);
        Some(slots)
    }

    /// A slot among `user`'s connections, for one that belongs to no pool. Where all are taken, one that no client uses gives up its own.
    ///
    /// # Errors
    /// When there is none such, or it has not closed within `patience`.
    pub(crate) async fn user_slot(&self, user: &[u8], patience: Duration) -> Result<Slot, QuotaExceeded> {
        let ServerSide { config, capacity, quotas, .. } = &*self.server_side;
        let taken = async {
            loop {
                let mut freed = std::pin::pin!(capacity.freed());
                freed.as_mut().enable();
                let slot = quotas.upstream_slot(&config.settings, user);
                if slot.is_ok() || self.make_room_for(None, |other| other.key.user == user) == Prospect::None {
                    return slot;
                }
                freed.await;
            }
        };
        timeout(patience, taken).await.unwrap_or(Err(QuotaExceeded))
    }

    /// No slot was found under a cap that is shared by those pools that `shares` picks: makes room by closing an idle
    /// connection of one of them, other than `waiting`.
    fn make_room_for(&self, waiting: Option<&Pool>, shares: impl Fn(&Pool) -> bool) -> Prospect {
        self.server_side.capacity.want();
        let pools = self.all();
        let is_waiting = |pool: &Pool| waiting.is_some_and(|waiting| std::ptr::eq(pool, waiting));
        let others: Vec<_> = pools.iter().filter(|pool| !is_waiting(pool) && shares(pool)).collect();
        // Before those that are idle are counted: one that comes back meanwhile is either.
        let any_returns = others.iter().any(|pool| pool.has_returning());
        let others = most_idle_first(others.into_iter(), |pool| pool.idle_count());
        match others.first().and_then(|most_idle| most_idle.take_idle()) {
            Some(mut idle) => {
                idle.close_reason = CloseReason::Surplus;
                Prospect::Coming
            }
            // It is given back and then taken from there.
            None if others.iter().any(|pool| pool.recall_oldest()) => Prospect::Coming,
            None if self.server_side.auth_query_slots.reclaim() => Prospect::Coming,
            None if any_returns => Prospect::Possible,
            None => Prospect::None,
        }
    }

    /// A slot or a connection came free: wakes the tasks and pools that found none.
    pub(super) fn serve_waiting(&self) {
        if self.server_side.capacity.note_freed() {
            self.open_for_waiting();
        }
    }

    /// The server has refused a connection of `pool` (or one that belongs to none, to `database`) because it has none left:
    /// has an idle one of another pool closed, the same role's first.
    pub(crate) fn server_is_full(&self, pool: Option<&Pool>, database: &[u8], error: &DialError) {
        let config = &self.server_side.config;
        let upstream_target = config.upstream_target(database);
        let now = Instant::now();
        self.server_side.starvation.note(error.client_error().message(), now);
        if error.is_server_full() {
            upstream_target.room.refused(self.connections_at(&upstream_target), now);
            self.fit_to_servers();
        }
        let is_there = |other: &Pool| config.is_at(&other.key.database, &upstream_target);
        let same_role = |other: &Pool| pool.is_none_or(|pool| pool.key.user == other.key.user);
        if self.make_room_for(pool, |other| is_there(other) && same_role(other)) != Prospect::Coming {
            self.make_room_for(pool, is_there);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn pools_are_ordered_also_while_their_connections_come_and_go() {
        assert_eq!(most_idle_first([1, 7, 3].into_iter(), |idle| *idle), [7, 3, 1]);
        let seed = Cell::new(1u64);
        let ever_other = |_: &u32| {
            seed.set(seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            usize::try_from(seed.get() >> 60).unwrap_or_default()
        };
        for count in 0..500 {
            assert_eq!(most_idle_first(0..count, ever_other).len(), count as usize);
        }
    }
}
