//! The settings that decide how a server reads a client's text.

/// Rules by which a text is read, as the server has reported them of its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lexis {
    /// Meaning of backslashes in plain strings.
    pub backslashes: Backslashes,
    /// Bytes that its characters consist of.
    pub characters: Characters,
}

/// Meaning of a backslash in a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backslashes {
    /// It is a character like any other.
    #[default]
    Literal,
    /// It takes the next character along: in plain strings with `standard_conforming_strings = off`.
    Escape,
}

/// Encodings by the length of their characters, as far as bytes of ASCII are part of them (`src/common/wchar.c`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Characters {
    /// A byte of ASCII is a character of its own, as in UTF-8.
    #[default]
    AsciiAlone,
    /// Every byte above ASCII begins a character of two: `BIG5`, `GBK`, `UHC`, `JOHAB`, `GB18030`.
    Pairs,
    /// The same, but for characters of one byte, from A1 to DF: `SJIS`, `SHIFT_JIS_2004`.
    ShiftJis,
}

impl Lexis {
    /// Returns the rules of a session that reports these values of `client_encoding` and `standard_conforming_strings`.
    #[must_use]
    pub(super) fn of(client_encoding: Option<&[u8]>, standard_conforming_strings: Option<&[u8]>) -> Self {
        let characters = match client_encoding {
            Some(b"SJIS" | b"SHIFT_JIS_2004") => Characters::ShiftJis,
            Some(b"BIG5" | b"GBK" | b"UHC" | b"JOHAB" | b"GB18030") => Characters::Pairs,
            _ => Characters::AsciiAlone,
        };
        let backslashes = match standard_conforming_strings {
            Some(b"off") => Backslashes::Escape,
            _ => Backslashes::Literal,
        };
        Self { backslashes, characters }
    }

    /// Returns the rules for a text in the server's own encoding.
    #[must_use]
    pub fn with_backslashes(backslashes: Backslashes) -> Self {
        Self { backslashes, characters: Characters::AsciiAlone }
    }
}

impl Characters {
    /// Number of bytes, at most, of the character that begins with `first`.
    #[must_use]
    pub fn length(self, first: u8) -> usize {
        match self {
            Self::Pairs if first >= 0x80 => 2,
            Self::ShiftJis if first >= 0x80 && !(0xa1..=0xdf).contains(&first) => 2,
            Self::AsciiAlone | Self::Pairs | Self::ShiftJis => 1,
        }
    }
}
