//! What a client is to find on whatever connection serves it.

use std::sync::Arc;

use super::client_statements::{ClientStatements, Unnamed};
use super::lexis::Lexis;
use super::params::{self, RequestedParams, ServerParams};
use super::pins::Pins;
use super::rollback::{Rollback, Unfulfilled, UnnamedCause};
use super::session_command::SessionCommand;
use super::session_settings::SettingsTracker;
use super::settings_in_force::SettingsInForce;
use super::sql_effects;
use super::startup_settings::StartupSettings;
use super::statements::{ParseContext, ParsedQuery, REPORTED, Statement, StatementCache};
use super::text_validity::TextValidity;
use super::vacating_statements::VacatingStatements;
use crate::wire::{backend, frontend};

/// Settings that neither the meaning nor the result of a statement depends on.
const HARMLESS: [&[u8]; 12] = [
    b"application_name",
    b"client_min_messages",
    b"default_transaction_deferrable",
    b"default_transaction_isolation",
    b"default_transaction_read_only",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
    b"lock_timeout",
    b"statement_timeout",
    b"synchronous_commit",
    b"transaction_timeout",
    b"work_mem",
];

/// Session that a client is to find on every connection.
#[derive(Debug, Default)]
pub struct ClientState {
    /// The following settings that its startup packet asked for.
    pub asked: RequestedParams,
    /// The following settings as it has them now.
    pub wanted: RequestedParams,
    /// The other settings of its startup packet that follow it.
    pub startup: StartupSettings,
    /// The reported settings that it was told.
    pub view: ServerParams,
    /// Reported settings that are in force before the client is told.
    pub in_force: SettingsInForce,
    /// The settings that it has made with plain `SET`s.
    pub settings: SettingsTracker,
    /// Its named statements.
    pub names: ClientStatements,
    /// Its unnamed statement.
    pub unnamed: Option<Arc<Unnamed>>,
    /// Its statements that want a database to be free of connections.
    pub(crate) vacating: VacatingStatements,
    /// Number of pieces of work that it has had done, each on one connection.
    pub work: u64,
    parse_context: Option<(ServerParams, Arc<ParseContext>)>,
}

impl ClientState {
    /// Returns how the client's texts are read.
    #[must_use]
    pub fn lexis(&self) -> Lexis {
        self.text_params().lexis()
    }

    /// The reported settings that its texts are read under.
    #[must_use]
    pub fn text_params(&self) -> &ServerParams {
        self.in_force.known(&self.view)
    }

    /// Returns what is known of whether `string` is valid in the client's encoding.
    #[must_use]
    pub fn text_validity(&self, string: &[u8]) -> TextValidity {
        TextValidity::of(string, || self.text_params().get(b"client_encoding"))
    }

    /// Creates the state of a client that asked for `asked` and was told `view`.
    #[must_use]
    pub fn new(asked: RequestedParams, view: ServerParams) -> Self {
        Self {
            wanted: asked.clone(),
            asked,
            startup: StartupSettings::default(),
            view,
            in_force: SettingsInForce::default(),
            settings: SettingsTracker::default(),
            names: ClientStatements::default(),
            unnamed: None,
            vacating: VacatingStatements::default(),
            work: 0,
            parse_context: None,
        }
    }

    /// The same, of a client with a startup packet that has set `startup` too.
    #[must_use]
    pub fn with_startup(self, startup: StartupSettings) -> Self {
        Self { settings: SettingsTracker::starting_with(startup.kept().clone()), startup, ..self }
    }

    /// Lets it keep the reported settings that it has had by `defaults` where the next connection has others.
    pub fn keep_defaults(&mut self, defaults: &ServerParams) {
        for name in params::FOLLOWING {
            let Some(value) = defaults.get(name.as_bytes()) else { continue };
            for requested in [&mut self.asked, &mut self.wanted] {
                if requested.get(name).is_none() {
                    requested.set(name, Some(value));
                }
            }
        }
    }

