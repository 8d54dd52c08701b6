//! Moves bytes between one client and one connection, until the connection can be given back or one of them ends.
//!
//! Headers are walked, bodies are not: runs of messages go out of the buffer they came into with one write. Each
//! direction either has bytes that wait for the other side, and then does not read, or waits for its own side; the two
//! are independent, so that a client that pipelines and a server that answers can't block each other.

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
use crate::error::{Blame, Fault, sqlstate};
use crate::net::Conn;
use crate::track::{Params, Pins, Pipeline, Reply, Request, Wanted, pinning};
use crate::upstream::{Lease, cancel};
use crate::wire::{Frame, backend, frame, frontend, head};

/// The longest server message that is held whole in memory to be looked at. Longer errors are passed on unseen.
const LOOK_LIMIT: usize = 1 << 20;

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
}

/// One client on one connection.
#[derive(Debug)]
pub struct Relay<'a> {
    shared: &'a Arc<Shared>,
    client: &'a mut Conn,
    lease: &'a mut Lease,
    control: &'a Control,
    view: &'a mut Params,
    wanted: &'a Wanted,
    mode: Mode,
    pipeline: Pipeline,
    pins: Pins,
    /// Answers to our own messages in front of the client's first are still to come.
    preparing: bool,
    /// The server's error in answer to one of those.
    refused: Option<Arc<[u8]>>,
    /// The client's first bytes, kept until it is certain that the connection was alive.
    first: Vec<u8>,
    /// The client's next bytes must wait.
    hold: bool,
    /// The client's first bytes must wait too, for the server may refuse the preparation.
    waits_for_preparation: bool,
    /// The preparation makes the session as new, and no more.
    reset_only: bool,
    up_left: usize,
    down_left: usize,
    down_hidden: bool,
    goodbye: bool,
    told: bool,
    running: bool,
}

impl<'a> Relay<'a> {
    /// Joins `client`, which was told the settings in `view` and asked for `wanted`, and `lease`.
    #[must_use]
    pub fn new(
        shared: &'a Arc<Shared>,
        client: &'a mut Conn,
        lease: &'a mut Lease,
        control: &'a Control,
        view: &'a mut Params,
        wanted: &'a Wanted,
        mode: Mode,
    ) -> Self {
        Self {
            shared,
            client,
            lease,
            control,
            view,
            wanted,
            mode,
            pipeline: Pipeline::new(),
            pins: Pins::none(),
            preparing: false,
            refused: None,
            first: Vec::new(),
            hold: false,
            waits_for_preparation: false,
            reset_only: false,
            up_left: 0,
            down_left: 0,
            down_hidden: false,
            goodbye: false,
            told: false,
            running: false,
        }
    }

    /// Sends the preparation and the client's first messages, then moves bytes until the end.
    pub async fn run(mut self, preparation: &Preparation) -> Outcome {
        let end = match self.open(preparation) {
            Ok(()) => self.until_end().await,
            Err(end) => end,
        };
        self.lease.set_active(false);
        self.lease.set_copying_in(self.pipeline.copying_in());
        Outcome {
            end,
            partial_down: self.down_left,
            partial_up: self.up_left > 0
                || !self.client.input.unsent().is_empty()
                || !self.lease.conn.output.is_empty(),
            pipeline: self.pipeline,
            pins: self.pins,
        }
    }

