//! The unnamed statement, of which client and connection each have one: compared by its number, and parsed again where they
//! differ.

use std::sync::Arc;

use super::ensure_prepared::Prepare;
use super::from_client::{Incoming, Sent};
use super::portals::{Portal, PortalOf};
use super::session_sync::TextUse;
use super::{Buffers, FirstBytes, Machine, flush_forwarded};
use crate::track::client_statements::Unnamed;
use crate::track::pipeline::{Describes, Note};
use crate::track::rollback::{Stake, UnnamedCause, UnnamedChange};
use crate::track::sql_effects::TransactionFate;
use crate::track::statement_mentions::{Mention, joined};
use crate::track::statements::ParsedQuery;
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{Request, ResponseAction};
use crate::wire::frontend;

impl Machine<'_> {
    /// The unnamed statement with this `text`, where that is kept.
    pub(super) fn parse_unnamed(
        &mut self,
        io: &mut Buffers<'_>,
        text: Option<&Arc<ParsedQuery>>,
        incoming: Incoming,
    ) -> Sent {
        let effects = match text {
            Some(text) => text.effects.clone(),
            None => self.effects_of_parse(io, incoming),
        };
        let mentioned = text.map_or(Vec::new(), |text| self.mentioned_in(frontend::query(&text.body), &effects));
        let sql = text.map_or(&[][..], |text| frontend::query(&text.body));
        let considered = self.consider_text(sql, &effects, &mentioned, TextUse::Prepared);
        if let Err(refusal) = considered {
            self.refuse(io, &refusal, incoming);
            return Sent::Done;
        }
        let edits = self.rename_mentioned(io, &mentioned, ResponseAction::ForwardErrorOnly);
        let id = self.context.statements.next_id();
        let kept = text.cloned().filter(|_| self.carries());
        let unnamed = Unnamed::new(id, kept, &effects, self.client.text_params().clone());
        let renamed = text.filter(|_| effects.names_statements).map(|text| text.edited(edits));
        let unnamed = Arc::new(match &renamed {
            Some((translated, _)) => unnamed.translated(translated),
            None => unnamed,
        });
        let change = self.set_unnamed(UnnamedCause::ClientParse, Some(unnamed), UnnamedStatement::Is(id));
        let mut note = self.note_unnamed(change);
        match renamed {
            Some((renamed, positions)) if !mentioned.is_empty() => {
                note.positions = Some(positions);
                flush_forwarded(io);
                frontend::put_parse(io.to_server, "", &renamed);
                self.pipeline.request_with(Request::Parse, ResponseAction::Forward, Some(note));
                self.undo();
                self.drop_message(io, incoming);
            }
            _ => self.pass(io, incoming, Some(note)),
        }
        Sent::Done
    }

    /// `Bind`, `Describe` or `Close` of the unnamed statement.
    pub(super) fn unnamed(&mut self, io: &mut Buffers<'_>, portal: &[u8], incoming: Incoming) -> Sent {
        if incoming.request == Request::Close {
            let change = self.drop_unnamed();
            let note = self.note_unnamed(change);
            self.pass(io, incoming, Some(note));
            return Sent::Done;
        }
        let text = self.client.unnamed.as_ref().and_then(|unnamed| unnamed.text.clone());
        let mentioned = text.as_ref().map_or_else(Vec::new, |text| {
            let sql = frontend::query(&text.body);
            self.mentioned_in(sql, &text.effects)
        });
        let effects = text.as_ref().map(|text| joined(&text.effects, &mentioned));
        let bound = effects.as_deref().filter(|_| incoming.request == Request::Bind);
        if let Some(text) = &text {
            let sql = frontend::query(&text.body);
            let considered = self.consider_text(sql, &text.effects, &mentioned, TextUse::Run);
            if let Err(refusal) = considered {
                self.refuse(io, &refusal, incoming);
                return Sent::Done;
            }
            self.translate_unnamed(io, text, &mentioned);
        }
        if let Some(effects) = bound {
            self.client.in_force.bound(effects);
        }
        match self.ensure_unnamed(io) {
            Prepare::Ready(()) => {}
            Prepare::Waits => return Sent::Waits,
            Prepare::Refused(client_error) => {
                self.refuse(io, &client_error, incoming);
                return Sent::Done;
            }
        }
        if let Some(effects) = bound {
            self.note_definitions(effects);
        }
        let unnamed = self.client.unnamed.clone();
        let mut note = None;
        if let Some(unnamed) = unnamed {
            let of = PortalOf { name: Arc::default(), statement: unnamed.id, server: unnamed.id };
            if incoming.request == Request::Bind {
                let commands = unnamed.commands.clone();
                let text = unnamed.text.as_ref();
                let transaction = text.map_or(TransactionFate::MayEnd, |text| text.effects.transaction);
                self.set_portal(Portal { name: portal.into(), commands, transaction, of: Some(of) });
            } else {
                let describes = Describes { server: unnamed.id, client: Some((Arc::default(), unnamed.id)) };
                note = Some(Note { describes: Some(describes), ..Note::default() });
            }
        }
        self.pass(io, incoming, note);
        Sent::Done
    }

    /// Has the unnamed statement run or free the statements that the client's names stand for now.
    fn translate_unnamed(&mut self, io: &mut Buffers<'_>, text: &ParsedQuery, mentioned: &[Mention]) {
        if !text.effects.names_statements {
            return;
        }
        let edits = self.rename_mentioned(io, mentioned, ResponseAction::ForwardErrorOnly);
        let (translated, _) = text.edited(edits);
        let unnamed = self.client.unnamed.as_ref();
        if let Some(now) =
            unnamed.and_then(|unnamed| unnamed.retranslated(self.context.statements.next_id(), &translated))
        {
            self.client.unnamed = Some(Arc::new(now));
        }
    }

    /// Drops the unnamed statements, as a simple query does (`exec_simple_query` in `src/backend/tcop/postgres.c`).
    pub(super) fn drop_unnamed(&mut self) -> UnnamedChange {
        self.set_unnamed(UnnamedCause::Drop, None, UnnamedStatement::Absent)
    }

    /// Returns whether a message that is sent now may turn out to be one that the server has not come to, so that it is sent again
    /// elsewhere.
    pub(super) fn may_be_unread(&self) -> bool {
        !matches!(self.first, FirstBytes::Forgotten)
    }

    /// Changes the unnamed statements of client and connection.
    pub(super) fn set_unnamed(
        &mut self,
        cause: UnnamedCause,
        client: Option<Arc<Unnamed>>,
        server: UnnamedStatement,
    ) -> UnnamedChange {
        self.server.unnamed_columns = None;
        UnnamedChange {
            cause,
            client: std::mem::replace(&mut self.client.unnamed, client),
            server: std::mem::replace(&mut self.server.unnamed, server),
            stake: Stake::Nothing,
        }
    }
}
