//! What a text of SQL may leave behind in a session.
//!
//! The analysis errs on one side only: a needless pin costs a little sharing, a missed one gives a client another
//! client's state. What code inside the database does unseen is covered by the reset between clients, not here.

mod analysis;

use super::constants::Constants;
use super::lexis::Lexis;
use super::pins::Pins;
use super::plan_settings::PlanSettings;
use super::prefilter;
use super::sequences::Sequences;
use super::session_command::{Commands, PositionedCommand, SessionCommand};
use super::state_functions;
use super::unknown_settings::UnknownSettings;
pub(crate) use analysis::analyze_tokens;

/// Possible effects of a text of one or more statements on its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlEffects {
    /// State that it may leave behind.
    pub pins: Pins,
    /// The commands in it that are followed, in their order; `None` where there are none but the end of a
    /// transaction, of which the tag alone tells enough.
    pub commands: Option<Commands>,
    /// Number of statements, where there are commands.
    pub statements: usize,
    /// Settings that it changes beyond what the commands say.
    pub unknown_settings: UnknownSettings,
    /// The settings among them of which the names are known, in lower case.
    pub named_settings: Vec<Box<[u8]>>,
    /// State may be gone after it.
    pub may_release: bool,
    /// It may make, run or free prepared statements by name.
    pub names_statements: bool,
    /// It may change what code is in the database, or make a table that is temporary only by the `search_path`.
    pub defines_code: bool,
    /// Use of sequences that its pins and tags don't show.
    pub sequences: Sequences,
    /// Changes of settings that functions' plans are made under, unseen by reports.
    pub plan_settings: PlanSettings,
    /// Values of its constants where it is prepared.
    pub constants: Constants,
    /// Fate of the transaction that it is run in.
    pub transaction: TransactionFate,
}

/// Fates of the transaction that a text is run in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionFate {
    /// It goes on, unless the text fails.
    #[default]
    GoesOn,
    /// It may end, and with it what was set for it.
    MayEnd,
    /// The same by code that is run, which may commit it before it fails itself.
    MayEndWithin,
}

impl SqlEffects {
    /// Returns the effects of a text that can't be analysed.
    #[must_use]
    pub fn unanalyzed() -> Self {
        Self {
            pins: Pins::UNANALYZED,
            plan_settings: PlanSettings::Unseen,
            transaction: TransactionFate::MayEndWithin,
            ..Self::default()
        }
    }

    /// Returns the effects of a function that is called by its OID, where that is known.
    #[must_use]
    pub(crate) fn of_function(oid: Option<u32>) -> Self {
        if oid.is_some_and(state_functions::is_of_large_objects) {
            return Self::default();
        }
        Self {
            pins: Pins::SERVER_CODE.union(Pins::UNRESETTABLE),
            plan_settings: PlanSettings::Unseen,
            ..Self::default()
        }
    }

    /// Returns whether there is nothing to be known of the text.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.pins.is_empty()
            && self.commands.is_none()
            && self.unknown_settings == UnknownSettings::None
            && !self.may_release
            && !self.defines_code
            && self.sequences == Sequences::Untouched
    }

    /// Returns the pins that keep a client on its connection: not those of state that can be carried to another one, or that
    /// only counts if it is asked for later.
    #[must_use]
    pub fn holds(&self) -> Pins {
        let pins = self.pins.difference(Pins::NEXTVAL);
        match self.unknown_settings {
            UnknownSettings::ForSession => pins,
            UnknownSettings::Named => pins.difference(Pins::SETTING).union(Pins::NAMED_SETTING),
            UnknownSettings::None | UnknownSettings::ForTransaction => pins.difference(Pins::SETTING),
        }
    }

    /// Returns whether it changes settings of the session or of the transaction.
    #[must_use]
    pub fn sets(&self) -> bool {
        let local = |placed: &PositionedCommand| {
            matches!(placed.command, SessionCommand::SetLocal { .. } | SessionCommand::ResetLocal { .. })
        };
        self.pins.contains(Pins::SETTING)
            || self.unknown_settings != UnknownSettings::None
            || self.commands.as_ref().is_some_and(|commands| commands.iter().any(local))
    }

    fn add_unknown_settings(&mut self, unknown: UnknownSettings) {
        self.unknown_settings = self.unknown_settings.max(unknown);
        if unknown.outlast_transaction() {
            self.pins.insert(Pins::SETTING);
        }
    }

    fn add_named_setting(&mut self, name: Box<[u8]>) {
        self.add_unknown_settings(UnknownSettings::Named);
        self.named_settings.push(name);
    }

    /// Adds those of another statement of the text.
    fn add(&mut self, statement: Self) {
        self.pins.insert(statement.pins);
        self.unknown_settings = self.unknown_settings.max(statement.unknown_settings);
        self.named_settings.extend(statement.named_settings);
        self.may_release |= statement.may_release;
        self.names_statements |= statement.names_statements;
        self.defines_code |= statement.defines_code;
        if statement.sequences == Sequences::GaveValues {
            self.sequences = Sequences::GaveValues;
        }
        self.plan_settings = self.plan_settings.max(statement.plan_settings);
        self.constants = self.constants.max(statement.constants);
    }
}

