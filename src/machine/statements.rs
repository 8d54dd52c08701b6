//! Statements under way from client to server: analysed, and in transaction mode renamed, so that a client finds its own
//! on every connection.

use std::borrow::Cow;
use std::sync::Arc;

use super::ensure_prepared::Prepare;
use super::from_client::{Incoming, MessageHead, Sent, body};
use super::portals::{Portal, PortalOf};
use super::session_sync::TextUse;
use super::statement_errors::{endless_name, unknown_statement};
use super::{Buffers, Gate, Machine, flush_forwarded};
use crate::config::Mode;
use crate::track::client_statements::{NamedStatement, significant};
use crate::track::message_target::{MessageTarget, target_of};
use crate::track::pipeline::{Describes, Note, SentNames};
use crate::track::plan_settings::PlannedUnder;
use crate::track::rollback::{Rollback, UnnamedChange};
use crate::track::session_command::{Commands, SessionCommand};
use crate::track::sql_effects::{self, TransactionFate};
use crate::track::statement_mentions::{Mention, joined};
use crate::track::statements::{self, Statement};
use crate::track::text_edit::{self, Edit};
use crate::track::text_validity::TextValidity;
use crate::track::unknown_settings::UnknownSettings;
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{Pins, Request, ResponseAction, ServerParams, SqlEffects};
use crate::wire::frontend;

/// Beginning of a `Bind` or `Describe` of a named statement.
struct NamedHead<'a> {
    portal: &'a [u8],
    /// Bytes up to the end of the statement's name.
    cut: usize,
    /// The name as the client has sent it.
    sent: Arc<[u8]>,
}

