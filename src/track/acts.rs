//! Statements that change the session and can be carried from one connection to another: what they do if they succeed.
//!
//! Only what is certain is recognised: one statement, of a form whose effect can be read off its words. All else is
//! left to [`super::pinning`].

use super::sql::{Token, Tokens};

/// The longest `SET` that is kept. A longer one pins.
const LONGEST: usize = 4096;

/// What a statement does to its session if it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// `SET name TO …`: `text` is the statement.
    Set {
        /// The setting's name, in lower case.
        name: Box<[u8]>,
        /// The statement, from its first word to its last.
        text: Box<[u8]>,
    },
    /// `SET LOCAL name TO …`.
    SetLocal {
        /// The setting's name, in lower case.
        name: Box<[u8]>,
        /// The statement.
        text: Box<[u8]>,
    },
    /// `RESET name`, `SET name TO DEFAULT`.
    Reset {
        /// The setting's name, in lower case.
        name: Box<[u8]>,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `SAVEPOINT name`.
    Savepoint {
        /// Its name, folded.
        name: Box<[u8]>,
    },
    /// `ROLLBACK TO name`.
    RollbackTo {
        /// Its name, folded.
        name: Box<[u8]>,
    },
    /// `RELEASE name`.
    Release {
        /// Its name, folded.
        name: Box<[u8]>,
    },
    /// `DEALLOCATE name`.
    Deallocate {
        /// Its name, folded.
        name: Box<[u8]>,
    },
    /// `DISCARD ALL`.
    DiscardAll,
    /// It changes settings, but which and for how long can't be told.
    Unclear,
    /// It may sweep statements away, as its `CommandComplete` will tell.
    Sweep,
}

/// What `sql` does, if it is one of these.
#[must_use]
pub fn of_sql(sql: &[u8]) -> Option<Act> {
    let mut words = Words { sql, tokens: Tokens::new(sql) };
    let (first, start) = words.next_at()?;
    let Token::Word(first) = first else { return None };
    match first.to_ascii_lowercase().as_slice() {
        b"set" => words.set(start),
        b"reset" => words.reset(),
        b"savepoint" => words.last_name().map(|name| Act::Savepoint { name }),
        b"release" => words.savepoint().map(|name| Act::Release { name }),
        b"rollback" | b"abort" => words.rollback(),
        b"deallocate" | b"discard" => Some(words.sweep(first)),
        _ => sweeps_later(words.tokens).then_some(Act::Sweep),
    }
}

/// Whether a later statement of several sweeps.
fn sweeps_later(tokens: Tokens<'_>) -> bool {
    let mut begins = false;
    for token in tokens {
        match token {
            Token::Semicolon => begins = true,
            Token::Word(word) if begins => {
                if is(word, b"deallocate") || is(word, b"discard") {
                    return true;
                }
                begins = false;
            }
            _ => begins = false,
        }
    }
    false
}

