//! What pgferry itself asks and tells the server between a client's messages: which reasons for keeping the connection are
//! still there, where a changed setting comes from, and what a `RESET` should have gone back to.

use std::borrow::Cow;
use std::sync::Arc;

use super::from_client::{Incoming, body};
use super::origins::{Wanted, origins_query};
use super::{Buffers, Gate, Machine, Phase, buffer_for_client, flush_forwarded};
use crate::track::params::{self, put_literal, set_to, set_to_local};
use crate::track::pipeline::{Note, Tells};
use crate::track::server_state::Reports;
use crate::track::session_command::{Commands, PositionedCommand, SessionCommand};
use crate::track::settings_in_force::SettingsInForce;
use crate::track::startup_settings;
use crate::track::statements::MEANWHILE;
use crate::track::text_edit::Edit;
use crate::track::transaction_block::IDLE;
use crate::track::{Pins, Pipeline, Request, ResponseAction, SqlEffects};
use crate::wire::{backend, frontend};

/// The reasons for keeping a connection that [`pins_query`] asks about, in its order.
const ASKED: [Pins; 6] = [Pins::ROLE, Pins::TEMP, Pins::LISTEN, Pins::PREPARE, Pins::CURSOR, Pins::LOCK];

/// Queries of pgferry's own.
#[derive(Debug)]
pub(super) enum Question {
    /// Asks which pins still hold.
    Pins,
    /// Asks for the values of settings that the client's statements don't show.
    Settings(Vec<Box<[u8]>>),
    /// Asks for the origins of settings that have changed without a statement that is known to set them. The client's
    /// `ReadyForQuery`, with this status, is held back.
    Origins {
        /// The status.
        status: u8,
        /// Settings that are to be something else.
        wanted: Vec<Wanted>,
    },
    /// As the one before, but the server could not answer.
    Unanswered {
        /// The status of the `ReadyForQuery` that is held back.
        status: u8,
        /// The server's error.
        error: Box<[u8]>,
    },
    /// To set what a reset should have gone back to.
    Correction {
        /// The status of the `ReadyForQuery` that is held back, if the client is owed one.
        held: Option<u8>,
        /// Texts that are sent again if it is cancelled.
        again: Vec<Vec<u8>>,
    },
    /// As the one before, which was cancelled: a cancel request that came too late for the client's statement.
    CancelledCorrection {
        /// The status of the `ReadyForQuery` that is held back, if the client is owed one.
        held: Option<u8>,
        /// Texts that are sent again.
        again: Vec<Vec<u8>>,
    },
}

/// Appends a statement of pgferry's own in the extended protocol, in the middle of whatever the client does: it leaves the
/// unnamed statement and portal alone.
pub(super) fn put_own_statement(out: &mut Vec<u8>, pipeline: &mut Pipeline, sql: &[u8], action: ResponseAction) {
    put_own_query(out, pipeline, sql, action, Tells::Nothing);
}

/// As [`put_own_statement`], of a statement with rows that tell something.
pub(super) fn put_own_query(
    out: &mut Vec<u8>,
    pipeline: &mut Pipeline,
    sql: &[u8],
    action: ResponseAction,
    tells: Tells,
) {
    use Request::{Bind, Close, Execute, Parse};
    // One that was cancelled or failed has left its statement behind.
    frontend::put_close(out, MEANWHILE);
    frontend::put_parse(out, MEANWHILE, &[sql, b"\0\0\0"].concat());
    frontend::put_bind(out, MEANWHILE, MEANWHILE);
    frontend::put_execute(out, MEANWHILE);
    frontend::put_close_portal(out, MEANWHILE);
    frontend::put_close(out, MEANWHILE);
    for request in [Close, Parse, Bind, Execute, Close, Close] {
        let note = (request == Execute && tells != Tells::Nothing).then(|| Note { tells, ..Note::default() });
        pipeline.request_with(request, action, note);
    }
}

