//! What becomes of a connection when its client is done with it.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::relay::{End, Outcome};
use crate::config::{Mode, Reset, Settings};
use crate::track::Clean;
use crate::upstream::Lease;
use crate::upstream::restore::{self, Leftover};

/// Gives `lease` back as far as it is fit: at once, after cleaning up in the background, or not at all.
///
/// A session in which state was seen is reset now. Any other is reset in front of its next client's first message (or
/// by the janitor), so that nobody waits for it.
pub fn give_back(shared: &Arc<Shared>, settings: &Settings, lease: Lease, outcome: Outcome, client: u64) {
    let Outcome { end, ready, pipeline, pins, partial_down, partial_up, cut: _ } = outcome;
    let broken = matches!(end, End::UpstreamLost { .. } | End::Stale) || partial_up || pipeline.lost();
    if broken {
        // Dropping a lease closes its connection.
        return;
    }
    // In transaction mode clients count on it that nobody else has left anything.
    let may_reset = settings.reset != Reset::Never || settings.mode == Mode::Transaction;
    let reset = may_reset && !pins.is_empty();
    let at_rest = partial_down == 0 && lease.conn.input.is_empty();
    let ignored = if may_reset { pins } else { crate::track::Pins::none() };
    match Clean::prove(&pipeline, ignored) {
        Some(clean) if at_rest => lease.release(clean, client, ready.unwrap_or_else(Instant::now)),
        _ => {
            let cancel = matches!(end, End::ClientGone | End::Refuse(_) | End::Shutdown);
            let leftover = Leftover { pipeline, partial: partial_down, cancel, reset, client };
            restore::restore(lease, Arc::clone(&shared.registry), leftover, settings.cleanup_timeout);
        }
    }
}
