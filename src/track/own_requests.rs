//! Requests of pgferry's own on a connection that no client has: what ends the work of a client that is gone, and statements such as
//! resets. What is sent, and what the answers do to the connection's state; their sender moves the bytes.

use super::server_state::MadeFor;
use super::transaction_block::IDLE;
use super::unnamed_statement::UnnamedStatement;
use super::{Pipeline, Request, ResponseAction, ServerState};
use crate::wire::{backend, frontend};

/// Error where it is not known what the server still owes, or what its session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Kinds of messages from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An error.
    Error,
    /// Anything else.
    Other,
}

/// The last of the requests that a client has left behind.
#[derive(Clone, Copy, Debug)]
pub struct LastRequest {
    /// Answers that are due to what was sent behind them.
    own: usize,
    /// Answers that they lack themselves, since no `Sync` has come.
    unsynced: usize,
}

impl LastRequest {
    /// The last of the requests in `pipeline`, where nothing more is sent.
    #[must_use]
    pub fn of(pipeline: &Pipeline) -> Self {
        Self { own: 0, unsynced: usize::from(pipeline.unsynced()) }
    }

    /// Returns whether the server has come to it, so that it may be cancelled: what stands behind one that is cancelled would be carried
    /// out without it, outside of the transaction if that is a `BEGIN`.
    #[must_use]
    pub fn is_reached(&self, pipeline: &Pipeline) -> bool {
        pipeline.owed_readies() + self.unsynced <= self.own + 1
    }
}

/// Appends the statement `sql` for a connection that owes nothing.
pub fn put_query(state: &mut ServerState, pipeline: &mut Pipeline, sql: &[u8], out: &mut Vec<u8>) {
    frontend::put_query(out, sql);
    state.unnamed = UnnamedStatement::Absent;
    pipeline.request(Request::Query, ResponseAction::Swallow);
}

/// Appends a `Sync` for a connection that owes nothing.
pub(crate) fn put_sync(pipeline: &mut Pipeline, out: &mut Vec<u8>) {
    frontend::put_sync(out);
    pipeline.request(Request::Sync, ResponseAction::Swallow);
}

/// Appends what ends the work of a client that is gone, so that the server answers all of it and commits none that the client has not.
pub fn put_end_of_work(pipeline: &mut Pipeline, out: &mut Vec<u8>) -> LastRequest {
    if pipeline.copying_in() {
        frontend::put_copy_fail(out, "the client is gone");
        pipeline.request(Request::CopyEnd, ResponseAction::Swallow);
    }
    let (readies, last) = (pipeline.owed_readies(), LastRequest::of(pipeline));
    if pipeline.unsynced() {
        // Without a Sync its client's work is not committed; a Sync alone would.
        frontend::put_query(out, b"ROLLBACK");
        pipeline.request(Request::Query, ResponseAction::Swallow);
    }
    if !pipeline.answered() {
        // After an error the server discards everything up to a Sync, that ROLLBACK too.
        put_sync(pipeline, out);
    }
    LastRequest { own: pipeline.owed_readies() - readies, ..last }
}

/// Drops answers that pgferry has made up: they are for a client that is gone.
pub fn drop_synthesized(pipeline: &mut Pipeline) {
    while pipeline.synthesized().is_some() {}
}

/// Returns whether the body of a message with this `tag` is needed.
#[must_use]
pub fn is_read(tag: u8) -> bool {
    matches!(tag, backend::READY | backend::PARAMETER_STATUS | backend::COMMAND_COMPLETE | backend::ERROR)
}

