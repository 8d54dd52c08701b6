//! Client to server: walks the client's messages, and sends each on, or what has to be sent in its place.

use super::client_stream::{ClientSide, Rest};
use super::refused_unread::is_refused_unread;
use super::{Buffers, Gate, Machine, Phase, flush_forwarded};
use crate::config::Mode;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::track::message_target;
use crate::track::pipeline::Note;
use crate::track::server_state::Ran;
use crate::track::session_command::{self, SessionCommand};
use crate::track::statements::MEANWHILE;
use crate::track::transaction_block::{self, Block, IDLE};
use crate::track::{Request, ResponseAction};
use crate::wire::{Head, frame, frontend, head};

/// The text that is sent in place of what is refused: no server understands it.
const REFUSED: &[u8] = b"!pgferry refused this statement";

/// Number of requests that may be owed before the client's next messages wait.
const MAX_OWED: usize = 4096;

/// Number of bytes of texts that are kept for requests that are owed, before the client's next messages wait.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Number of bytes that may wait to be sent to the server, beside what is in the client's buffer, before the client's next
/// messages wait.
const MAX_UNSENT_BYTES: usize = 256 * 1024;

/// A message of the client's, as far as it is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) request: Request,
    pub(super) head: Head,
    /// Number of bytes of it that are there.
    pub(super) here: usize,
}

impl Incoming {
    pub(super) fn is_whole(&self) -> bool {
        self.here == self.head.size
    }
}

/// Progress of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Something was taken, and more may follow.
    On,
    /// Something was taken or has ended, and nothing more is taken now.
    Last,
    /// Nothing was taken.
    None,
}

/// Outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way, or answered.
    Done,
    /// It waits for answers to what was sent ahead of it.
    Waits,
}

