//! The server's errors: what they mean for the work at hand, and the words in which a client gets them.

use super::from_server::{MessageAction, Portion, message};
use super::own_queries::Question;
use super::session_sync::SEQUENCE_HINT;
use super::{Buffers, End, Machine, Phase, buffer_for_client, flush_forwarded};
use crate::error::{ClientError, sqlstate};
use crate::track::pipeline::SentNames;
use crate::track::statements::PREFIX;
use crate::track::text_edit::Positions;
use crate::track::transaction_block::IDLE;
use crate::track::{Request, ResponseAction};
use crate::wire::{backend, frame, frontend};

/// Hint for clients with a setting that is not valid any more.
const SETTING_HINT: &str = "pgferry sets what the session has set anew on each connection, and the server does not accept it any more: \
    connect again and set another value, or use pool_mode = \"session\".";

impl Machine<'_> {
    /// Notes an error, of which `portion` is there.
    ///
    /// # Errors
    /// How the machine ends.
    pub(super) fn error(
        &mut self,
        io: &mut Buffers<'_>,
        portion: Portion,
        action: MessageAction,
    ) -> Result<MessageAction, End> {
        let body = match portion {
            Portion::Whole => message(io).to_vec(),
            Portion::Beginning => Vec::new(),
        };
        let fatal = backend::is_fatal(&body);
        let (positions, names) = self
            .pipeline
            .front_note()
            .map_or_else(Default::default, |note| (note.positions.take(), std::mem::take(&mut note.names)));
        let refusal = self.pipeline.take_refusal();
        if action == MessageAction::Swallow && refusal.is_none() {
            return self.own_request_failed(io, &body);
        }
        let discards_query = self.pipeline.discards_query();
        self.pipeline.response(backend::ERROR);
        self.undo();
        self.failed();
        if discards_query && !fatal {
            // In place of the query, which would have ended the transaction that no Sync has ended.
            flush_forwarded(io);
            frontend::put_sync(io.to_server);
            self.pipeline.request(Request::Sync, ResponseAction::Forward);
        }
        if fatal {
            // What follows is the end.
            self.phase = Phase::Ended;
            return Ok(MessageAction::Forward);
        }
        if let Some(refusal) = refusal {
            buffer_for_client(io);
            io.to_client.extend_from_slice(&refusal);
            return Ok(MessageAction::Swallow);
        }
        if self.replays(&body) {
            return Ok(MessageAction::Swallow);
        }
        self.release_held(io, MessageAction::Forward);
        Ok(if portion == Portion::Whole && self.put_edited(io, &body, positions.as_ref(), &names) {
            MessageAction::Swallow
        } else {
            MessageAction::Forward
        })
    }

    /// Notes a notice, of which `portion` is there. Where it is about a place in a text that was edited, the client gets the place in its
    /// own.
    pub(super) fn notice(&mut self, io: &mut Buffers<'_>, portion: Portion, action: MessageAction) -> MessageAction {
        let Some(note) = self.pipeline.front_note() else { return action };
        if let Some(id) = note.rollback.prepared {
            self.server.prepared.on_notice(id);
        }
        let Some(positions) = note.positions.as_ref().filter(|_| action == MessageAction::Forward) else {
            return action;
        };
        if portion != Portion::Whole {
            return action;
        }
        let body = message(io).to_vec();
        buffer_for_client(io);
        backend::put_edited(io.to_client, backend::NOTICE, &body, None, |kind, value| match kind {
            b'P' => original_position(value, positions),
            _ => value.to_vec(),
        });
        MessageAction::Swallow
    }

    /// The server has refused something that pgferry has asked, by an error with `body`.
    fn own_request_failed(&mut self, io: &mut Buffers<'_>, body: &[u8]) -> Result<MessageAction, End> {
        let fatal = backend::is_fatal(body);
        let code = backend::error_field(body, b'C').unwrap_or_default();
        match self.phase {
            // A pooler in front of the server has lost it, and perhaps the answers.
            Phase::Preparing { .. } if fatal && code.starts_with(sqlstate::CONNECTION_EXCEPTIONS.as_bytes()) => {
                return Err(End::ServerLost { told: false });
            }
            // It stands in place of the answer to our own message: the server has not come to the client's, and discards
            // it.
            Phase::Preparing { left } if fatal || self.preparation.failed(left, code, self.context.statements) => {
                return Err(self.give_up(io));
            }
            _ if fatal => return Err(End::ServerLost { told: false }),
            _ => {}
        }
        self.pipeline.response(backend::ERROR);
        self.undo();
        match &mut self.phase {
            &mut Phase::Asking(Question::Origins { status, .. }) => {
                let error = own_error(io, body).into();
                self.phase = Phase::Asking(Question::Unanswered { status, error });
            }
            Phase::Asking(Question::Correction { held: held @ (None | Some(IDLE)), again })
                if !again.is_empty() && code == sqlstate::QUERY_CANCELED.as_bytes() =>
            {
                let (held, again) = (*held, std::mem::take(again));
                self.phase = Phase::Asking(Question::CancelledCorrection { held, again });
            }
            Phase::Preparing { .. } | Phase::Asking(Question::Correction { .. }) => {
                // The client's settings can't be had. If it had them before, it does not know that they are set anew.
                let hint = (self.client.work > 1).then_some(SETTING_HINT);
                return Err(End::Refuse(ClientError::upstream_fatal(own_error(io, body), hint)));
            }
            _ => {}
        }
        Ok(MessageAction::Swallow)
    }

    /// Puts an error that needs other words than the server's; says whether it did.
    fn put_edited(
        &mut self,
        io: &mut Buffers<'_>,
        body: &[u8],
        positions: Option<&Positions>,
        sent: &SentNames,
    ) -> bool {
        let text = backend::error_field(body, b'M').unwrap_or_default();
        let named = self.carries() && names_a_statement(body) && find(text, PREFIX.as_bytes()).is_some();
        let lost = self.carries()
            && backend::error_field(body, b'C') == Some(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE.as_bytes())
            && find(text, b"is not yet defined in this session").is_some();
        let moved = positions.filter(|_| backend::error_field(body, b'P').is_some());
        if !named && !lost && moved.is_none() {
            return false;
        }
        buffer_for_client(io);
        let hint = lost.then_some(SEQUENCE_HINT);
        let names = &self.client.names;
        let aliases = &self.aliases;
        backend::put_edited(io.to_client, backend::ERROR, body, hint, |kind, value| match (kind, moved) {
            (b'M', _) if named => with_clients_name(value, |id| {
                // By a text that was prepared before, the statement is not named in the request that fails.
                let original = aliases.original(id);
                let lookup = || names.name_of(original).or_else(|| names.name_of(id)).or(aliases.former_name(original));
                sent.get(id).or_else(lookup).map(<[u8]>::to_vec)
            }),
            (b'P', Some(positions)) => original_position(value, positions),
            _ => value.to_vec(),
        });
        true
    }
}