    /// The settings that the meaning of a text depends on, in a session that reports `params` and holds `pins`; `None`
    /// where they are this client's own.
    pub fn parse_context(&mut self, params: &ServerParams, pins: Pins) -> Option<Arc<ParseContext>> {
        if !pins.intersection(Pins::SESSION_LOCAL_MEANING).is_empty() {
            return None;
        }
        if let Some((known, parse_context)) = &self.parse_context
            && known == params
        {
            return Some(Arc::clone(parse_context));
        }
        let mut parse_context = Vec::new();
        for name in REPORTED {
            parse_context.extend_from_slice(params.get(name.as_bytes()).unwrap_or_default());
            parse_context.push(0);
        }
        for (name, text) in self.settings.texts()? {
            // Those that are reported are above.
            if !name.contains(&b'.') && !HARMLESS.contains(&name) && params::following(name).is_none() {
                parse_context.extend_from_slice(text);
                parse_context.push(0);
            }
        }
        let parse_context = Arc::new(ParseContext::from(parse_context));
        self.parse_context = Some((params.clone(), Arc::clone(&parse_context)));
        Some(parse_context)
    }

    /// The settings that the meaning of a text depends on between two transactions, where they were asked for last under the
    /// settings of now.
    #[must_use]
    pub fn current_parse_context(&self) -> Option<&Arc<ParseContext>> {
        let known = self.parse_context.as_ref().filter(|(params, _)| *params == self.view);
        known.filter(|_| !self.settings.has_changes()).map(|(_, parse_context)| parse_context)
    }

    /// Returns the statement that a text is for this client, in a session that holds `pins`. `rest` is the `Parse` message
    /// behind its first string.
    pub fn intern(&mut self, statements: &StatementCache, rest: &[u8], pins: Pins) -> Arc<Statement> {
        let lexis = self.lexis();
        let make = || {
            let effects = sql_effects::analyze(frontend::query(rest), lexis);
            Arc::new(ParsedQuery { body: rest.into(), effects })
        };
        // Not what the connection reports: that is being made to be this.
        let now = self.text_params().clone();
        let parse_context = self.parse_context(&now, pins);
        statements.intern(parse_context.as_ref(), &now, rest, make)
    }

    /// Parses an unnamed statement, of which `rest` follows the name. Many clients repeat the same one.
    #[must_use]
    pub fn parsed_unnamed(&self, rest: &[u8]) -> Arc<ParsedQuery> {
        let before = self.unnamed.as_ref().filter(|before| before.params.is(self.text_params()));
        let same = before.and_then(|before| before.text.as_ref()).filter(|text| *text.body == *rest);
        same.map_or_else(
            || {
                let effects = sql_effects::analyze(frontend::query(rest), self.lexis());
                Arc::new(ParsedQuery { body: rest.into(), effects })
            },
            Arc::clone,
        )
    }

    /// Makes `text` its unnamed statement, with number `id`; `row_description` is what it was told of the columns.
    pub fn set_unnamed(&mut self, id: u64, text: &Arc<ParsedQuery>, row_description: Option<&[u8]>) {
        let effects = &text.effects;
        let before = self.unnamed.take();
        let told = row_description.map(backend::shape).map(|shape| {
            let same = before.as_ref().and_then(|before| before.described()).filter(|known| ***known == *shape);
            same.map_or_else(|| shape.into(), Arc::clone)
        });
        let unnamed = Unnamed::new(id, Some(Arc::clone(text)), effects, self.text_params().clone());
        if let Some(told) = &told {
            unnamed.describe(told);
        }
        // Mostly nothing else refers to the former one, of which the room is used again.
        self.unnamed = Some(match before {
            Some(mut before) => match Arc::get_mut(&mut before) {
                Some(room) => {
                    *room = unnamed;
                    before
                }
                None => Arc::new(unnamed),
            },
            None => Arc::new(unnamed),
        });
    }

    /// `command` has succeeded.
    pub fn succeeded(&mut self, command: &SessionCommand) {
        self.parse_context = None;
        self.settings.succeeded(command);
    }

