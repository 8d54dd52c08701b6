//! What a function may leave in a session, by its source in SQL or PL/pgSQL.
//!
//! The source must show that it leaves nothing: what builds statements as it runs, or says a word that might, may leave anything.
//! What other functions of the database do that it calls is theirs to show.

use std::collections::BTreeMap;

use super::field_notation::FieldNotation;
use super::lexis::{Backslashes, Lexis};
use super::session_code::Reach;
use super::sql::{Token, Tokens};
use super::state_functions::is_local_set_config;

/// Words that stand in statements which leave something, or which build and run other statements.
const ANYTHING: [&[u8]; 15] = [
    b"execute",
    b"prepare",
    b"deallocate",
    b"discard",
    b"listen",
    b"unlisten",
    b"load",
    b"reset",
    b"hold",
    b"temp",
    b"temporary",
    b"create",
    b"alter",
    b"import",
    b"pg_settings",
];

/// Words that stand in statements which may have the defaults of columns give values.
const SEQUENCES: [&[u8]; 3] = [b"insert", b"merge", b"copy"];

/// Words behind which a statement may begin.
const BEFORE_STATEMENT: [&[u8]; 6] = [b"begin", b"then", b"else", b"loop", b"declare", b"atomic"];

/// The functions that leave something by themselves, by name in lower case.
pub(crate) type Leaving = BTreeMap<Vec<u8>, Reach>;

/// The language that a function is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// SQL.
    Sql,
    /// PL/pgSQL.
    PlPgSql,
}

/// Returns what a function with this `source` may leave, and the word that shows it.
#[must_use]
pub(crate) fn reach(source: &[u8], language: Language, leaving: &Leaving) -> Option<(Reach, String)> {
    let plain = of_tokens(Tokens::new(source, Lexis::with_backslashes(Backslashes::Literal)), language, leaving);
    // How it is read depends on a setting of the session that runs it.
    let escaped = source
        .contains(&b'\\')
        .then(|| of_tokens(Tokens::new(source, Lexis::with_backslashes(Backslashes::Escape)), language, leaving))
        .flatten();
    let found = plain.into_iter().chain(escaped).max_by_key(|(reach, _)| *reach)?;
    Some((found.0, String::from_utf8_lossy(&found.1).into_owned()))
}

/// The statement that is being walked.
#[derive(Clone, Copy, Debug, Default)]
struct Statement<'t> {
    /// It has said `UPDATE`, to which a `SET` belongs.
    updates: bool,
    /// The word before.
    last: Option<&'t [u8]>,
    /// Place of the token that is walked.
    notation: FieldNotation,
}

fn of_tokens(mut tokens: Tokens<'_>, language: Language, leaving: &Leaving) -> Option<(Reach, Vec<u8>)> {
    let mut statement = Statement::default();
    let mut found: Option<(Reach, Vec<u8>)> = None;
    while let Some(token) = tokens.next() {
        statement.notation = place(statement.notation, token, language);
        let is_field = statement.notation == FieldNotation::Name;
        let one = match token {
            Token::Semicolon => {
                statement = Statement::default();
                None
            }
            Token::Word(word) => {
                let one =
                    of_word(word, statement, &tokens, language).or_else(|| of_name(word, is_field, &tokens, leaving));
                if BEFORE_STATEMENT.iter().any(|before| is(word, before)) {
                    statement.updates = false;
                }
                statement.updates |= is(word, b"update");
                statement.last = Some(word);
                one.map(|reach| (reach, word.to_vec()))
            }
            Token::Quoted(name) => {
                statement.last = None;
                of_name(name, is_field, &tokens, leaving).map(|reach| (reach, name.to_vec()))
            }
            Token::Unclear | Token::UnicodeName { .. } => Some((Reach::Anything, b"U&".to_vec())),
            Token::Text(_) | Token::Continued(_) | Token::Other(_) => {
                statement.last = None;
                let digits = matches!(token, Token::Other(b'0'..=b'9' | b'$'));
                if digits && tokens.rest().first().is_some_and(u8::is_ascii_alphabetic) {
                    // Where a word begins behind a number depends on the version.
                    statement.updates = false;
                }
                None
            }
        };
        match one {
            Some((Reach::Anything, word)) => return Some((Reach::Anything, word)),
            Some(one) if found.is_none() => found = Some(one),
            _ => {}
        }
    }
    found
}

