//! Constants of a text that mean the moment at which the server reads them.
//!
//! What PostgreSQL makes of `'now'` or `'today'` where a date or time is expected becomes part of the statement as it is prepared
//! (`datetktbl` in `src/backend/utils/adt/datetime.c`): it is never another one's to use.

/// Values of the constants in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Constants {
    /// The same, whenever the server reads it.
    #[default]
    Fixed,
    /// Perhaps those of the moment at which it does: their types are not known.
    OfTheMoment,
}

impl Constants {
    /// Returns that of a string constant with this `content`, as it is written.
    #[must_use]
    pub(crate) fn of(content: &[u8]) -> Self {
        if names_moment(content) || may_spell_otherwise(content) { Self::OfTheMoment } else { Self::Fixed }
    }
}

/// Words for moments.
const MOMENTS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Returns whether one of the words stands in `content`, as a word of its own.
fn names_moment(content: &[u8]) -> bool {
    content
        .split(|byte| !byte.is_ascii_alphabetic())
        .any(|word| MOMENTS.iter().any(|one| word.eq_ignore_ascii_case(one)))
}

/// Returns whether `content` may be another one than it looks, by the numbers of characters.
fn may_spell_otherwise(content: &[u8]) -> bool {
    let by_number = |two: &[u8]| two[0] == b'\\' && matches!(two[1], b'x' | b'u' | b'U' | b'0'..=b'7');
    content.windows(2).any(by_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_words_of_their_own() {
        for content in ["now", "NOW", " Today ", "tomorrow 10:00", "[yesterday,today)", "{now}", "\\x6eow"] {
            assert_eq!(Constants::of(content.as_bytes()), Constants::OfTheMoment, "{content}");
        }
        for content in
            ["", "snow", "nowhere", "2020-01-01", "C:\\temp", "it''s", "two\nlines", "its\nno'w", "infinity", "epoch"]
        {
            assert_eq!(Constants::of(content.as_bytes()), Constants::Fixed, "{content}");
        }
    }
}
