//! The unnamed prepared statement, which every extended query of most drivers goes through.
//!
//! It lives in the server's session until the next `Parse` of an unnamed statement, the next simple query, or its
//! `Close`. Some drivers parse and describe it, wait for the answer, and only then bind it: their connection must not
//! go to somebody else in between. And nobody may bind what somebody else has left.

use crate::wire::{cstr, frontend};

/// A message uses an unnamed statement that this client has not parsed on this connection, and that somebody else may
/// have left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// What is known of the unnamed statement of a connection, for as long as one client has it.
#[derive(Clone, Copy, Debug)]
pub struct Unnamed {
    /// It is this client's, or certain not to exist.
    own: bool,
    /// It has been parsed and not been bound.
    pending: bool,
}

impl Unnamed {
    /// At the beginning of a lease. `own` says that nobody else's statement can be there.
    #[must_use]
    pub fn new(own: bool) -> Self {
        Self { own, pending: false }
    }

    /// Whether the client has parsed it and may be about to bind it.
    #[must_use]
    pub fn is_pending(self) -> bool {
        self.pending
    }

    /// Notes a client's message, of whose body at least what [`names`] needs is there (or will never be).
    ///
    /// # Errors
    /// [`Foreign`] when the message must not reach the server.
    pub fn note(&mut self, tag: u8, body: &[u8]) -> Result<(), Foreign> {
        let names = names(tag, body);
        match (tag, names) {
            (frontend::QUERY, _) | (frontend::CLOSE, Names::Unnamed) => *self = Self::new(true),
            (frontend::PARSE, Names::Unnamed) => *self = Self { own: true, pending: true },
            (frontend::BIND, Names::Unnamed) => self.pending = false,
            _ => {}
        }
        let uses = matches!(tag, frontend::BIND | frontend::DESCRIBE) && names != Names::Other;
        if uses && !self.own { Err(Foreign) } else { Ok(()) }
    }
}

/// Which statement a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// The unnamed one.
    Unnamed,
    /// Another one, or none.
    Other,
    /// The part of the message that says so is not there.
    Unseen,
}

/// Which statement a `Parse`, `Bind`, `Describe` or `Close` is about, by the beginning of its body.
#[must_use]
pub fn names(tag: u8, body: &[u8]) -> Names {
    let name = match tag {
        frontend::PARSE => body,
        frontend::BIND => match cstr(body) {
            Some((_portal, rest)) => rest,
            None => return Names::Unseen,
        },
        frontend::DESCRIBE | frontend::CLOSE => match body {
            [b'S', rest @ ..] => rest,
            [_, ..] => return Names::Other,
            [] => return Names::Unseen,
        },
        _ => return Names::Other,
    };
    match name.first() {
        Some(0) => Names::Unnamed,
        Some(_) => Names::Other,
        None => Names::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_and_described_it_waits_to_be_bound() {
        let mut unnamed = Unnamed::new(false);
        assert_eq!(unnamed.note(frontend::PARSE, b"\0select 1\0\0\0"), Ok(()));
        assert_eq!(unnamed.note(frontend::DESCRIBE, b"S\0"), Ok(()));
        assert!(unnamed.is_pending());
        assert_eq!(unnamed.note(frontend::BIND, b"\0\0\0\0"), Ok(()));
        assert!(!unnamed.is_pending());
        assert_eq!(unnamed.note(frontend::BIND, b"\0\0\0\0"), Ok(()), "it may be bound again");
    }

    #[test]
    fn somebody_elses_is_not_touched() {
        for (tag, body) in
            [(frontend::BIND, &b"portal\0\0"[..]), (frontend::DESCRIBE, b"S\0"), (frontend::BIND, b"long")]
        {
            assert_eq!(Unnamed::new(false).note(tag, body), Err(Foreign));
            assert_eq!(Unnamed::new(true).note(tag, body), Ok(()));
        }
        for (tag, body) in
            [(frontend::BIND, &b"\0name\0"[..]), (frontend::DESCRIBE, b"P\0"), (frontend::DESCRIBE, b"Sname\0")]
        {
            assert_eq!(Unnamed::new(false).note(tag, body), Ok(()));
        }
    }

    #[test]
    fn a_simple_query_or_a_close_ends_it() {
        for (tag, body) in [(frontend::QUERY, &b"select 1\0"[..]), (frontend::CLOSE, b"S\0")] {
            let mut unnamed = Unnamed::new(false);
            assert_eq!(unnamed.note(frontend::PARSE, b"\0select 1\0\0\0"), Ok(()));
            assert_eq!(unnamed.note(tag, body), Ok(()));
            assert!(!unnamed.is_pending());
            assert_eq!(unnamed.note(frontend::BIND, b"\0\0"), Ok(()), "the server says that there is none");
        }
    }
}
