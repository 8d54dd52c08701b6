//! Makes a used session fit for the next client: cancel what runs, roll back what is open, reset what is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::debug;

use super::cancel;
use super::lease::{Lease, Upstream};
use super::link::Link;
use super::registry::Registry;
use crate::net::RecvError;
use crate::track::server_state::{Goodbye, RESET, UnnamedStatement, UsedBy};
use crate::track::{Clean, Pins, Pipeline, Reply, Request};
use crate::wire::{backend, frame, frontend, head};

/// The first pause before another cancel request for the same statement.
const CANCEL_AGAIN: Duration = Duration::from_millis(50);

/// What a client left behind.
#[derive(Debug)]
pub struct Leftover {
    /// What the server still owes.
    pub pipeline: Pipeline,
    /// Bytes of a message from the server that are still to come.
    pub partial: usize,
    /// Whether what runs is to be cancelled: its client went away without waiting for it.
    pub cancel: bool,
    /// Whether the session is to be reset at once.
    pub reset: bool,
}

/// Restores a session within `limit`, in a task of its own; closes the connection where that fails.
pub fn restore(lease: Lease, registry: Arc<Registry>, leftover: Leftover, limit: Duration) {
    tokio::spawn(async move {
        let mut lease = lease;
        let id = lease.id;
        let outcome = tokio::time::timeout(limit, clean_up(&mut lease, &registry, leftover)).await;
        match outcome {
            Ok(Ok((clean, Session::Used))) => lease.release(clean, Instant::now()),
            Ok(Ok((clean, Session::AsNew))) => lease.release_fresh(clean),
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

/// Resets an idle session within `limit`; `None`, closing the connection, where that fails.
pub async fn reset_idle(mut upstream: Upstream, limit: Duration) -> Option<Upstream> {
    reset(&mut upstream, limit).await.then_some(upstream)
}

/// Resets an idle session within `limit`; says whether that succeeded.
pub async fn reset(link: &mut Link, limit: Duration) -> bool {
    let mut pipeline = Pipeline::new();
    let done = tokio::time::timeout(limit, run(link, &mut pipeline, RESET)).await;
    if !matches!(done, Ok(Ok(()))) {
        return false;
    }
    link.state.on_discard_all();
    link.state.used = UsedBy::Nothing;
    true
}

/// Why a session can't be made fit.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The connection failed.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// The server answered with an error.
    #[error("the server answered with an error")]
    Refused,
    /// The books don't say what the server still owes.
    #[error("what the server still owes is not known")]
    Lost,
}

/// What a session is like that has been restored.
enum Session {
    /// As new.
    AsNew,
    /// Its client may have left something that was not seen.
    Used,
}

async fn clean_up(
    lease: &mut Lease,
    registry: &Arc<Registry>,
    leftover: Leftover,
) -> Result<(Clean, Session), RestoreError> {
    let Leftover { mut pipeline, partial, cancel, reset } = leftover;
    // Until the server is between two messages again.
    lease.state.goodbye = Goodbye::Silent;
    // What the client has not taken nobody will.
    let untaken = lease.conn.input.unsent().len();
    lease.conn.input.sent(untaken);
    if pipeline.lost() {
        return Err(RestoreError::Lost);
    }
    if pipeline.copying_in() {
        frontend::put_copy_fail(&mut lease.conn.output, "the client is gone");
        pipeline.request(Request::CopyEnd, Reply::Swallow);
    }
    if pipeline.unsynced() {
        // Without a Sync its client's work is not committed; a Sync alone would.
        frontend::put_query(&mut lease.conn.output, b"ROLLBACK");
        pipeline.request(Request::Query, Reply::Swallow);
    }
    if !pipeline.answered() {
        // After an error the server discards everything up to a Sync, that ROLLBACK too.
        frontend::put_sync(&mut lease.conn.output);
        pipeline.request(Request::Sync, Reply::Swallow);
        lease.conn.flush().await.map_err(RecvError::from)?;
    }
    // The server may have kept back the rest of a message until then.
    lease.conn.discard(partial).await?;
    if !pipeline.answered() {
        if cancel {
            settle_cancelling(lease, registry, &mut pipeline).await?;
        } else {
            settle(lease, &mut pipeline).await?;
        }
    }
    lease.state.goodbye = Goodbye::Terminate;
    if !pipeline.settled() {
        run(lease, &mut pipeline, b"ROLLBACK").await?;
    }
    if reset {
        run(lease, &mut pipeline, RESET).await?;
        lease.state.on_discard_all();
    }
    let clean = Clean::prove(&pipeline, Pins::none()).ok_or(RestoreError::Lost)?;
    Ok((clean, if reset { Session::AsNew } else { Session::Used }))
}

/// Receives and drops until nothing is owed, asking the server again and again to cancel: a request that comes before
/// the statement has begun is lost.
async fn settle_cancelling(
    lease: &mut Lease,
    registry: &Arc<Registry>,
    pipeline: &mut Pipeline,
) -> Result<(), RestoreError> {
    let (key, gate) = (Arc::clone(&lease.key), Arc::clone(&lease.gate));
    let settled = settle(lease, pipeline);
    tokio::pin!(settled);
    let mut pause = CANCEL_AGAIN;
    loop {
        // In a task of its own: a request that is under way must be waited for, which the gate sees to.
        let (registry, key, inside) = (Arc::clone(registry), Arc::clone(&key), gate.enter());
        let request = tokio::spawn(async move { cancel::send(&registry, &key, inside).await });
        tokio::select! {
            biased;
            settled = &mut settled => return settled.map(drop),
            _ = async { (request.await, sleep(pause).await) } => pause *= 2,
        }
    }
}

/// Runs a statement of our own; an error of any kind is a failure.
async fn run(link: &mut Link, pipeline: &mut Pipeline, sql: &[u8]) -> Result<(), RestoreError> {
    match query(link, pipeline, sql).await? {
        None => Ok(()),
        Some(_) => Err(RestoreError::Refused),
    }
}

/// Runs a statement of our own on a connection that owes nothing; returns the server's `ErrorResponse`, if it
/// answered with one.
///
/// # Errors
/// When the connection is of no use any more.
pub async fn query(link: &mut Link, pipeline: &mut Pipeline, sql: &[u8]) -> Result<Option<Box<[u8]>>, RestoreError> {
    frontend::put_query(&mut link.conn.output, sql);
    link.state.unnamed = UnnamedStatement::Absent;
    pipeline.request(Request::Query, Reply::Swallow);
    link.conn.flush().await.map_err(RecvError::from)?;
    settle(link, pipeline).await
}

/// Receives and drops until nothing is owed. Returns the first error that was among it.
async fn settle(link: &mut Link, pipeline: &mut Pipeline) -> Result<Option<Box<[u8]>>, RestoreError> {
    let mut failed = None;
    // What is made up for the client nobody waits for.
    while pipeline.synthesized().is_some() {}
    while !pipeline.answered() {
        if pipeline.lost() {
            return Err(RestoreError::Lost);
        }
        let header = link.conn.peek(frame::HEADER).await?;
        let Some(head) = head(header, frame::BACKEND_LIMIT).map_err(RecvError::from)? else {
            return Err(RestoreError::Lost);
        };
        match head.tag {
            backend::READY => {
                let status = link.conn.peek(head.size).await?.last().copied().unwrap_or_default();
                pipeline.ready(status);
            }
            backend::PARAMETER_STATUS if head.size <= link.conn.input.capacity() => {
                let bytes = link.conn.peek(head.size).await?;
                if let Some((name, value)) = backend::parameter_status(&bytes[frame::HEADER..]) {
                    let (name, value) = (name.to_vec(), value.to_vec());
                    link.state.params.set(&name, &value);
                }
            }
            backend::NOTICE | backend::NOTIFICATION => {}
            backend::ERROR if head.size <= link.conn.input.capacity() => {
                let error = link.conn.peek(head.size).await?;
                failed.get_or_insert_with(|| error.into());
                pipeline.response(head.tag);
            }
            tag => {
                if tag == backend::ERROR {
                    failed.get_or_insert_with(Box::default);
                }
                pipeline.response(tag);
            }
        }
        for (mut rollback, how) in pipeline.take_undone() {
            link.state.undo(&mut rollback, how);
        }
        link.conn.discard(head.size).await?;
        while pipeline.synthesized().is_some() {}
    }
    Ok(failed)
}
