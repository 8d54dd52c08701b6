//! Messages that the server refuses for their form or their encoding: it reads all of a message before it looks up, drops or makes
//! anything (`PostgresMain` in `src/backend/tcop/postgres.c`), so nothing changes by them.

use crate::track::ClientState;
use crate::track::message_target::{MessageTarget, target_of};
use crate::track::text_validity::TextValidity;
use crate::wire::{cstr, frame, frontend};

/// Returns whether the server is certain to refuse a message unread, by as much of it as is there: `size` is that of all of it,
/// header included.
pub(super) fn is_refused_unread(client: &ClientState, tag: u8, size: usize, body: &[u8]) -> bool {
    let is_whole = body.len() + frame::HEADER_BYTES == size;
    if is_whole && !frontend::is_well_formed(tag, body) {
        return true;
    }
    let is_invalid = |string: &[u8]| client.text_validity(string) == TextValidity::Invalid;
    match target_of(tag, body) {
        MessageTarget::Statement { name, rest, .. } if tag == frontend::PARSE => {
            let is_invalid_text = || cstr(rest).is_some_and(|(text, _)| is_invalid(text));
            is_invalid(name) || (is_whole && is_invalid_text())
        }
        MessageTarget::Statement { portal, name, .. } => is_invalid(portal) || is_invalid(name),
        MessageTarget::Portal(portal) => is_invalid(portal),
        MessageTarget::Nothing if tag == frontend::QUERY => is_whole && is_invalid(frontend::query(body)),
        MessageTarget::Nothing | MessageTarget::Unseen => false,
    }
}
