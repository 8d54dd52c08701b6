//! Validity of bytes as text in a client's encoding.

/// Validity of a string in its client's encoding, as far as it is known; the server refuses one that is not valid before it reads it
/// (`pg_client_to_server` in `src/backend/utils/mb/mbutils.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextValidity {
    /// The server takes it.
    Valid,
    /// The server refuses it.
    Invalid,
    /// The server may refuse it: only UTF-8 is checked here.
    Unknown,
}

impl TextValidity {
    /// Returns what is known of `string`, where `client_encoding` gives the value of that setting.
    pub(super) fn of<'v>(string: &[u8], client_encoding: impl FnOnce() -> Option<&'v [u8]>) -> Self {
        if string.is_ascii() {
            return Self::Valid;
        }
        match client_encoding() {
            Some(b"UTF8") if std::str::from_utf8(string).is_ok() => Self::Valid,
            // Whatever the server's own encoding is.
            Some(b"UTF8") => Self::Invalid,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_valid_by_the_encoding() {
        let utf8 = |string: &[u8]| TextValidity::of(string, || Some(b"UTF8"));
        assert_eq!(utf8(b"select 1"), TextValidity::Valid);
        assert_eq!(utf8("ä".as_bytes()), TextValidity::Valid);
        for refused in [&b"\xff"[..], b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
            assert_eq!(utf8(refused), TextValidity::Invalid, "{refused:x?}");
            assert_eq!(TextValidity::of(refused, || Some(b"LATIN1")), TextValidity::Unknown);
            assert_eq!(TextValidity::of(refused, || None), TextValidity::Unknown);
        }
        assert_eq!(TextValidity::of(b"x", || None), TextValidity::Valid);
    }
}
