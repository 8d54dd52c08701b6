//! Maintenance of idle connections.

use std::time::{Duration, Instant};

use super::Pool;
use crate::config::Settings;
use crate::track::server_state::UsedBy;
use crate::upstream::counters::CloseReason;
use crate::upstream::lease::PooledConn;

impl Pool {
    /// Closes connections that are too old, idle for too long or dead; returns those with a reset due; opens what
    /// `min_pool_size` lacks; tries again what has failed. Says whether anything is left to look after soon.
    pub(in crate::upstream) fn maintain(
        &self,
        settings: &Settings,
        reset_due: Option<Duration>,
    ) -> (Vec<PooledConn>, bool) {
        let now = Instant::now();
        let mut open = self.open();
        let mut idle_too_long = Vec::new();
        let mut dirty = false;
        let mut due = |pooled: &PooledConn| {
            let age = now.saturating_duration_since(pooled.returned);
            if settings.server_idle_timeout.is_some_and(|limit| age >= limit) && open > settings.min_pool_size {
                idle_too_long.push(pooled.id);
                open -= 1;
                return true;
            }
            if self.unfit(pooled, now).is_some() || pooled.conn.stream().has_arrived() {
                open = open.saturating_sub(1);
                return true;
            }
            let Some(after) = reset_due.filter(|_| pooled.state.used != UsedBy::Nothing) else { return false };
            dirty = true;
            age >= after
        };
        let taken = self.take_matching(&mut due);
        let mut resets = Vec::new();
        for mut pooled in taken {
            let is_idle = idle_too_long.contains(&pooled.id);
            let unfit = if is_idle { Some(CloseReason::Idle) } else { self.unfit(&pooled, now) };
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
        settings.min_pool_size.saturating_sub(self.open() + self.queue().waiting())
    }

    /// The number of connections that are open, those in use included.
    fn open(&self) -> usize {
        // A connection that is being opened has its slot already.
        let opening = self.queue().dialling();
        self.slots.used().saturating_sub(opening)
    }
}
