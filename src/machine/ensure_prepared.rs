//! Statements under way to a connection that has not got them: prepared there first, as they were meant.

use std::sync::Arc;

use super::aliases::Variant;
use super::own_queries::put_own_statement;
use super::{Buffers, Machine, flush_forwarded};
use crate::error::{ClientError, sqlstate};
use crate::track::client_statements::{NamedStatement, Unnamed};
use crate::track::params::set_to_local;
use crate::track::parse_settings;
use crate::track::pipeline::{Describes, Note};
use crate::track::rollback::{Rollback, UnnamedCause, UnnamedChange};
use crate::track::sql::{Token, Tokens};
use crate::track::statements::{self, Columns, ParseContext, ParsedQuery, Statement};
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{Lexis, Request, ResponseAction, ServerParams};
use crate::wire::{backend, frontend};

/// The rest of a `Parse` of an empty text without parameters.
const EMPTY: &[u8] = b"\0\0\0";

/// State of the name by which the client's first message refers to a statement on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FirstName {
    /// It is chosen as that of any other.
    #[default]
    Open,
    /// The server has it already, and it stays, though another client may have found the statement's plan out of date since.
    Sent,
}

/// Outcome of preparing a statement.
pub(super) enum Prepare<T> {
    /// It is prepared, or will be when the message gets there.
    Ready(T),
    /// The client's message must wait for what the server says of it.
    Waits,
    /// The client is told this.
    Refused(ClientError),
}

