//! The protocol logic of one client on one server connection, as a state machine without I/O.
//!
//! Messages from either side go in ([`Machine::client_sent`], [`Machine::server_sent`]), messages for either side come
//! out in the same [`Buffers`]. Headers are walked, bodies are not: runs of messages are forwarded out of the buffer they
//! came into. The relay moves the bytes and asks [`Machine::boundary`] what is next. `context` is what a machine works on.
//!
//! What the client is to find ([`ClientState`]) and what the connection has ([`ServerState`]) are two states. What
//! must go in front of a message is a function of the two and the message:
//! - `preparation`: what goes in front of a client's first message.
//! - `first_bytes`: what is unread again where the server has not come to it.
//! - `from_client`: walks the client's messages, in which `client_stream` is the position; `statements`, `parse`, `unnamed`
//!   and `ensure_prepared` give statements the names they have on the connection (`aliases`).
//! - `from_server`: walks the server's messages; `errors` edits errors.
//! - `portals`: what those were made of.
//! - `session_sync`: what statements do to the session: the settings that they set (`announced_settings`), what becomes of
//!   transactions (`work_outcome`); `own_queries` what pgferry itself asks and tells the server.
//! - `administration`: what it means for others' connections; `boundary`: what is next between two messages.
//! - `replay`: does work again that an outdated plan has spoilt.
//! - [`plain_request`]: what most clients mostly say, for which no machine is made.
//! - [`first_request`]: what a client sends next that has no connection.
//! - [`refusal`]: answers requests for which there is no connection.

mod administration;
mod aliases;
mod announced_settings;
mod boundary;
mod client_stream;
mod context;
mod counts;
mod ensure_prepared;
mod errors;
mod first_bytes;
pub(crate) mod first_request;
mod from_client;
mod from_server;
mod mentioned;
mod origins;
mod outcome;
mod own_queries;
mod parse;
pub(crate) mod plain_request;
mod portals;
pub(crate) mod preparation;
pub(crate) mod refusal;
mod refused_unread;
mod replay;
mod resetting;
mod session_sync;
mod statement_errors;
mod statements;
mod unnamed;
mod work_outcome;

use crate::config::Mode;
use crate::track::params::ServerParams;
use crate::track::sequences::Sequences;
use crate::track::server_state::CloseMethod;
use crate::track::{ClientState, Pins, Pipeline, Request, ResponseAction, ServerState};
use announced_settings::AnnouncedSettings;
use client_stream::{ClientSide, ClientStream};
pub use context::{Buffers, Context, Flush};
pub(crate) use counts::Counts;
use first_bytes::FirstBytes;
use from_server::ServerStream;
pub use outcome::{End, MachineResult, Next};
use own_queries::Question;
use portals::Portal;
use preparation::Preparation;
use replay::Replay;
use work_outcome::WorkOutcome;

/// Phases of a machine.
#[derive(Debug)]
enum Phase {
    /// Messages of pgferry's own in front of the client's first have not been answered.
    Preparing {
        /// Number of answers that are still to come.
        left: usize,
    },
    /// The server works for the client.
    Working,
    /// The server is asked, or told, something of pgferry's own. The client's next messages wait.
    Asking(Question),
    /// The client's work is done again from its beginning, once the server is ready.
    Replaying,
    /// The client has ended, and so does the server, of which is not known what it owes: the client gets what it says.
    Leaving,
    /// The server has told the client why it ends.
    Ended,
}

/// Admission of the client's next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// It may.
    Open,
    /// It waits for the answers to what was sent, since they decide what it means. `Sync` and `Flush` may go, and
    /// whatever the server is going to discard.
    Answers,
}