/// Returns the pins of a command's `CommandComplete` tag, where the tag alone is proof: a second net for what [`analyze`]
/// might not recognise.
#[must_use]
pub(crate) fn of_tag(tag: &[u8]) -> Pins {
    match tag {
        b"LISTEN" => Pins::LISTEN,
        b"PREPARE" => Pins::PREPARE,
        b"LOAD" => Pins::LOAD,
        _ => Pins::empty(),
    }
}

/// Possible effects of a text of one or more statements on its session.
///
/// ```
/// use pgferry::internals::track::{Lexis, Pins, sql_effects};
///
/// let effects = sql_effects::analyze(b"select 1; listen jobs", Lexis::default());
/// assert_eq!(effects.holds(), Pins::LISTEN);
/// assert!(sql_effects::analyze(b"select 'listen jobs'", Lexis::default()).is_nothing());
/// ```
#[must_use]
pub fn analyze(sql: &[u8], lexis: Lexis) -> SqlEffects {
    if prefilter::is_stateless(sql) { SqlEffects::default() } else { analyze_tokens(sql, lexis) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_of_code_are_seen() {
        for sql in [
            "create function f() returns int language sql as 'select 1'",
            "select 1; ALTER TABLE t ADD a int DEFAULT f()",
            "create temp table t (a int); create table u (a int)",
            "/* x */ do 'begin end'",
            "import foreign schema a from server b into c",
            "select a into t from u",
            "with x as (select 1) select * into t from x",
            "update pg_catalog.pg_proc set prosrc = 'x'",
            "insert into pg_rewrite values (1)",
            "copy pg_attrdef from stdin",
            "explain analyze create table t as select 1",
            "commit prepared 'x'",
        ] {
            assert!(analyze(sql.as_bytes(), Lexis::default()).defines_code, "{sql}");
        }
        for sql in [
            "create temp table t (a int)",
            "select 'create function'",
            "insert into t values (1)",
            "with x as (insert into t values (1) returning *) select * from x",
            "drop function f",
            "grant select on t to public",
        ] {
            assert!(!analyze(sql.as_bytes(), Lexis::default()).defines_code, "{sql}");
        }
    }

    #[test]
    fn what_a_session_keeps_for_itself_is_code() {
        let is_code = |sql: &str| analyze(sql.as_bytes(), Lexis::default()).pins.contains(Pins::SERVER_CODE);
        for sql in [
            "create temp view v as select pg_try_advisory_lock(1)",
            "create or replace temporary view v as select * from pg_settings",
            "select 1; create local temp table t (a text default set_config('a.b', 'c', false))",
            "prepare p as select set_config($1, $2, false)",
            "prepare p as update pg_settings set setting = $1",
            "prepare p as select query_to_xml($1, true, true, '')",
        ] {
            assert!(is_code(sql), "{sql}");
        }
        for sql in [
            "create temp table t (id serial, a timestamptz default now(), b int default nextval('s'))",
            "create temp view v as select pg_advisory_unlock(1), set_config('a.b', 'c', true)",
            "prepare p as insert into t values (nextval('s'), $1)",
            "prepare p as select * from pg_settings",
            "select pg_advisory_lock(1); create temp table t (a int); prepare p as select 1",
            "prepare transaction 'a'",
        ] {
            assert!(!is_code(sql), "{sql}");
        }
    }

    #[test]
    fn a_continued_constant_is_one() {
        let constants = |sql: &str| analyze(sql.as_bytes(), Lexis::default()).constants;
        assert_eq!(constants("select 'no'\n'w'::timestamptz"), Constants::OfTheMoment);
        assert_eq!(constants("select 'no', 'w'"), Constants::Fixed);
    }

    #[test]
    fn what_may_have_sequences_give_values_is_seen() {
        for sql in [
            "update t set id = default",
            "with x as (update t set id = default returning *) select * from x",
            "with x as (insert into t values (1) returning *) select * from x",
            "explain analyze insert into t values (1)",
        ] {
            assert_eq!(analyze(sql.as_bytes(), Lexis::default()).sequences, Sequences::GaveValues, "{sql}");
        }
    }

    #[test]
    fn state_is_seen() {
        for (sql, pin) in [
            ("SET timezone = 'UTC'", Pins::SETTING),
            ("set session timezone to 'UTC'", Pins::SETTING),
            ("set session characteristics as transaction read only", Pins::SETTING),
            ("set default_text_search_config = 'mine'", Pins::SETTING),
            ("begin; set x.y = 1; commit", Pins::SETTING),
            ("/* hi */ -- there\n set a to b", Pins::SETTING),
            ("reset all", Pins::SETTING),
            ("select set_config('a.b', 'c', false)", Pins::SETTING),
            ("select \"set_config\"('a.b', 'c', false)", Pins::SETTING),
            ("select setseed(0.5)", Pins::UNRESETTABLE),
            ("set seed = 0.5", Pins::UNRESETTABLE),
            ("select E'x'\n'\\''; listen x; select 'y'", Pins::LISTEN),
            ("select set_limit(0.3)", Pins::SETTING),
            ("select query_to_xml($1, true, true, '')", Pins::SERVER_CODE.union(Pins::UNRESETTABLE)),
            ("select * from ts_stat($1)", Pins::SERVER_CODE.union(Pins::UNRESETTABLE)),
            ("select query_to_xml('select sets'||'eed(1)', true, true, '')", Pins::UNRESETTABLE),
            (r"select query_to_xml('select U&set!0073eed(1)', true, true, '')", Pins::UNRESETTABLE),
            ("update pg_settings set setting = '1' where name = 'work_mem'", Pins::SETTING),
            ("set local.x = 1", Pins::SETTING),
            ("set search_path = 'pg_temp'", Pins::TEMP),
            ("set role joe", Pins::ROLE),
            ("set role none", Pins::ROLE),
            ("SET SESSION ROLE joe", Pins::ROLE),
            ("set session authorization joe", Pins::ROLE),
            ("create temp table t (a int)", Pins::TEMP),
            ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Pins::TEMP),
            ("create local temp sequence s", Pins::TEMP),
            ("select 1 into temp t", Pins::TEMP),
            ("select 1e5into temp t", Pins::TEMP),
            ("select set_config('search_path', 'pg_'\n'temp', false)", Pins::TEMP),
            ("do 'begin create temp table t (a int); '\n'end'", Pins::UNANALYZED),
            ("select query_to_xml('select sets'\n'eed(1)', true, true, '')", Pins::UNRESETTABLE),
            ("select set_config('se'\n'ed', '1', false)", Pins::UNRESETTABLE),
            ("update pg_settings set setting = 1 where name = 'se'\n'ed'", Pins::UNRESETTABLE),
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
            ("do $$ begin execute 'set a.b = 1'; end $$", Pins::SERVER_CODE),
            ("do $$ <<a>> begin if true then set a.b = 1; end if; end $$", Pins::SERVER_CODE),
            ("do $$ <<a>>set a.b = 1 $$", Pins::SERVER_CODE),
            ("do e'begin e\\x78ecute 1; end'", Pins::SERVER_CODE),
            ("do language plpython3u $$ x $$", Pins::SERVER_CODE),
            ("do $$ x $$ language 'plpython3u'", Pins::SERVER_CODE),
            ("do $$ x $$ language \"plpython3u\"", Pins::SERVER_CODE),
            ("do $$ begin insert into t values (1); commit; end $$", Pins::SERVER_CODE),
            ("do $$ begin perform pg_advisory_lock(1); end $$", Pins::LOCK),
            ("do $$ begin create temp table t (a int); end $$", Pins::TEMP),
            ("do $$ begin perform setseed(0.5); end $$", Pins::UNRESETTABLE),
            ("do $$ begin perform set_config('a.b', 'c', false); end $$", Pins::SETTING),
            ("select query_to_xml('select pg_advisory_lock(1)', true, true, '')", Pins::LOCK),
            ("select query_to_xml($$select set_config('a', 'b', false)$$, true, true, '')", Pins::SERVER_CODE),
            ("select \"query_to_xml\"('select setseed(1)', true, true, '')", Pins::UNRESETTABLE),
            ("select set_config('search_path', 'pg_temp', false)", Pins::TEMP),
            ("update pg_settings set setting = 1 where name = 'seed'", Pins::UNRESETTABLE),
            ("select dblink_connect('c', 'dbname=x')", Pins::UNRESETTABLE),
            ("select isn_weak(true)", Pins::UNRESETTABLE),
            (r"select U&'\0061'", Pins::UNANALYZED),
        ] {
            let pins = analyze(sql.as_bytes(), Lexis::default()).pins;
            assert!(pins.contains(pin), "{sql}: {pins}");
        }
    }

    #[test]
    fn functions_are_known_by_their_oids() {
        // `loread`; `setseed`, one of an extension's, and one of which the number has not come.
        assert!(SqlEffects::of_function(Some(954)).is_nothing());
        for oid in [Some(1599), Some(16_500), None] {
            assert!(SqlEffects::of_function(oid).pins.contains(Pins::UNRESETTABLE), "{oid:?}");
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
            "set session authorization default; reset role",
            "insert into log (text) values ('pg_advisory_lock(1)'), ('select set_config(1)')",
            "select * from t where a in ('setseed(1)') or lower(b) = 'dblink_connect(1)'",
            "create function f() returns void language sql as 'select pg_advisory_lock(1)'",
            "do $$ declare n int; begin select 1 into n; update t set a = n; if n > 1 then raise notice '%', n; end if; end $$",
            "do language plpgsql 'begin insert into t values (1) on conflict do nothing; end'",
            "do $$ begin create type t as enum ('a'); exception when duplicate_object then null; end $$ language 'plpgsql'",
            "copy t from stdin",
            "select 'listen a'; -- listen b",
            "(select 1) union (select 2)",
        ] {
            let pins = analyze(sql.as_bytes(), Lexis::default()).pins;
            assert!(pins.is_empty(), "{sql}: {pins}");
        }
    }

    #[test]
    fn what_can_be_carried_does_not_hold() {
        for (sql, holds) in [
            ("set search_path = a", Pins::empty()),
            ("set search_path = a; select 1", Pins::empty()),
            ("set a = 1; set b to 2; reset c", Pins::empty()),
            ("set search_path = U&'a'", Pins::SETTING.union(Pins::UNANALYZED)),
            ("reset all", Pins::empty()),
            ("reset role", Pins::empty()),
            ("select nextval('a')", Pins::empty()),
            ("select currval('a')", Pins::SEQUENCE),
            ("select set_config('a.b', $1, true)", Pins::empty()),
            ("select pg_catalog.set_config('a.b', f(1, 2), true), set_config('role', $1, TRUE)", Pins::empty()),
            ("set session characteristics as transaction read only", Pins::empty()),
            ("set a = 'ü'", Pins::NAMED_SETTING),
            ("select set_config('a.b', 'c', false), set_config('a.b', 'c', true)", Pins::NAMED_SETTING),
            ("select set_config('a.b', 'c', $1)", Pins::NAMED_SETTING),
            ("select set_config('a.b', 'c', true or f())", Pins::NAMED_SETTING),
            ("select set_config('role', 'c', false)", Pins::SETTING),
            ("select set_config('a' || '.b', 'c', false)", Pins::SETTING.union(Pins::UNRESETTABLE)),
            ("select set_config($1, 'c', false)", Pins::SETTING.union(Pins::UNRESETTABLE)),
        ] {
            assert_eq!(analyze(sql.as_bytes(), Lexis::default()).holds(), holds, "{sql}");
        }
    }

    #[test]
    fn commands_stand_in_the_order_of_the_text() {
        let sql = "begin; set a = 1 ; select ';'; savepoint s;reset all; rollback to s; deallocate x; commit";
        let effects = analyze(sql.as_bytes(), Lexis::default());
        let commands = effects.commands.expect("commands");
        let ends: Vec<_> = commands.iter().map(|placed| &sql[..placed.end]).collect();
        assert_eq!(ends[0], "begin; set a = 1");
        assert_eq!((commands.len(), effects.statements), (6, 8));
        assert_eq!(commands[2].command, SessionCommand::ResetAll);
        assert_eq!(commands[4].command, SessionCommand::Deallocate { name: (*b"x").into() });
        assert_eq!(commands[5].command, SessionCommand::Commit);
        for sql in
            ["commit", "select 1; rollback", "select 'set a = 1'", "create function f() begin atomic; set a = 1; end"]
        {
            assert!(analyze(sql.as_bytes(), Lexis::default()).commands.is_none(), "{sql}");
        }
    }

    #[test]
    fn a_body_in_sql_ends_with_the_end_that_begins_a_statement() {
        for body in [
            "begin atomic end",
            "BEGIN ATOMIC select 1; END",
            "begin /* ; end */ atomic select case when a then 1 end from t; end",
            "language sql begin atomic select 1 as \"x\"; select 1 end; select b.end from b; end",
        ] {
            let sql = format!("create function f() returns int {body}; reset all; select 1");
            let effects = analyze(sql.as_bytes(), Lexis::default());
            let commands = effects.commands.as_deref().unwrap_or_default();
            assert!(matches!(commands, [PositionedCommand { command: SessionCommand::ResetAll, .. }]), "{sql}");
            assert_eq!(effects.statements, 3, "{sql}");
        }
        let effects =
            analyze(b"create function f() returns int begin atomic select 1; reset all; end", Lexis::default());
        assert!(effects.commands.is_none());
    }

    #[test]
    fn state_may_be_gone_after_these() {
        for sql in [
            "unlisten *",
            "deallocate a",
            "close c",
            "select pg_advisory_unlock(1)",
            "begin; drop table t",
            "set role none",
        ] {
            assert!(analyze(sql.as_bytes(), Lexis::default()).may_release, "{sql}");
        }
        assert!(!analyze(b"select 1; update t set a = 1", Lexis::default()).may_release);
    }

    #[test]
    fn settings_of_a_transaction() {
        for sql in ["set local a = 1", "begin; set local a = 1", "select set_config('a.b', 'c', true)"] {
            let effects = analyze(sql.as_bytes(), Lexis::default());
            assert!(effects.sets() && effects.holds().is_empty(), "{sql}");
        }
        assert!(!analyze(b"update local set a = 1", Lexis::default()).sets());
    }

    #[test]
    fn a_call_is_looked_at_no_further_than_its_first_tokens() {
        let unknown_settings = |sql: &str| analyze(sql.as_bytes(), Lexis::default()).unknown_settings;
        let call = |arguments: usize| format!("select set_config('a.b', f({}), true)", vec!["1"; arguments].join(","));
        assert_eq!(unknown_settings(&call(50)), UnknownSettings::ForTransaction);
        // What it might mean at most counts then.
        assert_eq!(unknown_settings(&call(100)), UnknownSettings::Named);
        // Each of these calls looks ahead: to the end of the text it would take hours.
        let nested = format!("select {}", "set_config(".repeat(90_000));
        assert_eq!(unknown_settings(&nested), UnknownSettings::ForSession);
    }

    #[test]
    fn names_count_where_they_are_called() {
        for sql in
            ["select 1 as lastval", "select advisory_score from t", "select 'advisory locks'", r"select 'C:\temp\'"]
        {
            assert_eq!(analyze(sql.as_bytes(), Lexis::default()), SqlEffects::default(), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = analyze(&sql, Lexis::default());
        }

        /// Whatever harmless things stand before it, a SET that starts a statement is seen.
        #[test]
        fn a_set_behind_anything_whole_is_seen(
            before in prop::collection::vec(prop::sample::select(vec![
                "select 1", "select 'a;b'", "select $$;$$", "/* ; */ select \"a;\"", "-- ;\n select E'\\';'", "",
            ]), 0..5),
        ) {
            let sql = format!("{};/*x*/ SeT a.b = 1", before.join(";"));
            prop_assert!(analyze(sql.as_bytes(), Lexis::default()).pins.contains(Pins::SETTING));
        }
    }
}
