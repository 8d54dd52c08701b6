//! Server to client: walks the server's messages, notes what they say, and marks what the client gets.

use super::own_queries::Question;
use super::{Buffers, End, Machine, Phase, buffer_for_client};
use crate::config::Mode;
use crate::track::plan_settings::{self, PlannedUnder};
use crate::track::server_state::Reports;
use crate::track::session_command::SessionCommand;
use crate::track::{Pins, Request, params};
use crate::wire::{backend, frame, frontend, head};

/// The longest server message that is held whole in memory to be looked at, in bytes. Longer errors are passed on unseen.
const MAX_SEEN_BYTES: usize = 1 << 20;

/// The longest tag of a command, in bytes: PostgreSQL's `COMPLETION_TAG_BUFSIZE`.
const MAX_TAG_BYTES: usize = 64;

/// Treatment of a message of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageAction {
    /// The client gets it.
    Forward,
    /// The client does not get it.
    Swallow,
}

impl MessageAction {
    fn swallow_if(hidden: bool) -> Self {
        if hidden { Self::Swallow } else { Self::Forward }
    }
}

/// Portion of a message of the server's that is there to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    Whole,
    /// Its beginning: the rest is still to come, or is too long to be held.
    Beginning,
}

/// Position in the server's stream.
#[derive(Debug, Default)]
pub(super) struct ServerStream {
    place: Place,
    stops: StopReason,
}

/// Reasons to stop the walk until the machine goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StopReason {
    #[default]
    AtBoundaries,
    /// Nowhere: the server takes no more, and ends.
    Nowhere,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between two messages.
    #[default]
    Between,
    /// Behind the answer to all that was asked: what comes next is looked at only if the machine goes on.
    Boundary,
    /// In a message of which this many bytes are still to come.
    In(MessageAction, usize),
}

impl ServerStream {
    /// Returns whether the client has got part of a message.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.place, Place::In(MessageAction::Forward, left) if left > 0)
    }

    /// Returns whether a message has not come whole.
    pub(super) fn is_partial(&self) -> bool {
        self.left() > 0
    }

    /// Bytes of the current message that are still to come.
    pub(super) fn left(&self) -> usize {
        match self.place {
            Place::In(_, left) => left,
            Place::Between | Place::Boundary => 0,
        }
    }

    /// Returns whether the answer to all that was asked has been walked, and nothing behind it.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.place == Place::Boundary
    }

    /// Has the stream walked to its end, wherever the client is.
    pub(super) fn walk_to_end(&mut self) {
        self.stops = StopReason::Nowhere;
        self.resume();
    }

    /// The machine goes on.
    pub(super) fn resume(&mut self) {
        if self.place == Place::Boundary {
            self.place = Place::Between;
        }
    }
}