/// Notes a message of the server's. Its `body` is `None` where it is not needed, or longer than any of its kind.
///
/// # Errors
/// When the state can't follow it.
pub fn take_answer(
    state: &mut ServerState,
    pipeline: &mut Pipeline,
    tag: u8,
    body: Option<&[u8]>,
) -> Result<Answer, Lost> {
    match tag {
        backend::READY => {
            let status = body.and_then(<[u8]>::last).copied().ok_or(Lost)?;
            pipeline.ready(status);
            state.ready(status == IDLE && pipeline.answered());
        }
        backend::PARAMETER_STATUS => {
            if let Some((name, value)) = backend::parameter_status(body.ok_or(Lost)?) {
                if !state.params.has_room_for(name, value) {
                    return Err(Lost);
                }
                state.params.set(name, value);
            }
        }
        backend::COMMAND_COMPLETE => {
            state.completed(backend::command_tag(body.ok_or(Lost)?), MadeFor::All);
            pipeline.response(tag);
        }
        backend::NOTICE | backend::NOTIFICATION => {}
        _ => {
            pipeline.response(tag);
        }
    }
    for (mut rollback, how) in pipeline.take_undone() {
        state.undo(&mut rollback, how);
    }
    drop_synthesized(pipeline);
    Ok(if tag == backend::ERROR { Answer::Error } else { Answer::Other })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::track::administration::RoleChange;
    use crate::track::session_code::SessionCode;
    use crate::track::statement_ids::StatementIds;
    use crate::track::{RequestedParams, ServerParams};

    fn state() -> (ServerState, Pipeline) {
        (ServerState::new(ServerParams::default(), RequestedParams::default()), Pipeline::new())
    }

    #[test]
    fn a_statement_is_answered_by_its_ready_for_query() {
        let ((mut state, mut pipeline), mut out) = (state(), Vec::new());
        put_query(&mut state, &mut pipeline, b"RESET ALL", &mut out);
        assert_eq!(out, [&b"Q"[..], &14_u32.to_be_bytes(), b"RESET ALL\0"].concat());
        let mut take = |tag, body: &[u8]| take_answer(&mut state, &mut pipeline, tag, Some(body));
        assert_eq!(take(backend::PARAMETER_STATUS, b"TimeZone\0UTC\0"), Ok(Answer::Other));
        assert_eq!(take(backend::ERROR, b"CXX000\0\0"), Ok(Answer::Error));
        assert_eq!(take(backend::READY, b"I"), Ok(Answer::Other));
        assert!(pipeline.settled());
        assert_eq!(state.params.get(b"TimeZone"), Some(&b"UTC"[..]));
    }

    #[test]
    fn commands_of_a_client_that_is_gone_change_what_others_see() {
        let ids = Arc::new(StatementIds::default());
        let (state, mut pipeline) = state();
        let mut state = state.in_database_with(Arc::new(SessionCode::new(Arc::clone(&ids))));
        pipeline.request(Request::Query, ResponseAction::Forward);
        let mut take = |tag, body: &[u8]| take_answer(&mut state, &mut pipeline, tag, Some(body));
        for tag in [&b"ALTER TABLE\0"[..], b"ALTER ROLE\0"] {
            assert_eq!(take(backend::COMMAND_COMPLETE, tag), Ok(Answer::Other));
        }
        let before = ids.definitions();
        assert_eq!(take(backend::READY, b"I"), Ok(Answer::Other));
        assert_ne!(ids.definitions(), before);
        assert_eq!(state.for_others.take_role_change(), RoleChange::Changed);
        assert_eq!(state.for_others.take_role_change(), RoleChange::Unchanged, "once");
    }

    #[test]
    fn messages_that_are_too_long_for_their_kind_lose_the_state() {
        for tag in [backend::READY, backend::PARAMETER_STATUS, backend::COMMAND_COMPLETE] {
            let ((mut state, mut pipeline), mut out) = (state(), Vec::new());
            put_query(&mut state, &mut pipeline, b"RESET ALL", &mut out);
            assert!(is_read(tag));
            assert_eq!(take_answer(&mut state, &mut pipeline, tag, None), Err(Lost));
        }
    }

    #[test]
    fn only_the_last_request_of_a_client_may_be_cancelled() {
        let ((mut state, mut pipeline), mut out) = (state(), Vec::new());
        for _ in 0..2 {
            pipeline.request(Request::Query, ResponseAction::Forward);
        }
        let last = put_end_of_work(&mut pipeline, &mut out);
        assert_eq!(out, [&b"S"[..], &4_u32.to_be_bytes()].concat(), "a Sync behind them");
        assert!(!last.is_reached(&pipeline));
        assert_eq!(take_answer(&mut state, &mut pipeline, backend::READY, Some(b"I")), Ok(Answer::Other));
        assert!(last.is_reached(&pipeline));
    }
}
