//! Statements of the extended protocol that SQL runs or frees by name: on the server they have other names.

use std::sync::Arc;

use super::ensure_prepared::Prepare;
use super::{Buffers, Machine};
use crate::error::Fault;
use crate::track::Reply;
use crate::track::sql_effects::UnknownSettings;
use crate::track::statement_mentions::{Mention, Purpose, mentions};
use crate::track::statements::{Statement, Text};
use crate::track::text_edit::Edit;
use crate::wire::frontend;

/// What is prepared to be freed in place of a statement that others share: an empty text, without parameters.
const EMPTY: &[u8] = b"\0\0\0";

impl Machine<'_> {
    /// The client's statements that a text runs or frees by name.
    pub(super) fn mentioned_in(&self, text: &Text) -> Vec<Mention> {
        if !text.effects.names_statements {
            return Vec::new();
        }
        mentions(frontend::query(&text.body), &self.client.names, self.client.backslashes())
    }

    /// Notes what statements do that SQL's `EXECUTE` runs.
    pub(super) fn consider_mentioned(&mut self, mentioned: &[Mention]) -> Result<(), Fault> {
        let run = mentioned.iter().filter(|mention| mention.purpose == Purpose::Run);
        for text in run.filter_map(|mention| mention.statement.text.as_ref()) {
            let mut effects = text.effects.clone();
            if effects.sets() {
                // Its tag is not among those that this text's commands expect.
                effects.unknown_settings = UnknownSettings::ForSession;
            }
            self.consider(&effects)?;
        }
        Ok(())
    }

    /// The names that statements have on the server, for where a text mentions them; they are prepared first if that is
    /// possible, with `reply` to that.
    pub(super) fn rename_mentioned(&mut self, io: &mut Buffers<'_>, mentioned: &[Mention], reply: Reply) -> Vec<Edit> {
        let owed = self.pipeline.owed();
        let mut freed: Vec<u64> = Vec::new();
        // Of these the text has made another one itself, which has the client's name on the server too.
        let mut made: Vec<u64> = Vec::new();
        let mut edits = Vec::new();
        for Mention { at, name, statement, purpose } in mentioned {
            if *purpose == Purpose::Make && freed.contains(&statement.id) {
                made.push(statement.id);
            }
            if made.contains(&statement.id) {
                continue;
            }
            let ready = if freed.contains(&statement.id) {
                // What the text has freed itself is not there.
                self.context.statements.uncached()
            } else if *purpose == Purpose::Free {
                freed.push(statement.id);
                // Other clients have the statement too.
                self.put_apart(io, EMPTY, reply)
            } else {
                match self.ensure_prepared(io, statement, None, reply) {
                    Prepare::Ready(ready) => ready,
                    _ => Arc::clone(statement),
                }
            };
            if freed.contains(&statement.id) {
                self.aliases.given_up(ready.id, name);
            }
            edits.push(Edit { at: at.clone(), with: ready.name().into_bytes() });
        }
        if self.pipeline.owed() > owed && reply == Reply::Swallow {
            // Without it an error would make the server discard the query too. What is missing it will say itself.
            self.put_own_sync(io);
        }
        edits
    }

    /// What stands for a statement that runs or frees others by name: the same with the names that those have on the server
    /// now. Where they run or free further ones in turn, these keep the client's names, which the server does not know.
    pub(super) fn translate(
        &mut self,
        io: &mut Buffers<'_>,
        statement: &Statement,
        text: &Text,
        mentioned: &[Mention],
    ) -> Arc<Statement> {
        let edits = self.rename_mentioned(io, mentioned, Reply::Assist);
        let (body, _) = text.edited(edits);
        if mentioned.iter().any(|mention| mention.purpose == Purpose::Free) {
            return self.put_apart(io, &body, Reply::Assist);
        }
        let translated = || Arc::new(Text { body: body.clone().into(), effects: text.effects.clone() });
        let flavor = statement.flavor.as_ref();
        let translated = self.context.statements.intern(flavor, &statement.params, &body, translated);
        self.aliases.stands_for(&translated, statement.id);
        translated
    }
}