/// The position in the client's text of the one that the server has told of the edited text.
fn original_position(told: &[u8], positions: &Positions) -> Vec<u8> {
    let at = std::str::from_utf8(told).ok().and_then(|told| told.parse().ok());
    at.map_or(told.to_vec(), |at| positions.original(at).to_string().into_bytes())
}

/// The server's next message, an error with `body`.
fn own_error<'b>(io: &'b Buffers<'_>, body: &[u8]) -> &'b [u8] {
    io.from_server.unparsed().get(..frame::HEADER_BYTES + body.len()).unwrap_or_default()
}

/// Returns whether the text of an error in `body` names a prepared statement. Other texts are the client's, whatever they have in
/// them.
fn names_a_statement(body: &[u8]) -> bool {
    let code = backend::error_field(body, b'C').unwrap_or_default();
    // Those of PostgreSQL's functions that have no code of their own for it: of a number of parameters.
    let counts = [&b"exec_bind_message"[..], b"EvaluateParams"];
    [sqlstate::UNDEFINED_STATEMENT, sqlstate::DUPLICATE_STATEMENT].iter().any(|known| known.as_bytes() == code)
        || backend::error_field(body, b'R').is_some_and(|routine| counts.contains(&routine))
}

/// Finds where `needle` begins in `haystack`.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A message with the server's name of a statement replaced by the client's.
fn with_clients_name(message: &[u8], name_of: impl Fn(u64) -> Option<Vec<u8>>) -> Vec<u8> {
    let Some(at) = find(message, PREFIX.as_bytes()) else { return message.to_vec() };
    let digits = &message[at + PREFIX.len()..];
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    let id = std::str::from_utf8(&digits[..end]).ok().and_then(|digits| digits.parse().ok());
    match id.and_then(name_of) {
        Some(name) => [&message[..at], &name, &digits[end..]].concat(),
        None => message.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_see_their_own_names() {
        let edit = |message: &[u8]| with_clients_name(message, |id| (id == 12).then(|| b"S_1".to_vec()));
        assert_eq!(
            edit(b"prepared statement \"pgferry_12\" already exists"),
            b"prepared statement \"S_1\" already exists"
        );
        for other in
            [&b"prepared statement \"pgferry_1\" exists"[..], b"pgferry_", b"pgferry_99999999999999999999", b"x"]
        {
            assert_eq!(edit(other), other);
        }
    }
}
