//! Which messages leave something behind in a session.
//!
//! This look errs on one side only: a needless pin costs a little sharing, a missed one gives a client somebody
//! else's state. What code inside the database does unseen is covered by the reset between clients, not here.

use std::fmt;
use std::sync::Arc;

use super::acts::{self, Act};
use super::sieve;
use super::sql::{Token, Tokens};

/// Reasons why a session must stay with its client, and be reset before anybody else gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    /// A setting that can't be carried to another connection.
    pub const SETTING: Self = Self(1);
    /// `SET ROLE`, `SET SESSION AUTHORIZATION`.
    pub const ROLE: Self = Self(1 << 1);
    /// A temporary table, view, sequence or function.
    pub const TEMP: Self = Self(1 << 2);
    /// `LISTEN`.
    pub const LISTEN: Self = Self(1 << 3);
    /// SQL's `PREPARE`.
    pub const PREPARE: Self = Self(1 << 4);
    /// A named statement of the extended protocol that can't be carried to another connection.
    pub const STATEMENT: Self = Self(1 << 5);
    /// A cursor `WITH HOLD`.
    pub const CURSOR: Self = Self(1 << 6);
    /// A session-level advisory lock.
    pub const LOCK: Self = Self(1 << 7);
    /// `LOAD`.
    pub const LOAD: Self = Self(1 << 8);
    /// `currval`, `lastval`: they ask for what the session remembers.
    pub const SEQUENCE: Self = Self(1 << 9);
    /// `DO`, `setseed`, a function called by its OID, or a connection that an extension keeps: code that can do
    /// anything.
    pub const CODE: Self = Self(1 << 10);
    /// A text that could not be looked at: longer than the buffer, or its meaning depends on settings.
    pub const UNSEEN: Self = Self(1 << 11);
    /// `nextval`, `setval`: the session remembers the last value, in case somebody asks for it.
    pub const NEXTVAL: Self = Self(1 << 12);

    /// Reasons of which the server can tell whether they are gone.
    pub const ASKABLE: Self =
        Self(Self::ROLE.0 | Self::TEMP.0 | Self::LISTEN.0 | Self::PREPARE.0 | Self::CURSOR.0 | Self::LOCK.0);

    /// Reasons that `DISCARD ALL` does not undo.
    pub const INDELIBLE: Self = Self(Self::LOAD.0 | Self::CODE.0 | Self::UNSEEN.0);

    /// State under which the meaning of a text is one session's own: temporary tables hide others, for example.
    pub const PRIVATE: Self = Self(Self::INDELIBLE.0 | Self::SETTING.0 | Self::ROLE.0 | Self::TEMP.0);

    /// Each reason and its name.
    pub const NAMES: [(Self, &'static str); 13] = [
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
        (Self::NEXTVAL, "nextval"),
    ];

    /// No reason.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// The reasons as a number, which others than `from_bits` make nothing of.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The reasons that [`Pins::bits`] gave.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
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

    /// The reasons that are in both.
    #[must_use]
    pub fn among(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The reasons in `self` that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
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

/// What a text of one or more statements may do to its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// State that it may leave behind.
    pub pins: Pins,
    /// What it does exactly, where that is certain.
    pub act: Option<Arc<Act>>,
    /// It changes settings for the rest of the transaction.
    pub local: bool,
    /// It sets or goes back to a savepoint among several statements.
    pub nested: bool,
    /// State may be gone after it.
    pub frees: bool,
}

impl Look {
    /// A text that can't be looked at.
    #[must_use]
    pub fn unseen() -> Self {
        Self { pins: Pins::UNSEEN, ..Self::default() }
    }

    /// What keeps a client on its connection: not what can be carried to another one, and not what only counts if it
    /// is asked for later.
    #[must_use]
    pub fn holds(&self) -> Pins {
        let mut pins = self.pins.without(Pins::NEXTVAL);
        if self.is_clear() {
            pins = pins.without(Pins::SETTING);
        }
        pins
    }

    /// Whether it is certain what it does to settings.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.act.as_ref().is_some_and(|act| **act != Act::Unclear)
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

/// What a text of one or more statements may do.
#[must_use]
pub fn of_sql(sql: &[u8]) -> Look {
    if sieve::lets_through(sql) { Look::default() } else { walk(sql) }
}

/// The same, without a sieve before it.
pub(crate) fn walk(sql: &[u8]) -> Look {
    let mut look = Look::default();
    let mut statement = Statement::default();
    let mut tokens = Tokens::new(sql);
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => {
                let first = statement.first.is_none();
                look.pins.add(statement.word(word));
                if first {
                    look.keyword(word, &tokens);
                } else {
                    look.local |= statement.is_local();
                    look.nested |= statement.is_rollback() && word.eq_ignore_ascii_case(b"to");
                }
                look.name(word, &tokens);
            }
            Token::Quoted(name) => {
                statement.other();
                look.name(name, &tokens);
            }
            Token::Text(text) => {
                statement.other();
                if contains(text, b"advisory") || contains(text, b"set_config") {
                    look.pins.add(Pins::CODE);
                }
            }
            Token::Semicolon => statement = Statement::default(),
            Token::Other(_) => statement.other(),
            Token::Unclear => look.pins.add(Pins::UNSEEN),
        }
    }
    if look.pins.contains(Pins::SETTING) || look.local || look.nested || look.frees {
        look.act = acts::of_sql(sql).map(Arc::new);
    }
    if look.act.is_none() && (look.pins.contains(Pins::SETTING) || look.local) {
        look.act = Some(Arc::new(Act::Unclear));
    }
    look
}