/// A setting's name, and the value that this client's startup packet gives it.
pub(super) type OwnSetting = (Cow<'static, str>, Box<[u8]>);

impl Machine<'_> {
    /// Returns whether what a message means depends on reported settings that are not known.
    pub(super) fn lacks_settings(&self, io: &Buffers<'_>, incoming: Incoming) -> bool {
        // A failed transaction has gone back to what was reported, and takes no question.
        let alive = self.pipeline.knows_status() && self.pipeline.status() != b'E';
        let unknown = alive && self.client.in_force.are_unknown() && self.server.reports == Reports::BeforeReady;
        unknown
            && self.carries()
            && match incoming.request {
                Request::Query | Request::Parse | Request::Bind => true,
                Request::Describe => body(io, incoming).first() == Some(&b'S'),
                _ => false,
            }
    }

    /// Asks the server for the reported settings that are in force, behind what was sent so far.
    pub(super) fn ask_for_settings_in_force(&mut self, io: &mut Buffers<'_>) {
        flush_forwarded(io);
        for (sql, tells) in SettingsInForce::questions() {
            put_own_query(io.to_server, &mut self.pipeline, &sql, ResponseAction::ForwardErrorOnly, tells);
        }
        frontend::put_flush(io.to_server);
        self.pipeline.request(Request::Flush, ResponseAction::Swallow);
        self.client.in_force.ask(&self.client.view);
    }

    /// The settings that `command` resets to something else than this client's startup packet asked for: a `RESET` goes
    /// back to what the connection was opened with.
    pub(super) fn wrongly_reset(&self, command: &SessionCommand) -> Vec<OwnSetting> {
        let mut wrong = self.wrongly_reset_reported(command);
        let startup = &self.client.startup;
        let own = |(name, value): (&str, &[u8])| (Cow::Owned(name.to_owned()), value.into());
        match command {
            // No connection was opened with them.
            SessionCommand::Reset { name } | SessionCommand::ResetLocal { name, .. } => {
                wrong.extend(startup.get(name).map(own));
            }
            SessionCommand::ResetAll | SessionCommand::DiscardAll => wrong.extend(startup.iter().map(own)),
            _ => {}
        }
        wrong
    }

    fn wrongly_reset_reported(&self, command: &SessionCommand) -> Vec<OwnSetting> {
        let one;
        let names: &[&'static str] = match command {
            SessionCommand::Reset { name } | SessionCommand::ResetLocal { name, .. } => match params::following(name) {
                Some(name) => {
                    one = [name];
                    &one
                }
                None => &[],
            },
            SessionCommand::ResetAll | SessionCommand::DiscardAll => &params::FOLLOWING,
            _ => &[],
        };
        if names.is_empty() {
            return Vec::new();
        }
        let Some(baseline) = self.context.parameters.baseline() else { return Vec::new() };
        let wrong = |name: &&'static str| {
            let own = self.own_reset_value(name, &baseline)?;
            (self.server.base.get(name.as_bytes()) != Some(own)).then(|| params::values_to(name, own, &baseline))
        };
        names.iter().filter_map(wrong).flatten().map(|(name, value)| (Cow::Borrowed(name), value.into())).collect()
    }

    /// The commands of a simple query, with `SET`s put into its text behind a `RESET` that would go back to what another
    /// client asked for.
    pub(super) fn insert_corrections(&self, effects: &SqlEffects) -> (Option<Commands>, Vec<Edit>) {
        let Some(commands) = &effects.commands else { return (None, Vec::new()) };
        let mut edits = Vec::new();
        let mut list = Vec::new();
        for placed in commands.iter() {
            list.push(placed.clone());
            // Nothing can stand beside DISCARD ALL; it is corrected afterwards.
            if placed.command == SessionCommand::DiscardAll {
                continue;
            }
            // Alone it lasts no longer than itself, and the server says so of a single statement only.
            if resets_alone(effects, &placed.command) && self.is_idle() {
                continue;
            }
            let mut with = Vec::new();
            for (name, value) in self.wrongly_reset(&placed.command) {
                with.push(b';');
                with.extend(put_right(&placed.command, &name, &value));
                list.push(PositionedCommand { command: SessionCommand::Inserted, end: placed.end });
            }
            if !with.is_empty() {
                edits.push(Edit { at: placed.end..placed.end, with });
            }
        }
        if edits.is_empty() { (Some(Arc::clone(commands)), edits) } else { (Some(list.into()), edits) }
    }

    /// Returns whether only the transaction status, which is not known yet, tells what a text with `effects` needs.
    pub(super) fn awaits_status(&self, effects: &SqlEffects) -> bool {
        let Some(commands) = effects.commands.as_ref().filter(|_| !self.finds_told_status()) else { return false };
        let needs_correction = |placed: &PositionedCommand| {
            resets_alone(effects, &placed.command) && !self.wrongly_reset(&placed.command).is_empty()
        };
        commands.iter().any(needs_correction)
    }

    /// Returns whether a request that is sent now finds no open transaction, unless the preparation of the session fails.
    fn is_idle(&self) -> bool {
        self.pipeline.status() == IDLE && self.finds_told_status()
    }

    /// Returns whether a request that is sent now finds the transaction status that the server told last, unless the preparation
    /// of the session fails.
    fn finds_told_status(&self) -> bool {
        let is_first = matches!(self.phase, Phase::Preparing { left } if left == self.pipeline.owed());
        is_first || self.pipeline.knows_status()
    }

    /// Sends, behind the execution of a portal, what its `RESET` should have gone back to.
    pub(super) fn put_corrections(&mut self, io: &mut Buffers<'_>, commands: &[PositionedCommand]) {
        if self.pipeline.skipping() {
            return;
        }
        // DISCARD ALL is committed when it is done, and an error behind it does not take it back: what corrects it is to be, too.
        for placed in commands.iter().filter(|placed| placed.command != SessionCommand::DiscardAll) {
            let wrong = self.wrongly_reset(&placed.command);
            if wrong.is_empty() {
                continue;
            }
            flush_forwarded(io);
            for (name, value) in wrong {
                let sql = put_right(&placed.command, &name, &value);
                put_own_statement(io.to_server, &mut self.pipeline, &sql, ResponseAction::ForwardErrorOnly);
            }
        }
    }

    /// A `Sync` of pgferry's own.
    pub(super) fn put_own_sync(&mut self, io: &mut Buffers<'_>) {
        flush_forwarded(io);
        frontend::put_sync(io.to_server);
        self.pipeline.request(Request::Sync, ResponseAction::Swallow);
    }

    /// Asks or tells the server something on its own. The client's next messages wait: the answer is about what holds now.
    fn ask(&mut self, io: &mut Buffers<'_>, statements: &[Vec<u8>], question: Question) {
        flush_forwarded(io);
        for sql in statements {
            put_own_statement(io.to_server, &mut self.pipeline, sql, ResponseAction::Swallow);
        }
        self.put_own_sync(io);
        self.phase = Phase::Asking(question);
        self.gate = Gate::Open;
    }

    /// Asks which reasons for keeping the connection are still there.
    pub(super) fn ask_for_pins(&mut self, io: &mut Buffers<'_>) {
        let sql = pins_query(self.context.user);
        self.ask(io, &[sql], Question::Pins);
    }

    /// Asks what settings are that the client's statements have changed.
    pub(super) fn ask_for_settings(&mut self, io: &mut Buffers<'_>) {
        let names = std::mem::take(&mut self.named_settings);
        self.pins = self.pins.difference(Pins::NAMED_SETTING);
        if !names.is_empty() {
            self.ask(io, &[settings_query(&names)], Question::Settings(names));
        }
    }

    /// The client is about to be told that the server is ready, with `status`. Where settings have changed in a way that
    /// must be looked into or corrected before, its `ReadyForQuery` is held back. Says whether it is.
    pub(super) fn hold_ready(&mut self, io: &mut Buffers<'_>, status: u8) -> bool {
        if status == b'E' || !self.pipeline.answered() {
            return false;
        }
        if self.client_stream.is_partial() || self.pipeline.lost() {
            // Nothing can be asked in the middle of a message, nor where the answers can't be told from others.
            self.pins.insert(Pins::SETTING);
            return false;
        }
        let wrong = std::mem::take(&mut self.corrections);
        let is_wrong = |(name, own): &&OwnSetting| self.server.params.get(name.as_bytes()) != Some(&**own);
        let mut wrong: Vec<_> = wrong.iter().filter(is_wrong).map(put_discarded_right).collect();
        wrong.extend(self.keep_from_new_defaults());
        if !wrong.is_empty() {
            self.ask(io, &wrong, Question::Correction { held: Some(status), again: wrong.clone() });
            return true;
        }
        let doubtful = self.doubtful_changes();
        if doubtful.is_empty() {
            return false;
        }
        self.ask(io, &[origins_query(&doubtful)], Question::Origins { status, wanted: Vec::new() });
        self.explained.looked_into(doubtful);
        true
    }

    /// Corrects what `DISCARD ALL` has reset in front of a message of the client's that goes on behind it, if anything. Nothing is open
    /// there: a `Sync` commits no work of the client's.
    pub(super) fn correct_discarded(&mut self, io: &mut Buffers<'_>) -> bool {
        if self.corrections.is_empty() || !self.pipeline.answered() {
            return false;
        }
        // Not all of what it has reset is reported yet.
        let wrong: Vec<_> = std::mem::take(&mut self.corrections).iter().map(put_discarded_right).collect();
        self.ask(io, &wrong, Question::Correction { held: None, again: wrong.clone() });
        true
    }

    /// A row of the answer to a question.
    pub(super) fn learn_answer(&mut self, row: &[u8]) {
        let values = backend::values(row);
        if let Some(Tells::SettingInForce(name)) = self.pipeline.front_note().map(|note| note.tells) {
            let value = values.first().copied().flatten().unwrap_or_default();
            return self.client.in_force.learn(name, value);
        }
        if let Phase::Asking(Question::Settings(names)) = &mut self.phase {
            let names = std::mem::take(names);
            for (name, value) in names.iter().zip(values.chunks(2)) {
                let &[value, is_reset] = value else { continue };
                let is_default = is_reset == Some(b"t");
                if is_default {
                    self.learn_default(name);
                }
                let value = value.filter(|_| !is_default || self.client.settings.has_base(name));
                self.learn_setting(name, value);
            }
            return;
        }
        let columns: Vec<&[u8]> = values.into_iter().map(Option::unwrap_or_default).collect();
        match &mut self.phase {
            Phase::Asking(Question::Pins) => {
                for (pin, held) in ASKED.into_iter().zip(columns) {
                    if held == b"f" {
                        self.pins = self.pins.difference(pin);
                    }
                }
            }
            Phase::Asking(Question::Origins { .. }) => {
                let to_be = self.learn_origin(&columns);
                if let Phase::Asking(Question::Origins { wanted, .. }) = &mut self.phase {
                    wanted.extend(to_be);
                }
            }
            _ => {}
        }
    }

    /// The server has answered a question. Returns the status of the client's `ReadyForQuery` if that was held back and
    /// is to be sent now.
    pub(super) fn answered_question(&mut self, io: &mut Buffers<'_>) -> Option<u8> {
        let Phase::Asking(question) = std::mem::replace(&mut self.phase, Phase::Working) else { return None };
        match question {
            Question::Pins => None,
            Question::Settings(unanswered) => {
                if !unanswered.is_empty() {
                    self.pins.insert(Pins::SETTING);
                }
                None
            }
            Question::Correction { held, .. } => {
                if held.is_none() {
                    self.pipeline.goes_on();
                }
                held
            }
            Question::CancelledCorrection { held, again } => {
                self.ask(io, &again, Question::Correction { held, again: Vec::new() });
                None
            }
            Question::Unanswered { status, error } => {
                // What is not known goes to no other client, nor along with this one.
                self.pins.insert(Pins::SETTING);
                if status == IDLE {
                    return Some(status);
                }
                // The transaction has failed with it, as if the statement before had been cancelled.
                buffer_for_client(io);
                io.to_client.extend_from_slice(&error);
                Some(self.pipeline.status())
            }
            Question::Origins { status, wanted } => {
                let wrong = self.sets_to(&wanted);
                if wrong.is_empty() {
                    return Some(status);
                }
                self.ask(io, &wrong, Question::Correction { held: Some(status), again: wrong.clone() });
                None
            }
        }
    }
}