impl Machine<'_> {
    /// A simple query.
    pub(super) fn query(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        let sql = frontend::query(body(io, incoming));
        let (effects, mentioned) = if incoming.is_whole() {
            let effects = sql_effects::analyze(sql, self.client.lexis());
            let mentioned = self.mentioned_in(sql, &effects);
            (effects, mentioned)
        } else {
            (SqlEffects::unanalyzed(), Vec::new())
        };
        let effects = joined(&effects, &mentioned);
        if self.awaits_status(&effects) {
            return Sent::Waits;
        }
        let considered = self.consider_text(sql, &effects, &mentioned, TextUse::Run);
        if let Err(refusal) = considered {
            self.refuse(io, &refusal, incoming);
            return Sent::Done;
        }
        self.note_fate(effects.transaction);
        let unnamed = self.drop_unnamed_by(io, incoming);
        if effects.is_nothing() && mentioned.is_empty() && unnamed.is_none() {
            self.pass(io, incoming, None);
            return Sent::Done;
        }
        let (commands, edits) = self.insert_corrections(&effects);
        let unnamed = unnamed.map(|change| change.uncertain(None));
        let mut note = Note::of(Rollback { unnamed, ..Rollback::default() });
        self.note_commands(&mut note, commands, &effects);
        if mentioned.is_empty() && edits.is_empty() {
            self.pass(io, incoming, Some(note));
        } else {
            self.send_edited(io, incoming, &mentioned, edits, note);
        }
        self.note_definitions(&effects);
        Sent::Done
    }

    /// Drops the unnamed statements, as the simple query that is being sent does. Returns the change where it may turn out not to have
    /// happened, or others hang on it.
    fn drop_unnamed_by(&mut self, io: &Buffers<'_>, incoming: Incoming) -> Option<UnnamedChange> {
        let is_text = incoming.is_whole()
            && self.client.text_validity(frontend::query(body(io, incoming))) == TextValidity::Valid;
        let unnamed = self.drop_unnamed();
        if !is_text {
            // Unless the server refuses it unread, as what is no text.
            self.server.unnamed = UnnamedStatement::Unknown;
        }
        // If it is not discarded with what is before it, it drops them whether it succeeds or fails. But a change before it
        // may turn out not to have happened, and must not bring back what this has dropped.
        let dropped = unnamed.client.is_some() || unnamed.server != UnnamedStatement::Absent;
        let unread = unnamed.client.is_some() && self.may_be_unread();
        // A copy that begins ignores a Sync that was sent ahead of its data.
        let may_be_discarded = self.may_be_discarded() || self.pipeline.may_copy();
        let matters = self.pipeline.changes_unnamed() || (dropped && may_be_discarded) || unread;
        Some(unnamed).filter(|_| matters)
    }

    /// Sends a simple query with `edits`, and with the server's names of the statements that are mentioned in it.
    fn send_edited(
        &mut self,
        io: &mut Buffers<'_>,
        incoming: Incoming,
        mentioned: &[Mention],
        mut edits: Vec<Edit>,
        mut note: Note,
    ) {
        let sql = frontend::query(body(io, incoming)).to_vec();
        // A Sync of pgferry's own would commit what the client has not, or end what the server discards.
        let apart = !self.pipeline.unsynced() && !self.may_be_discarded();
        let action = if apart { ResponseAction::Swallow } else { ResponseAction::ForwardErrorOnly };
        let owed = self.pipeline.owed();
        let renamed = self.rename_mentioned(io, mentioned, action);
        for mention in mentioned {
            let edit = renamed.iter().find(|edit| edit.at == mention.at);
            if let Some(id) = edit.and_then(|edit| statements::number(&edit.with)) {
                note.names.add(id, &mention.name);
            }
        }
        edits.extend(renamed);
        if !apart && self.pipeline.owed() > owed {
            // If what is in front of it fails, the server discards it, and would discard what follows.
            self.gate = Gate::Answers;
        }
        let (sql, positions) = text_edit::apply(&sql, edits);
        note.positions = Some(positions);
        flush_forwarded(io);
        frontend::put_query(io.to_server, &sql);
        self.pipeline.request_with(Request::Query, ResponseAction::Forward, Some(note));
        self.undo();
        self.drop_message(io, incoming);
    }

    /// A function called by its OID.
    pub(super) fn function(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        let oid = body(io, incoming).first_chunk().map(|oid| u32::from_be_bytes(*oid));
        match self.consider(&SqlEffects::of_function(oid), TextUse::Run) {
            Ok(()) => self.pass(io, incoming, None),
            Err(refusal) => self.refuse(io, &refusal, incoming),
        }
        Sent::Done
    }

    /// `Bind`, `Describe` or `Close`, of a statement or a portal.
    pub(super) fn named(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        let sent: Option<Arc<[u8]>>;
        let (portal, named, cut) = match target_of(incoming.head.tag, body(io, incoming)) {
            MessageTarget::Statement { portal, name, rest } => {
                let cut = incoming.here - rest.len();
                let known = || self.client.names.entry(name).ok_or_else(|| Box::<[u8]>::from(name));
                // Of which no more may be kept than is compared.
                sent = (name.len() > significant(name).len()).then(|| name.into());
                let named = if name.is_empty() { None } else { Some(known()) };
                (Box::<[u8]>::from(portal), named, cut)
            }
            MessageTarget::Portal(portal) if incoming.request == Request::Describe => {
                let describes = self.describes_portal(portal);
                let note = describes.map(|describes| Note { describes: Some(describes), ..Note::default() });
                self.pass(io, incoming, note);
                return Sent::Done;
            }
            _ => {
                self.without_name(io, incoming);
                return Sent::Done;
            }
        };
        let (name, named) = match named {
            Some(Ok(entry)) => entry,
            Some(Err(name)) => return self.unknown_name(io, &portal, &name, incoming),
            None => return self.unnamed(io, &portal, incoming),
        };
        if incoming.request == Request::Close {
            self.give_up_name(&name);
            let rollback = Rollback { name: Some(((*name).into(), Some(named))), ..Rollback::default() };
            self.synthesize(io, incoming, Note::of(rollback));
            return Sent::Done;
        }
        let head = NamedHead { portal: &portal, cut, sent: sent.unwrap_or_else(|| Arc::clone(&name)) };
        self.use_named(io, &head, &name, &named, incoming)
    }

    /// A message of which can't be told what it is about.
    pub(super) fn without_name(&mut self, io: &mut Buffers<'_>, incoming: Incoming) {
        if incoming.is_whole() || target_of(incoming.head.tag, body(io, incoming)) != MessageTarget::Unseen {
            // Malformed, which the server says; or about a portal.
            self.pass(io, incoming, None);
        } else {
            self.refuse(io, &endless_name(), incoming);
        }
    }

    /// A statement that the client has not prepared, or has made with SQL's `PREPARE`.
    fn unknown_name(&mut self, io: &mut Buffers<'_>, portal: &[u8], name: &[u8], incoming: Incoming) -> Sent {
        if self.carries() && name.starts_with(statements::PREFIX.as_bytes()) {
            // One of pgferry's: not this client's.
            match incoming.request {
                Request::Close => self.synthesize(io, incoming, Note::default()),
                _ => self.refuse(io, &unknown_statement(name), incoming),
            }
            return Sent::Done;
        }
        if incoming.request == Request::Bind {
            let commands = self.resetting.get(name);
            self.set_portal(Portal { name: portal.into(), commands, transaction: TransactionFate::GoesOn, of: None });
        }
        // The server says that it does not exist, or runs it.
        self.pass(io, incoming, None);
        Sent::Done
    }

    /// `Bind` or `Describe` of a statement that the client has prepared.
    fn use_named(
        &mut self,
        io: &mut Buffers<'_>,
        head: &NamedHead<'_>,
        name: &Arc<[u8]>,
        named: &NamedStatement,
        incoming: Incoming,
    ) -> Sent {
        let &NamedHead { portal, cut, ref sent } = head;
        let ready = match self.ready_named(io, name, named, incoming) {
            Ok(ready) => ready,
            Err(sent) => return sent,
        };
        // In place of one with an outdated plan the name may stand for another one by now.
        let statement = if ready.id == named.statement.id {
            ready.id
        } else {
            self.client.names.get(name).map_or(named.statement.id, |now| now.statement.id)
        };
        // Where the client was told the columns that it has there, nothing is learnt by their being told again.
        let is_told = named.described.is_some() && self.server.columns(ready.id) == named.described.as_ref();
        let (note, before) = if incoming.request == Request::Bind {
            let effects = named.statement.text.as_ref().map(|text| &text.effects);
            let commands = match effects {
                Some(effects) => effects.commands.clone(),
                None => self.resetting.get(name),
            };
            let transaction = effects.map_or(TransactionFate::MayEnd, |effects| effects.transaction);
            let of = (!is_told).then(|| PortalOf { name: Arc::clone(name), statement, server: ready.id });
            self.set_portal(Portal { name: portal.into(), commands, transaction, of });
            let unnamed = portal.is_empty();
            let note = Note { names: SentNames::one(ready.id, Arc::clone(sent)), ..Note::default() };
            (Some(note), if unnamed { Cow::Borrowed(&b"\0"[..]) } else { Cow::Owned([portal, b"\0"].concat()) })
        } else {
            let is_told = is_told && named.types.is_some();
            let describes =
                (!is_told).then(|| Describes { server: ready.id, client: Some((Arc::clone(name), statement)) });
            let note = describes.map(|describes| Note { describes: Some(describes), ..Note::default() });
            (note, Cow::Borrowed(&b"S"[..]))
        };
        self.pass_renamed(io, incoming, note, &MessageHead { cut, before: &before, name: ready.name() });
        Sent::Done
    }

    /// The statement as it stands on the connection, which is prepared there first where it is not; `Err` where the
    /// message waits or is refused.
    fn ready_named(
        &mut self,
        io: &mut Buffers<'_>,
        name: &[u8],
        named: &NamedStatement,
        incoming: Incoming,
    ) -> Result<Arc<Statement>, Sent> {
        let mut statement = Arc::clone(&named.statement);
        let mut effects = None;
        if let Some(text) = &named.statement.text {
            let sql = frontend::query(&text.body);
            let mentioned = self.mentioned_in(sql, &text.effects);
            let considered = self.consider_text(sql, &text.effects, &mentioned, TextUse::Run);
            if let Err(refusal) = considered {
                self.refuse(io, &refusal, incoming);
                return Err(Sent::Done);
            }
            if !mentioned.is_empty() {
                statement = self.translate(io, &statement, text, &mentioned);
            }
            effects = Some(joined(&text.effects, &mentioned));
        }
        match self.ensure_prepared(io, &statement, Some(name), ResponseAction::ForwardErrorOnly) {
            Prepare::Ready(ready) => {
                self.uses_in_replay(&ready);
                if let Some(effects) = effects.filter(|_| incoming.request == Request::Bind) {
                    self.client.in_force.bound(&effects);
                    self.note_definitions(&effects);
                }
                Ok(ready)
            }
            Prepare::Waits => Err(Sent::Waits),
            Prepare::Refused(client_error) => {
                self.refuse(io, &client_error, incoming);
                Err(Sent::Done)
            }
        }
    }

    /// The client gives up a name.
    pub(super) fn give_up_name(&mut self, name: &[u8]) {
        if let Some(named) = self.client.names.set(name, None) {
            self.aliases.given_up(named.statement.id, name);
        }
    }

    /// The running of a portal.
    pub(super) fn execute(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        let MessageTarget::Portal(name) = target_of(frontend::EXECUTE, body(io, incoming)) else {
            self.without_name(io, incoming);
            return Sent::Done;
        };
        let (commands, transaction) = self.run_by_portal(name);
        if self.client.in_force.are_unreported() {
            // Functions that it runs are planned under what no report may ever tell.
            self.server.planned = PlannedUnder::Several;
        }
        self.client.in_force.ran(commands.as_deref().unwrap_or_default());
        self.note_fate(transaction);
        let Some(commands) = commands else {
            self.pass(io, incoming, None);
            return Sent::Done;
        };
        let effects = SqlEffects { commands: Some(Arc::clone(&commands)), ..SqlEffects::default() };
        let mut note = Note::default();
        self.note_commands(&mut note, Some(Arc::clone(&commands)), &effects);
        self.pass(io, incoming, Some(note));
        self.put_corrections(io, &commands);
        Sent::Done
    }

    /// Notes with a request that it runs `commands`. The client's next messages wait until it is known which of them
    /// succeed, where that decides what these mean.
    pub(super) fn note_commands(&mut self, note: &mut Note, commands: Option<Commands>, effects: &SqlEffects) {
        let list = commands.as_deref().unwrap_or_default();
        if self.context.mode == Mode::Transaction {
            let decides = effects.unknown_settings != UnknownSettings::None
                || effects.pins.contains(Pins::UNANALYZED)
                || list.iter().any(|placed| self.decides_what_follows(&placed.command));
            if decides {
                self.gate = Gate::Answers;
            } else if list.iter().any(|placed| matches!(placed.command, SessionCommand::SetLocal { .. })) {
                self.client.mark_unknown();
            }
        } else if list.iter().any(|placed| placed.command == SessionCommand::DiscardAll)
            || ((effects.unknown_settings.outlast_transaction() || effects.pins.contains(Pins::UNANALYZED))
                && !self.wrongly_reset(&SessionCommand::DiscardAll).is_empty())
        {
            // What follows is not undone by it; and what it resets is corrected before anything else runs.
            self.gate = Gate::Answers;
        }
        note.commands = commands.map(|commands| (commands, 0));
    }

    /// Notes what becomes of the transaction by what is run now: the server tells of settings that go back when it is ready. Of others
    /// its answer tells under which the client's next text is read, which therefore waits.
    fn note_fate(&mut self, transaction: TransactionFate) {
        if !self.carries() || transaction == TransactionFate::GoesOn {
            return;
        }
        if self.client.view != self.start {
            self.client.in_force.may_go_back();
        }
        if transaction == TransactionFate::MayEndWithin {
            self.work.may_be_committed();
            self.doubt_open_settings();
        }
        if self.client.settings.has_changes() {
            self.gate = Gate::Answers;
        }
    }

    /// The settings in which a text of the client's is prepared.
    pub(super) fn current_params(&self) -> ServerParams {
        self.client.text_params().clone()
    }
}
