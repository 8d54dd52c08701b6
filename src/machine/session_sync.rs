//! What a client's statements do to its session: what keeps it on its connection, and what it carries to the next one.

use std::sync::Arc;

use super::announced_settings::AnnouncedSettings;
use super::own_queries::Question;
use super::{Machine, Phase};
use crate::config::{Mode, Pin};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::track::pipeline::Describes;
use crate::track::plan_settings::{PlanSettings, PlannedUnder};
use crate::track::sequences::Sequences;
use crate::track::server_state::{MadeFor, may_give_values};
use crate::track::session_command::SessionCommand;
use crate::track::source_settings::SourcesRead;
use crate::track::sql_effects;
use crate::track::transaction_block::IDLE;
use crate::track::unknown_settings::UnknownSettings;
use crate::track::{Pins, SqlEffects, function_plans, params};

/// Reported settings that follow from the session's roles.
const OF_ROLES: [&[u8]; 2] = [b"is_superuser", b"session_authorization"];

/// Number of bytes of settings that a client may carry. One with more keeps its connection.
const MAX_CARRIED_BYTES: usize = 64 * 1024;

/// Number of settings that the server is asked for at a time. A client with more keeps its connection.
const MAX_NAMED_SETTINGS: usize = 64;

/// Use of a text that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextUse {
    /// It is prepared: whether it is run is not known.
    Prepared,
    /// It is run.
    Run,
}

