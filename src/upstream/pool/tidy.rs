//! What becomes of connections that nobody uses.

use std::time::{Duration, Instant};

use super::Pool;
use crate::config::Settings;
use crate::track::server_state::UsedBy;
use crate::upstream::counters::Closing;
use crate::upstream::lease::Upstream;

impl Pool {
    /// Once in a while: closes what is too old, idle for too long or dead; returns those whose reset is due; keeps
    /// `min_pool_size` open; tries again what has failed. Says whether anything is left to look after soon.
    pub(in crate::upstream) fn tidy(&self, settings: &Settings, reset_due: Option<Duration>) -> (Vec<Upstream>, bool) {
        let now = Instant::now();
        let keep = settings.min_pool_size;
        let mut idle = self.idle_count();
        let mut dirty = false;
        let mut due = |upstream: &Upstream| {
            let age = now.saturating_duration_since(upstream.returned);
            let too_old = settings.server_idle_timeout.is_some_and(|limit| age >= limit) && idle > keep;
            if too_old || self.unfit(upstream, now).is_some() || upstream.conn.stream().has_arrived() {
                idle = idle.saturating_sub(1);
                return true;
            }
            let Some(after) = reset_due.filter(|_| upstream.state.used != UsedBy::Nothing) else { return false };
            dirty = true;
            age >= after
        };
        let taken = self.sift(&mut due);
        let mut resets = Vec::new();
        for mut upstream in taken {
            let age = now.saturating_duration_since(upstream.returned);
            let too_old = settings.server_idle_timeout.is_some_and(|limit| age >= limit);
            let unfit = if too_old { Some(Closing::Idle) } else { self.unfit(&upstream, now) };
            if let Some(why) = unfit {
                upstream.closing = why;
            } else if !upstream.look() {
                upstream.closing = Closing::Dead;
            } else if upstream.state.used == UsedBy::Nothing || reset_due.is_none() {
                self.hand_out(upstream);
            } else {
                resets.push(upstream);
            }
        }
        dirty |= reset_due.is_some_and(|after| self.rest_loans(after));
        let ready = self.idle_count() + resets.len();
        if self.parameters.baseline().is_some() && ready < settings.min_pool_size {
            self.dial_for(settings.min_pool_size - ready);
        } else if self.trouble().is_some() {
            // Who waits until pgferry is well again asks for nothing meanwhile, so that nobody else would find out.
            self.dial_for(1);
        }
        (resets, dirty)
    }
}
