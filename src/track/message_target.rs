//! Which statement and which portal a message is about, and how much of it must be there to tell.

use crate::wire::{Head, cstr, frame, frontend};

/// The longest text that is held whole in memory to be analysed, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;

/// Objects that a message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageTarget<'a> {
    /// A statement; `rest` is what follows its name in the message.
    Statement {
        /// The portal that a `Bind` makes of it; empty in other messages.
        portal: &'a [u8],
        /// The statement's name; empty for the unnamed one.
        name: &'a [u8],
        /// Rest of the message.
        rest: &'a [u8],
    },
    /// A portal.
    Portal(&'a [u8]),
    /// Neither.
    Nothing,
    /// The part of the message that says so is not there.
    Unseen,
}

/// Returns the objects that a message names, by the beginning of its body.
#[must_use]
pub(crate) fn target_of(tag: u8, body: &[u8]) -> MessageTarget<'_> {
    let statement = |portal, text| {
        cstr(text).map_or(MessageTarget::Unseen, |(name, rest)| MessageTarget::Statement { portal, name, rest })
    };
    match tag {
        frontend::PARSE => statement(&body[..0], body),
        frontend::BIND => cstr(body).map_or(MessageTarget::Unseen, |(portal, rest)| statement(portal, rest)),
        frontend::EXECUTE => cstr(body).map_or(MessageTarget::Unseen, |(portal, _)| MessageTarget::Portal(portal)),
        frontend::DESCRIBE | frontend::CLOSE => match body {
            [b'S', rest @ ..] => statement(&body[..0], rest),
            [_, rest @ ..] => cstr(rest).map_or(MessageTarget::Unseen, |(portal, _)| MessageTarget::Portal(portal)),
            [] => MessageTarget::Unseen,
        },
        _ => MessageTarget::Nothing,
    }
}

/// Returns whether enough of a message is there to judge it: all of a text of up to `limit` bytes or an `Execute`, and the names
/// that it is about, as far as they stand in its first `limit` bytes. `bytes` is what is there of it, header included.
#[must_use]
pub(crate) fn is_complete_enough(head: Head, bytes: &[u8], limit: usize) -> bool {
    if bytes.len() >= head.size {
        return true;
    }
    match head.tag {
        frontend::QUERY => head.size > limit,
        // Something may have to be sent behind an Execute, a Close be answered for the server, which refuses it for its end, and a
        // function's call be refused, which PostgreSQL carries out only once it is whole.
        frontend::PARSE | frontend::EXECUTE | frontend::CLOSE | frontend::FUNCTION_CALL if head.size <= limit => false,
        _ if bytes.len() >= limit => true,
        _ => target_of(head.tag, bytes.get(frame::HEADER_BYTES..).unwrap_or_default()) != MessageTarget::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_found() {
        let statement = |portal: &'static [u8], name: &'static [u8], rest: &'static [u8]| MessageTarget::Statement {
            portal,
            name,
            rest,
        };
        for (tag, body, expected) in [
            (frontend::PARSE, &b"s\0select 1\0\0\0"[..], statement(b"", b"s", b"select 1\0\0\0")),
            (frontend::PARSE, b"long", MessageTarget::Unseen),
            (frontend::BIND, b"p\0s\0\0\0", statement(b"p", b"s", b"\0\0")),
            (frontend::BIND, b"p\0s", MessageTarget::Unseen),
            (frontend::DESCRIBE, b"Ss\0", statement(b"", b"s", b"")),
            (frontend::DESCRIBE, b"Ps\0", MessageTarget::Portal(b"s")),
            (frontend::CLOSE, b"S", MessageTarget::Unseen),
            (frontend::CLOSE, b"", MessageTarget::Unseen),
            (frontend::EXECUTE, b"\0\0\0\0\0", MessageTarget::Portal(b"")),
            (frontend::SYNC, b"", MessageTarget::Nothing),
            (frontend::COPY_DATA, b"x", MessageTarget::Nothing),
        ] {
            assert_eq!(target_of(tag, body), expected, "{} {body:?}", char::from(tag));
        }
    }

    #[test]
    fn how_much_must_be_there() {
        let judge = |tag: u8, size: usize, body: &[u8]| {
            let mut bytes = vec![tag, 0, 0, 0, 0];
            bytes.extend_from_slice(body);
            is_complete_enough(Head { tag, size }, &bytes, 100)
        };
        assert!(!judge(frontend::QUERY, 50, b"select"));
        assert!(judge(frontend::QUERY, 101, b"select"));
        assert!(!judge(frontend::PARSE, 50, b"s\0select"));
        assert!(!judge(frontend::PARSE, 101, b"s"));
        assert!(judge(frontend::PARSE, 101, b"s\0"));
        assert!(!judge(frontend::CLOSE, 50, b"Ss\0"));
        assert!(judge(frontend::CLOSE, 101, b"Ss\0"));
        assert!(judge(frontend::BIND, 1000, b"p\0s\0"));
        assert!(!judge(frontend::BIND, 1000, b"p\0s"));
        assert!(judge(frontend::BIND, 1000, &[b'p'; 95]), "a name that does not end is not waited for");
        assert!(!judge(frontend::BIND, 1000, &[b'p'; 94]));
        assert!(judge(frontend::COPY_DATA, 1000, b""));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_do_not_panic(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = target_of(tag, &body);
            let _ = is_complete_enough(Head { tag, size: body.len() + 6 }, &body, 10);
        }
    }
}
