//! What a machine works on: the bytes under way, and what it needs to know.

use crate::buffer::Buffer;
use crate::config::{Mode, Pin};
use crate::track::parameter_cache::ParameterCache;
use crate::track::statements::{Limits, StatementCache};

/// What is under way between a client and a server connection.
#[derive(Debug)]
pub struct Buffers<'b> {
    /// What the client has sent.
    pub from_client: &'b mut Buffer,
    /// What the client is to be sent, behind what it is sent out of `from_server`'s past and in front of its future.
    pub to_client: &'b mut Vec<u8>,
    /// What the server has sent.
    pub from_server: &'b mut Buffer,
    /// What the server is to be sent, likewise.
    pub to_server: &'b mut Vec<u8>,
}

/// What a machine needs to know and does not change.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Whether the client's session lasts for its connection or is carried from one to the next.
    pub mode: Mode,
    /// What becomes of a client that leaves session state.
    pub pin: Pin,
    /// Number of statements that may be prepared on the connection.
    pub limits: Limits,
    /// The longest text that is held whole to be analysed, in bytes.
    pub max_text_bytes: usize,
    /// The prepared statements of the pool's clients.
    pub statements: &'a StatementCache,
    /// What is known of the settings that the pool's connections report.
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