/// One client on one server connection.
#[derive(Debug)]
pub struct Machine<'a> {
    context: Context<'a>,
    client: &'a mut ClientState,
    server: &'a mut ServerState,
    pipeline: Pipeline,
    phase: Phase,
    gate: Gate,
    client_stream: ClientStream,
    server_stream: ServerStream,
    first: FirstBytes,
    preparation: Preparation,
    /// Reason why the client keeps the connection.
    pins: Pins,
    /// Pins that may be gone: the server should be asked.
    stale_pins: Pins,
    /// The reasons that there were when the client was last between two pieces of work.
    former_pins: Pins,
    /// Outcome of the client's transactions since then.
    work: WorkOutcome,
    /// Settings that the server is to be asked for, since the client's statements have changed them in ways that don't tell.
    named_settings: Vec<Box<[u8]>>,
    /// The reported settings when this piece of work began.
    start: ServerParams,
    /// The settings that the client's statements are known to set in it.
    explained: AnnouncedSettings,
    /// Settings that a `DISCARD ALL` took to what another client asked for, and what they should be.
    corrections: Vec<own_queries::OwnSetting>,
    /// Use of sequences in this piece of work.
    sequences: Sequences,
    /// Use of sequences before it.
    found_sequences: Sequences,
    portals: Vec<Portal>,
    resetting: resetting::Resetting,
    /// Statements of the client that stand under other names for the time being, or did lately.
    aliases: aliases::Aliases,
    first_name: ensure_prepared::FirstName,
    replay: Replay,
    counts: Counts,
    administration: administration::Administration,
}

impl<'a> Machine<'a> {
    /// Joins the client's state and the connection's; `preparation` makes the one fit for the other.
    #[must_use]
    pub fn new(
        context: Context<'a>,
        client: &'a mut ClientState,
        server: &'a mut ServerState,
        preparation: Preparation,
    ) -> Self {
        join(client, server);
        let client_view = client.view.clone();
        Self {
            context,
            client,
            server,
            pipeline: Pipeline::new(),
            phase: Phase::Working,
            gate: Gate::Open,
            client_stream: ClientStream::default(),
            server_stream: ServerStream::default(),
            first: FirstBytes::Forgotten,
            preparation,
            pins: Pins::empty(),
            stale_pins: Pins::empty(),
            former_pins: Pins::empty(),
            work: WorkOutcome::default(),
            named_settings: Vec::new(),
            start: client_view,
            explained: AnnouncedSettings::default(),
            corrections: Vec::new(),
            sequences: Sequences::Untouched,
            found_sequences: Sequences::Untouched,
            portals: Vec::new(),
            resetting: resetting::Resetting::default(),
            aliases: aliases::Aliases::default(),
            first_name: ensure_prepared::FirstName::default(),
            replay: Replay::default(),
            counts: Counts::default(),
            administration: administration::Administration::default(),
        }
    }

    /// Sends the preparation, and behind it as much of what the client has sent as may go before it is answered.
    ///
    /// # Errors
    /// How the machine ends.
    pub fn open(&mut self, io: &mut Buffers<'_>) -> Result<(), End> {
        let together = self.preparation.goes_together();
        io.to_server.extend_from_slice(self.preparation.messages());
        let mut left = 0;
        for &request in self.preparation.requests() {
            self.pipeline.request(request, ResponseAction::Swallow);
            left += usize::from(request != Request::Flush);
        }
        self.preparation.apply(self.server, self.client);
        self.found_sequences = self.server.sequences;
        if self.preparation.has_statements() {
            self.pipeline.on_preparation_sent();
        }
        if left > 0 {
            self.phase = Phase::Preparing { left };
        } else {
            self.server.used = self.server.used.and(self.context.client, self.client.work);
        }
        if together {
            self.first = FirstBytes::Unsent(Vec::new());
            self.client_sent(io);
            flush_forwarded(io);
        }
        if left == 0 {
            self.tell_differences(io);
        }
        Ok(())
    }

    /// Notes that the kernel has taken bytes for the server: from here on only the server's word tells whether it has
    /// come to them.
    pub fn on_sent(&mut self) {
        self.first = match std::mem::replace(&mut self.first, FirstBytes::Forgotten) {
            FirstBytes::Unsent(first) | FirstBytes::Sent(first) if self.is_preparing() => FirstBytes::Sent(first),
            _ => FirstBytes::Forgotten,
        };
    }

