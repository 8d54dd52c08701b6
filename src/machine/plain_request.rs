//! A request that leaves nothing but, perhaps, its client's unnamed statement, on a connection that needs nothing in front
//! of it but a probe, perhaps: most of what most clients say.
//!
//! While all goes as usual no machine is made for it: the request is there whole, and then its answer, which is rows and a
//! `ReadyForQuery`. Anything else makes the machine, which finds the same messages and says the same of them.

use std::borrow::Cow;
use std::sync::Arc;

use super::ensure_prepared::{FirstName, fits};
use super::preparation::Preparation;
use super::{Buffers, Context, Counts, End, Machine, MachineResult, join};
use crate::buffer::Buffer;
use crate::config::Mode;
use crate::track::server_state::{CloseMethod, Ran};
use crate::track::sql_effects::{self, SqlEffects};
use crate::track::statements::{ParsedQuery, Statement};
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{ClientState, Pins, Pipeline, ServerState};
use crate::wire::{backend, cstr, frame, frontend, head};

/// First word of a plain request's text, and of the tag of its answer.
const SELECT: &[u8] = b"SELECT";

/// `ReadyForQuery` outside of transactions.
const READY_FOR_QUERY: &[u8] = b"Z\0\0\0\x05I";

/// `Describe` of the unnamed portal.
const DESCRIBE_PORTAL: &[u8] = b"D\0\0\0\x06P\0";

/// `Execute` of the unnamed portal, up to its limit of rows.
const EXECUTE_PORTAL: &[u8] = b"E\0\0\0\x09\0";

/// Number of bytes of that limit.
const LIMIT_BYTES: usize = 4;

/// `ParseComplete`, and `BindComplete` behind it.
const PARSED_AND_BOUND: &[u8] = b"1\0\0\0\x042\0\0\0\x04";

/// `BindComplete`.
const BOUND: &[u8] = b"2\0\0\0\x04";

/// All that a client has sent.
#[derive(Clone, Debug)]
pub enum PlainRequest {
    /// A simple query.
    Query,
    /// From `Parse` to `Sync`: this text becomes the unnamed statement, and is run by the unnamed portal.
    Unnamed(Arc<ParsedQuery>),
    /// From `Bind` to `Sync`: this statement, which the connection has, is run by the unnamed portal.
    Named(Arc<Statement>),
}

/// Progress of a plain request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainProgress {
    /// The kernel has taken so many bytes of the preparation and the request.
    Sent(usize),
    /// All of the answer has come, and the kernel has taken so many bytes of it for the client.
    Answered(usize),
}

impl PlainProgress {
    /// Opens a machine that has just been made, and brings it as far.
    ///
    /// # Errors
    /// How the machine has ended at once.
    pub fn catch_up(self, machine: &mut Machine<'_>, io: &mut Buffers<'_>) -> Result<(), End> {
        if self != Self::Sent(0) && io.from_client.unparsed().first() == Some(&frontend::BIND) {
            machine.first_name = FirstName::Sent;
        }
        machine.open(io)?;
        match self {
            Self::Sent(0) => {}
            Self::Sent(sent) => {
                io.to_server.drain(..sent.min(io.to_server.len()));
                machine.on_sent();
            }
            Self::Answered(told) => {
                io.to_server.clear();
                machine.on_sent();
                machine.server_sent(io)?;
                io.from_server.sent(told.min(io.from_server.unsent().len()));
            }
        }
        Ok(())
    }
}

impl PlainRequest {
    /// Returns the request that is all that the client has sent, where it is a plain one, and `preparation` at most a probe.
    #[must_use]
    pub fn read(
        from_client: &Buffer,
        mode: Mode,
        client: &ClientState,
        server: &ServerState,
        preparation: &Preparation,
    ) -> Option<Self> {
        let fits = !preparation.has_statements() && !client.settings.has_changes() && server.params == client.view;
        if mode != Mode::Transaction || !fits {
            return None;
        }
        let bytes = from_client.unparsed();
        match *bytes.first()? {
            frontend::QUERY => Self::query(bytes, client),
            frontend::PARSE => Self::unnamed(bytes, client),
            frontend::BIND => Self::named(bytes, client, server),
            _ => None,
        }
    }

