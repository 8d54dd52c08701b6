//! Moves bytes between one client and one connection, until the connection can be given back or one of them ends.
//!
//! Headers are walked, bodies are not: runs of messages go out of the buffer they came into with one write. Each
//! direction either has bytes that wait for the other side, and then does not read, or waits for its own side; the two
//! are independent, so that a client that pipelines and a server that answers can't block each other.

mod down;
mod up;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::futures::Notified;

use super::Shared;
use super::cancel::Control;
use super::checkout::Preparation;
use crate::config::Mode;
use crate::drain::Phase;
use crate::error::Fault;
use crate::net::Conn;
use crate::track::{Params, Pins, Pipeline, Reply, Unnamed};
use crate::upstream::{Lease, cancel};
use crate::wire::backend;

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// The connection is between two pieces of work and can be given back.
    Settled,
    /// The client said good-bye.
    Goodbye,
    /// The client is gone without a word.
    ClientGone,
    /// The process is going away, and the client is between two pieces of work (or the time is up).
    Shutdown,
    /// The client must be told this and end.
    Refuse(Fault),
    /// The connection broke; whether its last word was an error that the client has seen.
    UpstreamLost {
        /// Whether the client has been told why.
        told: bool,
    },
    /// The connection turned out to be dead before anything of the client's was worked on: all of that is unread
    /// again, to be sent elsewhere.
    Stale,
}

/// How a relay left things.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// What the server still owes.
    pub pipeline: Pipeline,
    /// What the client left in the session.
    pub pins: Pins,
    /// Bytes of the server's current message that are still to come.
    pub partial_down: usize,
    /// Whether the server has part of a client's message.
    pub partial_up: bool,
    /// Whether the client has got part of a server's message, and won't get the rest.
    pub cut: bool,
}

/// One client on one connection.
#[derive(Debug)]
pub struct Relay<'a> {
    shared: &'a Arc<Shared>,
    client: &'a mut Conn,
    lease: &'a mut Lease,
    control: &'a Control,
    view: &'a mut Params,
    preparation: &'a Preparation,
    mode: Mode,
    pipeline: Pipeline,
    pins: Pins,
    unnamed: Unnamed,
    /// Answers to our own messages in front of the client's first are still to come.
    preparing: bool,
    /// The server's error in answer to one of those.
    refused: Option<Arc<[u8]>>,
    /// The client's first bytes, kept until it is certain that the connection was alive.
    first: Vec<u8>,
    /// The client's next bytes must wait.
    hold: bool,
    up_left: usize,
    down_left: usize,
    down_hidden: bool,
    goodbye: bool,
    /// The server takes no more.
    deaf: bool,
    told: bool,
    running: bool,
}

impl<'a> Relay<'a> {
    /// Joins `client`, which was told the settings in `view`, and `lease`, which `preparation` makes fit for it.
    #[must_use]
    pub fn new(
        shared: &'a Arc<Shared>,
        client: &'a mut Conn,
        lease: &'a mut Lease,
        control: &'a Control,
        view: &'a mut Params,
        preparation: &'a Preparation,
        mode: Mode,
    ) -> Self {
        Self {
            shared,
            client,
            lease,
            control,
            view,
            preparation,
            mode,
            pipeline: Pipeline::new(),
            pins: Pins::none(),
            unnamed: Unnamed::new(!preparation.foreign),
            preparing: !preparation.requests.is_empty(),
            refused: None,
            first: Vec::new(),
            hold: !preparation.requests.is_empty(),
            up_left: 0,
            down_left: 0,
            down_hidden: false,
            goodbye: false,
            deaf: false,
            told: false,
            running: false,
        }
    }

    /// Sends the preparation and the client's first messages, then moves bytes until the end.
    pub async fn run(mut self) -> Outcome {
        let end = match self.open() {
            Ok(()) => self.until_end().await,
            Err(end) => end,
        };
        self.lease.set_active(false);
        self.lease.set_copying_in(self.pipeline.copying_in());
        let cut = self.down_left > 0 && !self.down_hidden;
        if !cut {
            // Whole messages, on which whatever the client is told at the end can follow.
            let unsent = self.lease.conn.input.unsent().len();
            self.client.output.extend_from_slice(self.lease.conn.input.unsent());
            self.lease.conn.input.sent(unsent);
        }
        Outcome {
            end,
            cut,
            partial_down: self.down_left,
            partial_up: self.up_left > 0
                || !self.client.input.unsent().is_empty()
                || !self.lease.conn.output.is_empty(),
            pipeline: self.pipeline,
            pins: self.pins,
        }
    }