    /// The server has said what setting `name` is (see [`SettingsTracker::learned`]).
    pub fn learned(&mut self, name: &[u8], value: Option<&[u8]>) {
        self.parse_context = None;
        self.settings.learned(name, value);
    }

    /// A command has completed with `tag`. Says whether a `RESET ALL` holds from now on.
    pub fn completed(&mut self, tag: &[u8]) -> bool {
        if !self.settings.has_changes() {
            return false;
        }
        self.parse_context = None;
        self.settings.completed(tag)
    }

    /// The server is ready, with transaction status `status`. Says whether a `RESET ALL` holds from now on.
    pub fn ready(&mut self, status: u8) -> bool {
        if self.settings.has_changes() {
            self.parse_context = None;
        }
        self.settings.ready(status)
    }

    /// Something has changed settings for the rest of the transaction, in a way that can't be told.
    pub fn mark_unknown(&mut self) {
        self.parse_context = None;
        self.settings.mark_unknown();
    }

    /// Code has run that may have ended the transaction (see [`SettingsTracker::take_doubtful`]).
    pub fn take_doubtful_settings(&mut self) -> Option<Vec<Box<[u8]>>> {
        self.parse_context = None;
        self.settings.take_doubtful()
    }

    /// Lets go of the settings that depend on how the transaction ends (see [`SettingsTracker::give_up_open_changes`]).
    pub fn give_up_open_settings(&mut self) {
        self.parse_context = None;
        self.settings.give_up_open_changes();
    }

    /// `DISCARD ALL`.
    pub fn discard_all(&mut self) {
        self.names.clear();
        self.settings.clear();
        self.parse_context = None;
        self.wanted.clone_from(&self.asked);
    }

    /// Takes back what has not happened.
    pub fn undo(&mut self, rollback: &mut Rollback, how: Unfulfilled) {
        if let Some((name, before)) = rollback.name.take() {
            self.names.set(&name, before);
        }
        if let Some(change) = &rollback.unnamed {
            match (how, change.cause) {
                (Unfulfilled::Discarded, _) => self.unnamed.clone_from(&change.client),
                (Unfulfilled::Failed, UnnamedCause::ClientParse | UnnamedCause::Drop) => self.unnamed = None,
                (Unfulfilled::Failed, UnnamedCause::OwnParse) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session_command;
    use super::*;

    fn params(timezone: &[u8]) -> ServerParams {
        let mut params = ServerParams::default();
        params.set(b"TimeZone", timezone);
        params.set(b"client_encoding", b"UTF8");
        params
    }

    #[test]
    fn the_meaning_of_a_text_depends_on_settings() {
        let mut client = ClientState::default();
        let plain = client.parse_context(&params(b"UTC"), Pins::empty());
        assert_eq!(client.parse_context(&params(b"UTC"), Pins::LISTEN), plain);
        assert_ne!(client.parse_context(&params(b"GMT"), Pins::empty()), plain);
        assert_eq!(client.parse_context(&params(b"UTC"), Pins::TEMP), None);
        let mut set = |sql: &[u8]| {
            client.succeeded(&session_command::of_sql(sql).expect("a command"));
            client.ready(b'I');
            client.parse_context(&params(b"UTC"), Pins::empty())
        };
        assert_eq!(set(b"set application.user_id = 7"), plain);
        assert_eq!(set(b"set statement_timeout = 7"), plain);
        assert_ne!(set(b"set search_path = a"), plain);
        assert_eq!(set(b"reset search_path"), plain);
        client.succeeded(&session_command::of_sql(b"set local search_path = a").expect("a command"));
        assert_ne!(client.parse_context(&params(b"UTC"), Pins::empty()), plain);
        client.ready(b'I');
        client.mark_unknown();
        assert_eq!(client.parse_context(&params(b"UTC"), Pins::empty()), None);
        client.ready(b'I');
        assert_eq!(client.parse_context(&params(b"UTC"), Pins::empty()), plain);
    }
}
