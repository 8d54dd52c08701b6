//! PostgreSQL's wire protocol as bytes, and nothing else.
//!
//! No sockets, no `async`, no allocation when reading: functions look at a slice and say what is in it.
//! What a length field claims is checked before that many bytes are allocated or waited for.
//!
//! - [`frame`]: message boundaries, the only thing the data path needs to know of most messages.
//! - [`stream_position`]: position in a stream of messages that is passed on as it comes.
//! - [`startup`]: the packets that come before the first tagged message.
//! - [`frontend`]: views of the client's messages, and the few that pgferry writes itself.
//! - [`backend`]: views of the server's messages, and writers for the ones that pgferry answers with.
//!
//! Protocol facts are from PostgreSQL's manual, chapter "Frontend/Backend Protocol", and where that is
//! silent from `src/backend/tcop/postgres.c` and `backend_startup.c`.

pub(crate) mod backend;
pub(crate) mod frame;
pub(crate) mod frontend;
pub(crate) mod startup;
pub(crate) mod stream_position;

pub(crate) use frame::{BadLength, Frame, Frames, Head, head};
pub(crate) use startup::{Opening, Startup, StartupError};
pub(crate) use stream_position::StreamPosition;

/// Splits a NUL-terminated string off the front of `bytes`; `None` if there is no NUL.
#[must_use]
pub(crate) fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
