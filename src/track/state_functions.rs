//! Functions of the server's own that mean session state, by name.

use super::sql::{Token, Tokens};
use super::sql_statement::is;

/// Returns whether function `name` leaves something that `DISCARD ALL` does not undo.
pub(super) fn survives_discard(name: &[u8]) -> bool {
    UNRESETTABLE.iter().any(|unresettable| name.starts_with(unresettable))
}

/// Beginnings of the names of functions that leave something which `DISCARD ALL` does not undo.
pub(super) const UNRESETTABLE: [&[u8]; 11] = [
    b"setseed",
    b"dblink",
    // Before PostgreSQL 18 a variable of the library `isn`.
    b"isn_weak",
    b"sepgsql_setcon",
    b"pg_backup_start",
    b"pg_start_backup",
    b"pg_create_physical_replication_slot",
    b"pg_create_logical_replication_slot",
    b"pg_copy_physical_replication_slot",
    b"pg_copy_logical_replication_slot",
    b"pg_replication_origin_session_setup",
];

/// Beginnings of the names of functions that run a text they are given.
pub(super) const RUNS_TEXTS: [&[u8]; 3] = [b"query_to_xml", b"ts_stat", b"ts_rewrite"];

/// Returns whether the arguments of a function that runs a text are constants as they stand, up to where they are looked at: what is made
/// of others can't be told.
pub(super) fn are_plain_constants(tokens: Tokens<'_>) -> bool {
    let is_plain = |text: &[u8]| !text.contains(&b'\\') && !text.windows(2).any(|part| is(part, b"u&"));
    let mut behind = tokens.skip(1).take(MAX_ARGUMENT_TOKENS);
    loop {
        match behind.next() {
            Some(Token::Text(text)) if is_plain(text) => {}
            Some(Token::Word(word)) if is(word, b"true") || is(word, b"false") => {}
            Some(Token::Other(b',')) => {}
            last => return last == Some(Token::Other(b')')),
        }
    }
}

/// Returns whether the function with this OID is one of those for large objects, which leave nothing in a session: their descriptors
/// last for a transaction (`src/include/catalog/pg_proc.dat`).
pub(super) fn is_of_large_objects(oid: u32) -> bool {
    matches!(oid, 715 | 764 | 765 | 767 | 952..=958 | 964 | 1004 | 3170..=3172 | 3457..=3460)
}

/// Returns whether a name holds `advisory_`, as those of functions for locks do.
pub(super) fn is_advisory(name: &[u8]) -> bool {
    const WORD: &[u8] = b"advisory";
    name.windows(WORD.len() + 1).any(|window| window[WORD.len()] == b'_' && is(&window[..WORD.len()], WORD))
}

/// Number of tokens of a call's arguments that are looked at: calls may be nested, and each looks ahead for itself.
const MAX_ARGUMENT_TOKENS: usize = 128;

/// Returns whether the arguments behind `set_config` end in a plain `true`, as far as they are looked at: it holds for the
/// transaction only.
pub(super) fn is_local_set_config(tokens: Tokens<'_>) -> bool {
    let mut depth = 0;
    let mut commas = 0;
    let mut third = Vec::new();
    for token in tokens.take(MAX_ARGUMENT_TOKENS) {
        match token {
            Token::Other(b'(') => depth += 1,
            Token::Other(b')') if depth == 1 => {
                return matches!(third.as_slice(), [Token::Word(word)] if word.eq_ignore_ascii_case(b"true"));
            }
            Token::Other(b')') => depth -= 1,
            Token::Other(b',') if depth == 1 => {
                commas += 1;
                continue;
            }
            _ => {}
        }
        match depth {
            0 => return false,
            _ if commas >= 2 => third.push(token),
            _ => {}
        }
    }
    false
}

/// Returns the first of the arguments behind `set_config`, where that is the plain name of a setting.
pub(super) fn first_argument(mut behind: Tokens<'_>) -> Option<&[u8]> {
    let arguments = (behind.next(), behind.next(), behind.next());
    let (_, Some(Token::Text(name)), Some(Token::Other(b','))) = arguments else { return None };
    Some(name).filter(|name| is_plain(name))
}

/// Returns whether the name of a setting needs no quotes.
pub(super) fn is_plain(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_SETTING_BYTES
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

/// The longest name of a setting that the server is asked for, in bytes.
const MAX_SETTING_BYTES: usize = 128;
