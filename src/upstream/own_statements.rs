//! Statements of pgferry's own on a connection without a client: resets, and others.

use std::time::Duration;

use super::server_conn::ServerConn;
use crate::net::RecvError;
use crate::track::Pipeline;
use crate::track::keeping_reset::KeepingReset;
use crate::track::own_requests::{self, Answer, Lost};
use crate::track::server_state::RESET;
use crate::wire::{frame, head};

/// Resets an idle session within `limit`; says whether that succeeded.
pub(crate) async fn reset(server_conn: &mut ServerConn, limit: Duration) -> bool {
    let mut pipeline = Pipeline::new();
    let done = tokio::time::timeout(limit, make_as_new(server_conn, &mut pipeline)).await;
    matches!(done, Ok(Ok(())))
}

/// Returns whether the server answers on a connection that owes nothing within `limit`. What it reports then has changed without a
/// statement: that is what a reset goes back to.
pub(super) async fn probe(server_conn: &mut ServerConn, limit: Duration) -> bool {
    let mut pipeline = Pipeline::new();
    let before = server_conn.state.params.clone();
    own_requests::put_sync(&mut pipeline, &mut server_conn.conn.output);
    let answer = async {
        server_conn.conn.flush().await.map_err(RecvError::from)?;
        settle(server_conn, &mut pipeline).await
    };
    let answered = matches!(tokio::time::timeout(limit, answer).await, Ok(Ok(None)));
    server_conn.state.on_new_defaults_since(&before);
    answered
}

/// Resets a session that owes nothing, and keeps the statements that pgferry has prepared there if it can.
pub(super) async fn make_as_new(server_conn: &mut ServerConn, pipeline: &mut Pipeline) -> Result<(), CleanupError> {
    if let Some((reset, sql)) = KeepingReset::alone(&server_conn.state) {
        if query(server_conn, pipeline, &sql).await?.is_none() {
            reset.apply(&mut server_conn.state);
            return Ok(());
        }
        if !pipeline.settled() {
            run(server_conn, pipeline, b"ROLLBACK").await?;
        }
    }
    run(server_conn, pipeline, RESET).await?;
    server_conn.state.on_reset();
    Ok(())
}

/// Reason why a session can't be made fit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanupError {
    /// The connection failed.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// The server answered with an error.
    #[error("the server answered with an error")]
    Refused,
    /// It is not known what the server still owes.
    #[error("what the server still owes is not known")]
    Lost,
}

impl From<Lost> for CleanupError {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

/// Runs a statement of our own; an error of any kind is a failure.
pub(super) async fn run(server_conn: &mut ServerConn, pipeline: &mut Pipeline, sql: &[u8]) -> Result<(), CleanupError> {
    match query(server_conn, pipeline, sql).await? {
        None => Ok(()),
        Some(_) => Err(CleanupError::Refused),
    }
}

/// Runs a statement of our own on a connection that owes nothing; returns the server's `ErrorResponse`, if it
/// answered with one.
///
/// # Errors
/// When the connection is of no use any more.
pub(crate) async fn query(
    server_conn: &mut ServerConn,
    pipeline: &mut Pipeline,
    sql: &[u8],
) -> Result<Option<Box<[u8]>>, CleanupError> {
    own_requests::put_query(&mut server_conn.state, pipeline, sql, &mut server_conn.conn.output);
    server_conn.conn.flush().await.map_err(RecvError::from)?;
    settle(server_conn, pipeline).await
}

/// Receives and drops until nothing is owed. Returns the first error that was among it.
pub(super) async fn settle(
    server_conn: &mut ServerConn,
    pipeline: &mut Pipeline,
) -> Result<Option<Box<[u8]>>, CleanupError> {
    settle_until(server_conn, pipeline, Pipeline::answered).await
}

/// Receives and drops until `done`, which it is when nothing is owed. Returns the first error that was among it.
pub(super) async fn settle_until(
    server_conn: &mut ServerConn,
    pipeline: &mut Pipeline,
    done: impl Fn(&Pipeline) -> bool,
) -> Result<Option<Box<[u8]>>, CleanupError> {
    let ServerConn { conn, state, .. } = server_conn;
    let mut failed = None;
    own_requests::drop_synthesized(pipeline);
    while !done(pipeline) {
        if pipeline.lost() {
            return Err(CleanupError::Lost);
        }
        let header = conn.peek(frame::HEADER_BYTES).await?;
        let Some(head) = head(header, frame::BACKEND_LIMIT).map_err(RecvError::from)? else {
            return Err(CleanupError::Lost);
        };
        let is_read = own_requests::is_read(head.tag) && head.size <= conn.input.capacity();
        let read = if is_read { conn.peek(head.size).await? } else { &[] };
        if own_requests::take_answer(state, pipeline, head.tag, read.get(frame::HEADER_BYTES..))? == Answer::Error {
            failed.get_or_insert_with(|| read.into());
        }
        conn.discard(head.size).await?;
    }
    Ok(failed)
}
