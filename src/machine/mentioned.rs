//! Statements of the extended protocol that SQL runs or frees by name: on the server they have other names.

use std::collections::HashSet;
use std::sync::Arc;

use super::ensure_prepared::Prepare;
use super::session_sync::TextUse;
use super::statement_errors::unknown_statement;
use super::{Buffers, Machine};
use crate::error::ClientError;
use crate::track::client_statements::significant;
use crate::track::statement_mentions::{Mention, Purpose, mentions, others_name};
use crate::track::statements::{ParsedQuery, Statement, number};
use crate::track::text_edit::Edit;
use crate::track::unknown_settings::UnknownSettings;
use crate::track::{ResponseAction, SqlEffects};

impl Machine<'_> {
    /// The client's statements that a text runs or frees by name.
    pub(super) fn mentioned_in(&self, sql: &[u8], effects: &SqlEffects) -> Vec<Mention> {
        if !effects.names_statements {
            return Vec::new();
        }
        mentions(sql, &self.client.names, self.client.lexis())
    }

    /// Notes what a text may do, and what statements do that it mentions, before it is sent.
    ///
    /// # Errors
    /// What the client is told instead if it must not be sent.
    pub(super) fn consider_text(
        &mut self,
        sql: &[u8],
        effects: &SqlEffects,
        mentioned: &[Mention],
        text_use: TextUse,
    ) -> Result<(), ClientError> {
        self.consider(effects, text_use)?;
        self.consider_mentioned(mentioned, text_use)?;
        if text_use == TextUse::Prepared || !effects.names_statements || !self.carries() {
            return Ok(());
        }
        // No client of its own server finds it.
        others_name(sql, &self.client.names, self.client.lexis()).map_or(Ok(()), |name| Err(unknown_statement(&name)))
    }

    /// Notes what statements do that SQL's `EXECUTE` runs.
    fn consider_mentioned(&mut self, mentioned: &[Mention], text_use: TextUse) -> Result<(), ClientError> {
        let run = mentioned.iter().filter(|mention| mention.purpose == Purpose::Run);
        for text in run.filter_map(|mention| mention.statement.text.as_ref()) {
            let mut effects = text.effects.clone();
            if effects.sets() {
                // Its tag is not among those that this text's commands expect.
                effects.unknown_settings = UnknownSettings::ForSession;
            }
            self.consider(&effects, text_use)?;
        }
        Ok(())
    }

    /// The names that statements have on the server, for where a text mentions them; they are prepared first if that is
    /// possible, with `action` for the answers to that.
    pub(super) fn rename_mentioned(
        &mut self,
        io: &mut Buffers<'_>,
        mentioned: &[Mention],
        action: ResponseAction,
    ) -> Vec<Edit> {
        let owed = self.pipeline.owed();
        let mut freed: HashSet<&[u8]> = HashSet::new();
        // Of these the text has made another one itself, which has the client's name on the server too.
        let mut made: HashSet<&[u8]> = HashSet::new();
        let mut edits = Vec::new();
        for Mention { at, name, statement, purpose } in mentioned {
            let known = significant(name);
            if *purpose == Purpose::Make && freed.contains(known) {
                made.insert(known);
            }
            if made.contains(known) {
                continue;
            }
            let ready = if freed.contains(known) {
                // What the text has freed itself is not there.
                let absent = self.context.statements.uncached();
                self.aliases.given_up(absent.id, name);
                absent
            } else if *purpose == Purpose::Free {
                freed.insert(known);
                self.ready_to_free(io, known, action)
            } else {
                match self.ensure_prepared(io, statement, None, action) {
                    Prepare::Ready(ready) => ready,
                    _ => Arc::clone(statement),
                }
            };
            edits.push(Edit { at: at.clone(), with: ready.name().as_bytes().to_vec() });
        }
        if self.pipeline.owed() > owed && action == ResponseAction::Swallow {
            // Without it an error would make the server discard the query too. What is missing it will say itself.
            self.put_own_sync(io);
        }
        edits
    }

    /// Prepares a statement to be freed in place of the one that the client knows as `name`, which others share.
    fn ready_to_free(&mut self, io: &mut Buffers<'_>, name: &[u8], action: ResponseAction) -> Arc<Statement> {
        if let Some(placeholder) = self.aliases.placeholder(name)
            && self.server.prepared.has(&placeholder)
        {
            return placeholder;
        }
        let placeholder = self.put_placeholder(io, action);
        self.aliases.given_up(placeholder.id, name);
        self.aliases.set_placeholder(name, &placeholder);
        placeholder
    }

    /// Notes that the client has freed `name` by `DEALLOCATE`.
    pub(super) fn deallocated(&mut self, name: &[u8]) {
        self.give_up_name(name);
        let freed = self.aliases.take_placeholder(significant(name)).map(|placeholder| placeholder.id);
        // Or one of pgferry's, under the name that it has on the server.
        if let Some(id) = freed.or_else(|| number(name)) {
            self.server.prepared.remove(id);
        }
    }

    /// Translates a statement that runs or frees others by name, to the names that those have on the server now. Where they
    /// run or free further ones in turn, these keep the client's names, which the server does not know.
    pub(super) fn translate(
        &mut self,
        io: &mut Buffers<'_>,
        statement: &Statement,
        text: &ParsedQuery,
        mentioned: &[Mention],
    ) -> Arc<Statement> {
        let edits = self.rename_mentioned(io, mentioned, ResponseAction::ForwardErrorOnly);
        let (body, _) = text.edited(edits);
        if mentioned.iter().any(|mention| mention.purpose == Purpose::Free) {
            let apart = self.put_apart(io, &body, ResponseAction::ForwardErrorOnly);
            self.aliases.stands_for(&apart, statement.id);
            return apart;
        }
        let translated = || Arc::new(ParsedQuery { body: body.clone().into(), effects: text.effects.clone() });
        let parse_context = statement.parse_context.as_ref();
        let translated = self.context.statements.intern(parse_context, &statement.params, &body, translated);
        self.aliases.stands_for(&translated, statement.id);
        translated
    }
}
