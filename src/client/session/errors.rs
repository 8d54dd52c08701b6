//! Errors that end a client's session, or its request.

use crate::error::{ClientError, ErrorSource, sqlstate};

/// Error for clients at shutdown, as PostgreSQL words it.
#[must_use]
pub(crate) fn shutdown() -> ClientError {
    ClientError::fatal(
        ErrorSource::Client,
        sqlstate::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
    .detail("pgferry is shutting down.")
}

/// Error for a client that is ended by hand; the words are PostgreSQL's.
#[must_use]
pub(crate) fn killed() -> ClientError {
    ClientError::fatal(
        ErrorSource::Client,
        sqlstate::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
    .detail("It was ended at pgferry's console (KILL, KILL_CLIENT).")
}

/// Error for a client that was idle for longer than its `idle_session_timeout`, as PostgreSQL words it.
pub(super) fn idle_for_too_long() -> ClientError {
    ClientError::fatal(
        ErrorSource::Client,
        sqlstate::IDLE_SESSION_TIMEOUT,
        "terminating connection due to idle-session timeout",
    )
}

/// Error for a client that cancels what waits for a connection.
pub(super) fn cancelled() -> ClientError {
    ClientError::error(ErrorSource::Client, sqlstate::QUERY_CANCELED, "canceling statement due to user request")
        .detail("The statement was waiting for an upstream connection.")
}

/// Error for a client that has lost its server connection in the middle of a request.
pub(super) fn lost() -> ClientError {
    ClientError::fatal(ErrorSource::Server, sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly")
        .detail("The upstream server's process ended, or the connection to it broke, while it worked for this client.")
        .hint("The server's log tells more.")
}
