//! Whether a server takes bytes for text.

/// Knowledge of whether a server takes bytes for text in its client's encoding (`pg_client_to_server` in
/// `src/backend/utils/mb/mbutils.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// It does.
    Yes,
    /// It refuses them.
    No,
    /// It may refuse them: how its client's encoding goes into its own is not known here.
    Perhaps,
}

impl Readable {
    /// Returns what is known of `string`, where `client_encoding` gives the value of that setting.
    pub(super) fn of<'v>(string: &[u8], client_encoding: impl FnOnce() -> Option<&'v [u8]>) -> Self {
        if string.is_ascii() {
            return Self::Yes;
        }
        match client_encoding() {
            Some(b"UTF8") if std::str::from_utf8(string).is_ok() => Self::Yes,
            // Whatever the server's own encoding is.
            Some(b"UTF8") => Self::No,
            _ => Self::Perhaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_by_the_encoding() {
        let utf8 = |string: &[u8]| Readable::of(string, || Some(b"UTF8"));
        assert_eq!(utf8(b"select 1"), Readable::Yes);
        assert_eq!(utf8("ä".as_bytes()), Readable::Yes);
        for refused in [&b"\xff"[..], b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
            assert_eq!(utf8(refused), Readable::No, "{refused:x?}");
            assert_eq!(Readable::of(refused, || Some(b"LATIN1")), Readable::Perhaps);
            assert_eq!(Readable::of(refused, || None), Readable::Perhaps);
        }
        assert_eq!(Readable::of(b"x", || None), Readable::Yes);
    }
}
