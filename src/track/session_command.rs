//! Commands that change a session in a way that can be followed: what each does if it succeeds.
//!
//! Only what is certain is recognised: forms with an effect that can be read off their words. The server's `CommandComplete`
//! says which of them have succeeded, in the order in which they stand in the text ([`SessionCommand::has_tag`]).

mod words;

use std::sync::Arc;

use super::lexis::Lexis;
use super::params::Set;
use super::source_settings;
use super::sql::{Token, Tokens};
use super::sql_statement::is;
use words::Words;

/// Effect of one statement on its session if it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand {
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
    /// `SET LOCAL name TO DEFAULT`.
    ResetLocal {
        /// The setting's name, in lower case.
        name: Box<[u8]>,
        /// The statement.
        text: Box<[u8]>,
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
    /// The end of a transaction by `COMMIT`, `END` or `PREPARE TRANSACTION`, which a failed transaction turns into
    /// `ROLLBACK`.
    Commit,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `DEALLOCATE name`.
    Deallocate {
        /// Its name, folded.
        name: Box<[u8]>,
    },
    /// `DEALLOCATE ALL`.
    DeallocateAll,
    /// `DISCARD ALL`.
    DiscardAll,
    /// A `SET` or `RESET` that changes no setting that is followed: of a role, a transaction, constraints.
    OtherSet,
    /// `SET SESSION CHARACTERISTICS AS TRANSACTION …`: the settings that it makes, in its order.
    SetCharacteristics {
        /// Each setting's name, in lower case, and a statement that makes it.
        sets: Box<[Set]>,
    },
    /// A `SET` or `RESET` with an effect that can't be read off its words.
    UnknownSet {
        /// The setting that it changes, in lower case, where that is known and the server can be asked for what it is then.
        name: Option<Box<[u8]>>,
    },
    /// A `SET` that pgferry has put into the client's text: the client does not see its `CommandComplete`.
    Inserted,
}

impl SessionCommand {
    /// Returns whether a `CommandComplete` with `tag` says that it has succeeded (`CreateCommandTag` in
    /// `src/backend/tcop/utility.c`).
    #[must_use]
    pub fn has_tag(&self, tag: &[u8]) -> bool {
        match self {
            Self::Set { .. }
            | Self::SetLocal { .. }
            | Self::ResetLocal { .. }
            | Self::SetCharacteristics { .. }
            | Self::Inserted => tag == b"SET",
            Self::Reset { .. } | Self::OtherSet | Self::UnknownSet { .. } => {
                matches!(tag, b"SET" | b"RESET" | b"SET CONSTRAINTS")
            }
            Self::ResetAll => tag == b"RESET",
            Self::Savepoint { .. } => tag == b"SAVEPOINT",
            Self::Release { .. } => tag == b"RELEASE",
            Self::Rollback | Self::RollbackTo { .. } => tag == b"ROLLBACK",
            Self::Commit => matches!(tag, b"COMMIT" | b"ROLLBACK" | b"PREPARE TRANSACTION"),
            Self::Deallocate { .. } => tag == b"DEALLOCATE",
            Self::DeallocateAll => tag == b"DEALLOCATE ALL",
            Self::DiscardAll => tag == b"DISCARD ALL",
        }
    }

    /// Returns whether `tag` is that of some command here: then one of them is expected.
    #[must_use]
    pub fn is_tag(tag: &[u8]) -> bool {
        const TAGS: [&[u8]; 11] = [
            b"SET",
            b"RESET",
            b"SET CONSTRAINTS",
            b"SAVEPOINT",
            b"RELEASE",
            b"ROLLBACK",
            b"COMMIT",
            b"PREPARE TRANSACTION",
            b"DEALLOCATE",
            b"DEALLOCATE ALL",
            b"DISCARD ALL",
        ];
        TAGS.contains(&tag)
    }

    /// Returns whether it resets settings.
    #[must_use]
    pub fn resets(&self) -> bool {
        matches!(self, Self::Reset { .. } | Self::ResetLocal { .. } | Self::ResetAll | Self::DiscardAll)
    }

