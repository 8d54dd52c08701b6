//! The settings that decide how a server reads a client's text.

use super::params::ServerParams;

/// How a text is read: by what the server has reported of the session that it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lexis {
    /// A backslash escapes in plain strings (`standard_conforming_strings = off`).
    pub backslashes: bool,
    /// What its characters consist of.
    pub characters: Characters,
}

/// How many bytes the characters of a client's encoding have, as far as bytes of ASCII stand in them (`src/common/wchar.c`).
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
    /// That of a session that reports `params`, which keep it: [`ServerParams::lexis`].
    #[must_use]
    pub(super) fn of(params: &ServerParams) -> Self {
        let characters = match params.get(b"client_encoding") {
            Some(b"SJIS" | b"SHIFT_JIS_2004") => Characters::ShiftJis,
            Some(b"BIG5" | b"GBK" | b"UHC" | b"JOHAB" | b"GB18030") => Characters::Pairs,
            _ => Characters::AsciiAlone,
        };
        Self { backslashes: params.get(b"standard_conforming_strings") == Some(b"off"), characters }
    }

    /// That of a text in the server's own encoding.
    #[must_use]
    pub fn with_backslashes(backslashes: bool) -> Self {
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
