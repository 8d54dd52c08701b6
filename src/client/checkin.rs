//! What becomes of a connection when its client is done with it.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::relay::{End, Outcome};
use crate::config::{Mode, Reset, Settings};
use crate::machine::{self, MachineResult};
use crate::track::server_state::CloseMethod;
use crate::track::{Clean, Pins};
use crate::upstream::cleanup::{self, Aim, SessionLeftovers};
use crate::upstream::{CloseReason, Lease};

/// Gives `lease` back as far as it is fit: at once, after cleaning up in the background, or not at all.
///
/// A session in which state was seen is reset now. Any other is reset in front of its next client's first message (or
/// by the janitor), so that no client waits for it.
pub(crate) fn check_in(shared: &Arc<Shared>, settings: &Settings, mut lease: Lease, outcome: Outcome) {
    let Outcome { end, ready, remains } = outcome;
    // In transaction mode clients count on it that no other client has left anything.
    let may_reset = settings.pool.reset != Reset::Never || settings.pool.pool_mode == Mode::Transaction;
    let cancel = matches!(end, End::ClientGone | End::Shutdown | End::Killed | End::Machine(machine::End::Refuse(_)));
    // In a copy, the server waits for the rest of a message of which it has a part.
    let awaits_client = lease.state.close_method == CloseMethod::Silent && remains.pipeline.copying_in();
    let is_at_work = !remains.pipeline.answered() && !awaits_client;
    // A server that is to end idle sessions would end one that waits for its next client.
    let times_out = lease.state.kept.mentions(b"idle_session_timeout");
    let aim = match () {
        () if !is_fit(&mut lease, &remains, may_reset) => Aim::Closed,
        () if may_reset && (!remains.pins.is_empty() || times_out) => Aim::AsNew,
        () => Aim::Settled,
    };
    let at_rest = remains.partial_down == 0 && lease.conn.input.is_empty() && !times_out;
    let ignored = if may_reset { remains.pins } else { Pins::empty() };
    match Clean::prove(&remains.pipeline, ignored) {
        // Dropping a lease closes its connection.
        _ if aim == Aim::Closed && !(cancel && is_at_work) => {}
        Some(clean) if aim != Aim::Closed && at_rest => lease.release(clean, ready.unwrap_or_else(Instant::now)),
        _ => {
            let own_shared = Arc::clone(shared);
            let leftover = SessionLeftovers { pipeline: remains.pipeline, partial: remains.partial_down, cancel, aim };
            cleanup::clean_up_in_background(
                lease,
                move |change, database| own_shared.role_changed(change, database),
                Arc::clone(&shared.server_side),
                leftover,
                settings.timeouts.cleanup_timeout,
            );
        }
    }
}

/// Returns whether the connection may serve another client, as far as it can be made fit; notes why not.
fn is_fit(lease: &mut Lease, remains: &MachineResult, may_reset: bool) -> bool {
    if lease.state.close_method == CloseMethod::Silent {
        return false;
    }
    if may_reset && !remains.pins.intersection(Pins::SURVIVES_DISCARD).is_empty() {
        return false;
    }
    // What no reset closes: see `upstream::loops`.
    if lease.conn_info.looped.any() {
        lease.close_reason = CloseReason::Looped;
        return false;
    }
    // What has come behind the last answer.
    if remains.pipeline.answered() && remains.partial_down == 0 && !lease.conn.input.is_empty() {
        if !lease.check_alive() {
            lease.close_reason = CloseReason::Dead;
            return false;
        }
        let pool = Arc::clone(lease.pool());
        pool.parameters.learn_base(&mut lease.state);
    }
    true
}
