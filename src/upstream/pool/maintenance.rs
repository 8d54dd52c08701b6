//! Maintenance of idle connections.

use std::time::{Duration, Instant};

use super::Pool;
use super::lease::PooledConn;
use crate::config::{Reset, Settings};
use crate::track::session_code::{Due, Inquiry};
use crate::upstream::close::CloseReason;
use crate::upstream::occupancy::Keep;
use crate::upstream::own_statements;
use crate::upstream::queue::Queue;
use crate::upstream::session_code;

/// Time for which a connection of the reserve is kept idle.
const RESERVE_IDLE: Duration = Duration::from_secs(10);

/// Time that one to `template1` waits for the client that it was opened for.
const UNUSED_TEMPLATE: Duration = Duration::from_secs(1);

/// Time for which one is kept idle while the server is filling up.
const PRESSED_IDLE: Duration = Duration::from_secs(1);

/// Time after the last client for which the code of a database is looked at.
const LOOKED_AT: Duration = Duration::from_secs(60);

/// Work that is due on an idle connection.
#[derive(Debug)]
pub(in crate::upstream) enum Chore {
    /// To reset what clients have left.
    Reset,
    /// To look at the code of its database.
    Look(Inquiry),
}

/// Claims a look at the code of the database, where `pooled` is to take one.
fn look_due(pooled: &PooledConn, settings: &Settings, now: Instant) -> Option<Inquiry> {
    let is_wanted = settings.pool.reset == Reset::Auto && now.saturating_duration_since(pooled.returned) < LOOKED_AT;
    if is_wanted { pooled.state.code.code().claim(Due::Past, now) } else { None }
}

/// Choice of the idle connections that a pool keeps; it is asked of one after another, the one that has been idle longest first.
#[derive(Clone, Copy, Debug)]
struct Retention {
    idle_timeout: Option<Duration>,
    /// Number of connections that are kept in any case, those in use included (`min_pool_size`).
    least: usize,
    room: Keep,
    /// Number of those that are closed however short they have been idle: with one of several, other processes get their turn at a server
    /// that is nearly full.
    spare: usize,
    /// Number of idle ones.
    idle: usize,
    /// Their number.
    open: usize,
    /// Number of connections of the reserve, in any state.
    reserve: usize,
}

impl Retention {
    /// Reason why one that has been idle for `age` is to be closed, if it is.
    fn ends(&mut self, age: Duration) -> Option<CloseReason> {
        let idle_under_pressure = match self.room {
            Keep::All => usize::MAX,
            Keep::One => 1,
            Keep::None => 0,
        };
        let why = if self.open <= self.least {
            return None;
        } else if self.idle_timeout.is_some_and(|limit| age >= limit) {
            CloseReason::Idle
        } else if (self.reserve > 0 && age >= RESERVE_IDLE)
            || (self.idle > idle_under_pressure && age >= PRESSED_IDLE)
            || self.spare > 0
        {
            CloseReason::Surplus
        } else {
            return None;
        };
        self.loses_one();
        Some(why)
    }

    /// One of them is closed.
    fn loses_one(&mut self) {
        self.idle = self.idle.saturating_sub(1);
        self.spare = self.spare.saturating_sub(1);
        self.open = self.open.saturating_sub(1);
        self.reserve = self.reserve.saturating_sub(1);
    }
}

impl Pool {
    /// Closes connections that are too old, idle for too long, dead, or needed by others as the server has `room`; returns those
    /// that have something due: a reset, after `reset_after`, or a look at the database's code. Opens what `min_pool_size` lacks;
    /// tries again what has failed. Says whether anything is left to look after soon.
    pub(in crate::upstream) fn maintain(
        &self,
        settings: &Settings,
        reset_after: Duration,
        room: Keep,
    ) -> (Vec<(PooledConn, Chore)>, bool) {
        let now = Instant::now();
        let mut retention = self.retention(settings, room);
        let mut dirty = false;
        let mut why = Vec::new();
        let mut due = |pooled: &PooledConn| {
            let age = now.saturating_duration_since(pooled.returned);
            let unfit = retention.ends(age).or_else(|| self.unfit(pooled, now).inspect(|_| retention.loses_one()));
            let needs_reset = session_code::needs_reset(settings.pool.reset, &pooled.state, now);
            let chore = if unfit.is_some() {
                None
            } else if let Some(inquiry) = look_due(pooled, settings, now) {
                Some(Chore::Look(inquiry))
            } else {
                (needs_reset && age >= reset_after).then_some(Chore::Reset)
            };
            let picked = unfit.is_some() || pooled.conn.stream().has_arrived() || chore.is_some();
            dirty |= needs_reset && unfit.is_none();
            if picked {
                why.push((unfit, chore));
            }
            picked
        };
        let taken = self.take_matching(&mut due);
        let chores = taken.into_iter().zip(why).filter_map(|(pooled, (unfit, chore))| self.sort(pooled, unfit, chore));
        let chores = chores.collect();
        dirty |= matches!(settings.pool.reset, Reset::Always | Reset::Auto) && self.reset_tentative(reset_after);
        self.open_missing(settings);
        (chores, dirty)
    }