    fn query(bytes: &[u8], client: &ClientState) -> Option<Self> {
        let (body, rest) = message(frontend::QUERY, bytes)?;
        let sql = frontend::query(body);
        let is_all = rest.is_empty() && frontend::is_well_formed(frontend::QUERY, body) && selects(sql);
        (is_all && leaves_nothing(&sql_effects::analyze(sql, client.lexis()))).then_some(Self::Query)
    }

    fn unnamed(bytes: &[u8], client: &ClientState) -> Option<Self> {
        let (parse, rest) = message(frontend::PARSE, bytes)?;
        let parsed = parse.strip_prefix(b"\0")?;
        let (bind, rest) = message(frontend::BIND, rest)?;
        bind.strip_prefix(b"\0\0")?;
        Run::of(rest)?;
        if !frontend::is_well_formed(frontend::PARSE, parse) || !selects(frontend::query(parsed)) {
            return None;
        }
        let text = client.parsed_unnamed(parsed);
        leaves_nothing(&text.effects).then_some(Self::Unnamed(text))
    }

    fn named(bytes: &[u8], client: &ClientState, server: &ServerState) -> Option<Self> {
        let (name, _, rest) = split_bind(bytes)?;
        let run = Run::of(rest)?;
        let named = client.names.get(name).filter(|_| name.is_ascii())?;
        let statement = &named.statement;
        let text = statement.text.as_ref()?;
        if !selects(frontend::query(&text.body)) || !leaves_nothing(&text.effects) {
            return None;
        }
        let context = client.current_parse_context()?;
        let is_here = server.prepared.standing(statement.id).is_some();
        let has_told_columns = match &named.described {
            Some(told) => server.columns(statement.id) == Some(told),
            // The answer would tell them.
            None => run == Run::Unseen,
        };
        let types = named.types.as_ref();
        let has_told_types = types.is_none_or(|told| server.prepared.types(statement.id) == Some(told));
        let is_ready =
            is_here && has_told_columns && has_told_types && fits(statement, Some(context), client.text_params());
        is_ready.then(|| Self::Named(Arc::clone(statement)))
    }

    /// Begins to have a request of the client's run on a connection.
    pub fn begin(client: &mut ClientState, server: &mut ServerState) -> PlainProgress {
        join(client, server);
        PlainProgress::Sent(0)
    }