    /// Returns whether messages of pgferry's own in front of the client's first have not been answered.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        matches!(self.phase, Phase::Preparing { .. })
    }

    /// Returns whether the server works for the client.
    #[must_use]
    pub fn is_working(&self) -> bool {
        !self.is_preparing() && !self.pipeline.answered()
    }

    /// Returns whether all has been answered that was sent.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.pipeline.answered()
    }

    /// Returns whether the client's session lasts for its connection.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Returns whether the kernel has taken none of the client's first messages.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self.first, FirstBytes::Unsent(_))
    }

    /// Returns whether all that the server has said so far has been answered for, and what comes next is looked at only if the
    /// machine goes on.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.server_stream.is_at_boundary() && self.pipeline.answered()
    }

    /// Notes that the server takes no more: the machine goes on to what it says at the end, wherever the client is.
    pub fn server_takes_no_more(&mut self) {
        self.server_stream.walk_to_end();
    }

    /// Returns whether the client's next bytes are of no use yet.
    #[must_use]
    pub fn holds_client(&self) -> bool {
        match self.phase {
            Phase::Preparing { .. } | Phase::Asking(_) | Phase::Replaying | Phase::Leaving | Phase::Ended => true,
            Phase::Working => self.client_stream.client == ClientSide::Ended,
        }
    }

    /// Returns whether the client is known to send no more.
    #[must_use]
    pub fn client_has_ended(&self) -> bool {
        self.client_stream.client != ClientSide::Open
    }

    /// Notes that the client sends no more: all before that is carried out and answered, as with a `Terminate`.
    pub fn client_ended(&mut self) {
        if self.client_stream.client == ClientSide::Open {
            self.client_stream.client = ClientSide::Ending;
        }
    }

    /// The connection has ended.
    ///
    /// At most once: the client's work goes to another connection only on proof that the server has not come to it. The end of the
    /// stream is none, however orderly: whatever forwards connections ends them so as well when it is gone itself, with the server's
    /// answers. A server that ends a session says why, which is read before its end.
    pub fn server_ended(&mut self, io: &mut Buffers<'_>) -> End {
        if matches!(self.phase, Phase::Leaving) {
            return self.client_stream.farewell();
        }
        if self.is_unsent() {
            self.give_up(io)
        } else if self.owes_nothing(io) {
            // What the client has set goes along to the next one.
            self.pack();
            self.give_up(io)
        } else {
            End::ServerLost { told: matches!(self.phase, Phase::Ended) }
        }
    }

    /// Returns whether the client is between two pieces of work, and has nothing on this connection: that it ends is no matter of
    /// the client's.
    fn owes_nothing(&self, io: &Buffers<'_>) -> bool {
        self.carries()
            && self.pins.is_empty()
            && self.pipeline.settled()
            && !self.client_stream.is_partial()
            && io.from_client.unsent().is_empty()
            && io.to_server.is_empty()
    }

    /// Makes all unread that the client has sent: the server has not come to it.
    fn give_up(&mut self, io: &mut Buffers<'_>) -> End {
        self.pipeline.abandon();
        self.undo();
        flush_forwarded(io);
        if let FirstBytes::Unsent(first) | FirstBytes::Sent(first) =
            std::mem::replace(&mut self.first, FirstBytes::Forgotten)
        {
            io.from_client.put_back(&first);
        }
        self.client_stream.put_back();
        End::Stale
    }

    /// Takes the counts since this was last called.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Returns the client's state, for others to see.
    #[must_use]
    pub fn client(&self) -> &ClientState {
        self.client
    }

    /// Number of statements that are prepared on the connection.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.server.prepared.len()
    }

    /// Ends the machine, with `end` if it has said so itself; `to_server` tells of what was to be sent to the server.
    pub fn finish(&mut self, io: &mut Buffers<'_>, end: Option<&End>, to_server: Flush) -> MachineResult {
        let cut = self.server_stream.is_passing();
        if !cut {
            // Whole messages, on which whatever the client is told at the end can follow.
            buffer_for_client(io);
        }
        if self.awaits_settings() {
            // Which settings the session has is not known.
            self.pins.insert(Pins::SETTING);
        }
        if self.pipeline.owed() > 0 && self.aliases.is_freeing() {
            // Which statements the session has is not known.
            self.pins.insert(Pins::STATEMENT);
        }
        if self.context.mode == Mode::Transaction && !self.is_preparing() {
            self.server.kept.clone_from(self.client.settings.kept());
        }
        let is_unsent = !io.from_client.unsent().is_empty() || to_server == Flush::Pending;
        let partial = self.client_stream.is_partial() || is_unsent;
        let gone = matches!(end, Some(End::ServerLost { .. } | End::Stale))
            || self.pipeline.lost()
            // The server has ended the session, with a word that its client may not have waited for.
            || matches!(self.phase, Phase::Leaving | Phase::Ended);
        if let Some(request) = self.client_stream.unfinished_request(is_unsent) {
            self.pipeline.withdraw(request);
        }
        self.server.close_method = match () {
            () if partial || gone => CloseMethod::Silent,
            () if self.pipeline.copying_in() => CloseMethod::CopyFail,
            () => CloseMethod::Terminate,
        };
        MachineResult {
            pipeline: std::mem::take(&mut self.pipeline),
            pins: self.pins,
            partial_down: self.server_stream.left(),
            cut,
        }
    }

    fn carries(&self) -> bool {
        self.context.mode == Mode::Transaction
    }

    /// Messages of pgferry's own have been answered: the connection is alive and as the client expects it.
    fn on_prepared(&mut self, io: &mut Buffers<'_>) {
        self.phase = Phase::Working;
        self.first = FirstBytes::Forgotten;
        if !self.preparation.goes_together() {
            let parameters = self.context.parameters;
            parameters.learn_canonical(&self.client.wanted, &self.server.params);
            for wanted in [&mut self.client.wanted, &mut self.client.asked] {
                *wanted = wanted.canonical(|name, value| parameters.canonical(name, value));
            }
            self.server.params.share(&self.client.view);
        }
        self.server.used = self.server.used.and(self.context.client, self.client.work);
        self.server.kept.clone_from(self.client.settings.kept());
        if !self.preparation.goes_together() || self.preparation.is_probe() {
            self.tell_differences(io);
        }
        if !self.preparation.goes_together() {
            // Nothing of the client's is under way yet, which would pass for its work being over.
            self.client_sent(io);
        }
    }

    /// Tells the client of reported settings that are other than it was told before.
    fn tell_differences(&mut self, io: &mut Buffers<'_>) {
        if self.server.params == self.client.view {
            return;
        }
        buffer_for_client(io);
        for (name, value) in self.server.params.beyond(&self.client.view) {
            crate::wire::backend::put_parameter_status(io.to_client, name, value);
        }
        self.client.view.clone_from(&self.server.params);
    }

    /// Returns the value of a reported setting to which the client's own `RESET` goes back: what its startup packet asked
    /// for, or what the server gives to clients that ask for nothing.
    fn own_reset_value<'v>(&'v self, name: &str, baseline: &'v ServerParams) -> Option<&'v [u8]> {
        self.client.asked.get(name).or_else(|| baseline.get(name.as_bytes()))
    }

    /// Returns whether a message that is sent now may be discarded, since an extended request of the client's before it may fail.
    /// If the preparation fails, the connection is not used again.
    fn may_be_discarded(&self) -> bool {
        let preparing = if let Phase::Preparing { left } = self.phase { left } else { 0 };
        self.pipeline.owes_unsynced(preparing)
    }

    /// Takes back in both states what has not happened.
    fn undo(&mut self) {
        for (mut rollback, how) in self.pipeline.take_undone() {
            if let Some((name, None)) = &rollback.name
                && let Some(named) = self.client.names.get(name)
            {
                self.aliases.given_up(named.statement.id, name);
            }
            if let Some((name, before)) = rollback.resetting.take() {
                self.resetting.set(&name, before);
            }
            self.server.undo(&mut rollback, how);
            self.client.undo(&mut rollback, how);
        }
    }
}

/// Joins the states of a client and of the connection that it is given, before anything is sent.
fn join(client: &mut ClientState, server: &mut ServerState) {
    server.params.share(&client.view);
    client.in_force.on_reported();
    // Until it is known otherwise: dropped in the middle of something, the connection is closed without a word.
    server.close_method = CloseMethod::Silent;
}

/// Moves what waits to be sent to the server out of the client's buffer to where something can be put behind it.
fn flush_forwarded(io: &mut Buffers<'_>) {
    let unsent = io.from_client.unsent();
    io.to_server.extend_from_slice(unsent);
    let n = unsent.len();
    io.from_client.sent(n);
}

/// Moves what waits to be sent to the client out of the server's buffer to where something can be put behind it.
fn buffer_for_client(io: &mut Buffers<'_>) {
    let unsent = io.from_server.unsent();
    io.to_client.extend_from_slice(unsent);
    let n = unsent.len();
    io.from_server.sent(n);
}
