//! Maintenance of idle connections.

use std::time::{Duration, Instant};

use super::Pool;
use crate::config::Settings;
use crate::track::server_state::UsedBy;
use crate::upstream::counters::CloseReason;
use crate::upstream::lease::PooledConn;
use crate::upstream::occupancy::Keep;
use crate::upstream::queue::Queue;

/// How long a connection of the reserve is kept idle.
const RESERVE_IDLE: Duration = Duration::from_secs(10);

/// Time that one to `template1` waits for the client that it was opened for.
const UNUSED_TEMPLATE: Duration = Duration::from_secs(1);

/// How long one is kept idle while the server is filling up.
const PRESSED_IDLE: Duration = Duration::from_secs(1);

/// Which idle connections of a pool are kept; it is asked of one after another, the one that has been idle longest first.
#[derive(Clone, Copy, Debug)]
struct Retention {
    idle_timeout: Option<Duration>,
    /// Number of connections that are kept in any case, those in use included (`min_pool_size`).
    least: usize,
    room: Keep,
    /// How many are idle.
    idle: usize,
    /// Their number.
    open: usize,
    /// How many connections of the reserve there are, in any state.
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
        } else if (self.reserve > 0 && age >= RESERVE_IDLE) || (self.idle > idle_under_pressure && age >= PRESSED_IDLE)
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
        self.open = self.open.saturating_sub(1);
        self.reserve = self.reserve.saturating_sub(1);
    }
}

impl Pool {
    /// Closes connections that are too old, idle for too long, dead, or needed by others as the server has `room`; returns those
    /// with a reset due; opens what `min_pool_size` lacks; tries again what has failed. Says whether anything is left to look
    /// after soon.
    pub(in crate::upstream) fn maintain(
        &self,
        settings: &Settings,
        reset_due: Option<Duration>,
        room: Keep,
    ) -> (Vec<PooledConn>, bool) {
        let now = Instant::now();
        let mut retention = Retention {
            idle_timeout: if self.leaves_server { Some(UNUSED_TEMPLATE) } else { settings.server_idle_timeout },
            least: if self.leaves_server { 0 } else { settings.min_pool_size },
            room,
            idle: self.idle_count(),
            open: self.open(&self.queue()),
            reserve: self.connections().saturating_sub(self.size()),
        };
        let mut dirty = false;
        let mut why = Vec::new();
        let mut due = |pooled: &PooledConn| {
            let age = now.saturating_duration_since(pooled.returned);
            let unfit = retention.ends(age).or_else(|| self.unfit(pooled, now).inspect(|_| retention.loses_one()));
            let reset_is_due = || reset_due.is_some_and(|after| age >= after);
            let is_used = pooled.state.used != UsedBy::Nothing && reset_due.is_some();
            let picked = unfit.is_some() || pooled.conn.stream().has_arrived() || (is_used && reset_is_due());
            dirty |= is_used && unfit.is_none();
            if picked {
                why.push(unfit);
            }
            picked
        };
        let taken = self.take_matching(&mut due);
        let mut resets = Vec::new();
        for (mut pooled, unfit) in taken.into_iter().zip(why) {
            if let Some(why) = unfit {
                pooled.close_reason = why;
            } else if !pooled.check_alive() {
                pooled.close_reason = CloseReason::Dead;
            } else if pooled.state.used == UsedBy::Nothing || reset_due.is_none() {
                self.hand_out(pooled);
            } else {
                resets.push(pooled);
            }
        }
        dirty |= reset_due.is_some_and(|after| self.reset_tentative(after));
        let missing = self.missing(settings);
        if self.parameters.baseline().is_some() && missing > 0 {
            self.dial_for(missing);
        } else if self.trouble().is_some() {
            // Clients that wait until pgferry is ready ask for nothing meanwhile, so no other attempt would find out.
            self.dial_for(1);
        }
        (resets, dirty)
    }

    /// The number of connections to open that no client waits for, so that there are `min_pool_size`.
    pub(super) fn missing(&self, settings: &Settings) -> usize {
        let least = if self.leaves_server { 0 } else { settings.min_pool_size };
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
        assert_eq!(closed(Retention { idle_timeout: None, ..at_rest }, 9999), (0, None));
    }
}