impl Machine<'_> {
    /// Walks what the client has sent, and marks what may be sent on. Says whether that is anything.
    pub fn client_sent(&mut self, io: &mut Buffers<'_>) -> bool {
        if !self.is_unsent() {
            return self.walk_client(io);
        }
        let mut bytes = io.from_client.unparsed().to_vec();
        let progress = self.walk_client(io);
        bytes.truncate(bytes.len() - io.from_client.unparsed().len());
        self.first.took(bytes);
        progress
    }

    fn walk_client(&mut self, io: &mut Buffers<'_>) -> bool {
        let mut progress = false;
        loop {
            match self.take_step(io) {
                Step::On => progress = true,
                Step::Last => return true,
                Step::None => return progress,
            }
        }
    }

    /// Goes one message further, or to the end of the one that it is in.
    fn take_step(&mut self, io: &mut Buffers<'_>) -> Step {
        if !self.client_stream.is_between() {
            let taken = self.take_rest(io);
            if self.client_stream.is_between() {
                return Step::On;
            }
            self.client_stream.nothing_more();
            return if taken { Step::Last } else { Step::None };
        }
        if self.client_stream.client == ClientSide::Ended || io.to_server.len() > MAX_UNSENT_BYTES {
            return Step::None;
        }
        let bytes = io.from_client.unparsed();
        match head(bytes, frame::FRONTEND_LIMIT) {
            Ok(Some(head)) => self.take_message(io, head),
            Ok(None) if self.breaks_copy(bytes) && self.may_pass(io, None) => {
                self.begin_header(io);
                Step::On
            }
            Ok(None) => {
                self.client_stream.nothing_more();
                Step::None
            }
            Err(bad) => {
                self.client_stream.violates(ClientError::violation(bad.to_string()));
                Step::Last
            }
        }
    }

    fn take_message(&mut self, io: &mut Buffers<'_>, head: Head) -> Step {
        let bytes = io.from_client.unparsed();
        let request = Request::of(head);
        if request == Some(Request::CopyData) && self.pipeline.copying_in() {
            let rows = frame::run(bytes, head.tag, frame::FRONTEND_LIMIT);
            if rows > 0 {
                io.from_client.parse(rows);
                self.pipeline.request(Request::CopyData, ResponseAction::Forward);
                self.client_stream.begin_request(Request::CopyData, 0);
                return Step::On;
            }
        }
        if !self.may_pass(io, request) {
            return Step::None;
        }
        let Some(request) = request else {
            if head.tag == frontend::TERMINATE {
                self.client_stream.client = ClientSide::Ended;
            } else {
                self.client_stream.violates(ClientError::unknown_message(head.tag));
            }
            return Step::Last;
        };
        if self.pipeline.lost() && self.may_put_messages(request) {
            self.client_stream.violates(ambiguous_copy(self.context.mode));
            return Step::Last;
        }
        // In a copy the server refuses whatever has no place there by its type.
        let complete = self.pipeline.copying_in()
            || message_target::is_complete_enough(head, io.from_client.unparsed(), self.context.max_text_bytes);
        if !complete {
            io.from_client.make_room(head.size);
            self.client_stream.nothing_more();
            return Step::None;
        }
        let incoming = Incoming { request, head, here: head.size.min(io.from_client.unparsed().len()) };
        if self.forward(io, incoming) == Sent::Waits {
            self.gate = Gate::Answers;
            self.replay.part_was_sent();
            return Step::Last;
        }
        // If the preparation fails, the server discards no more than up to here.
        let is_enough = self.is_preparing() && request.ends_ready();
        if is_enough { Step::Last } else { Step::On }
    }

    /// Returns whether a request may need messages of pgferry's own, with answers that could not be told from the client's.
    fn may_put_messages(&self, request: Request) -> bool {
        !self.pipeline.copying_in()
            && !matches!(request, Request::Sync | Request::Flush | Request::CopyData | Request::CopyEnd)
            // In session mode only a `RESET` does, if the connection was opened with other settings.
            && (self.carries() || !self.wrongly_reset(&SessionCommand::ResetAll).is_empty())
    }

    /// Returns whether the next message, of which the header has not come, has no place in the copy under way: the server fails that by
    /// the first byte, and reads no more (`CopyGetData` in `src/backend/commands/copyfromparse.c`).
    fn breaks_copy(&self, bytes: &[u8]) -> bool {
        let request = request_begun(bytes);
        let has_place = matches!(request, Some(Request::CopyData | Request::CopyEnd | Request::Sync | Request::Flush));
        self.pipeline.copying_in() && request.is_some() && !has_place
    }

    /// Sends on what is there of the next message, which is less than its header.
    fn begin_header(&mut self, io: &mut Buffers<'_>) {
        if let Some(request) = request_begun(io.from_client.unparsed()) {
            self.pipeline.request(request, ResponseAction::Forward);
            self.undo();
        }
        self.client_stream.begin_rest(Rest::Forward, 0);
        self.take_rest(io);
    }

    fn take_rest(&mut self, io: &mut Buffers<'_>) -> bool {
        match self.client_stream.take_rest(io.from_client.unparsed()) {
            (0, _) => false,
            (taken, Rest::Forward) => {
                io.from_client.parse(taken);
                true
            }
            (taken, Rest::Drop) => {
                skip(io, taken);
                true
            }
        }
    }

    /// Returns whether the client's next message may go.
    fn may_pass(&mut self, io: &mut Buffers<'_>, request: Option<Request>) -> bool {
        if !matches!(self.phase, Phase::Working | Phase::Preparing { .. }) {
            return false;
        }
        if self.pipeline.copying_in() && matches!(request, Some(Request::CopyData | Request::CopyEnd)) {
            // The text that copies goes on behind it, and what that does decides what comes then.
            return true;
        }
        if self.pipeline.copying_in() || self.pipeline.has_no_answer_due() {
            // Nothing is waited for that the server won't say before it hears more.
            self.gate = Gate::Open;
            return true;
        }
        let syncs = matches!(request, Some(Request::Sync | Request::Flush));
        // A Sync behind a simple query brings no answer that would not come anyway.
        let harmless = syncs && self.pipeline.unsynced();
        let about_statements = matches!(
            request,
            Some(Request::Query | Request::Parse | Request::Bind | Request::Describe | Request::Close)
        );
        let waits = match self.gate {
            Gate::Answers => !harmless,
            Gate::Open if self.pipeline.owed() >= MAX_OWED => true,
            Gate::Open if !syncs && self.pipeline.kept_bytes() > MAX_KEPT_BYTES => true,
            // What a reset has to be corrected to is known when the server is ready.
            Gate::Open if !self.corrections.is_empty() && !self.pipeline.knows_status() => true,
            Gate::Open if !syncs && self.carries() && self.pipeline.copy_is_expected() => true,
            // What is in force is reported when the server is ready.
            Gate::Open if about_statements && self.client.in_force.are_unknown() && !self.pipeline.knows_status() => {
                true
            }
            Gate::Open => about_statements && (self.pipeline.at_stake() || self.awaits_open_settings()),
        };
        if waits && !self.is_preparing() {
            self.prompt(io);
        }
        !waits
    }

    /// Returns whether the end of an implicit transaction, of which the answer is owed, tells what becomes of settings that texts behind it
    /// are read under: it may have failed.
    fn awaits_open_settings(&self) -> bool {
        self.client.settings.has_changes() && self.pipeline.status() == IDLE && !self.pipeline.knows_status()
    }

    /// Has the server send the answers that it keeps back, of which one is waited for.
    pub(super) fn prompt(&mut self, io: &mut Buffers<'_>) {
        if self.pipeline.is_prompted() {
            return;
        }
        flush_forwarded(io);
        frontend::put_flush(io.to_server);
        self.pipeline.request(Request::Flush, ResponseAction::Swallow);
    }

    /// Sends the client's next message on, or what has to be sent in its place.
    fn forward(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        if self.pipeline.would_discard(incoming.request) {
            // The client has been told of the error behind the answers to all else, as if this had failed.
            flush_forwarded(io);
            frontend::put_sync(io.to_server);
            self.pipeline.request(Request::Sync, ResponseAction::Forward);
            self.drop_message(io, incoming);
            return Sent::Done;
        }
        if self.pipeline.skipping() || self.pipeline.copying_in() {
            self.pass(io, incoming, None);
            return Sent::Done;
        }
        if !matches!(incoming.request, Request::Sync | Request::Flush) && self.correct_discarded(io) {
            return Sent::Waits;
        }
        if self.lacks_settings(io, incoming) {
            self.ask_for_settings_in_force(io);
            return Sent::Waits;
        }
        if self.context.mode == Mode::Transaction {
            self.keep_for_replay(io, incoming);
        }
        match incoming.request {
            Request::Parse => self.counts.client_parses += 1,
            Request::Bind => self.counts.binds += 1,
            _ => {}
        }
        self.note_vacated(io, incoming);
        self.server.prepared.begin_message();
        let runs = self.server.ran == Ran::Nothing && self.may_run_code(io, incoming);
        let lexis = self.client.lexis();
        let reads_sources = !self.server.sources.are_by(lexis) && self.may_read_sources(io, incoming);
        let sent = self.forward_request(io, incoming);
        if runs && sent == Sent::Done {
            self.server.ran = Ran::Something;
        }
        if reads_sources && sent == Sent::Done {
            self.server.sources.are_read_by(lexis);
        }
        sent
    }

    /// Returns whether the message may have functions read, which no command does that only sets something.
    fn may_read_sources(&self, io: &Buffers<'_>, incoming: Incoming) -> bool {
        let sets = || {
            let command = session_command::of_sql(frontend::query(body(io, incoming)));
            command.is_some_and(|command| !command.controls_transaction())
        };
        self.may_run_code(io, incoming) && !(incoming.request == Request::Query && incoming.is_whole() && sets())
    }

    /// Returns whether the message may run code inside the database: values are read and plans are made by functions too.
    fn may_run_code(&self, io: &Buffers<'_>, incoming: Incoming) -> bool {
        match incoming.request {
            Request::Bind | Request::Execute | Request::Function => true,
            Request::Query => {
                let sql = frontend::query(body(io, incoming));
                !incoming.is_whole() || !transaction_block::only_begins(sql, self.client.lexis())
            }
            _ => false,
        }
    }

    fn forward_request(&mut self, io: &mut Buffers<'_>, incoming: Incoming) -> Sent {
        if is_refused_unread(self.client, incoming.head.tag, incoming.head.size, body(io, incoming)) {
            self.pass(io, incoming, None);
            return Sent::Done;
        }
        match incoming.request {
            Request::Query => self.query(io, incoming),
            Request::Parse => self.parse(io, incoming),
            Request::Bind | Request::Describe | Request::Close => self.named(io, incoming),
            Request::Execute => self.execute(io, incoming),
            Request::Function => self.function(io, incoming),
            _ => {
                self.pass(io, incoming, None);
                Sent::Done
            }
        }
    }

    /// Sends the message on as it is.
    pub(super) fn pass(&mut self, io: &mut Buffers<'_>, incoming: Incoming, note: Option<Note>) {
        self.counts.server_parses += u64::from(incoming.request == Request::Parse);
        self.pipeline.request_with(incoming.request, ResponseAction::Forward, note);
        self.undo();
        io.from_client.parse(incoming.here);
        self.client_stream.begin_request(incoming.request, incoming.head.size - incoming.here);
    }

    /// Sends the message on with another beginning.
    pub(super) fn pass_renamed(
        &mut self,
        io: &mut Buffers<'_>,
        incoming: Incoming,
        note: Option<Note>,
        beginning: &MessageHead<'_>,
    ) {
        let MessageHead { cut, before, name } = *beginning;
        flush_forwarded(io);
        let Head { tag, size } = incoming.head;
        frontend::put_renamed(io.to_server, tag, before, name, size - cut);
        skip(io, cut);
        let rest = Incoming { head: Head { tag, size: size - cut }, here: incoming.here - cut, ..incoming };
        self.pass(io, rest, note);
    }

    /// Answers the message instead of the server.
    pub(super) fn synthesize(&mut self, io: &mut Buffers<'_>, incoming: Incoming, note: Note) {
        if self.pipeline.may_copy() {
            // The server is to see that something has no place in a copy, where it has none.
            flush_forwarded(io);
            frontend::put_close(io.to_server, MEANWHILE);
            self.pipeline.request(Request::Close, ResponseAction::ForwardErrorOnly);
        }
        self.pipeline.request_with(incoming.request, ResponseAction::Synthesize, Some(note));
        self.undo();
        self.drop_message(io, incoming);
    }

    /// Refuses the message: what is sent in its place fails, as PostgreSQL would have it fail, and the client is told
    /// `client_error`.
    pub(super) fn refuse(&mut self, io: &mut Buffers<'_>, client_error: &ClientError, incoming: Incoming) {
        tracing::debug!(client = self.context.client, "refused a statement: {client_error}");
        flush_forwarded(io);
        match incoming.request {
            Request::Query | Request::Function => {
                if incoming.request == Request::Query && self.begins_block(io, incoming) {
                    // What is sent behind it counts on being part of the transaction.
                    frontend::put_query(io.to_server, b"BEGIN");
                    self.pipeline.request(Request::Query, ResponseAction::Swallow);
                }
                frontend::put_query(io.to_server, REFUSED);
            }
            _ => frontend::put_parse(io.to_server, "pgferry_refused", &[REFUSED, b"\0\0\0"].concat()),
        }
        let mut frame = Vec::new();
        client_error.put(&mut frame);
        let mut note = if incoming.request == Request::Query {
            let change = self.drop_unnamed();
            self.note_unnamed(change)
        } else {
            Note::default()
        };
        note.refusal = Some(frame.into());
        self.pipeline.request_with(incoming.request, ResponseAction::Reject, Some(note));
        self.undo();
        self.drop_message(io, incoming);
    }

    fn begins_block(&self, io: &Buffers<'_>, incoming: Incoming) -> bool {
        let sql = frontend::query(body(io, incoming));
        self.pipeline.status() == IDLE && transaction_block::after(sql, self.client.lexis()).is_some_and(Block::is_open)
    }

    /// Does not send the message.
    pub(super) fn drop_message(&mut self, io: &mut Buffers<'_>, incoming: Incoming) {
        skip(io, incoming.here);
        self.client_stream.begin_rest(Rest::Drop, incoming.head.size - incoming.here);
    }
}

