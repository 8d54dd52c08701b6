//! Between two messages: whether the connection can be given back there, and what is to be done before.

use super::{End, Next, Relay};
use crate::config::Mode;
use crate::drain::Phase;

impl Relay<'_> {
    /// Looks whether both sides are between two pieces of work, and what is to be done there.
    pub(super) fn boundary(&mut self) -> Next {
        if self.goodbye && self.pipeline.lost() {
            return Next::End(End::Goodbye);
        }
        let under_way = self.preparing()
            || self.up_left > 0
            || self.down_left > 0
            || !self.client.is_flushed()
            || !self.client.input.unsent().is_empty()
            || !self.link.conn.is_flushed()
            || !self.link.conn.input.unsent().is_empty();
        if under_way || !(self.pipeline.answered() || (self.goodbye && self.pipeline.is_still())) {
            return Next::Wait;
        }
        if self.running {
            self.running = false;
            self.gather.end(&self.link.conn);
            self.loan.set_active(false);
            self.control.set_idle(self.bag);
        }
        if self.goodbye {
            return Next::End(End::Goodbye);
        }
        if std::mem::take(&mut self.unopened) {
            return Next::Again;
        }
        if let Next::Again = self.interject() {
            return Next::Again;
        }
        self.act = None;
        if std::mem::take(&mut self.barrier) && !self.client.input.is_empty() {
            // What waited can go on now.
            return Next::Again;
        }
        if !self.pipeline.settled() {
            return Next::Wait;
        }
        if self.shared.drain.phase() >= Phase::Draining {
            return Next::End(End::Shutdown);
        }
        if self.mode == Mode::Session {
            // A client that has left nothing in its session moves to where connections go by now.
            let unnamed = self.unnamed_here && self.unnamed_look.is_some();
            let moves = self.pins.is_empty() && !unnamed && self.loan.pool().is_outdated(&self.shared.registry);
            if moves {
                return Next::End(End::Settled);
            }
            self.settle_accounts();
            return Next::Wait;
        }
        self.pack();
        if self.pins.is_empty() {
            return Next::End(End::Settled);
        }
        self.settle_accounts();
        self.count_pins();
        Next::Wait
    }

    fn count_pins(&mut self) {
        let new = self.pins.without(self.counted);
        if !new.is_empty() {
            self.counted.add(new);
            self.control.set_pins(self.pins);
            self.shared.registry.counters.pinned(new);
            tracing::debug!(client = self.control.id, link = self.link.id, "keeps its connection because of: {new}");
        }
    }

    /// Takes back in the books what has not happened.
    pub(super) fn undo(&mut self) {
        for undo in self.pipeline.take_undone() {
            self.link.prepared.undo(&undo);
            if let Some((name, None)) = &undo.name {
                self.forget(name);
            }
            self.bag.undo(&undo);
        }
    }
}
