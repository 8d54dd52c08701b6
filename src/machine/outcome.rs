//! What becomes of a machine: what is next, how it ends, and what it leaves.

use crate::error::ClientError;
use crate::track::{Pins, Pipeline};

/// Reason why a machine ended.
#[derive(Debug)]
pub enum End {
    /// The connection is between two pieces of work and can be given back.
    Settled,
    /// The client has said that it ends, and has all its answers.
    ClientTerminated,
    /// The client must be told this and end.
    Refuse(ClientError),
    /// The connection broke, and what the server did of the client's work is not known; whether the server's last word
    /// was an error that the client has seen.
    ServerLost {
        /// True if the client has been told why.
        told: bool,
    },
    /// The server has not come to anything of the client's: all of that is unread again, to be sent elsewhere.
    Stale,
}

/// Next step between two messages.
#[derive(Debug)]
pub enum Next {
    /// There is nothing to do until something arrives.
    Wait,
    /// There is something to do.
    Again,
    /// The server is to be told that nothing more comes: what it says to that is the client's, until it ends as well.
    HalfClose,
    /// The client is between two pieces of work, and keeps its connection: for these reasons, or since its session does.
    Idle(Pins),
    /// The machine is over.
    End(End),
}

/// Result of a machine.
#[derive(Debug)]
pub struct MachineResult {
    /// Requests that the server has not answered.
    pub pipeline: Pipeline,
    /// Pins: state that the client left in the session.
    pub pins: Pins,
    /// Bytes of the server's current message that are still to come.
    pub partial_down: usize,
    /// True if the client has got part of a server's message, and won't get the rest.
    pub cut: bool,
}