    /// Returns what is sent to the server: `preparation`, and the request, which is all that the client has sent.
    #[must_use]
    pub fn messages<'b>(&self, from_client: &'b Buffer, preparation: &Preparation) -> Cow<'b, [u8]> {
        let bytes = from_client.unparsed();
        let Self::Named(statement) = self else {
            return match preparation.messages() {
                [] => bytes.into(),
                messages => [messages, bytes].concat().into(),
            };
        };
        let (_, values, behind) = split_bind(bytes).unwrap_or_default();
        let name = statement.name();
        let mut messages = Vec::with_capacity(preparation.messages().len() + bytes.len() + name.len());
        messages.extend_from_slice(preparation.messages());
        frontend::put_renamed(&mut messages, frontend::BIND, b"\0", name, values.len());
        messages.extend_from_slice(values);
        messages.extend_from_slice(behind);
        messages.into()
    }

    /// Returns the client's part of `answer`, if that is all of the answer to `preparation` and the request, and only that: rows, and
    /// that the server is ready.
    #[must_use]
    pub fn told_by<'b>(&self, answer: &'b [u8], preparation: &Preparation) -> Option<&'b [u8]> {
        let told = behind_probe(answer, preparation)?;
        let mut rest = told.strip_prefix(self.acknowledgements())?;
        let mut completed = false;
        while let Ok(Some(head)) = head(rest, frame::BACKEND_LIMIT) {
            let (message, behind) = rest.split_at_checked(head.size)?;
            match head.tag {
                backend::ROW_DESCRIPTION | backend::DATA_ROW => completed = false,
                // What any other command has done is for a machine to note.
                backend::COMMAND_COMPLETE if message[frame::HEADER_BYTES..].starts_with(SELECT) => completed = true,
                backend::READY if completed && rest == READY_FOR_QUERY => return Some(told),
                _ => return None,
            }
            rest = behind;
        }
        None
    }

    /// The beginning of its answer.
    fn acknowledgements(&self) -> &'static [u8] {
        match self {
            Self::Query => b"",
            Self::Unnamed(_) => PARSED_AND_BOUND,
            Self::Named(_) => BOUND,
        }
    }

    /// Brings both states up to date once the client has its `answer`, which is all of one (see [`PlainRequest::told_by`]).
    #[must_use]
    pub fn finish(
        self,
        context: &Context<'_>,
        client: &mut ClientState,
        server: &mut ServerState,
        preparation: &Preparation,
        answer: &[u8],
    ) -> MachineResult {
        // As a machine does when it is opened.
        preparation.apply(server, client);
        server.used = server.used.and(context.client, client.work);
        match self {
            Self::Query => {
                client.unnamed = None;
                (server.unnamed, server.unnamed_columns) = (UnnamedStatement::Absent, None);
            }
            Self::Unnamed(text) => {
                let rows = behind_probe(answer, preparation).and_then(|told| told.strip_prefix(PARSED_AND_BOUND));
                let columns = rows.and_then(|rows| message(backend::ROW_DESCRIPTION, rows)).map(|(columns, _)| columns);
                let id = context.statements.next_id();
                client.set_unnamed(id, &text, columns);
                (server.unnamed, server.unnamed_columns) = (UnnamedStatement::Is(id), None);
                if let Some(columns) = client.unnamed.as_ref().and_then(|unnamed| unnamed.described()) {
                    server.describe(id, columns);
                }
            }
            Self::Named(statement) => {
                server.prepared.has(&statement);
                if server.may_have_other_settings() {
                    server.prepared.use_under_unknown_settings(statement.id);
                }
            }
        }
        server.prepared.begin_message();
        server.ran = Ran::Something;
        if !server.sources.are_by(client.lexis()) {
            server.sources.are_read_by(client.lexis());
        }
        server.code.is_settled();
        server.kept.clone_from(client.settings.kept());
        server.close_method = CloseMethod::Terminate;
        MachineResult { pipeline: Pipeline::new(), pins: Pins::empty(), partial_down: 0, cut: false }
    }

    /// Counts of its messages, those after which the server is ready left out.
    #[must_use]
    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::Query => Counts::default(),
            Self::Unnamed(_) => Counts { client_parses: 1, server_parses: 1, binds: 1, ..Counts::default() },
            Self::Named(_) => Counts { binds: 1, ..Counts::default() },
        }
    }
}

/// Messages behind a `Bind` of the unnamed portal that run that, and end with a `Sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Its columns are asked for.
    Described,
    /// They are not.
    Unseen,
}

impl Run {
    /// Returns what `messages` are, if they are all of that, and nothing else.
    fn of(messages: &[u8]) -> Option<Self> {
        let (run, execute) = match messages.strip_prefix(DESCRIBE_PORTAL) {
            Some(behind) => (Self::Described, behind),
            None => (Self::Unseen, messages),
        };
        let limit = execute.strip_prefix(EXECUTE_PORTAL)?;
        (limit.get(LIMIT_BYTES..)? == frontend::SYNC_MESSAGE).then_some(run)
    }
}

/// The body of the first message, if that is one of type `tag`, and what follows it.
fn message(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = head(bytes, frame::BACKEND_LIMIT).ok()?.filter(|head| head.tag == tag)?;
    let (message, rest) = bytes.split_at_checked(head.size)?;
    Some((&message[frame::HEADER_BYTES..], rest))
}

/// The client's part of `answer`, unless the probe's comes first and is not there.
fn behind_probe<'b>(answer: &'b [u8], preparation: &Preparation) -> Option<&'b [u8]> {
    if preparation.is_probe() { answer.strip_prefix(READY_FOR_QUERY) } else { Some(answer) }
}

/// The statement's name in a `Bind` of the unnamed portal, the rest of the message, and what follows it.
fn split_bind(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (bind, behind) = message(frontend::BIND, bytes)?;
    let (name, values) = cstr(bind.strip_prefix(b"\0")?)?;
    Some((name, values, behind))
}

/// Returns whether `sql` reads rows, and is certain to be read: the server may refuse unread what is not ASCII.
fn selects(sql: &[u8]) -> bool {
    let selects = sql.get(..SELECT.len()).is_some_and(|word| word.eq_ignore_ascii_case(SELECT));
    selects && sql.is_ascii()
}

/// Returns whether a text with these effects leaves nothing in a session.
fn leaves_nothing(effects: &SqlEffects) -> bool {
    *effects == SqlEffects::default()
}

#[cfg(test)]
mod tests;