/// Returns the meaning of a word that is no name in quotes.
fn of_word(word: &[u8], statement: Statement<'_>, behind: &Tokens<'_>, language: Language) -> Option<Reach> {
    let is_one_of = |words: &[&[u8]]| words.iter().any(|one| is(word, one));
    let follows = |words: &[&[u8]]| statement.last.is_some_and(|last| words.iter().any(|one| is(last, one)));
    let mut next = behind.clone();
    let (next, after) = (next.next(), next.next());
    let next_is = |words: &[&[u8]]| matches!(next, Some(Token::Word(next)) if words.iter().any(|one| is(next, one)));
    if is_one_of(&ANYTHING) {
        return Some(Reach::Anything);
    }
    if is(word, b"set") {
        let is_name = |token| matches!(token, Some(Token::Word(_) | Token::Quoted(_)));
        let seeds = matches!(after, Some(Token::Word(name) | Token::Quoted(name)) if is(name, b"seed"));
        let until_the_end = (next_is(&[b"local"]) && is_name(after) && !seeds)
            || (next_is(&[b"constraints", b"transaction"]) && is_name(after));
        return (!statement.updates && !until_the_end).then_some(Reach::Anything);
    }
    if is(word, b"do") {
        return (!next_is(&[b"nothing", b"update"])).then_some(Reach::Anything);
    }
    if is(word, b"into") && language == Language::Sql && !follows(&[b"insert", b"merge"]) {
        // It makes a table, perhaps a temporary one.
        return Some(Reach::Anything);
    }
    (is_one_of(&SEQUENCES) || (is(word, b"default") && statement.updates)).then_some(Reach::Sequences)
}

/// Returns the place of `token` behind one that is `before`. In SQL a name may be that of an argument.
fn place(before: FieldNotation, token: Token<'_>, language: Language) -> FieldNotation {
    match (before.then(token), token) {
        (FieldNotation::Elsewhere, Token::Word(_) | Token::Quoted(_)) if language == Language::Sql => {
            FieldNotation::Argument
        }
        (place, _) => place,
    }
}

/// Returns the meaning of a name, in quotes or not, which is that of a field or is not.
fn of_name(name: &[u8], is_field: bool, behind: &Tokens<'_>, leaving: &Leaving) -> Option<Reach> {
    let name = name.to_ascii_lowercase();
    if name.starts_with(b"pg_temp") || name == b"pg_settings" {
        return Some(Reach::Anything);
    }
    let mut arguments = behind.clone();
    if !is_field && arguments.next() != Some(Token::Other(b'(')) {
        return None;
    }
    if name == b"set_config" {
        let is_known = |name: &[u8]| !is(name, b"seed") && !name.contains(&b'\\');
        let is_constant = matches!(arguments.next(), Some(Token::Text(name)) if is_known(name))
            && arguments.next() == Some(Token::Other(b','));
        return (!is_constant || !is_local_set_config(behind.clone())).then_some(Reach::Anything);
    }
    leaving.get(&name).copied()
}