/// Returns whether `command` is all of a text, and a `SET LOCAL` to the default.
fn resets_alone(effects: &SqlEffects, command: &SessionCommand) -> bool {
    effects.statements == 1 && matches!(command, SessionCommand::ResetLocal { .. })
}

/// Writes the `SET` that gives `name` the value that `command` should have gone back to, for as long as that lasts.
fn put_right(command: &SessionCommand, name: &str, value: &[u8]) -> Vec<u8> {
    let is_reported = params::following(name.as_bytes()).is_some();
    match command {
        SessionCommand::ResetLocal { .. } if !is_reported => startup_settings::set("SET LOCAL", name, value),
        _ if !is_reported => startup_settings::set("SET", name, value),
        SessionCommand::ResetLocal { .. } => set_to_local(name, value),
        _ => set_to(name, value),
    }
}

/// Writes the `SET` that corrects what `DISCARD ALL` has reset.
fn put_discarded_right((name, value): &OwnSetting) -> Vec<u8> {
    put_right(&SessionCommand::DiscardAll, name, value)
}

/// Writes the query for the pins that still hold, a column each. Whatever is in a schema depends on it. All names are
/// qualified: the client's `search_path` is in force. A session has its role where going back to what it began with changes nothing:
/// startup packets and `ALTER ROLE … SET role` give one.
fn pins_query(user: &[u8]) -> Vec<u8> {
    let mut sql = b"SELECT NOT (pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) \
        pg_catalog.set_config('role', NULL, true) AND session_user OPERATOR(pg_catalog.=) "
        .to_vec();
    put_literal(&mut sql, user);
    sql.extend_from_slice(
        b"::pg_catalog.name), \
        EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
        AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()), \
        EXISTS (SELECT FROM pg_catalog.pg_listening_channels()), \
        EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql), \
        EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable), \
        EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
        AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    );
    sql
}

/// Writes the query for settings' values, and for whether a reset makes them that, two columns each. The latter is not asked
/// of those with a prefix: the server does not list all of them.
fn settings_query(names: &[Box<[u8]>]) -> Vec<u8> {
    let mut sql = b"SELECT ".to_vec();
    for (nth, name) in names.iter().enumerate() {
        sql.extend_from_slice(if nth > 0 { b", " } else { b"" });
        sql.extend_from_slice(b"pg_catalog.current_setting(");
        put_literal(&mut sql, name);
        sql.extend_from_slice(b", true), ");
        if name.contains(&b'.') {
            sql.extend_from_slice(b"false");
            continue;
        }
        sql.extend_from_slice(b"EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ");
        put_literal(&mut sql, name);
        sql.extend_from_slice(b" AND setting OPERATOR(pg_catalog.=) reset_val)");
    }
    sql
}
