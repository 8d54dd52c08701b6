//! What one server connection has: the settings in force, its statements, and what may be left behind.

use std::sync::Arc;

use super::client_statements::Unnamed;
use super::for_others::ForOthers;
use super::params::{RequestedParams, ServerParams};
use super::plan_settings::PlannedUnder;
use super::prepared_statement::Standing;
use super::reset_statements::ResetStatements;
use super::rollback::{Rollback, Unfulfilled, UnnamedCause};
use super::sequences::Sequences;
use super::server_statements::ServerStatementCache;
use super::session_code::{self, CodeExposure, SessionCode};
use super::setting_overrides::SettingOverrides;
use super::source_settings::SourcesRead;
use super::statements::{Columns, Statement};
use super::unnamed_statement::UnnamedStatement;

/// The statement that makes a session as new.
pub const RESET: &[u8] = b"DISCARD ALL";

/// Users of a session since it was as new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsedBy {
    /// None: the session is as after its login.
    #[default]
    Nothing,
    /// One client's, and the number of its last piece of work there: nothing was seen to be left behind, but code
    /// inside the database may have left something.
    One {
        /// The client's number.
        client: u64,
        /// Number of pieces of work that it had had, this one included.
        work: u64,
    },
    /// One client's, with work elsewhere in between.
    Interrupted {
        /// The client's number.
        client: u64,
        /// Number of pieces of work that it had had.
        work: u64,
    },
    /// Several clients'.
    Several {
        /// The client that had it last.
        last: u64,
        /// Number of pieces of work that that one had had.
        work: u64,
    },
}

impl UsedBy {
    /// Returns whether another client than number `client` may have left something.
    #[must_use]
    pub fn is_foreign_to(self, client: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::One { client: one, .. } | Self::Interrupted { client: one, .. } => one != client,
            Self::Several { last, .. } => last != client,
        }
    }

    /// Returns whether another client than number `client` may have left something, however many have had it since.
    #[must_use]
    pub fn is_others_than(self, client: u64) -> bool {
        self.is_foreign_to(client) || matches!(self, Self::Several { .. })
    }

    /// After another piece of work, number `work` of `client`'s.
    #[must_use]
    pub fn and(self, client: u64, work: u64) -> Self {
        match self {
            Self::Nothing => Self::One { client, work },
            Self::One { client: one, work: before } if one == client && before + 1 >= work => {
                Self::One { client, work }
            }
            Self::One { client: one, .. } | Self::Interrupted { client: one, .. } if one == client => {
                Self::Interrupted { client, work }
            }
            _ => Self::Several { last: client, work },
        }
    }

    /// Returns whether it was as new, or `client` had it last, and has had no work done elsewhere before number `work`.
    #[must_use]
    pub fn is_continued_by(self, client: u64, work: u64) -> bool {
        match self {
            Self::Nothing => true,
            Self::One { client: last, work: before }
            | Self::Interrupted { client: last, work: before }
            | Self::Several { last, work: before } => last == client && before + 1 >= work,
        }
    }

    /// Returns whether what a sequence's state says here is what it says in a session of `client`'s own with its next piece of
    /// work is number `work`, or is not defined.
    #[must_use]
    pub fn knows_sequences(self, client: u64, work: u64) -> bool {
        match self {
            Self::Nothing => true,
            Self::One { client: one, work: before } => one == client && before + 1 >= work,
            Self::Interrupted { .. } | Self::Several { .. } => false,
        }
    }
}

/// Returns whether a command with this tag may have had sequences give values, by the defaults of columns or by what a `DO` ran.
#[must_use]
pub(crate) fn may_give_values(tag: &[u8]) -> bool {
    tag == b"DO" || [&b"INSERT "[..], b"MERGE ", b"COPY "].iter().any(|given| tag.starts_with(given))
}

/// Requests that have run on a connection since its session was as new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ran {
    /// Nothing but opening a transaction and preparing statements.
    #[default]
    Nothing,
    /// Something that may have run code inside the database.
    Something,
}

/// Moment at which a reset in the extended protocol is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetCommits {
    /// Before the server reads the next message, as with any statement that can't run in a transaction block
    /// (`XACT_FLAGS_NEEDIMMEDIATECOMMIT` in `src/include/access/xact.h`, since August 2022).
    AtOnce,
    /// With the next `Sync`: an error of the client's first statement would take it back.
    #[default]
    WithSync,
}