impl Machine<'_> {
    /// Notes what a text may do, before it is sent.
    ///
    /// # Errors
    /// What the client is told instead if it must not be sent.
    pub(super) fn consider(&mut self, effects: &SqlEffects, text_use: TextUse) -> Result<(), ClientError> {
        if effects.is_nothing() {
            return Ok(());
        }
        if effects.defines_code {
            self.server.code.defines();
        }
        if effects.plan_settings == PlanSettings::UnseenRules {
            self.server.sources = SourcesRead::Variously;
        }
        if function_plans::may_be_made_otherwise(effects, self.client) {
            self.server.planned = PlannedUnder::Several;
        }
        if effects.sequences == Sequences::GaveValues {
            if text_use == TextUse::Run && self.found_sequences == Sequences::Untouched {
                self.sequences = Sequences::GaveValues;
            }
            self.server.sequences = Sequences::GaveValues;
        }
        self.explained.note(effects);
        if self.context.mode == Mode::Session {
            self.pins.insert(effects.pins);
            return Ok(());
        }
        let holds = effects.holds();
        if holds.contains(Pins::SEQUENCE) && !self.knows_sequences() {
            return Err(sequence_elsewhere());
        }
        let refused = holds.difference(Pins::NAMED_SETTING);
        if self.context.pin == Pin::Refuse && !refused.is_empty() {
            return Err(would_pin(refused));
        }
        self.pins.insert(holds);
        if holds.contains(Pins::SETTING) {
            self.client.settings.pinned();
        }
        // Whether it is there in the end is asked when the transaction is over.
        self.stale_pins.insert(holds);
        self.note_named_settings(&effects.named_settings);
        if effects.pins.contains(Pins::NEXTVAL) {
            if text_use == TextUse::Run {
                self.sequences = Sequences::GaveValues;
            }
            self.server.sequences = Sequences::GaveValues;
        }
        if effects.may_release {
            self.stale_pins = Pins::QUERYABLE;
        }
        if effects.unknown_settings == UnknownSettings::ForTransaction {
            self.client.mark_unknown();
        }
        Ok(())
    }

    /// Notes that a text with `effects` is sent to be run, which may change definitions, whatever its tag tells: that of a
    /// `CREATE TABLE AS` is `SELECT`. What it needs has been prepared by then: that would be out of date at once, too.
    pub(super) fn note_definitions(&mut self, effects: &SqlEffects) {
        if effects.defines_code {
            self.server.may_redefine();
        }
    }

    /// Notes settings that the server is to be asked for between two pieces of work.
    pub(super) fn note_named_settings(&mut self, names: &[Box<[u8]>]) {
        for name in names {
            // The others are reported.
            if params::following(name).is_some() || self.named_settings.contains(name) {
                continue;
            }
            if self.named_settings.len() >= MAX_NAMED_SETTINGS {
                self.pins.insert(Pins::SETTING);
                self.named_settings.clear();
                return;
            }
            self.named_settings.push(name.clone());
        }
    }

    /// Forgets reasons for keeping the connection that have gone with the transactions in which they came up: all since the
    /// last piece of work were rolled back.
    pub(super) fn drop_rolled_back(&mut self) {
        if std::mem::take(&mut self.work).was_rolled_back() {
            let new = self.pins.difference(self.former_pins);
            self.pins = self.pins.difference(new.intersection(Pins::ROLLED_BACK));
            self.named_settings.clear();
        }
    }

    /// The server has said that a reset makes setting `name` what it is. Where that is reported, sessions begin with it.
    pub(super) fn learn_default(&mut self, name: &[u8]) {
        if let Some(reported) = self.server.params.get(name).map(<[u8]>::to_vec)
            && self.server.base.set(name, &reported)
        {
            self.context.parameters.learn_base(self.server);
        }
    }

    /// The server has said what a setting is that the client's statements have changed: it is carried from now on, or keeps
    /// the client on its connection; `None` where it is what a reset makes it.
    pub(super) fn learn_setting(&mut self, name: &[u8], value: Option<&[u8]>) {
        // Where it is reported, that is explained now.
        if let Some(reported) = self.server.params.get(name) {
            self.start.set(name, reported);
        }
        // What is not ASCII can be written by its numbers where both sides have UTF-8; and in the schema for temporary tables
        // a session makes tables of its own.
        let is_utf8 = |name: &[u8]| self.server.params.get(name) == Some(b"UTF8");
        let has_numbers = is_utf8(b"client_encoding") && is_utf8(b"server_encoding");
        let plain = |value: &[u8]| {
            let is_known = value.is_ascii() || (has_numbers && std::str::from_utf8(value).is_ok());
            is_known && !value.iter().any(u8::is_ascii_control) && !value.windows(7).any(|part| part == b"pg_temp")
        };
        if value.is_some_and(|value| !plain(value)) {
            self.pins.insert(Pins::SETTING);
            return;
        }
        self.client.learned(name, value);
        if self.client.settings.bytes() > MAX_CARRIED_BYTES {
            self.pins.insert(Pins::SETTING);
        }
    }

    /// Returns whether what sequences have given last on this connection is what the client expects.
    fn knows_sequences(&self) -> bool {
        self.pins.contains(Pins::SEQUENCE)
            || self.sequences == Sequences::GaveValues
            || self.server.used.knows_sequences(self.context.client, self.client.work)
            || (self.server.sequences == Sequences::Untouched && self.server.code.left_nothing())
    }

    /// Returns whether the success of `command` decides what the client's later messages mean to pgferry.
    pub(super) fn decides_what_follows(&self, command: &SessionCommand) -> bool {
        match command {
            SessionCommand::Commit | SessionCommand::Rollback | SessionCommand::OtherSet | SessionCommand::Inserted => {
                false
            }
            SessionCommand::Savepoint { .. } | SessionCommand::RollbackTo { .. } | SessionCommand::Release { .. } => {
                self.client.settings.has_changes()
            }
            SessionCommand::SetLocal { name, .. } => !self.client.names.is_empty() || params::following(name).is_some(),
            _ => true,
        }
    }

    /// From a `DISCARD ALL` on the session has what the client begins with: what differs at the end has been set behind it, though the
    /// server reports no difference where that is what it has reported before.
    fn begin_with_own_settings(&mut self) {
        let Some(baseline) = self.context.parameters.baseline().filter(|_| self.carries()) else { return };
        for name in params::FOLLOWING {
            if let Some(own) = self.own_reset_value(name, &baseline) {
                let own: Box<[u8]> = own.into();
                self.start.set(name.as_bytes(), &own);
            }
        }
    }

    /// A command of the client's has completed with `tag`. Says whether it is pgferry's own, which the client does not
    /// see.
    pub(super) fn completed(&mut self, tag: &[u8], next: Option<&SessionCommand>) -> bool {
        if tag == b"ROLLBACK" && !matches!(next, Some(SessionCommand::RollbackTo { .. })) {
            self.work.rolled_back();
        } else {
            self.work.completed(tag);
        }
        if may_give_values(tag) && self.server.sequences == Sequences::Untouched {
            // Where another client's are remembered, it may have left them as they were.
            self.sequences = Sequences::GaveValues;
        }
        self.server.completed(tag, if self.is_temporary(tag) { MadeFor::Own } else { MadeFor::All });
        self.pins.insert(sql_effects::of_tag(tag));
        match next {
            Some(SessionCommand::Inserted) => return true,
            Some(command) => self.succeeded(command, tag),
            None if matches!(tag, b"COMMIT" | b"ROLLBACK" | b"PREPARE TRANSACTION") => self.transaction_ended(tag),
            None if SessionCommand::is_tag(tag) && !matches!(tag, b"SAVEPOINT" | b"RELEASE" | b"SET CONSTRAINTS") => {
                // Something has run that no text has shown.
                self.pins.insert(Pins::SETTING);
            }
            None => {}
        }
        match tag {
            b"CALL" | b"DO" if self.carries() => self.doubt_open_settings(),
            b"DISCARD ALL" => {
                self.client.discard_all();
                self.begin_with_own_settings();
                // Behind one that no text has shown the client may have sent more already.
                if next.is_some() {
                    self.pins = self.pins.intersection(Pins::SURVIVES_DISCARD);
                    // What the startup packet set is said again behind it (`wrongly_reset`).
                    self.server.kept.clone_from(self.client.settings.kept());
                }
            }
            b"DEALLOCATE ALL" => {
                // What follows in the same text may name one of them.
                self.client.names.iter().for_each(|(name, id)| self.aliases.given_up(id, name));
                self.client.names.clear();
            }
            _ => {}
        }
        false
    }

    /// Returns whether what a command with this tag has made is the session's own, as far as no text has shown that it is not.
    fn is_temporary(&self, tag: &[u8]) -> bool {
        matches!(tag, b"CREATE TABLE" | b"CREATE VIEW") && self.pins.contains(Pins::TEMP)
    }

    fn succeeded(&mut self, command: &SessionCommand, tag: &[u8]) {
        match command {
            SessionCommand::Deallocate { name } => self.deallocated(name),
            SessionCommand::Commit | SessionCommand::Rollback => self.transaction_ended(tag),
            _ if self.carries() => {
                self.client.succeeded(command);
                if self.client.settings.bytes() > MAX_CARRIED_BYTES {
                    self.pins.insert(Pins::SETTING);
                    self.client.give_up_open_settings();
                }
            }
            _ => {}
        }
    }

    fn transaction_ended(&mut self, tag: &[u8]) {
        if self.client.completed(tag) {
            self.on_reset_all();
        }
        if tag == b"ROLLBACK" && !self.pins.is_empty() {
            // What it pinned for may be gone with it.
            self.stale_pins = Pins::QUERYABLE;
        }
    }

    /// Code is run that may commit what the client has set before it in the transaction, or undo it, as a procedure does in a pipeline, and
    /// may fail then: the server is asked when the work is over.
    pub(super) fn doubt_open_settings(&mut self) {
        if !self.client.settings.has_changes() {
            return;
        }
        match self.client.take_doubtful_settings() {
            Some(names) if names.is_empty() => {}
            Some(names) => {
                self.pins.insert(Pins::NAMED_SETTING);
                self.note_named_settings(&names);
            }
            None => {
                self.pins.insert(Pins::SETTING);
                self.client.settings.pinned();
            }
        }
    }

    /// A `RESET ALL` holds from now on.
    fn on_reset_all(&mut self) {
        if self.pins.contains(Pins::SETTING) {
            // It leaves a role as it is, and the setting may have been that (`GUC_NO_RESET_ALL` in `guc_tables.c`).
            self.pins.insert(Pins::ROLE);
            self.stale_pins.insert(Pins::ROLE);
        }
        self.pins = self.pins.difference(Pins::SETTING.union(Pins::NAMED_SETTING));
        // Named ones are asked for: they may have been set again.
        if !self.named_settings.is_empty() {
            self.pins.insert(Pins::NAMED_SETTING);
        }
    }

    /// The server has failed a request of the client's.
    pub(super) fn failed(&mut self) {
        self.client.settings.failed();
        self.work.failed();
        if !self.pins.is_empty() {
            // What it would have left it has not.
            self.stale_pins = Pins::QUERYABLE;
        }
    }

    /// The server is ready for the client's next request, with transaction status `status`.
    pub(super) fn ready_for_query(&mut self, status: u8) {
        let idle = status == IDLE;
        self.counts.readies.queries += 1;
        self.counts.readies.transactions += u32::from(idle);
        if idle && self.pipeline.answered() {
            self.server.code.is_settled();
        }
        self.server.ready(idle && self.pipeline.answered());
        if self.context.mode == Mode::Session {
            return;
        }
        if self.client.ready(status) {
            self.on_reset_all();
        }
        if idle && self.pipeline.answered() {
            self.client.settings.settled();
        }
        if idle {
            self.work.ended();
            self.aliases.end_transaction();
            if self.pipeline.answered() {
                // Others are those of requests that came behind.
                self.portals.clear();
            }
        }
    }

    /// Returns whether the settings that the session has are not known, since an answer about them is still owed.
    pub(super) fn awaits_settings(&self) -> bool {
        let setting = matches!(self.phase, Phase::Asking(Question::Correction { .. } | Question::Origins { .. }));
        setting
            || !self.corrections.is_empty()
            || (self.is_preparing() && self.preparation.has_statements())
            || (self.pipeline.owed() > 0 && !self.explained.is_nothing())
    }

    /// The types of a statement's parameters have been told.
    pub(super) fn described_parameters(&mut self, describes: &Describes, types: &[u8]) {
        let types = Arc::from(types);
        self.server.prepared.describe_parameters(describes.server, &types);
        let Some((name, statement)) = &describes.client else { return };
        if !name.is_empty() {
            self.client.names.describe_parameters(name, *statement, &types);
        } else if let Some(unnamed) = self.client.unnamed.as_ref().filter(|unnamed| unnamed.id == *statement) {
            unnamed.describe_parameters(&types);
        }
    }

    /// The columns of a statement have been told; `columns` is empty where it has none.
    pub(super) fn described(&mut self, describes: &Describes, columns: &[u8]) {
        let columns = Arc::from(columns);
        self.server.describe(describes.server, &columns);
        let Some((name, statement)) = &describes.client else { return };
        if name.is_empty() {
            let unnamed = self.client.unnamed.as_ref().filter(|unnamed| unnamed.id == *statement);
            if let Some(unnamed) = unnamed {
                unnamed.describe(&columns);
            }
        } else {
            self.client.names.describe(name, *statement, &columns);
        }
    }

    /// The client is between two pieces of work: takes along what it has set.
    pub(super) fn pack(&mut self) {
        self.aliases.clear();
        self.explained = AnnouncedSettings::default();
        let touched = self.client.settings.take_touched();
        if touched.is_empty() && self.server.params.is(&self.start) {
            return;
        }
        let baseline = self.context.parameters.baseline().unwrap_or_default();
        let now = self.server.params.clone();
        for name in params::FOLLOWING {
            let value = now.get(name.as_bytes());
            if touched.contains(name) || self.start.get(name.as_bytes()) != value {
                let is_own = self.client.settings.is_explicit(name) || self.client.asked.get(name).is_some();
                let is_default = !is_own && baseline.get(name.as_bytes()) == value;
                self.client.wanted.set(name, value.filter(|_| !is_default));
            }
        }
        self.context.parameters.learn_canonical(&self.client.wanted, &now);
        let mut start = now.clone();
        for (name, value) in now.beyond(&self.start).filter(|(name, value)| self.is_unexplained(name, value)) {
            // It is looked into once the client could do without its connection.
            start.set(name, self.start.get(name).unwrap_or(value));
        }
        self.start = start;
    }

    /// Other reported settings that are neither what they were before nor what the client has set: code has set them, or the server's
    /// configuration has changed.
    pub(super) fn unexplained(&self) -> Vec<Box<[u8]>> {
        let changed = self.server.params.beyond(&self.start).filter(|(name, value)| self.is_unexplained(name, value));
        changed.map(|(name, _)| name.to_ascii_lowercase().into()).collect()
    }

    fn is_unexplained(&self, name: &[u8], value: &[u8]) -> bool {
        // What is as after a reset has been reset.
        let is_explained = params::following(name).is_some()
            || params::is_internal(name)
            || OF_ROLES.contains(&name)
            || self.client.settings.kept().mentions(name)
            || self.server.base.get(name) == Some(value);
        !is_explained
    }
}

/// `pin = "refuse"`.
fn would_pin(pins: Pins) -> ClientError {
    ClientError::error(
        ErrorSource::Client,
        sqlstate::FEATURE_NOT_SUPPORTED,
        "the statement needs an upstream connection of its own, which this database's clients may not keep",
    )
    .detail(format!("It leaves state in its session ({pins}), and pgferry runs with pool_mode = \"transaction\", pin = \"refuse\"."))
    .hint("Leave no state behind (SET LOCAL, pg_advisory_xact_lock, ON COMMIT DROP), or set pin = \"auto\" or pool_mode = \"session\".")
}

/// A sequence's state is asked for, and what the connection has is another client's.
fn sequence_elsewhere() -> ClientError {
    ClientError::error(
        ErrorSource::Client,
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "lastval and currval are not known on the upstream connection that now serves this client",
    )
    .detail("In transaction mode its earlier transactions may have run on other connections.")
    .hint(SEQUENCE_HINT)
}

/// Hint for clients that miss a sequence's state.
pub(super) const SEQUENCE_HINT: &str =
    "pgferry runs with pool_mode = \"transaction\": use RETURNING or nextval's own result, or pool_mode = \"session\".";
