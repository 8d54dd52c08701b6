//! Which settings decide what a text means when it is prepared.

use super::lexis::Lexis;
use super::session_command;
use super::sql::{Token, Tokens};

/// First words of the statements that the server analyses when they are prepared (`stmt_requires_parse_analysis` in
/// `src/backend/parser/analyze.c`), with their constants. All others it only splits into words, until they are executed.
const ANALYZED: [&[u8]; 12] = [
    b"select", b"insert", b"update", b"delete", b"merge", b"values", b"table", b"with", b"explain", b"declare",
    b"call", b"refresh",
];

/// Objects that a query creates (`CREATE TABLE … AS`), or may create, by the word behind `CREATE`.
const CREATED_AS: [&[u8]; 7] = [b"table", b"temp", b"temporary", b"unlogged", b"local", b"global", b"materialized"];

/// Returns a test whether a setting decides what `sql` means, read as `lexis` says, when it is prepared.
pub(crate) fn deciding(sql: &[u8], lexis: Lexis) -> impl Fn(&str) -> bool {
    let controls_transaction = session_command::of_sql(sql).is_some_and(|command| command.controls_transaction());
    let analyzed = is_analyzed(sql, lexis);
    move |name| {
        !controls_transaction
            && (analyzed
                || match name {
                    "client_encoding" => !sql.is_ascii(),
                    "standard_conforming_strings" => sql.contains(&b'\\'),
                    _ => false,
                })
    }
}

fn is_analyzed(sql: &[u8], lexis: Lexis) -> bool {
    let mut tokens = Tokens::new(sql, lexis);
    match tokens.next() {
        Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"create") => match tokens.next() {
            Some(Token::Word(what)) => is_one_of(what, &CREATED_AS),
            _ => true,
        },
        Some(Token::Word(word)) => is_one_of(word, &ANALYZED),
        _ => true,
    }
}

fn is_one_of(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|one| word.eq_ignore_ascii_case(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_split_into_words_depends_on_what_tells_words_apart() {
        let decided_by = |sql: &str| {
            let names = ["client_encoding", "standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];
            names.map(deciding(sql.as_bytes(), Lexis::default()))
        };
        let (all, none) = ([true; 5], [false; 5]);
        for (sql, expected) in [
            ("select 'today'::date", all),
            ("(select 1)", all),
            ("/* x */ Explain select 1", all),
            ("create temp table t as select 'now'::timestamp", all),
            ("create materialized view v as select 1", all),
            ("discard all", none),
            ("VACUUM t", none),
            ("create database d", none),
            ("create index concurrently i on t (a)", none),
            ("alter table t add a date default 'today'", none),
            ("rollback to \"s\"", none),
            ("comment on table t is '\\'", [false, true, false, false, false]),
            ("comment on table t is 'é'", [true, false, false, false, false]),
        ] {
            assert_eq!(decided_by(sql), expected, "{sql}");
        }
    }
}
