//! Where a text of SQL names statements of the extended protocol.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::client_statements::ClientStatements;
use super::lexis::Lexis;
use super::sql::{Token, Tokens};
use super::sql_effects::{SqlEffects, TransactionFate};
use super::statements::{PREFIX, Statement};
use super::unknown_settings::UnknownSettings;

/// Mention of a statement in a text.
#[derive(Clone, Debug)]
pub(crate) struct Mention {
    /// Range in the text, in bytes.
    pub at: Range<usize>,
    /// The name.
    pub name: Box<[u8]>,
    /// The statement.
    pub statement: Arc<Statement>,
    /// Purpose.
    pub purpose: Purpose,
}

/// Purposes of a mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is run, by `EXECUTE`.
    Run,
    /// It is freed, by `DEALLOCATE`.
    Free,
    /// Another one is to be made of its name, by `PREPARE`, which fails.
    Make,
}

/// Finds where a text says `EXECUTE name`, `DEALLOCATE name` or `PREPARE name` of a statement that `names` knows: SQL sees
/// the statements of the extended protocol too, but under the names they have on the server.
#[must_use]
pub(crate) fn mentions(sql: &[u8], names: &ClientStatements, lexis: Lexis) -> Vec<Mention> {
    let mut found = Vec::new();
    if names.is_empty() {
        return found;
    }
    each_name(sql, lexis, |at, name, purpose| {
        let named = names.get(&name);
        found.extend(named.map(|named| Mention { at, statement: Arc::clone(&named.statement), name, purpose }));
        named.is_some()
    });
    found
}

/// Returns the effects of a text that runs what it mentions: the tags of that are not among those that its own commands expect.
#[must_use]
pub(crate) fn joined<'e>(effects: &'e SqlEffects, mentioned: &[Mention]) -> Cow<'e, SqlEffects> {
    let mut joined = Cow::Borrowed(effects);
    let run = mentioned.iter().filter(|mention| mention.purpose == Purpose::Run);
    for text in run.filter_map(|mention| mention.statement.text.as_ref()) {
        if text.effects.sets() || text.effects.names_statements {
            joined.to_mut().unknown_settings = UnknownSettings::ForSession;
        }
        if text.effects.transaction == TransactionFate::MayEnd {
            joined.to_mut().transaction = TransactionFate::MayEnd;
        }
    }
    joined
}

/// Returns a name that a text mentions which is one of pgferry's own on the server, and none that `names` knows: another client's
/// statement may have it.
#[must_use]
pub(crate) fn others_name(sql: &[u8], names: &ClientStatements, lexis: Lexis) -> Option<Box<[u8]>> {
    let mut found = None;
    each_name(sql, lexis, |_, name, _| {
        let is_others = name.starts_with(PREFIX.as_bytes()) && names.get(&name).is_none();
        if is_others {
            found = Some(name);
        }
        is_others
    });
    found
}

/// Gives `is_one` each word of a text that stands where `EXECUTE`, `DEALLOCATE` and `PREPARE` have a name. Where it says that it is none,
/// it may be a keyword of these.
fn each_name(sql: &[u8], lexis: Lexis, mut is_one: impl FnMut(Range<usize>, Box<[u8]>, Purpose) -> bool) {
    let mut tokens = Tokens::new(sql, lexis);
    let mut expected = None;
    loop {
        let start = sql.len() - tokens.skip_to_token();
        let Some(token) = tokens.next() else { return };
        let keyword = matches!(token, Token::Word(_));
        match token.identifier().map(Box::from) {
            Some(name) => {
                let at = start..sql.len() - tokens.rest().len();
                // PREPARE TRANSACTION names none.
                let of = expected.filter(|purpose| *purpose != Purpose::Make || *name != *b"transaction");
                let behind = if keyword { purpose_behind(&name, expected) } else { None };
                expected = if of.is_some_and(|purpose| is_one(at, name, purpose)) { None } else { behind };
            }
            None => expected = None,
        }
    }
}

/// Returns the purpose of a name behind `keyword`, in front of which one was named for `expected`.
fn purpose_behind(keyword: &[u8], expected: Option<Purpose>) -> Option<Purpose> {
    match keyword {
        b"execute" => Some(Purpose::Run),
        b"deallocate" => Some(Purpose::Free),
        b"prepare" => expected.filter(|purpose| *purpose == Purpose::Free).or(Some(Purpose::Make)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::client_statements::NamedStatement;
    use super::super::statements::StatementCache;
    use super::*;

    #[test]
    fn sql_that_mentions_statements() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        for name in [&b"s1"[..], b"S 2"] {
            let statement = cache.uncached();
            names.set(name, Some(NamedStatement::new(statement)));
        }
        for (sql, mentioned) in [
            ("deallocate s1", vec!["s1"]),
            ("DEALLOCATE PREPARE S1;", vec!["S1"]),
            ("execute \"S 2\"(1, 2); /* x */ execute /* y */ s1", vec!["\"S 2\"", "s1"]),
            ("explain analyze execute s1", vec!["s1"]),
            ("select s1, 'execute s1' from s1", vec![]),
            ("execute s3", vec![]),
            ("prepare s1 as select 1", vec!["s1"]),
            ("prepare transaction 's1'", vec![]),
            ("deallocate all", vec![]),
            ("grant execute on function s1() to s1", vec![]),
        ] {
            let found = mentions(sql.as_bytes(), &names, Lexis::default());
            assert_eq!(found.iter().map(|mention| &sql[mention.at.clone()]).collect::<Vec<_>>(), mentioned, "{sql}");
            let frees = sql.to_ascii_lowercase().starts_with("deallocate");
            assert!(found.iter().all(|mention| (mention.purpose == Purpose::Free) == frees), "{sql}");
        }
    }

    #[test]
    fn names_of_the_server() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        names.set(b"pgferry_2", Some(NamedStatement::new(cache.uncached())));
        for (sql, expected) in [
            ("execute pgferry_1", Some("pgferry_1")),
            ("select 1; DEALLOCATE PREPARE \"pgferry_12\"", Some("pgferry_12")),
            ("prepare pgferry_3 as select 1", Some("pgferry_3")),
            ("execute pgferry_2", None),
            ("select 'execute pgferry_1', pgferry_1 from pgferry_1", None),
            ("execute Pgferry_2; deallocate PGFERRY_1", Some("pgferry_1")),
        ] {
            let found = others_name(sql.as_bytes(), &names, Lexis::default());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{sql}");
        }
    }
}