impl Machine<'_> {
    /// Sees to it that what a client knows as `name` is prepared on this connection, ahead of the message that needs it,
    /// and has the columns that the client was told. Without a `name` its columns don't matter.
    pub(super) fn ensure_prepared(
        &mut self,
        io: &mut Buffers<'_>,
        statement: &Arc<Statement>,
        name: Option<&[u8]>,
        action: ResponseAction,
    ) -> Prepare<Arc<Statement>> {
        // One that was too long to be kept is on the connection that the client stays with, or gone from there.
        let Some(text) = &statement.text else { return Prepare::Ready(Arc::clone(statement)) };
        let told = name.and_then(|name| self.client.names.get(name)).and_then(|named| named.described.clone());
        let now = self.current_params();
        let context = self.client.parse_context(&now, self.pins);
        let is_sent = std::mem::take(&mut self.first_name) == FirstName::Sent;
        let here = if (is_sent || fits(statement, context.as_ref(), &now)) && self.server.prepared.has(statement) {
            Arc::clone(statement)
        } else {
            self.variant(io, statement, text, name, action)
        };
        let here = match self.with_told_types(io, statement, here, name, action) {
            Prepare::Ready(here) => here,
            waits => return waits,
        };
        if context.is_none() || self.server.may_have_other_settings() {
            self.server.prepared.use_under_unknown_settings(here.id);
        }
        match told {
            // What it runs in its turn may be another one by now.
            Some(told) if !text.effects.names_statements => {
                match self.compare_columns(io, here.id, here.name(), &told) {
                    // A FETCH has those of its cursor, which may be another one by now.
                    Prepare::Refused(_) if fetches(text, self.client.lexis()) => Prepare::Ready(here),
                    Prepare::Refused(refusal) => {
                        // It is prepared anew next time: the tables may be changed back where pgferry does not see it.
                        self.context.statements.retire(&here);
                        Prepare::Refused(refusal)
                    }
                    compared => compared.map(|()| here),
                }
            }
            _ => Prepare::Ready(here),
        }
    }

    /// Returns what stands for `statement` on this connection with the types of parameters that the client was told, which may be others
    /// than those that the server finds today: `here`, or the same text with its types given.
    fn with_told_types(
        &mut self,
        io: &mut Buffers<'_>,
        statement: &Statement,
        here: Arc<Statement>,
        name: Option<&[u8]>,
        action: ResponseAction,
    ) -> Prepare<Arc<Statement>> {
        let told = name.and_then(|name| self.client.names.get(name)).and_then(|named| named.types.clone());
        let text = here.text.as_ref().filter(|text| !text.effects.names_statements);
        let Some((told, text)) = told.zip(text) else { return Prepare::Ready(here) };
        match self.server.prepared.types(here.id) {
            Some(types) if *types == told => return Prepare::Ready(here),
            Some(_) => {}
            None if self.pipeline.lost() => return Prepare::Ready(here),
            None => return self.ask_for_description(io, here.id, here.name()),
        }
        let Some(typed) = text.typed(&told) else { return Prepare::Ready(here) };
        let typed = Arc::new(typed);
        // Earlier ones may have been closed to make room.
        let known = self.aliases.with_text(statement.id, &typed).find(|known| self.server.prepared.has(known));
        let variant = known.cloned().unwrap_or_else(|| {
            let (context, params) = (here.parse_context.as_ref(), &here.params);
            self.context.statements.intern(context, params, &typed.body, || Arc::clone(&typed))
        });
        self.aliases.stands_for(&variant, statement.id);
        if !self.server.prepared.has(&variant) {
            self.add_prepared(io, &variant);
            let rollback = Rollback { prepared: Some(variant.id), ..Rollback::default() };
            self.put_parse(io, variant.name(), &typed.body, &variant.params, action, Note::of(rollback));
        }
        Prepare::Ready(variant)
    }

    /// Returns the variant of `statement` on this connection, prepared there if it was not.
    fn variant(
        &mut self,
        io: &mut Buffers<'_>,
        statement: &Arc<Statement>,
        text: &Arc<ParsedQuery>,
        name: Option<&[u8]>,
        action: ResponseAction,
    ) -> Arc<Statement> {
        // An earlier one may have been closed to make room.
        let own = self.aliases.variants.iter().find(|variant| {
            variant.of == statement.id && variant.for_transaction && self.server.prepared.has(&variant.statement)
        });
        if let Some(own) = own {
            return Arc::clone(&own.statement);
        }
        // Its constants mean what they meant when it was prepared first; but where a search_path has changed since, the
        // server looks at the text anew, under the settings of now.
        let mut params = statement.params.clone();
        let mut parse_context = self.client.parse_context(&params, self.pins);
        let unchanged = parse_context.is_some() && statement.parse_context == parse_context;
        let now = self.current_params();
        let reported_others = statements::other_settings(&params, &now).next().is_some();
        if unchanged && reported_others {
            // The server may look at it anew under these at any time; those that share it must not find that.
            parse_context = self.client.parse_context(&now, self.pins).and_then(|now| statement.context_under(&now));
        } else if parse_context.is_some() && !unchanged {
            params = statement.params_renewed(&now);
            parse_context = self.client.parse_context(&params, self.pins);
        }
        let same = !statement.is_retired() && unchanged && !reported_others;
        let variant = if same {
            Arc::clone(statement)
        } else if let Some(known) = self.aliases.own_variant(statement, text, parse_context.as_ref()) {
            known
        } else {
            self.context.statements.intern(parse_context.as_ref(), &params, &text.body, || Arc::clone(text))
        };
        let known = name.and_then(|name| self.client.names.get(name));
        match known {
            // It was not told its columns, so that the client can't tell the difference.
            Some(named) if parse_context.is_some() && statement.is_retired() && named.described.is_none() => {
                let named = NamedStatement { statement: Arc::clone(&variant), ..named.clone() };
                self.client.names.set(name.unwrap_or_default(), Some(named));
            }
            _ if !same => {
                let for_transaction = parse_context.is_none();
                let variant = Variant { of: statement.id, statement: Arc::clone(&variant), for_transaction };
                self.aliases.add_variant(variant);
            }
            _ => {}
        }
        if !self.server.prepared.has(&variant) {
            self.add_prepared(io, &variant);
            let rollback = Rollback { prepared: Some(variant.id), ..Rollback::default() };
            let note = Note::of(rollback);
            self.put_parse(io, variant.name(), &text.body, &variant.params, action, note);
        }
        variant
    }

    /// Sees to it that the connection's unnamed statement is the client's, ahead of the message that needs it, and has
    /// the columns that the client was told.
    pub(super) fn ensure_unnamed(&mut self, io: &mut Buffers<'_>) -> Prepare<()> {
        let unnamed = self.client.unnamed.clone();
        if !self.server.has_unnamed(unnamed.as_ref()) {
            match unnamed.as_ref().and_then(|unnamed| Some((unnamed, unnamed.typed_text()?))) {
                Some((unnamed, text)) => self.prepare_unnamed(io, unnamed, &text),
                None => self.close_unnamed(io),
            }
        }
        let Some(unnamed) = unnamed else { return Prepare::Ready(()) };
        let Some(told) = unnamed.described() else { return Prepare::Ready(()) };
        let compared = self.compare_columns(io, unnamed.id, "", told);
        if let Prepare::Refused(_) = compared {
            // It is asked anew next time: the tables may be changed back where pgferry does not see it.
            self.server.unnamed_columns = None;
        }
        compared
    }

    fn prepare_unnamed(&mut self, io: &mut Buffers<'_>, unnamed: &Unnamed, text: &ParsedQuery) {
        let mentioned = self.mentioned_in(frontend::query(&text.body), &text.effects);
        let edits = self.rename_mentioned(io, &mentioned, ResponseAction::ForwardErrorOnly);
        let (body, _) = text.edited(edits);
        let client = self.client.unnamed.clone();
        let change = self.set_unnamed(UnnamedCause::OwnParse, client, UnnamedStatement::Is(unnamed.id));
        let note = self.note_unnamed(change);
        self.put_parse(io, "", &body, &unnamed.params, ResponseAction::ForwardErrorOnly, note);
    }

    /// Closes what the connection has, which is not the client's.
    fn close_unnamed(&mut self, io: &mut Buffers<'_>) {
        flush_forwarded(io);
        frontend::put_close(io.to_server, "");
        let client = self.client.unnamed.clone();
        let change = self.set_unnamed(UnnamedCause::Drop, client, UnnamedStatement::Absent);
        let note = self.note_unnamed(change);
        self.pipeline.request_with(Request::Close, ResponseAction::Swallow, Some(note));
        self.undo();
    }

    /// Notes a change of the unnamed statements that may be discarded.
    pub(super) fn note_unnamed(&self, change: UnnamedChange) -> Note {
        let change = if self.may_be_discarded() { change.uncertain(self.client.unnamed.as_deref()) } else { change };
        Note::of(Rollback { unnamed: Some(change), ..Rollback::default() })
    }

    /// Returns whether statement `id` has the columns that the client was `told`; asks the server where that is not known.
    fn compare_columns(&mut self, io: &mut Buffers<'_>, id: u64, name: &str, told: &Columns) -> Prepare<()> {
        match self.server.columns(id) {
            Some(columns) if columns == told => return Prepare::Ready(()),
            Some(_) => return Prepare::Refused(changed_columns()),
            // What the server says can't be told apart any more, and the session ends with its client.
            None if self.pipeline.lost() => return Prepare::Ready(()),
            None => {}
        }
        self.ask_for_description(io, id, name)
    }

    /// Asks the server for a statement's columns and the types of its parameters.
    fn ask_for_description<T>(&mut self, io: &mut Buffers<'_>, id: u64, name: &str) -> Prepare<T> {
        flush_forwarded(io);
        frontend::put_renamed(io.to_server, frontend::DESCRIBE, b"S", name, 0);
        let note = Note { describes: Some(Describes { server: id, client: None }), ..Note::default() };
        self.pipeline.request_with(Request::Describe, ResponseAction::ForwardErrorOnly, Some(note));
        frontend::put_flush(io.to_server);
        self.pipeline.request(Request::Flush, ResponseAction::Swallow);
        Prepare::Waits
    }

    /// Prepares a text on this connection, under the settings it was first prepared under.
    fn put_parse(
        &mut self,
        io: &mut Buffers<'_>,
        name: &str,
        body: &[u8],
        params: &ServerParams,
        action: ResponseAction,
        note: Note,
    ) {
        flush_forwarded(io);
        let now = self.current_params();
        let mut others: Vec<_> = statements::other_settings(params, &now).collect();
        // Where they decide nothing they are left alone: a transaction that has failed takes no `SET`, and behind one in the same
        // pipeline the server takes no statement that must not run in a transaction block.
        if !others.is_empty() {
            let decides = parse_settings::deciding(frontend::query(body), params.lexis());
            others.retain(|name| decides(name));
        }
        self.set_meanwhile(io, &others, params, action);
        self.counts.server_parses += 1;
        frontend::put_parse(io.to_server, name, body);
        self.pipeline.request_with(Request::Parse, action, Some(note));
        self.undo();
        self.set_meanwhile(io, &others, &now, action);
    }

    /// Prepares an empty text, which does not fail: in place of a statement that others share, or that the client knows by a name that it
    /// gives again.
    pub(super) fn put_placeholder(&mut self, io: &mut Buffers<'_>, action: ResponseAction) -> Arc<Statement> {
        self.put_apart(io, EMPTY, action)
    }

    /// Prepares a text under a name that no other one has.
    pub(super) fn put_apart(&mut self, io: &mut Buffers<'_>, body: &[u8], action: ResponseAction) -> Arc<Statement> {
        let apart = self.context.statements.uncached();
        self.add_prepared(io, &apart);
        let rollback = Rollback { prepared: Some(apart.id), ..Rollback::default() };
        let note = Note::of(rollback);
        let now = self.current_params();
        self.put_parse(io, apart.name(), body, &now, action, note);
        apart
    }

    /// Sets `names` to what they are in `params`, in the middle of whatever the client does: until the transaction ends,
    /// be it an implicit one.
    fn set_meanwhile(
        &mut self,
        io: &mut Buffers<'_>,
        names: &[&'static str],
        params: &ServerParams,
        action: ResponseAction,
    ) {
        for name in names {
            let Some(value) = params.get(name.as_bytes()) else { continue };
            put_own_statement(io.to_server, &mut self.pipeline, &set_to_local(name, value), action);
        }
    }

    /// Notes that `statement` is about to be prepared on this connection, and makes room for it.
    pub(super) fn add_prepared(&mut self, io: &mut Buffers<'_>, statement: &Statement) {
        let standing = self.server.standing_of(statement);
        self.server.prepared.add(statement, standing);
        loop {
            let excess = self.server.prepared.excess(self.context.limits, self.client.names.unkept());
            let Some(id) = excess else { break };
            self.close_prepared(io, id);
        }
    }

    pub(super) fn close_prepared(&mut self, io: &mut Buffers<'_>, id: u64) {
        let Some(held) = self.server.prepared.remove(id) else { return };
        flush_forwarded(io);
        frontend::put_close(io.to_server, &format!("{}{id}", statements::PREFIX));
        let rollback = Rollback { closed: Some((id, held)), ..Rollback::default() };
        let note = Note::of(rollback);
        self.pipeline.request_with(Request::Close, ResponseAction::Swallow, Some(note));
        self.undo();
    }
}

