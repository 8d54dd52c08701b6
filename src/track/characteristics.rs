//! `SET SESSION CHARACTERISTICS AS TRANSACTION …`: the settings that it makes.

use super::params::Set;
use super::sql::{Token, Tokens};

/// The settings that follow from what `tokens` say behind `SET SESSION CHARACTERISTICS` (`transaction_mode_list` in
/// `src/backend/parser/gram.y`), in their order.
pub(super) fn sets(tokens: &mut Tokens<'_>) -> Option<Box<[Set]>> {
    if !is(word(tokens)?, "as") || !is(word(tokens)?, "transaction") {
        return None;
    }
    let mut sets: Vec<Set> = Vec::new();
    loop {
        let mut mode = tokens.next();
        if mode == Some(Token::Other(b',')) && !sets.is_empty() {
            mode = Some(tokens.next()?);
        }
        let Some(mode) = mode else { break };
        let Token::Word(mode) = mode else { return None };
        let (name, value) = setting(mode, tokens)?;
        let text = format!("SET {name} TO '{value}'");
        sets.push((name.as_bytes().into(), text.into_bytes().into()));
    }
    (!sets.is_empty()).then(|| sets.into())
}

/// The setting that a transaction's property which begins with `first` is by default, and its value.
fn setting(first: &[u8], tokens: &mut Tokens<'_>) -> Option<(&'static str, &'static str)> {
    const DEFERRABLE: &str = "default_transaction_deferrable";
    const ISOLATION: &str = "default_transaction_isolation";
    const READ_ONLY: &str = "default_transaction_read_only";
    if is(first, "deferrable") {
        return Some((DEFERRABLE, "on"));
    }
    let second = word(tokens)?;
    if is(first, "not") {
        return is(second, "deferrable").then_some((DEFERRABLE, "off"));
    }
    if is(first, "read") {
        let value = if is(second, "only") { Some("on") } else { is(second, "write").then_some("off") };
        return value.map(|value| (READ_ONLY, value));
    }
    if !is(first, "isolation") || !is(second, "level") {
        return None;
    }
    let level = word(tokens)?;
    if is(level, "serializable") {
        return Some((ISOLATION, "serializable"));
    }
    let second = word(tokens)?;
    let levels = [
        ("repeatable", "read", "repeatable read"),
        ("read", "committed", "read committed"),
        ("read", "uncommitted", "read uncommitted"),
    ];
    let known = levels.iter().find(|(one, two, _)| is(level, one) && is(second, two));
    known.map(|(_, _, value)| (ISOLATION, *value))
}

fn word<'a>(tokens: &mut Tokens<'a>) -> Option<&'a [u8]> {
    match tokens.next()? {
        Token::Word(word) => Some(word),
        _ => None,
    }
}

fn is(word: &[u8], wanted: &str) -> bool {
    word.eq_ignore_ascii_case(wanted.as_bytes())
}
