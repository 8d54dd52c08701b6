//! Texts that clients prepare: each gets the name that it has on the connection, and what running it does is known from then on.

use std::sync::Arc;

use super::from_client::{Incoming, MessageHead, Sent, body};
use super::session_sync::TextUse;
use super::statement_errors::{too_many_resetting, too_many_statements};
use super::{Buffers, Machine};
use crate::error::ClientError;
use crate::track::client_statements::{MAX_NAMED_BYTES, NamedStatement, significant};
use crate::track::message_target::{MessageTarget, target_of};
use crate::track::pipeline::{Note, SentNames};
use crate::track::prepared_statement::Standing;
use crate::track::rollback::{FormerResetting, Rollback};
use crate::track::session_command::Commands;
use crate::track::sql_effects;
use crate::track::{Pins, ResponseAction, SqlEffects};
use crate::wire::{cstr, frame, frontend};

impl Machine<'_> {
    /// A text to be prepared.
    pub(super) fn parse(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        let MessageTarget::Statement { name, rest, .. } = target_of(frontend::PARSE, body(io, incoming)) else {
            self.without_name(io, incoming);
            return Sent::Done;
        };
        let keeps = incoming.is_whole();
        if name.is_empty() {
            let text = keeps.then(|| self.client.parsed_unnamed(rest));
            return self.parse_unnamed(io, text.as_ref(), incoming);
        }
        let name: Box<[u8]> = name.into();
        if !self.carries() {
            let effects = self.effects_of_parse(io, incoming);
            return self.parse_in_session(io, &name, &effects, incoming);
        }
        let fits = self.client.names.bytes() + name.len() + rest.len() <= self.context.limits.client_bytes;
        if keeps && fits {
            let rest: Box<[u8]> = rest.into();
            self.parse_named(io, &name, &rest, incoming)
        } else {
            self.parse_uncached(io, &name, incoming)
        }
    }

    /// Returns the effects of running the text of a `Parse`, as far as they are known where it is not kept.
    pub(super) fn effects_of_parse(&self, io: &Buffers<'_>, incoming: Incoming) -> SqlEffects {
        match cstr(body(io, incoming)).and_then(|(_, rest)| cstr(rest)) {
            Some((sql, _)) if incoming.is_whole() => sql_effects::analyze(sql, self.client.lexis()),
            _ => SqlEffects::unanalyzed(),
        }
    }

    /// A named text in session mode, where the connection has it for as long as the client is there.
    fn parse_in_session(
        &mut self,
        io: &mut Buffers<'_>,
        name: &[u8],
        effects: &SqlEffects,
        incoming: Incoming,
    ) -> Sent {
        self.pins.insert(Pins::STATEMENT);
        let resetting = match self.consider_unkept(name, effects) {
            Ok(resetting) => resetting,
            Err(refusal) => {
                self.refuse(io, &refusal, incoming);
                return Sent::Done;
            }
        };
        let note = resetting.map(|former| Note::of(Rollback { resetting: Some(former), ..Rollback::default() }));
        self.pass(io, incoming, note);
        Sent::Done
    }

    /// Notes what a text with `effects` may do that is not kept, and that `name` is given to it. Returns what is to be taken back if that
    /// fails, where the text resets settings, or the one before did.
    ///
    /// # Errors
    /// What the client is told instead if it must not be sent.
    fn consider_unkept(&mut self, name: &[u8], effects: &SqlEffects) -> Result<Option<FormerResetting>, ClientError> {
        self.consider(effects, TextUse::Prepared)?;
        let resets = |commands: &Commands| commands.iter().any(|placed| placed.command.resets());
        let commands = effects.commands.clone().filter(resets);
        if commands.is_some() && !self.resetting.has_room_for(name) {
            return Err(too_many_resetting());
        }
        let resets = commands.is_some();
        let before = self.resetting.set(name, commands);
        Ok((resets || before.is_some()).then(|| (significant(name).into(), before)))
    }

    /// A named text that is not kept, because it is too long, or because the client's others take all the room: it goes to the server
    /// under a name of its own, and the client stays with the connection that has it.
    fn parse_uncached(&mut self, io: &mut Buffers<'_>, name: &[u8], incoming: Incoming) -> Sent {
        if self.client.names.get(name).is_some() {
            self.parse_taken(io, name, incoming);
            return Sent::Done;
        }
        if self.client.names.bytes() > MAX_NAMED_BYTES {
            self.refuse(io, &too_many_statements(), incoming);
            return Sent::Done;
        }
        let effects = self.effects_of_parse(io, incoming);
        let effects = SqlEffects { pins: effects.pins.union(Pins::STATEMENT), ..effects };
        let resetting = match self.consider_unkept(name, &effects) {
            Ok(resetting) => resetting,
            Err(refusal) => {
                self.refuse(io, &refusal, incoming);
                return Sent::Done;
            }
        };
        let statement = self.context.statements.uncached();
        self.client.names.set(name, Some(NamedStatement::new(Arc::clone(&statement))));
        self.server.prepared.add(&statement, Standing::Doubtful);
        let rollback = Rollback {
            name: Some((significant(name).into(), None)),
            prepared: Some(statement.id),
            resetting,
            ..Rollback::default()
        };
        let note = Note::of(rollback);
        let cut = frame::HEADER_BYTES + name.len() + 1;
        self.pass_renamed(io, incoming, Some(note), &MessageHead { cut, before: b"", name: statement.name() });
        Sent::Done
    }

    fn parse_named(&mut self, io: &mut Buffers<'_>, name: &[u8], rest: &[u8], incoming: Incoming) -> Sent {
        let cut = frame::HEADER_BYTES + name.len() + 1;
        let statement = self.client.intern(self.context.statements, rest, self.pins);
        if let Some(text) = &statement.text
            && let Err(refusal) = self.consider(&text.effects, TextUse::Prepared)
        {
            self.refuse(io, &refusal, incoming);
            return Sent::Done;
        }
        if self.client.names.get(name).is_some() {
            self.parse_taken(io, name, incoming);
            return Sent::Done;
        }
        self.client.names.set(name, Some(NamedStatement::new(Arc::clone(&statement))));
        let mut rollback = Rollback { name: Some((significant(name).into(), None)), ..Rollback::default() };
        if self.server.prepared.has(&statement) {
            let failed = !self.pipeline.knows_status() || self.pipeline.status() == b'E';
            let stands = self.server.prepared.standing(statement.id) == Some(self.server.standing_of(&statement));
            if !failed && stands && self.server.prepared.is_silent(statement.id) {
                self.synthesize(io, incoming, Note::of(rollback));
                return Sent::Done;
            }
            // In a failed transaction most texts are refused, which only the server can do, as it does notices about a text; and where
            // code has run, it may mean something else now than it has in a session that was as new.
            self.close_prepared(io, statement.id);
        }
        rollback.prepared = Some(statement.id);
        self.add_prepared(io, &statement);
        let note = Note::of(rollback);
        self.pass_renamed(io, incoming, Some(note), &MessageHead { cut, before: b"", name: statement.name() });
        Sent::Done
    }

    /// A text for a name that is taken: the server says first what is wrong with the text, and then that the statement exists.
    fn parse_taken(&mut self, io: &mut Buffers<'_>, name: &[u8], incoming: Incoming) {
        let taken = self.put_placeholder(io, ResponseAction::ForwardErrorOnly);
        let note = Note { names: SentNames::one(taken.id, name.into()), ..Note::default() };
        let cut = frame::HEADER_BYTES + name.len() + 1;
        self.pass_renamed(io, incoming, Some(note), &MessageHead { cut, before: b"", name: taken.name() });
    }
}
