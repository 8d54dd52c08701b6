//! Makes a used session fit for the next client: cancel what runs, roll back what is open, reset what is left.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::debug;

use super::cancel;
use super::own_statements::{CleanupError, make_as_new, run, settle, settle_until};
use super::pool::lease::Lease;
use super::server_side::ServerSide;
use crate::net::RecvError;
use crate::track::administration::RoleChange;
use crate::track::own_requests::{self, LastRequest};
use crate::track::server_state::CloseMethod;
use crate::track::{Clean, Pins, Pipeline};

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
    /// Aim of the work.
    pub aim: Aim,
}

/// State to which a session is brought when its client is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Settled.
    Settled,
    /// Settled, and reset.
    AsNew,
    /// Closed with its connection, once the server no longer works there: it would go on behind the close, outside of all limits.
    Closed,
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
            Ok(Ok(RestoredSession::Used(clean))) => lease.release(clean, Instant::now()),
            Ok(Ok(RestoredSession::AsNew(clean))) => lease.release_fresh(clean),
            // Dropping a lease closes its connection.
            Ok(Ok(RestoredSession::Unfit)) => {}
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
    AsNew(Clean),
    /// Its client may have left something that was not seen.
    Used(Clean),
    /// It serves no other client.
    Unfit,
}

async fn clean_up(
    lease: &mut Lease,
    server_side: &Arc<ServerSide>,
    leftover: SessionLeftovers,
) -> Result<RestoredSession, CleanupError> {
    let SessionLeftovers { mut pipeline, partial, cancel, aim } = leftover;
    // What the client has not taken is dropped.
    let untaken = lease.conn.input.unsent().len();
    lease.conn.input.sent(untaken);
    if pipeline.lost() {
        return Err(CleanupError::Lost);
    }
    let close_method = std::mem::replace(&mut lease.state.close_method, CloseMethod::Silent);
    let last = match close_method {
        // Whatever is sent behind half a message would be taken for its other half. The server ends where it comes to that, and tells so:
        // what it has answered before may not have been asked for yet, and never come.
        CloseMethod::Silent => {
            poll_fn(|cx| {
                // As far as the socket takes it: a server that works does not read, and is cancelled.
                let _ = lease.conn.poll_half_close(cx);
                Poll::Ready(())
            })
            .await;
            LastRequest::of(&pipeline)
        }
        CloseMethod::Terminate | CloseMethod::CopyFail => {
            let last = own_requests::put_end_of_work(&mut pipeline, &mut lease.conn.output);
            if !pipeline.answered() {
                lease.conn.flush().await.map_err(RecvError::from)?;
            }
            last
        }
    };
    let done: Done = if close_method == CloseMethod::Silent { owes_nothing_unasked } else { Pipeline::answered };
    let mut partial = Partial(partial);
    if cancel && !pipeline.answered() {
        if !last.is_reached(&pipeline) {
            partial.discard(lease).await?;
            settle_until(lease, &mut pipeline, |pipeline| last.is_reached(pipeline)).await?;
        }
        settle_cancelling(lease, server_side, &mut pipeline, partial, done).await?;
    } else {
        partial.discard(lease).await?;
        settle(lease, &mut pipeline).await?;
    }
    if close_method == CloseMethod::Silent {
        return Ok(RestoredSession::Unfit);
    }
    // The server is between two messages again.
    lease.state.close_method = CloseMethod::Terminate;
    if aim == Aim::Closed {
        return Ok(RestoredSession::Unfit);
    }
    if !pipeline.settled() {
        run(lease, &mut pipeline, b"ROLLBACK").await?;
    }
    if aim == Aim::AsNew {
        make_as_new(lease, &mut pipeline).await?;
    }
    lease.state.code.is_settled();
    let clean = Clean::prove(&pipeline, Pins::empty()).ok_or(CleanupError::Lost)?;
    Ok(if aim == Aim::AsNew { RestoredSession::AsNew(clean) } else { RestoredSession::Used(clean) })
}

/// Bytes of a message of the server's that are still to come. It may keep them back until it has more to say.
struct Partial(usize);

impl Partial {
    async fn discard(&mut self, lease: &mut Lease) -> Result<(), RecvError> {
        lease.conn.discard(std::mem::take(&mut self.0)).await
    }
}

/// Tells whether the server is no longer at work.
type Done = fn(&Pipeline) -> bool;

/// Returns whether nothing more comes to what has been sent, to which no `Sync` will be added.
fn owes_nothing_unasked(pipeline: &Pipeline) -> bool {
    pipeline.answered() || pipeline.skipping()
}

/// Receives and drops, the rest of a message first, until `done`, asking the server again and again to cancel: a request that comes
/// before the statement has begun is lost.
async fn settle_cancelling(
    lease: &mut Lease,
    server_side: &Arc<ServerSide>,
    pipeline: &mut Pipeline,
    mut partial: Partial,
    done: Done,
) -> Result<(), CleanupError> {
    let (key, gate) = (Arc::clone(&lease.key), Arc::clone(&lease.gate));
    let settled = async {
        partial.discard(lease).await?;
        settle_until(lease, pipeline, done).await
    };
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