impl ResetCommits {
    /// Returns that of a server that reports `version` as its `server_version`.
    #[must_use]
    pub fn of_version(version: &[u8]) -> Self {
        let mut numbers = version
            .split(|b| !b.is_ascii_digit())
            .map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()));
        let major = numbers.next().flatten().unwrap_or(0);
        let minor = numbers.next().flatten().unwrap_or(0);
        let at_once = match major {
            10 => minor >= 22,
            11 => minor >= 17,
            12 => minor >= 12,
            13 => minor >= 8,
            14 => minor >= 5,
            _ => major > 14,
        };
        if at_once { Self::AtOnce } else { Self::WithSync }
    }
}

/// Moment at which a server reports a changed setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reports {
    /// Reports when it is set, and whenever it is set again (before PostgreSQL 14).
    AtOnce,
    /// Before `ReadyForQuery`, if it is another than was reported last (`ReportChangedGUCOptions` in
    /// `src/backend/utils/misc/guc.c`).
    #[default]
    BeforeReady,
}

impl Reports {
    /// Returns that of a server that reports `version` as its `server_version`.
    #[must_use]
    pub fn of_version(version: &[u8]) -> Self {
        let digits: Vec<u8> = version.iter().copied().take_while(u8::is_ascii_digit).collect();
        let major = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u32>().ok());
        if major.is_some_and(|major| major < 14) { Self::AtOnce } else { Self::BeforeReady }
    }
}

/// Ways to end a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseMethod {
    /// With `Terminate`: the server is between two messages.
    #[default]
    Terminate,
    /// With `CopyFail` first: a backend that reads copy data takes a `Terminate` for a broken copy, and then waits for
    /// another message.
    CopyFail,
    /// Without a word, since the server may have part of a message, which anything sent now would complete.
    Silent,
}

/// Sessions that see what a command makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeFor {
    /// All of its database.
    All,
    /// The command's own.
    Own,
}

/// Session of a server connection.
#[derive(Debug, Default)]
pub struct ServerState {
    /// The reported settings as they are now.
    pub params: ServerParams,
    /// The reported settings as they are after a reset.
    pub base: ServerParams,
    /// The same when others last learnt of them ([`super::parameter_cache::ParameterCache::learn_base`]).
    pub(super) told_base: ServerParams,
    /// Values of those that its own startup packet asked for.
    pub asked: RequestedParams,
    /// The settings that were made there with plain `SET`s for the client that has it, or had it last.
    pub kept: SettingOverrides,
    /// The statements that are prepared there.
    pub prepared: ServerStatementCache,
    /// Its unnamed statement.
    pub unnamed: UnnamedStatement,
    /// The columns of the unnamed statement with this number, once the server was asked.
    pub unnamed_columns: Option<(u64, Columns)>,
    /// The client that it has last worked for.
    pub used: UsedBy,
    /// Use of sequences since it was as new.
    pub sequences: Sequences,
    /// Requests that have run since the session was as new.
    pub ran: Ran,
    /// State of the statements of a [`super::keeping_reset::KeepingReset`].
    pub reset_statements: ResetStatements,
    /// The settings that functions' plans there were made under.
    pub planned: PlannedUnder,
    /// Rules by which functions were read there, ever.
    pub sources: SourcesRead,
    /// State that code inside the database may have left since it was as new.
    pub code: CodeExposure,
    /// Effects of its commands on other sessions.
    pub for_others: ForOthers,
    /// Moment at which a reset that is sent to it is committed.
    pub reset_commits: ResetCommits,
    /// Moment at which it reports changed settings.
    pub reports: Reports,
    /// Way to end it.
    pub close_method: CloseMethod,
}

impl ServerState {
    /// Creates the state of a connection that has just been opened with `asked`, and reports `params`.
    #[must_use]
    pub fn new(params: ServerParams, asked: RequestedParams) -> Self {
        let version = params.get(b"server_version").unwrap_or_default();
        let (reset_commits, reports) = (ResetCommits::of_version(version), Reports::of_version(version));
        Self {
            base: params.clone(),
            told_base: params.clone(),
            params,
            asked,
            reset_commits,
            reports,
            ..Self::default()
        }
    }

    /// Returns whether it is reset to something that others have not learnt of.
    #[must_use]
    pub fn has_new_base(&self) -> bool {
        self.base != self.told_base
    }

    /// The same, in a database with this code.
    #[must_use]
    pub fn in_database_with(self, code: Arc<SessionCode>) -> Self {
        Self { code: CodeExposure::new(code), ..self }
    }

    /// Notes what the server reports of `name` without a client's doing: a reset goes back to that as well. Returns `false`, and notes
    /// nothing, where it reports more than can be kept.
    #[must_use]
    pub fn on_new_default(&mut self, name: &[u8], value: &[u8]) -> bool {
        let has_room = self.params.has_room_for(name, value);
        if has_room {
            self.params.set(name, value);
            self.base.set(name, value);
        }
        has_room
    }

