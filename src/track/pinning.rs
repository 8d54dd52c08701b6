//! Which messages leave something behind in a session.
//!
//! This look errs on one side only: a needless pin costs a little sharing, a missed one gives a client somebody
//! else's state. What code inside the database does unseen is covered by the reset between clients, not here.

use std::fmt;

use super::sql::{Token, Tokens};
use super::unnamed::{self, Names};
use crate::wire::{Frame, Head, frame, frontend};

/// Reasons why a session must stay with its client, and be reset before anybody else gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    /// `SET`, `RESET`, `set_config`, `setseed`, or a reported setting that changed.
    pub const SETTING: Self = Self(1);
    /// `SET ROLE`, `SET SESSION AUTHORIZATION`.
    pub const ROLE: Self = Self(1 << 1);
    /// A temporary table, view, sequence or function.
    pub const TEMP: Self = Self(1 << 2);
    /// `LISTEN`.
    pub const LISTEN: Self = Self(1 << 3);
    /// SQL's `PREPARE`.
    pub const PREPARE: Self = Self(1 << 4);
    /// A named statement of the extended protocol.
    pub const STATEMENT: Self = Self(1 << 5);
    /// A cursor `WITH HOLD`.
    pub const CURSOR: Self = Self(1 << 6);
    /// A session-level advisory lock.
    pub const LOCK: Self = Self(1 << 7);
    /// `LOAD`.
    pub const LOAD: Self = Self(1 << 8);
    /// `nextval`, `setval`, `currval`, `lastval`: the session remembers the last value.
    pub const SEQUENCE: Self = Self(1 << 9);
    /// `DO`, a function called by its OID, or a connection that an extension keeps: code that can do anything.
    pub const CODE: Self = Self(1 << 10);
    /// A text that could not be looked at: longer than the buffer, or its meaning depends on settings.
    pub const UNSEEN: Self = Self(1 << 11);

    const NAMES: [(Self, &'static str); 12] = [
        (Self::SETTING, "setting"),
        (Self::ROLE, "role"),
        (Self::TEMP, "temp"),
        (Self::LISTEN, "listen"),
        (Self::PREPARE, "prepare"),
        (Self::STATEMENT, "statement"),
        (Self::CURSOR, "cursor"),
        (Self::LOCK, "lock"),
        (Self::LOAD, "load"),
        (Self::SEQUENCE, "sequence"),
        (Self::CODE, "code"),
        (Self::UNSEEN, "unseen"),
    ];

    /// No reason.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Whether nothing pins.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every reason in `other` is in `self`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds the reasons in `other`.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (pin, name) in Self::NAMES {
            if self.contains(pin) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// What a client's message may leave behind.
#[must_use]
pub fn of_message(frame: Frame<'_>) -> Pins {
    match frame.tag {
        frontend::QUERY => of_sql(frontend::query(frame.body())),
        frontend::PARSE => match frontend::parse(frame.body()) {
            Some((name, text)) => {
                let mut pins = of_sql(text);
                if !name.is_empty() {
                    pins.add(Pins::STATEMENT);
                }
                pins
            }
            None => Pins::UNSEEN,
        },
        frontend::FUNCTION_CALL => Pins::CODE,
        _ => Pins::none(),
    }
}

/// Whether enough of a message is there to judge it: all of a text that fits a buffer of `capacity` bytes, or the names
/// at the beginning of a message. `bytes` is what is there of it, header included.
#[must_use]
pub fn can_judge(head: Head, bytes: &[u8], capacity: usize) -> bool {
    if bytes.len() >= head.size.min(capacity) {
        return true;
    }
    match head.tag {
        frontend::QUERY | frontend::PARSE => head.size > capacity,
        frontend::BIND | frontend::DESCRIBE | frontend::CLOSE => {
            let body = bytes.get(frame::HEADER..).unwrap_or_default();
            unnamed::names(head.tag, body) != Names::Unseen
        }
        _ => true,
    }
}

/// What the command that a `CommandComplete` tag names left behind, where the tag alone is proof: a second net for
/// what [`of_sql`] might not recognise.
#[must_use]
pub fn of_tag(tag: &[u8]) -> Pins {
    match tag {
        b"LISTEN" => Pins::LISTEN,
        b"PREPARE" => Pins::PREPARE,
        b"LOAD" => Pins::LOAD,
        _ => Pins::none(),
    }
}

/// What a text of one or more statements may leave behind.
#[must_use]
pub fn of_sql(sql: &[u8]) -> Pins {
    let mut pins = Pins::none();
    let mut statement = Statement::default();
    for token in Tokens::new(sql) {
        match token {
            Token::Word(word) => {
                pins.add(statement.word(word));
                pins.add(of_name(word));
            }
            Token::Quoted(name) => {
                statement.other();
                pins.add(of_name(name));
            }
            Token::Text(text) => {
                statement.other();
                if contains(text, b"advisory") || contains(text, b"set_config") {
                    pins.add(Pins::CODE);
                }
            }
            Token::Semicolon => statement = Statement::default(),
            Token::Other => statement.other(),
            Token::Unclear => pins.add(Pins::UNSEEN),
        }
    }
    pins
}

/// The words of one statement that decide what it is.
#[derive(Default)]
struct Statement<'a> {
    first: Option<&'a [u8]>,
    second: Option<&'a [u8]>,
    last: Option<&'a [u8]>,
}

