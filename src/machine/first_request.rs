//! What a client sends next that has no connection: as much of a request as a machine needs to send something on is waited
//! for without one.

use crate::buffer::Buffer;
use crate::error::ClientError;
use crate::track::Request;
use crate::track::message_target;
use crate::wire::{Head, frame, frontend, head};

/// Next request of a client without a connection.
#[derive(Debug)]
pub enum FirstRequest {
    /// Not enough to tell.
    NeedMore,
    /// A message of this many bytes that PostgreSQL ignores: late copy data, or a `Flush` of nothing.
    Ignored(usize),
    /// A request: its header, or all of a message that must be looked at. It is unread.
    There,
    /// `Terminate`.
    Terminate,
    /// Bytes that are no message; the client gets this error and ends.
    Violation(ClientError),
}

/// Returns the text of the simple query that is unread in `input`, where that is next and all of it is there.
#[must_use]
pub(crate) fn first_query(input: &Buffer) -> Option<&[u8]> {
    let Head { tag, size } = head(input.unparsed(), frame::FRONTEND_LIMIT).ok()??;
    let message = input.unparsed().get(frame::HEADER_BYTES..size).filter(|_| tag == frontend::QUERY)?;
    Some(frontend::query(message))
}

/// Looks at what is unread in `input`, and makes room for what more is needed. Texts of up to `max_text_bytes` are looked
/// at whole.
pub fn first_request(input: &mut Buffer, max_text_bytes: usize) -> FirstRequest {
    let Head { tag, size } = match head(input.unparsed(), frame::FRONTEND_LIMIT) {
        Err(bad) => return FirstRequest::Violation(ClientError::violation(bad.to_string())),
        Ok(None) => return FirstRequest::NeedMore,
        Ok(Some(head)) => head,
    };
    if !message_target::is_complete_enough(Head { tag, size }, input.unparsed(), max_text_bytes) {
        input.make_room(size);
        return FirstRequest::NeedMore;
    }
    match (tag, Request::of(Head { tag, size })) {
        (frontend::TERMINATE, _) => FirstRequest::Terminate,
        (_, Some(Request::CopyData | Request::CopyEnd | Request::Flush)) => FirstRequest::Ignored(size),
        (_, Some(_)) => FirstRequest::There,
        (_, None) => FirstRequest::Violation(ClientError::unknown_message(tag)),
    }
}
