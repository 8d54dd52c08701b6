//! The settings that functions' sources are read under, and those by which they were read on a connection.
//!
//! A server process reads a source once, as it first runs the function, and keeps what it has read until it ends: `DISCARD ALL` has it plan
//! anew, and not read anew (`plpgsql_compile` in `src/pl/plpgsql/src/pl_comp.c`, `CachedPlanSource` in
//! `src/include/utils/plancache.h`).

use super::lexis::{Backslashes, Lexis};

/// Beginnings of the names of settings that procedural languages read sources under, in lower case.
const OF_LANGUAGES: [&[u8]; 4] = [b"plpgsql.", b"plperl.", b"pltcl.", b"plpython"];

/// The name of the setting that decides whether a quote may stand behind a backslash.
const BACKSLASH_QUOTE: &[u8] = b"backslash_quote";

/// Rules by which the sources of functions were read on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcesRead {
    /// None was read.
    #[default]
    Nothing,
    /// The rules by which a session's texts are read, too.
    By {
        /// Meaning of backslashes in plain strings.
        backslashes: Backslashes,
    },
    /// Various ones.
    Variously,
}

impl SourcesRead {
    /// Returns whether sources mean in a session with texts read by `lexis` what was read.
    #[must_use]
    pub fn fit(self, lexis: Lexis) -> bool {
        self == Self::Nothing || self.are_by(lexis)
    }

    /// Returns whether some was read, and all by the rules of `lexis`.
    #[must_use]
    pub fn are_by(self, lexis: Lexis) -> bool {
        self == Self::By { backslashes: lexis.backslashes }
    }

    /// Functions may be run in a session with texts read by `lexis`.
    pub fn are_read_by(&mut self, lexis: Lexis) {
        *self = match *self {
            Self::Nothing => Self::By { backslashes: lexis.backslashes },
            same if same.fit(lexis) => same,
            _ => Self::Variously,
        };
    }
}

/// Returns whether sources are read under setting `name`, which is in lower case, so that no other client may get a connection on which
/// it was set.
#[must_use]
pub(crate) fn are_read_under(name: &[u8]) -> bool {
    name == BACKSLASH_QUOTE || OF_LANGUAGES.iter().any(|language| name.starts_with(language))
}

/// Returns whether setting `name`, in any case, is the rule by which sources are read as texts are ([`SourcesRead::By`]).
#[must_use]
pub(crate) fn is_rule(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"standard_conforming_strings")
}

/// Returns what backslashes mean behind a `SET` of that rule with this `text` (`parse_bool` in `src/backend/utils/adt/bool.c`).
#[must_use]
pub(crate) fn backslashes_behind(text: &[u8]) -> Backslashes {
    let value = text.rsplit(|byte| matches!(byte, b'=' | b' ' | b'\t' | b'\n')).find(|part| !part.is_empty());
    let value = value.unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let value = value.strip_prefix(b"'").unwrap_or(&value);
    let is_off = [&b"f"[..], b"of", b"n", b"0"].iter().any(|off| value.starts_with(off));
    if is_off { Backslashes::Escape } else { Backslashes::Literal }
}

/// Returns whether `text` may name a setting that sources are read under.
#[must_use]
pub(crate) fn may_be_named(text: &[u8]) -> bool {
    let is_named = |name: &[u8]| text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
    is_named(BACKSLASH_QUOTE)
        || OF_LANGUAGES.iter().any(|language| is_named(language.strip_suffix(b".").unwrap_or(language)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_by_the_rules_of_the_first() {
        let (plain, escaped) =
            (Lexis::with_backslashes(Backslashes::Literal), Lexis::with_backslashes(Backslashes::Escape));
        let mut sources = SourcesRead::default();
        assert!(sources.fit(plain) && sources.fit(escaped));
        sources.are_read_by(escaped);
        sources.are_read_by(escaped);
        assert!(!sources.fit(plain) && sources.fit(escaped));
        sources.are_read_by(plain);
        assert!(!sources.fit(plain) && !sources.fit(escaped));
    }

    #[test]
    fn settings_of_languages() {
        assert!(are_read_under(b"plpgsql.variable_conflict") && are_read_under(b"backslash_quote"));
        assert!(!are_read_under(b"app.plpgsql") && !are_read_under(b"standard_conforming_strings"));
    }
}