impl Look {
    /// The first word of a statement.
    fn keyword(&mut self, word: &[u8], behind: &Tokens<'_>) {
        let mut room = [0; 16];
        let Some(word) = lower(word, &mut room) else { return };
        self.pins.add(match word {
            b"listen" => Pins::LISTEN,
            b"load" => Pins::LOAD,
            b"do" => Pins::CODE,
            b"reset" => match behind.clone().next() {
                // `RESET ROLE`, `RESET SESSION AUTHORIZATION`.
                Some(Token::Word(next)) if is(next, b"role") || is(next, b"session") => Pins::none(),
                _ => Pins::SETTING,
            },
            _ => Pins::none(),
        });
        self.frees |= matches!(word, b"unlisten" | b"deallocate" | b"discard" | b"close" | b"drop" | b"reset" | b"set");
        self.nested |= matches!(word, b"savepoint" | b"release");
    }

    /// Functions and schemas whose very name means session state.
    fn name(&mut self, name: &[u8], behind: &Tokens<'_>) {
        if !sieve::may_name_state(name) {
            return;
        }
        let name = name.to_ascii_lowercase();
        self.pins.add(match name.as_slice() {
            b"set_config" if is_local_set_config(behind.clone()) => {
                self.local = true;
                Pins::none()
            }
            b"set_config" => Pins::SETTING,
            b"setseed" => Pins::CODE,
            b"nextval" | b"setval" => Pins::NEXTVAL,
            b"currval" | b"lastval" => Pins::SEQUENCE,
            _ if contains(&name, b"advisory_unlock") => {
                self.frees = true;
                Pins::none()
            }
            _ if is_advisory(&name) && !contains(&name, b"_xact_") => Pins::LOCK,
            _ if name.starts_with(b"pg_temp") => Pins::TEMP,
            _ if name.starts_with(b"dblink") || name.starts_with(b"pg_replication_origin_session") => Pins::CODE,
            _ => Pins::none(),
        });
    }
}

/// Whether a name holds `advisory_`, as those of functions for locks do.
fn is_advisory(name: &[u8]) -> bool {
    const WORD: &[u8] = b"advisory";
    name.windows(WORD.len() + 1).any(|window| window[WORD.len()] == b'_' && is(&window[..WORD.len()], WORD))
}

/// `word` in lower case; `None` where it is longer than any keyword that matters.
fn lower<'a>(word: &[u8], room: &'a mut [u8; 16]) -> Option<&'a [u8]> {
    let lowered = room.get_mut(..word.len())?;
    lowered.copy_from_slice(word);
    lowered.make_ascii_lowercase();
    Some(lowered)
}

