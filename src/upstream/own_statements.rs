//! Statements of pgferry's own on a connection without a client: resets, and others.

use std::time::Duration;

use super::server_conn::ServerConn;
use crate::net::RecvError;
use crate::track::keeping_reset::KeepingReset;
use crate::track::server_state::RESET;
use crate::track::session_code;
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{Pipeline, Request, ResponseAction};
use crate::wire::{backend, frame, frontend, head};

/// Resets an idle session within `limit`; says whether that succeeded.
pub(crate) async fn reset(server_conn: &mut ServerConn, limit: Duration) -> bool {
    let mut pipeline = Pipeline::new();
    let done = tokio::time::timeout(limit, make_as_new(server_conn, &mut pipeline)).await;
    matches!(done, Ok(Ok(())))
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
    /// The books don't say what the server still owes.
    #[error("what the server still owes is not known")]
    Lost,
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
    frontend::put_query(&mut server_conn.conn.output, sql);
    server_conn.state.unnamed = UnnamedStatement::Absent;
    pipeline.request(Request::Query, ResponseAction::Swallow);
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
    let mut failed = None;
    // Synthesized answers are for the client, which is gone.
    while pipeline.synthesized().is_some() {}
    while !done(pipeline) {
        if pipeline.lost() {
            return Err(CleanupError::Lost);
        }
        let header = server_conn.conn.peek(frame::HEADER_BYTES).await?;
        let Some(head) = head(header, frame::BACKEND_LIMIT).map_err(RecvError::from)? else {
            return Err(CleanupError::Lost);
        };
        match head.tag {
            backend::READY if head.size <= server_conn.conn.input.capacity() => {
                let status = server_conn.conn.peek(head.size).await?.last().copied().unwrap_or_default();
                pipeline.ready(status);
            }
            backend::PARAMETER_STATUS if head.size <= server_conn.conn.input.capacity() => {
                let bytes = server_conn.conn.peek(head.size).await?;
                if let Some((name, value)) = backend::parameter_status(&bytes[frame::HEADER_BYTES..]) {
                    let (name, value) = (name.to_vec(), value.to_vec());
                    if !server_conn.state.params.has_room_for(&name, &value) {
                        return Err(CleanupError::Lost);
                    }
                    server_conn.state.params.set(&name, &value);
                }
            }
            backend::COMMAND_COMPLETE if head.size <= server_conn.conn.input.capacity() => {
                let bytes = server_conn.conn.peek(head.size).await?;
                let tag = backend::command_tag(&bytes[frame::HEADER_BYTES..]).to_vec();
                server_conn.state.completed(&tag);
                if session_code::defines_code(&tag) {
                    server_conn.state.code.defines();
                }
                pipeline.response(head.tag);
            }
            backend::NOTICE | backend::NOTIFICATION => {}
            // One that is so long is none.
            backend::READY => return Err(CleanupError::Lost),
            backend::ERROR if head.size <= server_conn.conn.input.capacity() => {
                let error = server_conn.conn.peek(head.size).await?;
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
            server_conn.state.undo(&mut rollback, how);
        }
        server_conn.conn.discard(head.size).await?;
        while pipeline.synthesized().is_some() {}
    }
    Ok(failed)
}