/// Error for a client that has sent a `Sync`, or what has no place there, behind copy data on which the copy failed: whether the server
/// has ignored it is not known.
fn ambiguous_copy(mode: Mode) -> ClientError {
    let hint = match mode {
        Mode::Transaction => {
            "Send nothing but data between the data of a COPY and its CopyDone, or use pool_mode = \"session\"."
        }
        Mode::Session => {
            "Send nothing but data between the data of a COPY and its CopyDone, or leave settings out of the connection string."
        }
    };
    let message = "what follows a failed COPY can't be followed";
    ClientError::fatal(ErrorSource::Client, sqlstate::FEATURE_NOT_SUPPORTED, message).hint(hint)
}

/// The request of which these are the first bytes, less than its header.
fn request_begun(bytes: &[u8]) -> Option<Request> {
    let &tag = bytes.first()?;
    Request::of(Head { tag, size: frame::HEADER_BYTES })
}

/// Drops the client's next `n` bytes.
fn skip(io: &mut Buffers<'_>, n: usize) {
    flush_forwarded(io);
    io.from_client.skip(n);
}

/// Another beginning for a `Parse`, `Bind`, `Describe` or `Close`.
pub(super) struct MessageHead<'n> {
    /// Number of bytes of the message that it replaces.
    pub(super) cut: usize,
    /// Part of the body in front of the statement's name.
    pub(super) before: &'n [u8],
    /// The statement's name.
    pub(super) name: &'n str,
}

/// The body of the client's next message, as far as it is there.
pub(super) fn body<'b>(io: &'b Buffers<'_>, incoming: Incoming) -> &'b [u8] {
    io.from_client.unparsed().get(frame::HEADER_BYTES..incoming.here).unwrap_or_default()
}