    /// Returns the name of the setting that it sets or resets, in lower case.
    #[must_use]
    pub(super) fn setting(&self) -> Option<&[u8]> {
        match self {
            Self::Set { name, .. }
            | Self::SetLocal { name, .. }
            | Self::Reset { name }
            | Self::ResetLocal { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Returns whether it only opens or closes a transaction or a savepoint.
    #[must_use]
    pub fn controls_transaction(&self) -> bool {
        matches!(
            self,
            Self::Savepoint { .. } | Self::RollbackTo { .. } | Self::Release { .. } | Self::Commit | Self::Rollback
        )
    }
}

/// The commands of a text, in its order.
pub(crate) type Commands = Arc<[PositionedCommand]>;

/// A command, and where it stands in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionedCommand {
    /// The command.
    pub command: SessionCommand,
    /// Offset in the text at which its statement ends, in bytes: before the semicolon.
    pub end: usize,
}

/// Returns the effect of one statement, if it is one of these. `sql` is the statement without a semicolon.
///
/// ```
/// use pgferry::internals::track::Lexis;
/// use pgferry::internals::track::session_command::{SessionCommand, of_statement};
///
/// let set = of_statement(b"SET TimeZone TO 'UTC'", Lexis::default());
/// let Some(SessionCommand::Set { name, .. }) = set else { panic!("a SET") };
/// assert_eq!(&*name, b"timezone");
/// assert_eq!(of_statement(b"select 1", Lexis::default()), None);
/// ```
#[must_use]
pub fn of_statement(sql: &[u8], lexis: Lexis) -> Option<SessionCommand> {
    use SessionCommand::{Commit, OtherSet, Release, Savepoint, UnknownSet};
    let unknown = UnknownSet { name: None };
    let mut words = Words::new(sql, lexis);
    let (first, start) = words.next_at()?;
    let Token::Word(first) = first else { return None };
    let mut room = [0; 16];
    let room = room.get_mut(..first.len())?;
    room.copy_from_slice(first);
    room.make_ascii_lowercase();
    match &*room {
        b"set" | b"reset" if words.sets_other() => Some(OtherSet),
        b"set" => Some(words.set(start).unwrap_or(unknown)),
        b"reset" => Some(words.reset().unwrap_or(unknown)),
        b"savepoint" => words.last_name().map(|name| Savepoint { name }),
        b"release" => words.savepoint().map(|name| Release { name }),
        b"rollback" | b"abort" => Some(words.rollback()),
        b"commit" | b"end" => Some(Commit),
        b"prepare" => words.word().filter(|word| is(word, b"transaction")).map(|_| Commit),
        b"deallocate" | b"discard" => words.sweep(first),
        _ => None,
    }
}

/// Returns the effect of the first statement of `sql`, if nothing follows it.
#[must_use]
pub(crate) fn of_sql(sql: &[u8]) -> Option<SessionCommand> {
    let mut tokens = Tokens::new(sql, Lexis::default());
    let mut end = sql.len();
    let mut over = false;
    loop {
        let at = sql.len() - tokens.skip_to_token();
        match tokens.next() {
            None => break,
            Some(Token::Semicolon) if !over => (end, over) = (at, true),
            Some(_) if over => return None,
            Some(_) => {}
        }
    }
    of_statement(&sql[..end], Lexis::default())
}

/// Returns whether a setting can be set again elsewhere by the same words: some are what a transaction or a login is, and some
/// name an object that may be another or gone by then.
pub(super) fn is_followed(name: &[u8]) -> bool {
    const UNLIKE: [&[u8]; 8] = [
        b"role",
        b"session_authorization",
        b"seed",
        b"is_superuser",
        b"default_tablespace",
        b"temp_tablespaces",
        b"default_table_access_method",
        // No session takes another one where a temporary table has been used, by whichever client.
        b"temp_buffers",
    ];
    let unlike = UNLIKE.contains(&name) || source_settings::are_read_under(name);
    let transaction = name.strip_prefix(b"transaction_");
    !unlike && !matches!(transaction, Some(b"isolation" | b"read_only" | b"deferrable"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(name: &str, text: &str) -> SessionCommand {
        SessionCommand::Set { name: name.as_bytes().into(), text: text.as_bytes().into() }
    }

    fn reset(name: &str) -> SessionCommand {
        SessionCommand::Reset { name: name.as_bytes().into() }
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
            ("set synchronous_commit to local", "synchronous_commit", "set synchronous_commit to local"),
        ] {
            assert_eq!(of_sql(sql.as_bytes()), Some(set(name, text)), "{sql}");
        }
        assert_eq!(of_sql(b"set a to default;"), Some(reset("a")));
        assert_eq!(of_sql(b"set time zone default"), Some(reset("timezone")));
        assert_eq!(of_sql(b"set time zone local"), Some(reset("timezone")));
        assert_eq!(of_sql(b"set datestyle = 'Default'"), Some(reset("datestyle")));
        assert_eq!(of_sql(b"set DateStyle to \" default\""), Some(reset("datestyle")));
        assert_eq!(of_sql(b"set a to 'default'"), Some(set("a", "set a to 'default'")));
        assert_eq!(of_sql(b"reset a.b"), Some(reset("a.b")));
        assert_eq!(of_sql(b"RESET TIME ZONE;"), Some(reset("timezone")));
        assert_eq!(of_sql(b"reset \"X\""), Some(reset("x")));
        assert_eq!(of_sql(b"reset all"), Some(SessionCommand::ResetAll));
        assert_eq!(
            of_sql(b"set local a = 1"),
            Some(SessionCommand::SetLocal { name: (*b"a").into(), text: (*b"set local a = 1").into() })
        );
    }

    #[test]
    fn what_is_not_certain_is_not() {
        for sql in [
            "set session characteristics as transaction",
            "set session characteristics as transaction read",
            "set local session characteristics as transaction read only",
            "set transaction_isolation = 'serializable'",
            "set xml option",
            "set seed to 0.5",
            "set local default_text_search_config = 'mine'",
            "set a = U&'b'",
            "set a = 'b",
            "set a = $$b",
            "set a",
            "set",
            "set a =",
            "set search_path = 'pg_temp'",
            "set search_path = 'pg_'\n'temp'",
            "reset",
        ] {
            assert_eq!(of_sql(sql.as_bytes()), Some(SessionCommand::UnknownSet { name: None }), "{sql}");
        }
        for (sql, name) in [
            ("set default_text_search_config = 'mine'", "default_text_search_config"),
            ("set a = 'b\\c'", "a"),
            ("set A.b = 'ü'", "a.b"),
        ] {
            let name = Some(name.as_bytes().into());
            assert_eq!(of_sql(sql.as_bytes()), Some(SessionCommand::UnknownSet { name }), "{sql}");
        }
        for sql in
            ["set a = 1; select 1", "reset all; select 1", "update t set a = 1", "select 1", "begin; savepoint a"]
        {
            assert_eq!(of_sql(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn characteristics_are_settings() {
        let sets = |sql: &str| match of_sql(sql.as_bytes()) {
            Some(SessionCommand::SetCharacteristics { sets }) => {
                sets.iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>().join(";")
            }
            other => panic!("{sql}: {other:?}"),
        };
        for (modes, expected) in [
            ("READ ONLY", "SET default_transaction_read_only TO 'on'"),
            ("isolation level repeatable read", "SET default_transaction_isolation TO 'repeatable read'"),
            (
                "ISOLATION LEVEL SERIALIZABLE, READ WRITE NOT DEFERRABLE;",
                "SET default_transaction_isolation TO 'serializable';SET default_transaction_read_only TO 'off';\
                SET default_transaction_deferrable TO 'off'",
            ),
        ] {
            assert_eq!(sets(&format!("set session characteristics as transaction {modes}")), expected);
        }
    }

    #[test]
    fn what_is_no_setting() {
        for sql in [
            "set role joe",
            "set role = joe",
            "set session authorization joe",
            "set session role joe",
            "set local role joe",
            "set transaction isolation level serializable",
            "set constraints all deferred",
            "reset role",
            "reset session authorization",
        ] {
            assert_eq!(of_sql(sql.as_bytes()), Some(SessionCommand::OtherSet), "{sql}");
        }
        for (sql, name) in [
            ("set local.x = 1", "local.x"),
            ("set transaction.x = 1", "transaction.x"),
            ("set names.x = 1", "names.x"),
            ("set schema.x = 1", "schema.x"),
            ("set session.x = 1", "session.x"),
            ("set role.x = 1", "role.x"),
        ] {
            assert_eq!(of_sql(sql.as_bytes()), Some(set(name, sql)), "{sql}");
        }
        assert_eq!(of_sql(b"reset transaction.x"), Some(reset("transaction.x")));
        assert_eq!(of_sql(b"reset all.x"), Some(reset("all.x")));
    }

    #[test]
    fn savepoints_and_freed_statements() {
        let to = |name: &str| Some(SessionCommand::RollbackTo { name: name.as_bytes().into() });
        assert_eq!(of_sql(b"savepoint A;"), Some(SessionCommand::Savepoint { name: (*b"a").into() }));
        assert_eq!(of_sql(b"rollback to a"), to("a"));
        assert_eq!(of_sql(b"release savepoint a"), Some(SessionCommand::Release { name: (*b"a").into() }));
        assert_eq!(of_sql(b"ROLLBACK WORK TO SAVEPOINT \"A\";"), to("A"));
        assert_eq!(of_sql(b"rollback transaction to savepoint"), to("savepoint"));
        for sql in ["rollback", "ABORT", "rollback and chain", "rollback work"] {
            assert_eq!(of_sql(sql.as_bytes()), Some(SessionCommand::Rollback), "{sql}");
        }
        for sql in ["commit", "END", "prepare transaction 'x'"] {
            assert_eq!(of_sql(sql.as_bytes()), Some(SessionCommand::Commit), "{sql}");
        }
        assert_eq!(of_sql(b"/* */ DISCARD ALL;"), Some(SessionCommand::DiscardAll));
        for sql in ["deallocate all", "DEALLOCATE PREPARE ALL"] {
            assert_eq!(of_sql(sql.as_bytes()), Some(SessionCommand::DeallocateAll), "{sql}");
        }
        let freed = |name: &str| Some(SessionCommand::Deallocate { name: name.as_bytes().into() });
        assert_eq!(of_sql(b"deallocate prepare S1"), freed("s1"));
        assert_eq!(of_sql(b"deallocate \"All\""), freed("All"));
        assert_eq!(of_sql(b"deallocate prepare"), freed("prepare"));
        for sql in ["discard temp", "deallocate", "select 1; discard all", "deallocate a; deallocate b"] {
            assert_eq!(of_sql(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn tags_of_success() {
        for (sql, tag, other) in [
            ("set a = 1", "SET", "RESET"),
            ("set a to default", "SET", "SELECT 1"),
            ("reset a", "RESET", "COMMIT"),
            ("commit", "ROLLBACK", "SET"),
            ("deallocate a", "DEALLOCATE", "DEALLOCATE ALL"),
            ("rollback to a", "ROLLBACK", "RELEASE"),
        ] {
            let command = of_sql(sql.as_bytes()).expect("a command");
            assert!(command.has_tag(tag.as_bytes()) && !command.has_tag(other.as_bytes()), "{sql}");
            assert!(SessionCommand::is_tag(tag.as_bytes()));
        }
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
            if let Some(SessionCommand::Set { text, .. }) = of_sql(sql.as_bytes()) {
                // It stands for itself: said again, it is the same.
                let again = of_sql(&text);
                let same = matches!(again, Some(SessionCommand::Set { text: ref said, .. }) if *said == text);
                prop_assert!(same, "{:?}", again);
            }
        }
    }
}
