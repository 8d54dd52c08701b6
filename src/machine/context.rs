//! What a machine works on: the bytes under way, and what it needs to know.

use crate::buffer::Buffer;
use crate::config::{Mode, Pin};
use crate::track::parameter_cache::ParameterCache;
use crate::track::statements::{Limits, StatementCache};

/// Bytes under way between a client and a server connection.
#[derive(Debug)]
pub struct Buffers<'b> {
    /// Bytes from the client.
    pub from_client: &'b mut Buffer,
    /// Bytes for the client, behind those forwarded out of `from_server` so far and in front of those forwarded later.
    pub to_client: &'b mut Vec<u8>,
    /// Bytes from the server.
    pub from_server: &'b mut Buffer,
    /// Bytes for the server, likewise.
    pub to_server: &'b mut Vec<u8>,
}

/// Progress of the bytes that are to be sent and have left the [`Buffers`] or wait in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The kernel has taken all of them.
    Done,
    /// Some are still to be taken.
    Pending,
}

impl Flush {
    /// Returns the progress of what is flushed or not.
    #[must_use]
    pub fn of(is_flushed: bool) -> Self {
        if is_flushed { Self::Done } else { Self::Pending }
    }
}

/// Facts that a machine needs and does not change.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Mode: the client's session lasts for its connection, or is carried from one to the next.
    pub mode: Mode,
    /// Treatment of clients that leave session state.
    pub pin: Pin,
    /// Number of statements that may be prepared on the connection.
    pub limits: Limits,
    /// The longest text that is held whole to be analysed, in bytes.
    pub max_text_bytes: usize,
    /// The prepared statements of the pool's clients.
    pub statements: &'a StatementCache,
    /// Cache of the settings that the pool's connections report.
    pub parameters: &'a ParameterCache,
    /// The pool's role.
    pub user: &'a [u8],
    /// The client's number.
    pub client: u64,
    /// The pid that the client was given at its login.
    pub given_pid: i32,
    /// The pid of the connection's backend.
    pub backend_pid: i32,
}
