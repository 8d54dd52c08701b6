//! Between two messages: whether the connection can be given back there, and what is to be done before.

use super::from_client::ClientSide;
use super::{Buffers, End, Machine, Next, Phase};
use crate::config::Mode;
use crate::track::{Pins, Reply, Request};
use crate::wire::frontend;

impl Machine<'_> {
    /// Looks whether both sides are between two pieces of work, and what is to be done there. `all_sent` says that the
    /// kernel has taken all that was to be sent to either side.
    pub fn boundary(&mut self, io: &mut Buffers<'_>, all_sent: bool) -> Next {
        let ended = self.up.client == ClientSide::Ended;
        if ended && self.pipeline.lost() {
            return Next::End(End::Goodbye);
        }
        if ended && all_sent && self.leave(io) {
            return Next::Again;
        }
        let under_way = self.is_preparing()
            || !all_sent
            || self.up.is_partial()
            || self.down.is_partial()
            || !io.from_client.unsent().is_empty()
            || !io.from_server.unsent().is_empty();
        if ended && self.up.is_partial() && io.from_client.unsent().is_empty() {
            // The rest of its message will never come.
            return Next::End(End::Goodbye);
        }
        let still = self.pipeline.answered()
            || (ended
                && (self.pipeline.is_still() || self.pipeline.copying_in())
                && !matches!(self.phase, Phase::Leaving));
        if under_way || !still {
            return Next::Wait;
        }
        if ended {
            return Next::End(End::Goodbye);
        }
        self.down.resume();
        if self.pipeline.settled_but_for_reports() {
            // The client has asked for nothing that brings a ReadyForQuery.
            frontend::put_sync(io.to_server);
            self.pipeline.request(Request::Sync, Reply::Swallow);
            return Next::Again;
        }
        if !self.pipeline.settled() {
            return Next::Wait;
        }
        if self.context.mode == Mode::Session {
            self.start.clone_from(&self.server.params);
            self.explained = super::session_sync::Explained::default();
            return Next::Idle(self.kept_for_session());
        }
        let askable = !self.pins.is_empty() && self.pins.without(Pins::QUERYABLE).is_empty();
        let stale = std::mem::replace(&mut self.stale_pins, Pins::none());
        if askable && !self.pins.among(stale).is_empty() {
            self.ask_for_pins(io);
            return Next::Again;
        }
        self.pack();
        if self.pins.is_empty() { Next::End(End::Settled) } else { Next::Idle(self.pins) }
    }

    /// The client ends behind extended requests whose answers the server keeps back. If one of them fails, the server says
    /// so at once, and the client is to have that; what it goes on keeping back, perhaps the rest of a message, is lost
    /// with the session. Only the session's end tells the one from the other. Says whether the server is asked for it.
    fn leave(&mut self, io: &mut Buffers<'_>) -> bool {
        let keeps_back = self.pipeline.is_still() && !self.pipeline.is_prompted() && !self.pipeline.copying_in();
        let all_seen = !self.up.is_partial() && io.from_client.unsent().is_empty();
        if !keeps_back || !all_seen || !matches!(self.phase, Phase::Working) {
            return false;
        }
        frontend::put_terminate(io.to_server);
        self.phase = Phase::Leaving;
        true
    }

    /// Why a session stays on its connection: what it has left there, its unnamed statement included.
    fn kept_for_session(&self) -> Pins {
        if self.client.unnamed.is_some() { self.pins.union(Pins::STATEMENT) } else { self.pins }
    }
}
