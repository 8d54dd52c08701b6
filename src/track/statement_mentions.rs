//! Where a text of SQL names statements of the extended protocol.

use std::ops::Range;
use std::sync::Arc;

use super::lexis::Lexis;
use super::sql::{Token, Tokens};
use super::statements::{ClientStatements, Statement};

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
    let mut tokens = Tokens::new(sql, lexis);
    let mut expected = None;
    loop {
        let start = sql.len() - tokens.skip_to_token();
        let Some(token) = tokens.next() else { return found };
        let name: Option<Box<[u8]>> = match token {
            Token::Word(word) => Some(word.to_ascii_lowercase().into()),
            Token::Quoted(name) => Some(name.into()),
            _ => None,
        };
        let keyword = matches!(token, Token::Word(_));
        match name {
            Some(name) => match (expected, names.get(&name)) {
                // PREPARE TRANSACTION names none.
                (Some(purpose), Some(named)) if purpose != Purpose::Make || *name != *b"transaction" => {
                    let at = start..sql.len() - tokens.rest().len();
                    found.push(Mention { at, name, statement: Arc::clone(&named.statement), purpose });
                    expected = None;
                }
                _ if keyword => expected = purpose_behind(&name, expected),
                _ => expected = None,
            },
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
    use super::super::statements::{NamedStatement, StatementCache};
    use super::*;

    #[test]
    fn sql_that_mentions_statements() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        for name in [&b"s1"[..], b"S 2"] {
            let statement = cache.uncached();
            names.set(name, Some(NamedStatement { statement, described: None }));
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
}