impl<'a> Statement<'a> {
    fn other(&mut self) {
        self.first.get_or_insert(b"");
        if self.last.is_some() {
            self.second.get_or_insert(b"");
        }
        self.last = Some(b"");
    }

    fn word(&mut self, word: &'a [u8]) -> Pins {
        let last = self.last.replace(word);
        let Some(first) = self.first else {
            self.first = Some(word);
            return of_keyword(word);
        };
        let is = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
        let after = |words: &[&[u8]]| last.is_some_and(|last| words.iter().any(|&w| is(last, w)));
        if self.second.is_none() {
            self.second = Some(word);
            if is(first, b"set") {
                return of_set(word);
            }
            if is(first, b"prepare") && !is(word, b"transaction") {
                return Pins::PREPARE;
            }
        } else if is(first, b"set") && after(&[b"session"]) && (is(word, b"authorization") || is(word, b"role")) {
            return Pins::ROLE;
        }
        if (is(word, b"temp") || is(word, b"temporary"))
            && after(&[b"create", b"replace", b"local", b"global", b"into"])
        {
            return Pins::TEMP;
        }
        if is(word, b"hold") && after(&[b"with"]) {
            return Pins::CURSOR;
        }
        Pins::none()
    }
}

/// The statements that one word gives away.
fn of_keyword(word: &[u8]) -> Pins {
    match word.to_ascii_lowercase().as_slice() {
        b"reset" | b"discard" => Pins::SETTING,
        b"listen" | b"unlisten" => Pins::LISTEN,
        b"deallocate" => Pins::PREPARE,
        b"load" => Pins::LOAD,
        b"do" => Pins::CODE,
        _ => Pins::none(),
    }
}

/// `SET`, by the word behind it: `LOCAL`, `TRANSACTION` and `CONSTRAINTS` end with the transaction.
fn of_set(second: &[u8]) -> Pins {
    match second.to_ascii_lowercase().as_slice() {
        b"local" | b"transaction" | b"constraints" => Pins::none(),
        b"role" => Pins::ROLE,
        _ => Pins::SETTING,
    }
}

