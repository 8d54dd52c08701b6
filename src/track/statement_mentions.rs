//! Where a text of SQL names statements of the extended protocol.

use std::ops::Range;
use std::sync::Arc;

use super::sql::{Token, Tokens};
use super::statements::{ClientStatements, Statement};

/// Where a text says `EXECUTE name` or `DEALLOCATE name` of a statement that `names` knows: SQL sees the statements of
/// the extended protocol too, but under the names they have on the server. `backslashes` as for [`Tokens::new`].
#[must_use]
pub(crate) fn mentions(sql: &[u8], names: &ClientStatements, backslashes: bool) -> Vec<(Range<usize>, Arc<Statement>)> {
    let mut found = Vec::new();
    if names.is_empty() {
        return found;
    }
    let mut tokens = Tokens::new(sql, backslashes);
    let mut expected = false;
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
            Some(name) if expected && names.get(&name).is_some() => {
                let end = sql.len() - tokens.rest().len();
                found.extend(names.get(&name).map(|named| (start..end, Arc::clone(&named.statement))));
                expected = false;
            }
            Some(word) if keyword => {
                expected = matches!(&*word, b"execute" | b"deallocate") || (expected && *word == *b"prepare");
            }
            _ => expected = false,
        }
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
            ("deallocate all", vec![]),
            ("grant execute on function s1() to s1", vec![]),
        ] {
            let found = mentions(sql.as_bytes(), &names, false);
            assert_eq!(found.iter().map(|(at, _)| &sql[at.clone()]).collect::<Vec<_>>(), mentioned, "{sql}");
        }
    }
}
