//! How a relay ends, and how it leaves things.

use std::time::Instant;

use crate::error::Fault;
use crate::track::{Pins, Pipeline};

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// The connection is between two pieces of work and can be given back.
    Settled,
    /// The client said good-bye.
    Goodbye,
    /// The client is gone without a word.
    ClientGone,
    /// The process is going away, and the client is between two pieces of work (or the time is up).
    Shutdown,
    /// The client must be told this and end.
    Refuse(Fault),
    /// The connection broke; whether its last word was an error that the client has seen.
    UpstreamLost {
        /// Whether the client has been told why.
        told: bool,
    },
    /// The connection turned out to be dead before anything of the client's was worked on: all of that is unread
    /// again, to be sent elsewhere.
    Stale,
}

/// How a relay left things.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// When the server was last ready for more, if that is why it ended.
    pub ready: Option<Instant>,
    /// What the server still owes.
    pub pipeline: Pipeline,
    /// What the client left in the session.
    pub pins: Pins,
    /// Bytes of the server's current message that are still to come.
    pub partial_down: usize,
    /// Whether the server has part of a client's message.
    pub partial_up: bool,
    /// Whether the client has got part of a server's message, and won't get the rest.
    pub cut: bool,
}