/// Functions and schemas whose very name means session state.
fn of_name(name: &[u8]) -> Pins {
    // Every name below has one of these letters in a place where few others have: a cheap first sieve.
    if name.len() < 6 {
        return Pins::none();
    }
    let name = name.to_ascii_lowercase();
    match name.as_slice() {
        b"set_config" | b"setseed" => Pins::SETTING,
        b"nextval" | b"setval" | b"currval" | b"lastval" => Pins::SEQUENCE,
        _ if contains(&name, b"advisory_") && !contains(&name, b"_xact_") => Pins::LOCK,
        _ if name.starts_with(b"pg_temp") => Pins::TEMP,
        _ if name.starts_with(b"dblink") || name.starts_with(b"pg_replication_origin_session") => Pins::CODE,
        _ => Pins::none(),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn state_is_seen() {
        for (sql, pin) in [
            ("SET timezone = 'UTC'", Pins::SETTING),
            ("set session timezone to 'UTC'", Pins::SETTING),
            ("set session characteristics as transaction read only", Pins::SETTING),
            ("begin; set x.y = 1; commit", Pins::SETTING),
            ("/* hi */ -- there\n set a to b", Pins::SETTING),
            ("reset all", Pins::SETTING),
            ("select set_config('a.b', 'c', false)", Pins::SETTING),
            ("select \"set_config\"('a.b', 'c', false)", Pins::SETTING),
            ("select setseed(0.5)", Pins::SETTING),
            ("set role joe", Pins::ROLE),
            ("SET SESSION ROLE joe", Pins::ROLE),
            ("set session authorization joe", Pins::ROLE),
            ("create temp table t (a int)", Pins::TEMP),
            ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Pins::TEMP),
            ("create local temp sequence s", Pins::TEMP),
            ("select 1 into temp t", Pins::TEMP),
            ("create table pg_temp.t (a int)", Pins::TEMP),
            ("create function \"pg_temp\".f() returns int language sql as 'select 1'", Pins::TEMP),
            ("explain analyze create temp table t as select 1", Pins::TEMP),
            ("listen a", Pins::LISTEN),
            ("prepare a as select 1", Pins::PREPARE),
            ("declare c cursor with hold for select 1", Pins::CURSOR),
            ("select pg_advisory_lock(1)", Pins::LOCK),
            ("select pg_try_advisory_lock_shared(1)", Pins::LOCK),
            ("select pg_catalog.PG_ADVISORY_LOCK(1)", Pins::LOCK),
            ("load 'auto_explain'", Pins::LOAD),
            ("select nextval('s')", Pins::SEQUENCE),
            ("do $$ begin perform 1; end $$", Pins::CODE),
            ("select query_to_xml('select pg_advisory_lock(1)', true, true, '')", Pins::CODE),
            ("select dblink_connect('c', 'dbname=x')", Pins::CODE),
            (r"select 'a\'; set x.y = 1; --'", Pins::UNSEEN),
        ] {
            assert!(of_sql(sql.as_bytes()).contains(pin), "{sql}: {}", of_sql(sql.as_bytes()));
        }
    }

    #[test]
    fn ordinary_statements_pin_nothing() {
        for sql in [
            "select 1",
            "",
            ";;",
            "update t set a = 1 where b = 'set x'",
            "begin; set local timezone = 'UTC'; commit",
            "set transaction isolation level serializable",
            "set constraints all deferred",
            "select temp, hold from readings",
            "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)",
            "insert into t values ($1, $2) returning id",
            "declare c cursor for select 1",
            "declare c cursor without hold for select 1",
            "prepare transaction 'x'",
            "alter table t set (fillfactor = 70)",
            "with x as (select 1) select * from x",
            "copy t from stdin",
            "select 'listen a'; -- listen b",
            "(select 1) union (select 2)",
        ] {
            assert!(of_sql(sql.as_bytes()).is_empty(), "{sql}: {}", of_sql(sql.as_bytes()));
        }
    }

    #[test]
    fn messages_are_looked_into() {
        let frame = |bytes: &'static [u8]| Frame { tag: bytes[0], bytes };
        assert!(of_message(frame(b"Q\0\0\0\x0clisten a\0")).contains(Pins::LISTEN));
        assert!(of_message(frame(b"P\0\0\0\x10s\0select 1\0\0\0")).contains(Pins::STATEMENT));
        assert!(of_message(frame(b"P\0\0\0\x0f\0select 1\0\0\0")).is_empty());
        assert!(of_message(frame(b"P\0\0\0\x05s")).contains(Pins::UNSEEN));
        assert!(of_message(frame(b"F\0\0\0\x05s")).contains(Pins::CODE));
        assert_eq!(of_message(frame(b"Q\0\0\0\x0clisten a\0")).to_string(), "listen");
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of_sql(&sql);
        }

        /// Whatever harmless things stand before it, a SET that starts a statement is seen.
        #[test]
        fn a_set_behind_anything_whole_is_seen(
            before in prop::collection::vec(prop::sample::select(vec![
                "select 1", "select 'a;b'", "select $$;$$", "/* ; */ select \"a;\"", "-- ;\n select E'\\';'", "",
            ]), 0..5),
        ) {
            let sql = format!("{};/*x*/ SeT a.b = 1", before.join(";"));
            prop_assert!(of_sql(sql.as_bytes()).contains(Pins::SETTING));
        }
    }
}