    fn open(&mut self) -> Result<(), End> {
        self.control.set_preparing();
        for &request in &self.preparation.requests {
            self.pipeline.request(request, Reply::Hide);
        }
        self.lease.conn.output.extend_from_slice(&self.preparation.messages);
        self.parse_up()?;
        self.first.extend_from_slice(self.client.input.unsent());
        self.client.input.sent(self.first.len());
        if !self.preparation.must_succeed_first {
            self.lease.conn.output.extend_from_slice(&self.first);
        }
        if !self.preparing {
            self.tell_differences();
            self.note_running();
        }
        Ok(())
    }

    async fn until_end(&mut self) -> End {
        let control = self.control;
        let mut wake = pin!(control.wake.notified());
        poll_fn(|cx| self.poll(cx, wake.as_mut(), control)).await
    }

    fn poll<'n>(&mut self, cx: &mut Context<'_>, mut wake: Pin<&mut Notified<'n>>, control: &'n Control) -> Poll<End> {
        while wake.as_mut().poll(cx).is_ready() {
            wake.set(control.wake.notified());
        }
        if self.shared.drain.phase() == Phase::Stopping {
            return Poll::Ready(End::Shutdown);
        }
        loop {
            let up = match self.poll_up(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            let down = match self.poll_down(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            if let Some(end) = self.boundary() {
                return Poll::Ready(end);
            }
            if !up && !down {
                return Poll::Pending;
            }
        }
    }

    /// Our own messages have been answered: the connection is alive and as the client expects it.
    fn prepared(&mut self) -> Result<(), End> {
        self.preparing = false;
        self.hold = false;
        if let Some(error) = self.refused.take() {
            return Err(End::Refuse(Fault::upstream_fatal(&error)));
        }
        if self.preparation.must_succeed_first {
            self.lease.pool().learn_canonical(&self.preparation.wanted, &self.lease.params);
            self.lease.conn.output.extend_from_slice(&self.first);
        } else {
            self.first = Vec::new();
        }
        if self.preparation.reset_only {
            let pool = Arc::clone(self.lease.pool());
            pool.learn_reset(self.lease);
        }
        self.tell_differences();
        self.note_running();
        Ok(())
    }

    /// Tells the client of reported settings that are other than it was told before.
    fn tell_differences(&mut self) {
        for (name, value) in self.lease.params.beyond(self.view) {
            backend::put_parameter_status(&mut self.client.output, name, value);
        }
        self.view.clone_from(&self.lease.params);
    }

    /// The server works for the client, and a cancel request would hit that.
    fn note_running(&mut self) {
        if self.running || self.preparing || self.pipeline.answered() {
            return;
        }
        self.running = true;
        self.lease.set_active(true);
        if self.control.set_running(&self.lease.key, &self.lease.gate) {
            let (key, gate) = (Arc::clone(&self.lease.key), self.lease.gate.enter());
            let registry = Arc::clone(&self.shared.registry);
            tokio::spawn(async move { cancel::send(&registry, &key, gate).await });
        }
    }

    /// Looks whether both sides are between two pieces of work, and whether that is a place to end.
    fn boundary(&mut self) -> Option<End> {
        if self.goodbye && self.pipeline.lost() {
            return Some(End::Goodbye);
        }
        let under_way = self.preparing
            || self.up_left > 0
            || self.down_left > 0
            || !self.client.output.is_empty()
            || !self.client.input.unsent().is_empty()
            || !self.lease.conn.output.is_empty()
            || !self.lease.conn.input.unsent().is_empty();
        if under_way || !self.pipeline.answered() {
            return None;
        }
        if self.running {
            self.running = false;
            self.lease.set_active(false);
            self.control.set_idle();
        }
        if self.goodbye {
            return Some(End::Goodbye);
        }
        if !self.pipeline.settled() {
            return None;
        }
        if self.shared.drain.phase() != Phase::Running {
            return Some(End::Shutdown);
        }
        let free = self.pins.is_empty() && !self.unnamed.is_pending();
        (self.mode == Mode::Transaction && free).then_some(End::Settled)
    }

    /// The connection broke. While the server has not answered our own messages it has not come to the client's.
    fn upstream_failed(&mut self) -> End {
        if self.is_untouched() {
            self.client.input.put_back(&std::mem::take(&mut self.first));
            self.up_left = 0;
            End::Stale
        } else {
            End::UpstreamLost { told: self.told }
        }
    }

    fn is_untouched(&self) -> bool {
        self.preparing || (!self.first.is_empty() && self.lease.conn.flushed() == 0)
    }

    fn client_failed(&self) -> End {
        if self.goodbye { End::Goodbye } else { End::ClientGone }
    }
}