/// Whether the arguments behind `set_config` end in a plain `true`: it holds for the transaction only.
fn is_local_set_config(tokens: Tokens<'_>) -> bool {
    let mut depth = 0;
    let mut commas = 0;
    let mut third = Vec::new();
    for token in tokens {
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

    fn begins(&self, word: &[u8]) -> bool {
        self.first.is_some_and(|first| first.eq_ignore_ascii_case(word))
    }

    /// Whether it is a `SET LOCAL`, as far as it goes.
    fn is_local(&self) -> bool {
        self.begins(b"set") && self.second.is_some_and(|second| second.eq_ignore_ascii_case(b"local"))
    }

    fn is_rollback(&self) -> bool {
        self.begins(b"rollback") || self.begins(b"abort")
    }

    fn word(&mut self, word: &'a [u8]) -> Pins {
        let last = self.last.replace(word);
        let Some(first) = self.first else {
            self.first = Some(word);
            return Pins::none();
        };
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

/// `SET`, by the word behind it: `LOCAL`, `TRANSACTION` and `CONSTRAINTS` end with the transaction.
fn of_set(second: &[u8]) -> Pins {
    match second.to_ascii_lowercase().as_slice() {
        b"local" | b"transaction" | b"constraints" => Pins::none(),
        b"role" => Pins::ROLE,
        _ => Pins::SETTING,
    }
}

fn is(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
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
            ("select setseed(0.5)", Pins::CODE),
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
            ("select nextval('s')", Pins::NEXTVAL),
            ("select lastval()", Pins::SEQUENCE),
            ("do $$ begin perform 1; end $$", Pins::CODE),
            ("select query_to_xml('select pg_advisory_lock(1)', true, true, '')", Pins::CODE),
            ("select dblink_connect('c', 'dbname=x')", Pins::CODE),
            (r"select 'a\'; set x.y = 1; --'", Pins::UNSEEN),
        ] {
            let pins = of_sql(sql.as_bytes()).pins;
            assert!(pins.contains(pin), "{sql}: {pins}");
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
            let pins = of_sql(sql.as_bytes()).pins;
            assert!(pins.is_empty(), "{sql}: {pins}");
        }
    }

    #[test]
    fn what_can_be_carried_does_not_hold() {
        for (sql, holds) in [
            ("set search_path = a", Pins::none()),
            ("set search_path = a; select 1", Pins::SETTING),
            ("reset all", Pins::none()),
            ("reset role", Pins::none()),
            ("select nextval('a')", Pins::none()),
            ("select currval('a')", Pins::SEQUENCE),
            ("select set_config('a.b', $1, true)", Pins::none()),
            ("select pg_catalog.set_config('a.b', f(1, 2), true), set_config('role', $1, TRUE)", Pins::none()),
            ("select set_config('a.b', 'c', false), set_config('a.b', 'c', true)", Pins::SETTING),
            ("select set_config('a.b', 'c', $1)", Pins::SETTING),
            ("select set_config('a.b', 'c', true or f())", Pins::SETTING),
        ] {
            assert_eq!(of_sql(sql.as_bytes()).holds(), holds, "{sql}");
        }
    }

    #[test]
    fn what_may_be_gone_and_what_holds_for_the_transaction() {
        let look = |sql: &str| of_sql(sql.as_bytes());
        for sql in [
            "unlisten *",
            "deallocate a",
            "close c",
            "select pg_advisory_unlock(1)",
            "begin; drop table t",
            "set role none",
        ] {
            assert!(look(sql).frees, "{sql}");
        }
        assert!(!look("select 1; update t set a = 1").frees);
        for sql in ["set local a = 1", "begin; set local a = 1", "select set_config('a.b', 'c', true)"] {
            assert!(look(sql).local, "{sql}");
        }
        assert!(!look("set a = 1; update local set a = 1").local);
        for (sql, nested) in [("begin; savepoint a", true), ("select 1; rollback to a", true), ("rollback", false)] {
            assert_eq!(look(sql).nested, nested, "{sql}");
        }
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
            prop_assert!(of_sql(sql.as_bytes()).pins.contains(Pins::SETTING));
        }
    }
}