    /// Notes what the server reports while it works on statements of pgferry's own; returns whether there is room for it.
    pub fn on_report(&mut self, name: &[u8], value: &[u8]) -> bool {
        let has_room = self.params.has_room_for(name, value);
        if has_room {
            self.params.set(name, value);
        }
        has_room
    }

    /// Such statements, which leave nothing, are over: what has been reported since `before` and holds has changed without them, and is what
    /// a reset goes back to. A `SET LOCAL` among them is reported too before PostgreSQL 14, and then what it had hidden.
    pub fn on_new_defaults_since(&mut self, before: &ServerParams) {
        for (name, value) in self.params.beyond(before) {
            self.base.set(name, value);
        }
    }

    /// Between two clients, pgferry's own `DISCARD ALL` makes it as new.
    pub fn on_reset(&mut self) {
        self.on_discard_all();
        self.is_as_new();
    }

    /// Between two clients, what pgferry sends makes it as new but for its statements.
    pub(super) fn on_keeping_reset(&mut self) {
        self.on_discard_of_all_else();
        self.is_as_new();
    }

    fn is_as_new(&mut self) {
        self.used = UsedBy::Nothing;
        self.ran = Ran::Nothing;
        self.code.is_as_new();
    }

    /// `DISCARD PLANS` has been sent as part of a reset.
    pub(crate) fn on_discard_plans(&mut self) {
        self.prepared.on_discard_plans();
        self.planned = PlannedUnder::Nothing;
    }

    /// `DISCARD ALL` has been sent: its statements and settings are gone.
    pub fn on_discard_all(&mut self) {
        self.on_deallocate_all();
        self.planned = PlannedUnder::Nothing;
        self.on_discard_of_all_else();
    }

    fn on_discard_of_all_else(&mut self) {
        self.kept.clear();
        self.sequences = Sequences::Untouched;
    }

    fn on_deallocate_all(&mut self) {
        self.prepared.clear();
        self.reset_statements = ResetStatements::Absent;
    }

    /// Returns whether code that has run there may have changed settings.
    #[must_use]
    pub fn may_have_other_settings(&self) -> bool {
        self.ran == Ran::Something && !self.code.is_harmless()
    }

    /// The standing of `statement`, which is about to be prepared there.
    #[must_use]
    pub fn standing_of(&self, statement: &Statement) -> Standing {
        let own = statement.parse_context.is_none();
        if own || self.ran == Ran::Something { Standing::Doubtful } else { Standing::Trusted }
    }

    /// Notes what a `CommandComplete` with `tag` tells, wherever the command has come from; `made` says to which sessions it has made
    /// anything.
    pub fn completed(&mut self, tag: &[u8], made: MadeFor) {
        if made == MadeFor::All && session_code::defines_code(tag) {
            self.code.defines();
        }
        self.for_others.completed(tag);
        match tag {
            b"DISCARD ALL" => self.on_discard_all(),
            b"DEALLOCATE ALL" => self.on_deallocate_all(),
            _ if may_give_values(tag) => self.sequences = Sequences::GaveValues,
            _ => {}
        }
    }

    /// Notes that what is sent may change definitions: its client's texts behind it may mean something else at once, others' later.
    pub fn may_redefine(&mut self) {
        self.for_others.may_redefine();
        self.code.code().definitions_changed();
    }

    /// The server is ready; `idle` says that no transaction is open, and nothing else is to be answered.
    pub fn ready(&mut self, idle: bool) {
        if self.for_others.redefines(idle) {
            // Others see it when it is committed; the session's client at once.
            self.code.code().definitions_changed();
        }
    }

    /// Takes back what has not happened.
    pub fn undo(&mut self, rollback: &mut Rollback, how: Unfulfilled) {
        self.prepared.undo(rollback);
        if let Some(change) = &rollback.unnamed {
            self.unnamed = match (how, change.cause) {
                (Unfulfilled::Discarded, _) => change.server,
                // A text that is no text in the client's encoding leaves the one before it where it is (`pq_getmsgstring`).
                (Unfulfilled::Failed, UnnamedCause::ClientParse | UnnamedCause::OwnParse | UnnamedCause::Drop) => {
                    UnnamedStatement::Unknown
                }
            };
        }
    }

    /// Returns whether its unnamed statement is `unnamed`.
    #[must_use]
    pub fn has_unnamed(&self, unnamed: Option<&Arc<Unnamed>>) -> bool {
        self.unnamed.is(unnamed.map(|unnamed| &**unnamed))
    }