fn is(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, language: Language) -> Reach {
        let names =
            [("nextval", Reach::Sequences), ("pg_advisory_lock", Reach::Anything), ("ts_stat", Reach::Anything)];
        let leaving = names.map(|(name, reach)| (name.as_bytes().to_vec(), reach)).into();
        reach(source.as_bytes(), language, &leaving).map(|(reach, _)| reach).unwrap_or_default()
    }

    #[test]
    fn what_shows_that_it_leaves_nothing() {
        for source in [
            "begin new.changed_at = now(); return new; end",
            "begin -- set, execute, listen\n /* create */ return 'set x = 1; execute'; end",
            "begin update t set a = 1 where b = 2; return null; end",
            "begin update t -- why\n set a = case when x then 1 else 2 end; end",
            "begin if a then update only t as x set a = 1; else update t set b = 2; end if; end",
            "declare a int := 1; begin select count(*) into a from t for update; return a; end",
            "begin set local work_mem = '1MB'; set constraints all deferred; perform set_config('a.b', $1, true); end",
            "begin perform f(x); perform \"Other\"(y); return query select \"set\", \"temp\" from t; end",
            "begin perform pg_advisory_xact_lock(1); raise notice 'temp %', x; end",
            "begin for r in select * from t loop delete from u where u.id = r.id; end loop; end",
            "begin notify x; lock table t; truncate t; delete from t; end",
        ] {
            assert_eq!(of(source, Language::PlPgSql), Reach::Nothing, "{source}");
        }
        assert_eq!(of("begin return new.nextval; end", Language::PlPgSql), Reach::Nothing);
        assert_eq!(of("select a from t where b = $1", Language::Sql), Reach::Nothing);
    }

    #[test]
    fn what_may_have_sequences_give_values() {
        for source in [
            "begin insert into log values (1) on conflict do nothing; return new; end",
            "begin insert into log values (1) on conflict (a) do update set b = 1; return new; end",
            "begin return nextval('s'); end",
            "begin return ('s'::regclass).nextval; end",
            "begin return $1.nextval; end",
            "begin update t set id = default; end",
        ] {
            assert_eq!(of(source, Language::PlPgSql), Reach::Sequences, "{source}");
        }
        assert_eq!(of("insert into t values ($1)", Language::Sql), Reach::Sequences);
        assert_eq!(of("select argument.nextval", Language::Sql), Reach::Sequences);
    }

    #[test]
    fn what_may_leave_anything() {
        for source in [
            "begin set work_mem = '1MB'; end",
            "begin -- update\n set work_mem = '1MB'; end",
            "begin update t set a = 1; set work_mem = '1MB'; end",
            "begin if a then set x = 1; end if; end",
            "begin update t set a = 1; if a then set x = 1; end if; end",
            "begin if exists (select from t for update) then set x = 1; end if; end",
            "begin if a then null; else set x = 1; end if; loop set x = 1; end loop; end",
            "<<l>> begin /* update */ SET x = 1; end",
            "begin set local.x = 1; end",
            "begin set local seed = 0.1; end",
            "begin set constraints.x = 1; set transaction.x = 1; end",
            "begin perform set_config('a', 'b', false); end",
            "begin perform set_config('seed', '0.1', true); end",
            "begin perform set_config('se'\n'ed', '0.1', true); end",
            "begin perform set_config(E's\\x65ed', '0.1', true); end",
            "begin perform set_config(setting_name => 'a', new_value => 'b', is_local => true); end",
            "begin a := E'x'\n'\\''; set x = 1; b := 'y'; end",
            "begin p := 'x\\'; a := E'x' -- '\n '\\''; set x = 1; b := 'y'; end",
            "begin if exists (select from t for update) and a = 1e5then set x = 1; end if; end",
            "begin perform set_config(a, 'b', true); end",
            "begin perform \"set_config\"('a', 'b', false); end",
            "begin perform pg_catalog . /* x */ Set_Config /* y */ ('a', 'b', b); end",
            "begin perform pg_advisory_lock(1); end",
            "begin perform ts_stat(q); end",
            "begin execute q; end",
            "begin for r in execute q loop null; end loop; end",
            "begin open c for execute q; end",
            "begin return query execute q; end",
            "begin create temp table t (a int); end",
            "begin insert into pg_temp_3.t values (1); end",
            "begin update pg_settings set setting = 1; end",
            "begin update \"pg_settings\" set setting = 1; end",
            "begin perform U&\"set\\005fconfig\"('a', 'b', false); end",
            "begin a := 'x\\'; set x = 1; b := 'y'; end",
            "begin a := 'x\\''; b := '; set x = 1; c := ''y'; end",
        ] {
            assert_eq!(of(source, Language::PlPgSql), Reach::Anything, "{source}");
        }
        for source in [
            "set x = 1",
            "select 1; set x = 1",
            "listen a",
            "do 'x'",
            "select 1 as a into t",
            "declare c cursor with hold for select 1",
        ] {
            assert_eq!(of(source, Language::Sql), Reach::Anything, "{source}");
        }
    }
}