    fn open(&mut self, preparation: &Preparation) -> Result<(), End> {
        self.control.set_preparing();
        self.preparing = !preparation.requests.is_empty();
        for &request in &preparation.requests {
            self.pipeline.request(request, Reply::Hide);
        }
        self.lease.conn.output.extend_from_slice(&preparation.messages);
        self.parse_up()?;
        self.first.extend_from_slice(self.client.input.unsent());
        self.client.input.sent(self.first.len());
        self.hold = self.preparing;
        self.waits_for_preparation = preparation.must_succeed_first;
        self.reset_only = preparation.reset_only;
        if !self.waits_for_preparation {
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

    /// Client to server, as far as it goes. Says whether anything moved.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if !self.lease.conn.output.is_empty() {
                match self.lease.conn.poll_flush(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_)) => return Err(self.upstream_failed()),
                    Poll::Ready(Ok(())) => {}
                }
                progress = true;
                if !self.preparing {
                    // The kernel has it: from here on nobody knows whether the server has.
                    self.first = Vec::new();
                }
            }
            if !self.client.input.unsent().is_empty() {
                match self.lease.conn.poll_write(cx, self.client.input.unsent()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_) | Ok(0)) => return Err(self.upstream_failed()),
                    Poll::Ready(Ok(n)) => self.client.input.sent(n),
                }
                progress = true;
                continue;
            }
            if self.hold || self.goodbye {
                return Ok(progress);
            }
            if self.parse_up()? {
                self.note_running();
                continue;
            }
            if self.goodbye {
                return Ok(true);
            }
            match self.client.poll_fill(cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(Err(_) | Ok(0)) => return Err(End::ClientGone),
                Poll::Ready(Ok(_)) => progress = true,
            }
        }
    }

    /// Walks what the client has sent and marks what may be sent on. Says whether that is anything.
    fn parse_up(&mut self) -> Result<bool, End> {
        let mut progress = false;
        loop {
            let input = &mut self.client.input;
            if self.up_left > 0 {
                let here = self.up_left.min(input.unparsed().len());
                input.parse(here);
                self.up_left -= here;
                progress |= here > 0;
                if self.up_left > 0 {
                    return Ok(progress);
                }
            }
            let bytes = input.unparsed();
            let head = match head(bytes, frame::FRONTEND_LIMIT) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(progress),
                Err(bad) => return Err(End::Refuse(violation(bad.to_string()))),
            };
            let Some(request) = Request::of(head.tag) else {
                if head.tag == frontend::TERMINATE {
                    self.goodbye = true;
                    return Ok(progress);
                }
                return Err(End::Refuse(violation(format!("invalid frontend message type {}", head.tag))));
            };
            let whole = bytes.len() >= head.size;
            if whole {
                self.pins.add(pinning::of_message(Frame { tag: head.tag, bytes: &bytes[..head.size] }));
            } else if pinning::must_see(head.tag) {
                if head.size <= input.capacity() {
                    return Ok(progress);
                }
                self.pins.add(Pins::UNSEEN);
            } else if request == Request::Function {
                self.pins.add(Pins::CODE);
            }
            self.pipeline.request(request, Reply::Forward);
            let here = head.size.min(bytes.len());
            input.parse(here);
            self.up_left = head.size - here;
            progress = true;
        }
    }

    /// Server to client, as far as it goes. Says whether anything moved.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if !self.client.output.is_empty() {
                match self.client.poll_flush(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(())) => progress = true,
                }
            }
            if !self.lease.conn.input.unsent().is_empty() {
                match self.client.poll_write(cx, self.lease.conn.input.unsent()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_) | Ok(0)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(n)) => self.lease.conn.input.sent(n),
                }
                progress = true;
                continue;
            }
            if self.parse_down()? {
                progress = true;
                continue;
            }
            match self.lease.conn.poll_fill(cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(Err(_) | Ok(0)) => return Err(self.upstream_failed()),
                Poll::Ready(Ok(_)) => progress = true,
            }
        }
    }

    /// Walks what the server has sent: marks what may be sent on, drops what is not the client's. Says whether that is
    /// anything.
    fn parse_down(&mut self) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if self.down_left > 0 {
                let here = self.down_left.min(self.lease.conn.input.unparsed().len());
                self.take_down(here, self.down_hidden);
                self.down_left -= here;
                progress |= here > 0;
                if self.down_left > 0 {
                    return Ok(progress);
                }
            }
            let hiding = self.pipeline.hiding();
            if hiding && !self.lease.conn.input.unsent().is_empty() {
                return Ok(true);
            }
            let bytes = self.lease.conn.input.unparsed();
            let head = match head(bytes, frame::BACKEND_LIMIT) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(progress),
                Err(_) => return Err(self.upstream_failed()),
            };
            let here = head.size.min(bytes.len());
            if must_see(head.tag) && here < head.size && head.size <= LOOK_LIMIT {
                self.lease.conn.input.reserve(head.size);
                return Ok(progress);
            }
            self.answer(head.tag, here == head.size, hiding)?;
            self.take_down(here, hiding);
            self.down_left = head.size - here;
            self.down_hidden = hiding;
            progress = true;
            if self.preparing && !self.pipeline.hiding() {
                self.prepared()?;
                return Ok(true);
            }
        }
    }

    fn take_down(&mut self, n: usize, hidden: bool) {
        if hidden {
            self.lease.conn.input.skip(n);
        } else {
            self.lease.conn.input.parse(n);
        }
    }

    /// Takes note of the server's next message; `whole` says whether all of it is there.
    fn answer(&mut self, tag: u8, whole: bool, hiding: bool) -> Result<(), End> {
        match tag {
            // By far the most frequent, and of no consequence.
            backend::DATA_ROW | frontend::COPY_DATA | backend::NOTICE | backend::NOTIFICATION => {}
            backend::READY => {
                let status = self.lease.conn.input.unparsed().get(frame::HEADER).copied();
                self.pipeline.ready(status.unwrap_or_default());
            }
            backend::PARAMETER_STATUS => {
                if whole {
                    let body = self.lease.conn.input.unparsed().get(frame::HEADER..).unwrap_or_default().to_vec();
                    self.parameter(&body, hiding);
                }
            }
            backend::ERROR => {
                self.error(whole, hiding)?;
                self.pipeline.response(tag);
            }
            backend::COMMAND_COMPLETE => {
                if whole && !hiding {
                    let body = self.lease.conn.input.unparsed().get(frame::HEADER..).unwrap_or_default();
                    self.pins.add(pinning::of_tag(backend::command_tag(body)));
                }
                self.pipeline.response(tag);
            }
            _ => {
                self.pipeline.response(tag);
            }
        }
        Ok(())
    }

    fn parameter(&mut self, body: &[u8], hiding: bool) {
        let Some((name, value)) = backend::parameter_status(body) else { return };
        self.lease.params.set(name, value);
        if !hiding {
            self.view.set(name, value);
            self.pins.add(Pins::SETTING);
        }
    }

    fn error(&mut self, whole: bool, hiding: bool) -> Result<(), End> {
        let bytes = self.lease.conn.input.unparsed();
        let Some(head) = head(bytes, frame::BACKEND_LIMIT).ok().flatten().filter(|_| whole) else { return Ok(()) };
        let bytes = bytes.get(..head.size).unwrap_or_default();
        let fatal = backend::is_fatal(bytes.get(frame::HEADER..).unwrap_or_default());
        match (hiding, fatal) {
            (true, true) => return Err(self.upstream_failed()),
            (true, false) if self.refused.is_none() => self.refused = Some(bytes.into()),
            (false, true) => self.told = true,
            _ => {}
        }
        Ok(())
    }

    /// Our own messages have been answered: the connection is alive and as the client expects it.
    fn prepared(&mut self) -> Result<(), End> {
        self.preparing = false;
        self.hold = false;
        if let Some(error) = self.refused.take() {
            let mut fatal = Vec::new();
            backend::put_error_as_fatal(&mut fatal, error.get(frame::HEADER..).unwrap_or_default());
            return Err(End::Refuse(Fault::Upstream(fatal.into())));
        }
        if self.waits_for_preparation {
            self.lease.pool().learn_canonical(self.wanted, &self.lease.params);
            self.lease.conn.output.extend_from_slice(&self.first);
        } else {
            self.first = Vec::new();
        }
        if self.reset_only {
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
        (self.mode == Mode::Transaction && self.pins.is_empty()).then_some(End::Settled)
    }

    /// The connection broke. While the server has not answered our own messages it has not come to the client's.
    fn upstream_failed(&mut self) -> End {
        let untouched = self.preparing || (!self.first.is_empty() && self.lease.conn.flushed() == 0);
        if untouched {
            self.client.input.put_back(&std::mem::take(&mut self.first));
            self.up_left = 0;
            End::Stale
        } else {
            End::UpstreamLost { told: self.told }
        }
    }

    fn client_failed(&self) -> End {
        if self.goodbye { End::Goodbye } else { End::ClientGone }
    }
}

/// Messages of the server that have to be looked into.
fn must_see(tag: u8) -> bool {
    matches!(tag, backend::READY | backend::PARAMETER_STATUS | backend::ERROR | backend::COMMAND_COMPLETE)
}

fn violation(message: String) -> Fault {
    Fault::fatal(Blame::Client, sqlstate::PROTOCOL_VIOLATION, message)
}