    /// Returns what decides about this pool's idle connections as the server has `room`.
    fn retention(&self, settings: &Settings, room: Keep) -> Retention {
        let (idle_timeout, least) = if self.leaves_server {
            (Some(UNUSED_TEMPLATE), 0)
        } else {
            (settings.timeouts.server_idle_timeout, settings.pool.min_pool_size)
        };
        let idle = self.idle_count();
        Retention {
            idle_timeout,
            least,
            room,
            spare: usize::from(room == Keep::None && idle > 1),
            idle,
            open: self.open(&self.queue()),
            reserve: self.connections().saturating_sub(self.size()),
        }
    }

    /// Closes a connection that was idle if it is `unfit` or dead; hands it out otherwise, or returns it with the `chore` that is due.
    fn sort(
        &self,
        mut pooled: PooledConn,
        unfit: Option<CloseReason>,
        chore: Option<Chore>,
    ) -> Option<(PooledConn, Chore)> {
        if let Some(why) = unfit {
            pooled.close_reason = why;
        } else if !pooled.check_alive() {
            pooled.close_reason = CloseReason::Dead;
        } else if let Some(chore) = chore {
            return Some((pooled, chore));
        } else {
            self.hand_out_asked(pooled);
        }
        None
    }

    /// Opens what `min_pool_size` lacks, or tries again where the last attempt has failed.
    fn open_missing(&self, settings: &Settings) {
        let missing = self.missing(settings);
        if self.parameters.baseline().is_some() && missing > 0 {
            self.dial_for(missing);
        } else if self.trouble().is_some() {
            // Clients that wait until pgferry is ready ask for nothing meanwhile, so no other attempt would find out.
            self.dial_for(1);
        }
    }

    /// Does what is due on a connection that was idle.
    pub(in crate::upstream) async fn see_to(&self, mut pooled: PooledConn, chore: Chore, limit: Duration) {
        match chore {
            Chore::Reset => {
                if own_statements::reset(&mut pooled, limit).await {
                    self.parameters.learn_reset(&mut pooled.state);
                    self.hand_out(pooled);
                }
            }
            Chore::Look(inquiry) => {
                if session_code::look(&mut pooled, inquiry, &self.key.database, limit).await {
                    self.hand_out_asked(pooled);
                }
            }
        }
    }

    /// The number of connections to open that no client waits for, so that there are `min_pool_size`.
    pub(super) fn missing(&self, settings: &Settings) -> usize {
        let least = if self.leaves_server { 0 } else { settings.pool.min_pool_size };
        let queue = self.queue();
        least.saturating_sub(self.open(&queue) + queue.waiting())
    }

    /// The number of connections that are open, those in use included.
    pub(super) fn open(&self, queue: &Queue<PooledConn>) -> usize {
        // A connection that is being opened has its slot already.
        self.slots.used().saturating_sub(queue.dialling())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_are_kept_as_the_settings_and_the_server_allow() {
        let at_rest = Retention {
            idle_timeout: Some(Duration::from_secs(600)),
            least: 0,
            room: Keep::All,
            spare: 0,
            idle: 5,
            open: 5,
            reserve: 0,
        };
        // How many of five that have been idle for `age` seconds are closed, and why the first one is.
        let closed = |retention: Retention, age: u64| {
            let mut retention = retention;
            let why: Vec<_> = (0..5).filter_map(|_| retention.ends(Duration::from_secs(age))).collect();
            (why.len(), why.first().copied())
        };
        assert_eq!(closed(at_rest, 599), (0, None));
        assert_eq!(closed(at_rest, 600), (5, Some(CloseReason::Idle)));
        assert_eq!(closed(Retention { least: 2, ..at_rest }, 600), (3, Some(CloseReason::Idle)));
        assert_eq!(closed(Retention { least: 2, open: 6, ..at_rest }, 600), (4, Some(CloseReason::Idle)));
        assert_eq!(closed(Retention { reserve: 2, ..at_rest }, 10), (2, Some(CloseReason::Surplus)));
        assert_eq!(closed(Retention { reserve: 2, ..at_rest }, 9), (0, None));
        assert_eq!(closed(Retention { room: Keep::One, ..at_rest }, 1), (4, Some(CloseReason::Surplus)));
        assert_eq!(closed(Retention { room: Keep::None, ..at_rest }, 1), (5, Some(CloseReason::Surplus)));
        assert_eq!(closed(Retention { room: Keep::None, least: 3, ..at_rest }, 1), (2, Some(CloseReason::Surplus)));
        assert_eq!(closed(Retention { room: Keep::None, ..at_rest }, 0), (0, None));
        assert_eq!(closed(Retention { room: Keep::None, spare: 1, ..at_rest }, 0), (1, Some(CloseReason::Surplus)));
        assert_eq!(closed(Retention { room: Keep::None, spare: 1, least: 5, ..at_rest }, 0), (0, None));
        assert_eq!(closed(Retention { idle_timeout: None, ..at_rest }, 9999), (0, None));
    }
}
