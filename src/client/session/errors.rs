//! Errors that end a client's session, or its request.

use crate::error::{ClientError, ErrorSource, sqlstate};

/// Error for a client that was idle for longer than its `idle_session_timeout`, as PostgreSQL words it.
pub(super) fn idle_for_too_long() -> ClientError {
    ClientError::fatal(
        ErrorSource::Client,
        sqlstate::IDLE_SESSION_TIMEOUT,
        "terminating connection due to idle-session timeout",
    )
}

pub(super) fn cancelled() -> ClientError {
    ClientError::error(ErrorSource::Client, sqlstate::QUERY_CANCELED, "canceling statement due to user request")
        .detail("The statement was waiting for an upstream connection.")
}

pub(super) fn lost() -> ClientError {
    ClientError::fatal(ErrorSource::Server, sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly")
        .detail("The upstream server's process ended, or the connection to it broke, while it worked for this client.")
        .hint("The server's log tells more.")
}
