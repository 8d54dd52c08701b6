//! Between two messages: whether the connection can be given back there, and what is to be done before.

use super::client_stream::ClientSide;
use super::{Buffers, Flush, Machine, Next, Phase, flush_forwarded};
use crate::config::Mode;
use crate::track::{Pins, Request, ResponseAction};
use crate::wire::frontend;

impl Machine<'_> {
    /// Looks whether both sides are between two pieces of work, and what is to be done there; `flush` tells of what was to be sent
    /// to either side.
    pub fn boundary(&mut self, io: &mut Buffers<'_>, flush: Flush) -> Next {
        if matches!(self.phase, Phase::Leaving | Phase::Ended) {
            // The server's own end is waited for.
            return Next::Wait;
        }
        let ended = self.client_stream.client == ClientSide::Ended;
        if ended && let Some(next) = self.end_unanswered(io, flush) {
            return next;
        }
        let under_way = self.is_preparing()
            || flush == Flush::Pending
            || self.client_stream.is_partial()
            || self.server_stream.is_partial()
            || !io.from_client.unsent().is_empty()
            || !io.from_server.unsent().is_empty();
        let still = self.pipeline.answered() || (ended && (self.pipeline.is_still() || self.pipeline.copying_in()));
        if under_way || !still {
            return Next::Wait;
        }
        if ended {
            return self.end_answered(io);
        }
        self.server_stream.resume();
        if self.pipeline.settled_but_for_reports() {
            // The client has asked for nothing that brings a ReadyForQuery.
            self.put_own_sync(io);
            return Next::Again;
        }
        if !self.pipeline.settled() {
            return Next::Wait;
        }
        if self.context.mode == Mode::Session {
            self.start.clone_from(&self.server.params);
            self.explained = super::announced_settings::AnnouncedSettings::default();
            return Next::Idle(self.kept_for_session());
        }
        self.settle(io)
    }

    /// The client is between two pieces of work, and its session is carried from connection to connection: it gives this one back, or
    /// keeps it for reasons about which the server is asked first, where it may know.
    fn settle(&mut self, io: &mut Buffers<'_>) -> Next {
        self.drop_rolled_back();
        let unexplained = self.unexplained();
        if !unexplained.is_empty() {
            self.pins.insert(Pins::NAMED_SETTING);
            self.note_named_settings(&unexplained);
        }
        let askable =
            !self.pins.is_empty() && self.pins.difference(Pins::QUERYABLE.union(Pins::NAMED_SETTING)).is_empty();
        if askable && self.pins.contains(Pins::NAMED_SETTING) {
            self.ask_for_settings(io);
            return Next::Again;
        }
        let stale = std::mem::replace(&mut self.stale_pins, Pins::empty());
        if askable && !self.pins.intersection(stale).is_empty() {
            self.ask_for_pins(io);
            return Next::Again;
        }
        self.pack();
        self.former_pins = self.pins;
        if self.pins.is_empty() { Next::End(super::End::Settled) } else { Next::Idle(self.pins) }
    }

    /// The client has ended: returns what is next where the server's answers are not to be waited for.
    fn end_unanswered(&mut self, io: &mut Buffers<'_>, flush: Flush) -> Option<Next> {
        if self.client_stream.is_partial() && !self.is_preparing() {
            return Some(self.leave_in_message(io, flush));
        }
        if self.pipeline.lost() {
            return Some(self.leave(io));
        }
        if !self.is_kept_back() {
            return None;
        }
        if self.client_stream.is_in_violation() {
            // What it is told in the end has all before it sent.
            self.prompt(io);
            return Some(Next::Again);
        }
        Some(self.leave(io))
    }

    /// The client has ended, and has its answers, unless a copy waits for more of its data.
    fn end_answered(&mut self, io: &mut Buffers<'_>) -> Next {
        if !self.pipeline.copying_in() {
            return Next::End(self.client_stream.farewell());
        }
        // The server may have failed it already, which the client is to hear.
        flush_forwarded(io);
        frontend::put_copy_fail(io.to_server, "the client has ended");
        self.pipeline.request(Request::CopyEnd, ResponseAction::Swallow);
        Next::Again
    }

    /// Returns whether the server keeps back the answers to all that is owed, which no `Sync` or `Flush` has followed. If one of the
    /// requests fails, it says so at once, and the client is to have that; what it goes on keeping back is lost with the
    /// session. Only the session's end tells the one from the other.
    fn is_kept_back(&self) -> bool {
        let kept_back = self.pipeline.is_still() && !self.pipeline.is_prompted() && !self.pipeline.copying_in();
        kept_back && !self.is_preparing() && !self.client_stream.is_partial()
    }

    /// The client has ended, and what the server still says is not known: the server is told of the end, and all that it
    /// says until it ends as well is the client's.
    fn leave(&mut self, io: &mut Buffers<'_>) -> Next {
        flush_forwarded(io);
        frontend::put_terminate(io.to_server);
        self.phase = Phase::Leaving;
        self.server_stream.walk_to_end();
        Next::Again
    }

    /// The client has ended in the middle of a message, of which the rest will never come. The server sees the same.
    fn leave_in_message(&mut self, io: &Buffers<'_>, flush: Flush) -> Next {
        let under_way = flush == Flush::Pending || !io.from_client.unsent().is_empty();
        if under_way || !matches!(self.phase, Phase::Working) {
            return Next::Wait;
        }
        if self.pipeline.answered() {
            // It says nothing to that.
            return Next::End(self.client_stream.farewell());
        }
        self.phase = Phase::Leaving;
        self.server_stream.walk_to_end();
        Next::HalfClose
    }

    /// Reason why a session stays on its connection: what it has left there, its unnamed statement included.
    fn kept_for_session(&self) -> Pins {
        if self.client.unnamed.is_some() { self.pins.union(Pins::STATEMENT) } else { self.pins }
    }
}