    /// The columns of statement `id`, named or unnamed, where they are known.
    #[must_use]
    pub fn columns(&self, id: u64) -> Option<&Columns> {
        let unnamed = self.unnamed_columns.as_ref().filter(|(of, _)| *of == id).map(|(_, columns)| columns);
        unnamed.or_else(|| self.prepared.columns(id))
    }

    /// Notes the columns of statement `id`, named or unnamed.
    pub fn describe(&mut self, id: u64, columns: &Columns) {
        if self.unnamed == UnnamedStatement::Is(id) {
            self.unnamed_columns = Some((id, Arc::clone(columns)));
        } else {
            self.prepared.describe(id, columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sql_effects::SqlEffects;
    use super::*;

    #[test]
    fn whose_state_it_is() {
        let used = UsedBy::Nothing;
        assert!(!used.is_foreign_to(1) && used.knows_sequences(1, 9));
        let used = used.and(1, 3);
        assert!(!used.is_foreign_to(1) && used.is_foreign_to(2));
        assert!(used.is_continued_by(1, 4) && !used.is_continued_by(1, 5) && !used.is_continued_by(2, 1));
        assert!(used.knows_sequences(1, 4) && used.knows_sequences(1, 3) && !used.knows_sequences(1, 5));
        assert!(!used.knows_sequences(2, 1));
        assert_eq!(used.and(1, 4), UsedBy::One { client: 1, work: 4 });
        let elsewhere = used.and(1, 5);
        assert!(!elsewhere.is_foreign_to(1) && !elsewhere.knows_sequences(1, 6), "it worked elsewhere in between");
        assert!(!elsewhere.and(1, 6).is_others_than(1) && elsewhere.and(2, 1).is_others_than(2));
        let several = used.and(2, 1);
        assert!(several.and(2, 2).is_others_than(2) && !used.is_others_than(1) && used.is_others_than(2));
        assert!(several.is_continued_by(2, 2) && !several.is_continued_by(2, 3));
        assert!(several.is_foreign_to(1) && !several.is_foreign_to(2) && !several.knows_sequences(2, 2));
    }

    #[test]
    fn a_setting_that_was_hidden_for_a_moment_is_no_new_default() {
        let params = |pairs: &[(&[u8], &[u8])]| {
            let mut params = ServerParams::default();
            for (name, value) in pairs {
                params.set(name, value);
            }
            params
        };
        let base = params(&[(b"client_encoding", b"UTF8"), (b"TimeZone", b"UTC")]);
        let mut state = ServerState::new(base, RequestedParams::default());
        // By a client.
        state.params.set(b"client_encoding", b"LATIN1");
        let before = state.params.clone();
        for (name, value) in
            [("client_encoding", "SQL_ASCII"), ("TimeZone", "Asia/Tokyo"), ("client_encoding", "LATIN1")]
        {
            assert!(state.on_report(name.as_bytes(), value.as_bytes()));
        }
        state.on_new_defaults_since(&before);
        assert_eq!(state.base.get(b"client_encoding"), Some(&b"UTF8"[..]));
        assert_eq!(state.base.get(b"TimeZone"), Some(&b"Asia/Tokyo"[..]));
    }

    #[test]
    fn old_minor_releases_would_take_a_reset_back() {
        for (version, commits) in [
            ("15.18 (Debian 15.18-0+deb12u1)", ResetCommits::AtOnce),
            ("18beta1", ResetCommits::AtOnce),
            ("14.5", ResetCommits::AtOnce),
            ("14.4", ResetCommits::WithSync),
            ("13.8", ResetCommits::AtOnce),
            ("10.21", ResetCommits::WithSync),
            ("9.6.24", ResetCommits::WithSync),
            ("", ResetCommits::WithSync),
        ] {
            assert_eq!(ResetCommits::of_version(version.as_bytes()), commits, "{version}");
        }
    }

    #[test]
    fn unnamed_statements_are_compared_by_number() {
        let unnamed = |id| Unnamed::new(id, None, &SqlEffects::default(), ServerParams::default());
        assert!(UnnamedStatement::Absent.is(None) && UnnamedStatement::Is(1).is(Some(&unnamed(1))));
        assert!(!UnnamedStatement::Is(1).is(None) && !UnnamedStatement::Is(1).is(Some(&unnamed(2))));
        assert!(!UnnamedStatement::Unknown.is(None) && !UnnamedStatement::Unknown.is(Some(&unnamed(1))));
    }
}