impl<T> Prepare<T> {
    fn map<U>(self, with: impl FnOnce(T) -> U) -> Prepare<U> {
        match self {
            Self::Ready(ready) => Prepare::Ready(with(ready)),
            Self::Waits => Prepare::Waits,
            Self::Refused(client_error) => Prepare::Refused(client_error),
        }
    }
}

/// Returns whether `statement` means the same whenever the server looks at its text anew (`RevalidateCachedQuery` in
/// `src/backend/utils/cache/plancache.c`), in a session with the settings `context`, as far as they are known, that reports `now`.
pub(super) fn fits(statement: &Statement, context: Option<&Arc<ParseContext>>, now: &ServerParams) -> bool {
    if statement.is_retired() {
        return false;
    }
    match (&statement.parse_context, context) {
        (Some(then), Some(now)) => then == now,
        (Some(_), None) => statements::other_settings(&statement.params, now).next().is_none(),
        (None, _) => true,
    }
}

/// Returns whether a text is a `FETCH`.
fn fetches(text: &ParsedQuery, lexis: Lexis) -> bool {
    let first = Tokens::new(frontend::query(&text.body), lexis).next();
    matches!(first, Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"fetch"))
}

/// PostgreSQL's error for a prepared statement with another result than its client was told of; drivers know it
/// by the name of the routine.
fn changed_columns() -> ClientError {
    let mut error = Vec::new();
    let fields = [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', sqlstate::FEATURE_NOT_SUPPORTED),
        (b'M', "cached plan must not change result type"),
        (b'F', "plancache.c"),
        (b'R', "RevalidateCachedQuery"),
    ];
    backend::put_error(&mut error, &fields);
    ClientError::Server(error.into())
}
