//! Makes a used session fit for the next client: cancel what runs, roll back what is open, reset what is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::debug;

use super::cancel;
use super::own_statements::{CleanupError, make_as_new, run, settle, settle_until};
use super::pool::lease::Lease;
use super::server_side::ServerSide;
use crate::net::RecvError;
use crate::track::administration::RoleChange;
use crate::track::server_state::CloseMethod;
use crate::track::{Clean, Pins, Pipeline, own_requests};

/// The first pause before another cancel request for the same statement.
const FIRST_CANCEL_PAUSE: Duration = Duration::from_millis(50);

/// State that a client left behind.
#[derive(Debug)]
pub(crate) struct SessionLeftovers {
    /// Requests that the server has not answered.
    pub pipeline: Pipeline,
    /// Bytes of a message from the server that are still to come.
    pub partial: usize,
    /// True if what runs is to be cancelled: its client went away without waiting for it.
    pub cancel: bool,
    /// True if the session is to be reset at once.
    pub reset: bool,
}

/// Restores a session within `limit`, in a task of its own; closes the connection where that fails. `on_roles` is told of the
/// effect on roles of what its client has left running, and of its clients' database.
pub(crate) fn clean_up_in_background(
    lease: Lease,
    on_roles: impl FnOnce(RoleChange, &[u8]) + Send + 'static,
    server_side: Arc<ServerSide>,
    leftover: SessionLeftovers,
    limit: Duration,
) {
    let returning = lease.pool().begin_return();
    tokio::spawn(async move {
        let _returning = returning;
        let mut lease = lease;
        let id = lease.id();
        let outcome = tokio::time::timeout(limit, clean_up(&mut lease, &server_side, leftover)).await;
        on_roles(lease.state.for_others.take_role_change(), &lease.pool().key.database);
        match outcome {
            Ok(Ok((clean, RestoredSession::Used))) => lease.release(clean, Instant::now()),
            Ok(Ok((clean, RestoredSession::AsNew))) => lease.release_fresh(clean),
            Ok(Err(error)) => debug!(server = id, %error, "closing an upstream connection that could not be restored"),
            Err(_) => {
                debug!(
                    server = id,
                    "closing an upstream connection that could not be restored in time (cleanup_timeout)"
                );
            }
        }
    });
}

/// State of a session that has been restored.
enum RestoredSession {
    /// As new.
    AsNew,
    /// Its client may have left something that was not seen.
    Used,
}

async fn clean_up(
    lease: &mut Lease,
    server_side: &Arc<ServerSide>,
    leftover: SessionLeftovers,
) -> Result<(Clean, RestoredSession), CleanupError> {
    let SessionLeftovers { mut pipeline, partial, cancel, reset } = leftover;
    // Until the server is between two messages again.
    lease.state.close_method = CloseMethod::Silent;
    // What the client has not taken is dropped.
    let untaken = lease.conn.input.unsent().len();
    lease.conn.input.sent(untaken);
    if pipeline.lost() {
        return Err(CleanupError::Lost);
    }
    let last = own_requests::put_end_of_work(&mut pipeline, &mut lease.conn.output);
    if !pipeline.answered() {
        lease.conn.flush().await.map_err(RecvError::from)?;
    }
    // The server may have kept back the rest of a message until then.
    lease.conn.discard(partial).await?;
    if !pipeline.answered() {
        if cancel {
            settle_until(lease, &mut pipeline, |pipeline| last.is_reached(pipeline)).await?;
            settle_cancelling(lease, server_side, &mut pipeline).await?;
        } else {
            settle(lease, &mut pipeline).await?;
        }
    }
    lease.state.close_method = CloseMethod::Terminate;
    if !pipeline.settled() {
        run(lease, &mut pipeline, b"ROLLBACK").await?;
    }
    if reset {
        make_as_new(lease, &mut pipeline).await?;
    }
    lease.state.code.is_settled();
    let clean = Clean::prove(&pipeline, Pins::empty()).ok_or(CleanupError::Lost)?;
    Ok((clean, if reset { RestoredSession::AsNew } else { RestoredSession::Used }))
}

/// Receives and drops until nothing is owed, asking the server again and again to cancel: a request that comes before
/// the statement has begun is lost.
async fn settle_cancelling(
    lease: &mut Lease,
    server_side: &Arc<ServerSide>,
    pipeline: &mut Pipeline,
) -> Result<(), CleanupError> {
    let (key, gate) = (Arc::clone(&lease.key), Arc::clone(&lease.gate));
    let settled = settle(lease, pipeline);
    tokio::pin!(settled);
    let mut pause = FIRST_CANCEL_PAUSE;
    loop {
        // In a task of its own: a request that is under way must be waited for, which the gate sees to.
        let (server_side, key, inside) = (Arc::clone(server_side), Arc::clone(&key), gate.enter());
        let request = tokio::spawn(async move { cancel::send(&server_side, &key, inside).await });
        tokio::select! {
            biased;
            settled = &mut settled => return settled.map(drop),
            _ = async { (request.await, sleep(pause).await) } => pause *= 2,
        }
    }
}