impl Machine<'_> {
    /// Walks what the server has sent: marks what may be sent on, drops what is not the client's, synthesizes what the
    /// server was not asked for. Says whether that is anything.
    ///
    /// # Errors
    /// How the machine ends.
    pub fn server_sent(&mut self, io: &mut Buffers<'_>) -> Result<bool, End> {
        let mut progress = false;
        loop {
            match self.server_stream.place {
                // Once more is owed the machine has gone on.
                Place::Boundary if self.pipeline.answered() => return Ok(progress),
                Place::In(action, left) if left > 0 => {
                    let here = left.min(io.from_server.unparsed().len());
                    put(io, here, action);
                    self.server_stream.place = Place::In(action, left - here);
                    progress |= here > 0;
                    if here < left {
                        return Ok(progress);
                    }
                }
                _ => {}
            }
            progress |= self.put_synthesized(io);
            let bytes = io.from_server.unparsed();
            let head = match head(bytes, frame::BACKEND_LIMIT) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(progress),
                Err(_) => return Err(self.server_ended(io)),
            };
            if matches!(head.tag, backend::DATA_ROW | frontend::COPY_DATA) && !self.reads_rows() {
                let rows = frame::run(bytes, head.tag, frame::BACKEND_LIMIT);
                if rows > 0 {
                    let action = MessageAction::swallow_if(self.pipeline.hides(head.tag));
                    self.note_action(head.tag, action);
                    put(io, rows, action);
                    progress = true;
                    continue;
                }
            }
            let here = head.size.min(bytes.len());
            if self.must_see(head.tag) && here < head.size && head.size <= MAX_SEEN_BYTES {
                io.from_server.reserve(head.size);
                return Ok(progress);
            }
            let owed = self.pipeline.owed();
            let portion = if here == head.size { Portion::Whole } else { Portion::Beginning };
            let action = self.answer(io, head.tag, portion)?;
            self.note_action(head.tag, action);
            put(io, here, action);
            self.server_stream.place = Place::In(action, head.size - here);
            progress = true;
            self.after_answer(io, head.tag, owed);
        }
    }

    /// Acts upon the message that was just walked.
    fn after_answer(&mut self, io: &mut Buffers<'_>, tag: u8, owed_before: usize) {
        if let Phase::Preparing { left } = &mut self.phase {
            *left -= (owed_before - self.pipeline.owed()).min(*left);
            if *left == 0 {
                self.on_prepared(io);
            }
        }
        let stops = self.server_stream.stops == StopReason::AtBoundaries;
        if stops && tag == backend::READY && self.pipeline.answered() && !self.server_stream.is_partial() {
            self.server_stream.place = Place::Boundary;
        }
    }

    fn note_action(&mut self, tag: u8, action: MessageAction) {
        let unasked = matches!(tag, backend::NOTICE | backend::NOTIFICATION | backend::PARAMETER_STATUS);
        if action == MessageAction::Forward && !unasked {
            self.replay.part_was_answered();
        }
    }

    /// Answers the requests that are next in turn and that the server was not asked.
    fn put_synthesized(&mut self, io: &mut Buffers<'_>) -> bool {
        let mut any = false;
        while let Some(request) = self.pipeline.synthesized() {
            buffer_for_client(io);
            any = true;
            if request == Request::Close {
                backend::put_close_complete(io.to_client);
                self.first.answered(frontend::CLOSE);
            } else {
                backend::put_parse_complete(io.to_client);
                self.first.answered(frontend::PARSE);
            }
        }
        any
    }

    /// Returns whether the rows that come are an answer to pgferry itself.
    fn reads_rows(&self) -> bool {
        self.client.in_force.are_asked()
            || matches!(self.phase, Phase::Asking(Question::Pins | Question::Settings(_) | Question::Origins { .. }))
    }

    fn must_see(&self, tag: u8) -> bool {
        match tag {
            backend::READY
            | backend::PARAMETER_STATUS
            | backend::ERROR
            | backend::COMMAND_COMPLETE
            | backend::NOTIFICATION => true,
            backend::PARAMETER_DESCRIPTION => self.replay.is_kept() || self.pipeline.describes(),
            backend::DATA_ROW => self.reads_rows(),
            backend::ROW_DESCRIPTION => self.pipeline.describes(),
            backend::NOTICE => self.pipeline.is_noted(),
            _ => false,
        }
    }

    /// Notes the server's next message, of which `portion` is there.
    fn answer(&mut self, io: &mut Buffers<'_>, tag: u8, portion: Portion) -> Result<MessageAction, End> {
        let whole = portion == Portion::Whole;
        let action = MessageAction::swallow_if(self.pipeline.hides(tag));
        match tag {
            // By far the most frequent.
            backend::DATA_ROW => {
                if action == MessageAction::Swallow && self.reads_rows() && whole {
                    let row = message(io).to_vec();
                    self.learn_answer(&row);
                }
            }
            frontend::COPY_DATA => {}
            backend::NOTICE => return Ok(self.notice(io, portion, action)),
            backend::NOTIFICATION => {
                self.rename_notifier(io);
                // It is no answer, and may come in the middle of one that the client does not see. In front of the client's
                // first message it is about what another client has asked for.
                if !self.is_preparing() {
                    return Ok(MessageAction::Forward);
                }
            }
            backend::READY => return Ok(self.ready(io, action)),
            backend::PARAMETER_STATUS => {
                if whole {
                    let body = message(io).to_vec();
                    return self.parameter(io, &body, action);
                }
            }
            backend::PARAMETER_DESCRIPTION if whole => {
                let describes = self.pipeline.front_note().and_then(|note| note.describes.clone());
                if let Some(describes) = describes {
                    self.described_parameters(&describes, message(io));
                }
                self.pipeline.response(tag);
                if action == MessageAction::Forward {
                    // An error may follow that is only about an outdated plan.
                    return Ok(MessageAction::swallow_if(self.replay.holds(message_bytes(io))));
                }
            }
            backend::ERROR => return self.error(io, portion, action),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                let describes = self.pipeline.front_note().and_then(|note| note.describes.take()).filter(|_| whole);
                if let Some(describes) = describes {
                    let none = tag == backend::NO_DATA;
                    let columns = if none { Vec::new() } else { backend::shape(message(io)) };
                    self.described(&describes, &columns);
                }
                self.release_held(io, action);
                self.pipeline.response(tag);
            }
            backend::PORTAL_SUSPENDED => {
                self.pipeline.response(tag);
                if action == MessageAction::Forward {
                    self.work.suspended();
                }
            }
            backend::COMMAND_COMPLETE if whole && action == MessageAction::Forward => {
                return Ok(self.command_complete(io));
            }
            _ => {
                self.pipeline.response(tag);
            }
        }
        Ok(action)
    }

    /// The client gets what was held back in front of the message that comes.
    pub(super) fn release_held(&mut self, io: &mut Buffers<'_>, action: MessageAction) {
        let held = self.replay.take_held();
        if action == MessageAction::Forward && !held.is_empty() {
            buffer_for_client(io);
            io.to_client.extend_from_slice(&held);
        }
    }

    fn command_complete(&mut self, io: &mut Buffers<'_>) -> MessageAction {
        let command = backend::command_tag(message(io));
        if command.starts_with(b"SELECT ") {
            // By far the most frequent, and none that changes a session.
            self.pipeline.response(backend::COMMAND_COMPLETE);
            self.work.completed(b"SELECT");
            return MessageAction::Forward;
        }
        let mut room = [0; MAX_TAG_BYTES];
        let length = command.len().min(MAX_TAG_BYTES);
        room[..length].copy_from_slice(&command[..length]);
        let tag = &room[..length];
        let next = if SessionCommand::is_tag(tag) { self.pipeline.next_command(tag) } else { None };
        // Also where its text was not kept: no code can run it.
        if tag == b"DISCARD ALL" {
            self.corrections = self.wrongly_reset(&SessionCommand::DiscardAll);
        }
        self.pipeline.response(backend::COMMAND_COMPLETE);
        MessageAction::swallow_if(self.completed(tag, next.as_ref()))
    }

    fn ready(&mut self, io: &mut Buffers<'_>, action: MessageAction) -> MessageAction {
        let status = message(io).first().copied().unwrap_or_default();
        self.pipeline.ready(status);
        if self.pipeline.answered() {
            self.client.in_force.on_reported();
        }
        if action == MessageAction::Forward {
            self.replay.was_answered();
            // Which may not be what it says (`Pipeline::ready`).
            self.ready_for_query(self.pipeline.status());
            if self.hold_ready(io, status) {
                return MessageAction::Swallow;
            }
            self.tell_differences(io);
            return MessageAction::Forward;
        }
        match self.phase {
            Phase::Asking(_) => {
                if let Some(status) = self.answered_question(io) {
                    self.tell_differences(io);
                    buffer_for_client(io);
                    backend::put_ready(io.to_client, status);
                }
            }
            Phase::Replaying => self.replay_now(io),
            Phase::Preparing { .. } | Phase::Working | Phase::Leaving | Phase::Ended => {}
        }
        MessageAction::Swallow
    }

    /// Notes a reported setting.
    ///
    /// # Errors
    /// How the machine ends where the server reports more than can be kept: what sessions are is not known then.
    fn parameter(&mut self, io: &mut Buffers<'_>, body: &[u8], action: MessageAction) -> Result<MessageAction, End> {
        let Some((name, value)) = backend::parameter_status(body) else { return Ok(action) };
        if !self.server.params.has_room_for(name, value) {
            return Err(self.server_ended(io));
        }
        let changed = self.server.params.set(name, value);
        if changed && !self.is_preparing() && plan_settings::is_read_by_plans(name) {
            self.server.planned = PlannedUnder::Several;
        }
        if (self.is_preparing() && self.preparation.is_probe()) || params::is_internal(name) {
            // It has changed without a statement: that is what a reset goes back to.
            self.server.base.set(name, value);
            self.start.set(name, value);
            self.context.parameters.learn_base(self.server);
            self.explained.note_new_default(name);
        }
        if action == MessageAction::Swallow || self.is_preparing() || matches!(self.phase, Phase::Asking(_)) {
            // What is left of a difference is told in front of the next ReadyForQuery.
            return Ok(MessageAction::Swallow);
        }
        let known = self.client.view.get(name) == Some(value);
        if let Some(own) = self.own_instead_of(name, value) {
            if self.server.reports == Reports::AtOnce && self.client.view.get(name) != Some(&*own) {
                // What it is about to be put right to is told in its place.
                buffer_for_client(io);
                backend::put_parameter_status(io.to_client, name, &own);
                self.client.view.set(name, &own);
            }
            return Ok(MessageAction::Swallow);
        }
        // A server that reports before it is ready does so for what the preparation has set too.
        if known && (self.server.reports == Reports::BeforeReady || self.pipeline.is_inserted()) {
            return Ok(MessageAction::Swallow);
        }
        self.client.view.set(name, value);
        if self.context.mode == Mode::Session {
            self.pins.insert(Pins::SETTING);
        }
        Ok(MessageAction::Forward)
    }

    /// Returns the client's own value of a setting that has gone to what another client's startup packet asked for, or to the server's
    /// default, as after a `RESET`: it is put right before the client is told that the server is ready.
    fn own_instead_of(&self, name: &[u8], value: &[u8]) -> Option<Box<[u8]>> {
        if self.server.base.get(name) != Some(value) {
            return None;
        }
        // From PostgreSQL 18 on `search_path` is reported.
        if let Some((_, own)) = self.client.startup.get(name) {
            return (own != value).then(|| own.into());
        }
        if self.server.asked.is_empty() && self.client.asked.is_empty() {
            return None;
        }
        let baseline = self.context.parameters.baseline()?;
        let name = params::following(name)?;
        let own = self.own_reset_value(name, &baseline)?;
        (own != value).then(|| own.into())
    }

    /// A client knows its own notifications by the pid that it was given, and no others by that.
    fn rename_notifier(&self, io: &mut Buffers<'_>) {
        let (backend, given) = (self.context.backend_pid.to_be_bytes(), self.context.given_pid.to_be_bytes());
        let pid = io.from_server.unparsed_mut().get_mut(frame::HEADER_BYTES..frame::HEADER_BYTES + 4);
        let Some(pid) = pid else { return };
        if *pid == backend {
            pid.copy_from_slice(&given);
        } else if *pid == given {
            pid.copy_from_slice(&backend);
        }
    }
}

/// Has the client get the next `n` bytes, or not.
fn put(io: &mut Buffers<'_>, n: usize, action: MessageAction) {
    match action {
        MessageAction::Forward => io.from_server.parse(n),
        MessageAction::Swallow => {
            buffer_for_client(io);
            io.from_server.skip(n);
        }
    }
}

/// The server's next message, which is there whole.
fn message_bytes<'b>(io: &'b Buffers<'_>) -> &'b [u8] {
    let bytes = io.from_server.unparsed();
    let size = head(bytes, frame::BACKEND_LIMIT).ok().flatten().map_or(0, |head| head.size);
    bytes.get(..size).unwrap_or_default()
}

/// The body of the server's next message, as far as it is there.
pub(super) fn message<'b>(io: &'b Buffers<'_>) -> &'b [u8] {
    let bytes = io.from_server.unparsed();
    let size = head(bytes, frame::BACKEND_LIMIT).ok().flatten().map_or(0, |head| head.size);
    bytes.get(frame::HEADER_BYTES..size.min(bytes.len())).unwrap_or_default()
}
