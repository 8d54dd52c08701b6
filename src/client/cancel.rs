//! How a `CancelRequest` finds the query it is meant for, and no other.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tracing::debug;

use super::Shared;
use super::cancel_key::CancelKey;
use super::session_handle::{SessionHandle, SessionPhase};
use super::sessions::Sessions;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::upstream::limiter::{CancelTurn, SourceLimit};
use crate::upstream::{ServerSide, cancel};

impl Sessions {
    /// Creates a key for a client of protocol `version`.
    ///
    /// # Errors
    /// When the system has no randomness to give; the words are PostgreSQL's.
    pub(crate) fn secret(&self, version: u32) -> Result<CancelKey, ClientError> {
        self.random_pool().secret(version).map_err(|error| {
            ClientError::fatal(ErrorSource::Limits, sqlstate::INTERNAL, "could not generate random cancel key")
                .detail(error.to_string())
        })
    }

    /// The session that was given `pid`, if `secret` is its own.
    fn find_by_key(&self, pid: i32, secret: &[u8]) -> Option<Arc<SessionHandle>> {
        self.find(pid).filter(|handle| verify_slices_are_equal(secret, &handle.secret).is_ok())
    }
}

impl Shared {
    /// Acts upon a client's cancel request, and returns when it has been acted upon. Whether there was anything to cancel, or
    /// any such session, the requester does not learn.
    pub(super) async fn cancel(&self, source: &SourceLimit, pid: i32, secret: &[u8]) {
        let session = self.sessions.find(pid);
        let lane = source.cancels_for(session.as_ref().map(|handle| handle.id));
        let cancelled = match lane.turn().await {
            Some(turn) => self.cancel_in_turn(turn, pid, secret).await,
            None => false,
        };
        if !cancelled {
            debug!(pid, "a cancel request without a session, with a wrong key, or one too many");
            self.counters().wrong_cancels.add();
        }
    }

    /// Returns whether there is such a session.
    async fn cancel_in_turn(&self, turn: CancelTurn, pid: i32, secret: &[u8]) -> bool {
        // It may have ended meanwhile, or begun.
        if let Some(handle) = self.sessions.find_by_key(pid, secret) {
            drop(turn);
            handle.cancel(&self.server_side).await;
            return true;
        }
        // What the predecessor knows is counted as well: a guess costs as much as without one.
        turn.count();
        self.cancel_at_predecessor(pid, secret).await
    }

    /// As [`Shared::cancel`], for a process that has replaced this one and has looked at the source. Returns whether there is
    /// such a session.
    pub(crate) async fn cancel_for_successor(&self, pid: i32, secret: &[u8]) -> bool {
        match self.sessions.find_by_key(pid, secret) {
            Some(handle) => {
                handle.cancel(&self.server_side).await;
                true
            }
            None => self.cancel_at_predecessor(pid, secret).await,
        }
    }

    async fn cancel_at_predecessor(&self, pid: i32, secret: &[u8]) -> bool {
        match &self.predecessor {
            Some(predecessor) => predecessor.cancel(pid, secret).await,
            None => false,
        }
    }
}

impl SessionHandle {
    /// Cancels what the session does, and returns when the server has heard of it.
    async fn cancel(&self, server_side: &ServerSide) {
        let target = {
            let mut state = self.state();
            match &state.phase {
                SessionPhase::Idle => None,
                SessionPhase::Waiting | SessionPhase::Preparing => {
                    state.cancelled = true;
                    None
                }
                // The gate is entered under the lock: a session that gives its connection back later sees it.
                SessionPhase::Running(key, gate) => Some((Arc::clone(key), gate.enter())),
            }
        };
        match target {
            Some((key, gate)) => cancel::send(server_side, &key, gate).await,
            None => self.wake.wake(),
        }
    }
}
