//! What becomes of connections that nobody uses.

use std::time::{Duration, Instant};

use super::Pool;
use crate::config::Settings;
use crate::track::server_state::UsedBy;
use crate::upstream::counters::CloseReason;
use crate::upstream::lease::PooledConn;

impl Pool {
    /// Once in a while: closes what is too old, idle for too long or dead; returns those whose reset is due; keeps
    /// `min_idle` open; tries again what has failed. Says whether anything is left to look after soon.
    pub(in crate::upstream) fn maintain(
        &self,
        settings: &Settings,
        reset_due: Option<Duration>,
    ) -> (Vec<PooledConn>, bool) {
        let now = Instant::now();
        let keep = settings.min_idle;
        let mut idle = self.idle_count();
        let mut dirty = false;
        let mut due = |pooled: &PooledConn| {
            let age = now.saturating_duration_since(pooled.returned);
            let too_old = settings.idle_timeout.is_some_and(|limit| age >= limit) && idle > keep;
            if too_old || self.unfit(pooled, now).is_some() || pooled.conn.stream().has_arrived() {
                idle = idle.saturating_sub(1);
                return true;
            }
            let Some(after) = reset_due.filter(|_| pooled.state.used != UsedBy::Nothing) else { return false };
            dirty = true;
            age >= after
        };
        let taken = self.take_matching(&mut due);
        let mut resets = Vec::new();
        for mut pooled in taken {
            let age = now.saturating_duration_since(pooled.returned);
            let too_old = settings.idle_timeout.is_some_and(|limit| age >= limit);
            let unfit = if too_old { Some(CloseReason::Idle) } else { self.unfit(&pooled, now) };
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
        let ready = self.idle_count() + resets.len();
        if self.parameters.baseline().is_some() && ready < settings.min_idle {
            self.dial_for(settings.min_idle - ready);
        } else if self.trouble().is_some() {
            // Who waits until pgferry is well again asks for nothing meanwhile, so that nobody else would find out.
            self.dial_for(1);
        }
        (resets, dirty)
    }
}