fn is(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether another statement can stand behind `text`.
fn is_finished(text: &[u8]) -> bool {
    let closed = [text, b";"].concat();
    Tokens::new(&closed).last() == Some(Token::Semicolon)
}

/// An identifier as PostgreSQL folds it: ASCII letters only, quoted ones as they are.
fn folded(token: Token<'_>) -> Option<Box<[u8]>> {
    match token {
        Token::Word(word) => Some(word.to_ascii_lowercase().into()),
        Token::Quoted(name) if !name.contains(&b'"') => Some(name.into()),
        _ => None,
    }
}

struct Words<'a> {
    sql: &'a [u8],
    tokens: Tokens<'a>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        self.tokens.next()
    }

    /// The next token, and where it begins.
    fn next_at(&mut self) -> Option<(Token<'a>, usize)> {
        let start = self.sql.len() - self.tokens.skip_to_token();
        self.tokens.next().map(|token| (token, start))
    }

    fn word(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Whether nothing but a semicolon follows.
    fn ends(&mut self) -> bool {
        match self.next() {
            None => true,
            Some(Token::Semicolon) => self.next().is_none(),
            Some(_) => false,
        }
    }

    /// A name that ends the statement.
    fn last_name(&mut self) -> Option<Box<[u8]>> {
        let name = folded(self.next()?)?;
        self.ends().then_some(name)
    }

    fn set(&mut self, start: usize) -> Option<Act> {
        let mut local = false;
        let mut token = self.next()?;
        if let Token::Word(word) = token {
            local = is(word, b"local");
            if local || is(word, b"session") {
                token = self.next()?;
            }
        }
        let name = self.setting(token)?;
        let (default, end) = self.value()?;
        let text = self.sql.get(start..end).filter(|text| text.len() <= LONGEST)?;
        // What these mean depends on settings that may be others when the statement is said again; and what is not
        // finished would swallow what is said behind it.
        if text.iter().any(|&b| b == b'\\' || b >= 0x80) || !is_finished(text) {
            return None;
        }
        Some(match (default, local) {
            (true, false) => Act::Reset { name },
            (_, true) => Act::SetLocal { name, text: text.into() },
            (false, false) => Act::Set { name, text: text.into() },
        })
    }

    /// The name of the setting that begins with `first`, and `TO` or `=` behind it.
    fn setting(&mut self, first: Token<'a>) -> Option<Box<[u8]>> {
        if let Token::Word(word) = first {
            match word.to_ascii_lowercase().as_slice() {
                b"time" => return is(self.word()?, b"zone").then(|| (*b"timezone").into()),
                b"names" => return Some((*b"client_encoding").into()),
                b"schema" => return Some((*b"search_path").into()),
                _ => {}
            }
        }
        let mut name = folded(first)?.into_vec();
        name.make_ascii_lowercase();
        loop {
            match self.next()? {
                Token::Other(b'.') => {
                    name.push(b'.');
                    name.extend(folded(self.next()?)?.to_ascii_lowercase());
                }
                Token::Other(b'=') => break,
                Token::Word(word) if is(word, b"to") => break,
                _ => return None,
            }
        }
        let unlike = matches!(name.as_slice(), b"role" | b"session_authorization" | b"seed");
        (!unlike && !name.starts_with(b"transaction_")).then(|| name.into())
    }

    /// The value to the end of the statement: whether it is `DEFAULT`, and where it ends.
    fn value(&mut self) -> Option<(bool, usize)> {
        let mut count = 0;
        let mut default = false;
        let mut end = None;
        while let Some(token) = self.next() {
            match token {
                Token::Semicolon => return if self.next().is_none() { end.map(|end| (default, end)) } else { None },
                Token::Unclear => return None,
                Token::Word(word) => default = count == 0 && (is(word, b"default")),
                _ => default = false,
            }
            count += 1;
            end = Some(self.sql.len() - self.tokens.rest().len());
        }
        end.map(|end| (default, end))
    }

    fn reset(&mut self) -> Option<Act> {
        let first = self.next()?;
        let Token::Word(word) = first else {
            let name = folded(first)?.to_ascii_lowercase().into();
            return self.ends().then_some(Act::Reset { name });
        };
        if is(word, b"all") {
            return self.ends().then_some(Act::ResetAll);
        }
        if is(word, b"time") {
            let zone = is(self.word()?, b"zone");
            return (zone && self.ends()).then(|| Act::Reset { name: (*b"timezone").into() });
        }
        let mut name = word.to_ascii_lowercase();
        loop {
            match self.next() {
                None => break,
                Some(Token::Semicolon) => return self.next().is_none().then(|| Act::Reset { name: name.into() }),
                Some(Token::Other(b'.')) => {
                    name.push(b'.');
                    name.extend(folded(self.next()?)?.to_ascii_lowercase());
                }
                Some(_) => return None,
            }
        }
        let unlike = matches!(name.as_slice(), b"role" | b"session_authorization" | b"seed");
        (!unlike).then(|| Act::Reset { name: name.into() })
    }

    /// `ROLLBACK [WORK | TRANSACTION] TO [SAVEPOINT] name`.
    fn rollback(&mut self) -> Option<Act> {
        let mut word = self.word()?;
        if is(word, b"work") || is(word, b"transaction") {
            word = self.word()?;
        }
        if !is(word, b"to") {
            return None;
        }
        self.savepoint().map(|name| Act::RollbackTo { name })
    }

    /// `[SAVEPOINT] name`.
    fn savepoint(&mut self) -> Option<Box<[u8]>> {
        let mut token = self.next()?;
        if matches!(token, Token::Word(word) if is(word, b"savepoint")) {
            let ahead = self.tokens.clone().next();
            if !matches!(ahead, None | Some(Token::Semicolon)) {
                token = self.next()?;
            }
        }
        let name = folded(token)?;
        self.ends().then_some(name)
    }

    fn sweep(&mut self, first: &[u8]) -> Act {
        if !is(first, b"deallocate") {
            let all = self.word().is_some_and(|word| is(word, b"all")) && self.ends();
            return if all { Act::DiscardAll } else { Act::Sweep };
        }
        let mut token = self.next();
        if matches!(token, Some(Token::Word(word)) if is(word, b"prepare")) {
            token = self.next();
        }
        let all = matches!(token, Some(Token::Word(word)) if is(word, b"all"));
        match token.and_then(folded).filter(|_| !all) {
            Some(name) if self.ends() => Act::Deallocate { name },
            _ => Act::Sweep,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(name: &str, text: &str) -> Act {
        Act::Set { name: name.as_bytes().into(), text: text.as_bytes().into() }
    }

    fn reset(name: &str) -> Act {
        Act::Reset { name: name.as_bytes().into() }
    }

    #[test]
    fn plain_sets_are_recognised() {
        for (sql, name, text) in [
            ("SET search_path = a, \"B\"", "search_path", "SET search_path = a, \"B\""),
            (" /* x */ set Statement_Timeout to 5 ; -- y", "statement_timeout", "set Statement_Timeout to 5"),
            ("set session work_mem = '4MB'", "work_mem", "set session work_mem = '4MB'"),
            ("set app.user_id = '7'", "app.user_id", "set app.user_id = '7'"),
            ("set \"App\".x to y", "app.x", "set \"App\".x to y"),
            ("SET TIME ZONE 'UTC'", "timezone", "SET TIME ZONE 'UTC'"),
            ("set time zone interval '-8' hour", "timezone", "set time zone interval '-8' hour"),
            ("set names 'utf8'", "client_encoding", "set names 'utf8'"),
            ("set schema 'a'", "search_path", "set schema 'a'"),
            ("set a = -1.5e3", "a", "set a = -1.5e3"),
            ("set a = default_value", "a", "set a = default_value"),
        ] {
            assert_eq!(of_sql(sql.as_bytes()), Some(set(name, text)), "{sql}");
        }
        assert_eq!(of_sql(b"set a to default;"), Some(reset("a")));
        assert_eq!(of_sql(b"set time zone default"), Some(reset("timezone")));
        assert_eq!(of_sql(b"reset a.b"), Some(reset("a.b")));
        assert_eq!(of_sql(b"RESET TIME ZONE;"), Some(reset("timezone")));
        assert_eq!(of_sql(b"reset \"X\""), Some(reset("x")));
        assert_eq!(of_sql(b"reset all"), Some(Act::ResetAll));
        assert_eq!(
            of_sql(b"set local a = 1"),
            Some(Act::SetLocal { name: (*b"a").into(), text: (*b"set local a = 1").into() })
        );
    }

    #[test]
    fn what_is_not_certain_is_not() {
        for sql in [
            "set a = 1; select 1",
            "set role joe",
            "set role = joe",
            "set session authorization joe",
            "set session characteristics as transaction read only",
            "set transaction isolation level serializable",
            "set transaction_isolation = 'serializable'",
            "set constraints all deferred",
            "set xml option document",
            "set seed to 0.5",
            "set a = 'b\\c'",
            "set a = 'ü'",
            "set a = U&'b'",
            "set a = 'b",
            "set a = $$b",
            "set a",
            "set",
            "set a =",
            "reset",
            "reset role",
            "reset session authorization",
            "reset transaction isolation level",
            "reset all; select 1",
            "update t set a = 1",
            "select 1",
            "rollback",
            "rollback and chain",
            "rollback to a; select 1",
            "begin; savepoint a",
        ] {
            assert_eq!(of_sql(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn savepoints_and_sweeps() {
        let to = |name: &str| Some(Act::RollbackTo { name: name.as_bytes().into() });
        assert_eq!(of_sql(b"savepoint A;"), Some(Act::Savepoint { name: (*b"a").into() }));
        assert_eq!(of_sql(b"rollback to a"), to("a"));
        assert_eq!(of_sql(b"release savepoint a"), Some(Act::Release { name: (*b"a").into() }));
        assert_eq!(of_sql(b"ROLLBACK WORK TO SAVEPOINT \"A\";"), to("A"));
        assert_eq!(of_sql(b"rollback transaction to savepoint"), to("savepoint"));
        assert_eq!(of_sql(b"/* */ DISCARD ALL;"), Some(Act::DiscardAll));
        for sql in ["deallocate all", "DEALLOCATE PREPARE ALL", "discard temp", "select 1; discard all", "deallocate"] {
            assert_eq!(of_sql(sql.as_bytes()), Some(Act::Sweep), "{sql}");
        }
        assert_eq!(of_sql(b"deallocate prepare S1"), Some(Act::Deallocate { name: (*b"s1").into() }));
        assert_eq!(of_sql(b"deallocate \"All\""), Some(Act::Deallocate { name: (*b"All").into() }));
        assert_eq!(of_sql(b"deallocate a; deallocate b"), Some(Act::Sweep));
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of_sql(&sql);
        }

        #[test]
        fn texts_made_of_words_do_not_panic(
            words in prop::collection::vec(prop::sample::select(vec![
                "set", "local", "session", "a", "=", "to", "default", ";", "reset", "all", ".", "'x'", "\"", "rollback",
                "savepoint", "deallocate", "prepare", "time", "zone", ",", "--",
            ]), 0..8),
        ) {
            let sql = words.join(" ");
            if let Some(Act::Set { text, .. }) = of_sql(sql.as_bytes()) {
                // It stands for itself: said again, it is the same.
                let again = of_sql(&text);
                let same = matches!(again, Some(Act::Set { text: ref said, .. }) if *said == text);
                prop_assert!(same, "{:?}", again);
            }
        }
    }
}
