//! Ends of a session, and of the work on one connection.

use super::errors::{killed, lost, shutdown};
use crate::client::relay::End;
use crate::error::ClientError;
use crate::machine;

/// Ends of a session.
pub(super) enum SessionEnd {
    /// The client is gone, or has said good-bye.
    Quiet,
    /// The server has told the client why.
    Told,
    /// The client is told why.
    Tell(ClientError),
}

/// Progress of a client's request when it leaves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is answered.
    Answered,
    /// The server has not come to it: the connection was dead or could not be reset.
    Unanswered,
    /// The server has not come to it, and the client has cancelled it.
    Cancelled,
}

/// Returns what a relay that ended with `end` has made of the client's request.
///
/// # Errors
/// The session's end, where the relay's is that.
pub(super) fn after(end: &End) -> Result<Progress, SessionEnd> {
    match end {
        End::Machine(machine::End::Settled) => Ok(Progress::Answered),
        End::Machine(machine::End::Stale) => Ok(Progress::Unanswered),
        End::Machine(machine::End::ClientTerminated) | End::ClientGone => Err(SessionEnd::Quiet),
        End::Machine(machine::End::ServerLost { told: true }) => Err(SessionEnd::Told),
        End::Machine(machine::End::ServerLost { told: false }) => Err(SessionEnd::Tell(lost())),
        End::Machine(machine::End::Refuse(client_error)) => Err(SessionEnd::Tell(client_error.clone())),
        End::Shutdown => Err(SessionEnd::Tell(shutdown())),
        End::Killed => Err(SessionEnd::Tell(killed())),
    }
}
