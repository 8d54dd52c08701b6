//! Client to server.

use std::task::{Context, Poll};
use std::time::Instant;

use super::{End, Relay};
use crate::config::Mode;
use crate::error::Fault;
use crate::track::statements::Undo;
use crate::track::{Reply, Request, names};
use crate::wire::{Head, frame, frontend, head};

/// Bytes that are copied to go out with others in one write, rather than with a write of their own.
const SMALL: usize = 8 * 1024;

/// Text that no server understands: sent in place of what is refused.
const REFUSED: &[u8] = b"!pgferry refused this statement\0\0\0";

impl Relay<'_> {
    /// Client to server, as far as it goes. Says whether anything moved.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        if self.deaf {
            return Ok(progress);
        }
        loop {
            if !self.link.conn.is_flushed() {
                if self.client.input.unsent().len() <= SMALL {
                    self.splice();
                }
                match self.link.conn.poll_flush(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_)) => return self.upstream_takes_no_more(),
                    Poll::Ready(Ok(())) => {}
                }
                progress = true;
                if !self.preparing() {
                    // The kernel has it: from here on nobody knows whether the server has.
                    self.first = Vec::new();
                }
            }
            if !self.client.input.unsent().is_empty() {
                match self.link.conn.poll_write(cx, self.client.input.unsent()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_) | Ok(0)) => return self.upstream_takes_no_more(),
                    Poll::Ready(Ok(n)) => self.client.input.sent(n),
                }
                progress = true;
                continue;
            }
            if self.hold || self.goodbye {
                return Ok(progress);
            }
            if self.parse_up()? {
                self.note_running(Instant::now);
                progress = true;
                continue;
            }
            if self.goodbye {
                return Ok(true);
            }
            if !self.link.conn.is_flushed() {
                continue;
            }
            if self.client.input.is_full() || self.dry.0 {
                return Ok(progress);
            }
            match self.client.poll_fill(cx) {
                Poll::Pending => {
                    self.dry.0 = true;
                    return Ok(progress);
                }
                Poll::Ready(Err(_) | Ok(0)) => return Err(End::ClientGone),
                Poll::Ready(Ok(_)) => progress = true,
            }
        }
    }

    /// The server has closed its side. It may have said why before, and the client should hear that: the end is where
    /// there is nothing more to read.
    fn upstream_takes_no_more(&mut self) -> Result<bool, End> {
        if self.is_untouched() {
            return Err(self.upstream_failed());
        }
        self.deaf = true;
        Ok(true)
    }

    /// Walks what the client has sent and marks what may be sent on. Says whether that is anything.
    pub(super) fn parse_up(&mut self) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if self.up_left > 0 {
                let here = self.up_left.min(self.client.input.unparsed().len());
                self.take_up(here, self.up_dropped);
                self.up_left -= here;
                progress |= here > 0;
                if self.up_left > 0 {
                    return Ok(progress);
                }
            }
            let input = &mut self.client.input;
            let bytes = input.unparsed();
            let head = match head(bytes, frame::FRONTEND_LIMIT) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(progress),
                Err(bad) => return Err(End::Refuse(Fault::violation(bad.to_string()))),
            };
            let request = Request::of(head.tag);
            if request == Some(Request::CopyData) && self.pipeline.copying_in() {
                let rows = frame::run(bytes, head.tag, frame::FRONTEND_LIMIT);
                if rows > 0 {
                    self.take_up(rows, false);
                    progress = true;
                    continue;
                }
            }
            if self.barrier && !self.may_pass(request) {
                return Ok(progress);
            }
            let Some(request) = request else {
                if head.tag == frontend::TERMINATE {
                    self.goodbye = true;
                    return Ok(progress);
                }
                return Err(End::Refuse(Fault::unknown_message(head.tag)));
            };
            let input = &mut self.client.input;
            if !names::can_judge(head, input.unparsed(), self.look_limit) {
                input.make_room(head.size);
                return Ok(progress);
            }
            let about_statements =
                matches!(request, Request::Query | Request::Parse | Request::Bind | Request::Describe | Request::Close);
            if about_statements && self.pipeline.at_stake() {
                return Ok(progress);
            }
            if self.checking {
                if !self.pipeline.answered() {
                    return Ok(progress);
                }
                self.checking = false;
            }
            let here = head.size.min(input.unparsed().len());
            if !self.forward(request, head, here) {
                self.checking = true;
                self.passed_on();
                return Ok(true);
            }
            progress = true;
        }
    }

    /// A statement is under way whose success decides what later messages mean: whether the client's next message need
    /// not wait for that.
    fn may_pass(&mut self, request: Option<Request>) -> bool {
        if self.pipeline.copying_in() {
            return true;
        }
        if self.pipeline.answered() && !self.correcting {
            self.barrier = false;
            self.act = None;
            return true;
        }
        let harmless = matches!(request, Some(Request::Sync | Request::Flush));
        if !harmless && !self.flushed {
            // Without it the server keeps the answer until a Sync, which waits behind this message.
            self.flushed = true;
            self.splice();
            frontend::put_flush(&mut self.link.conn.output);
        }
        harmless
    }

    /// Sends the client's next message on, or what has to be sent in its place; `here` bytes of it are there. `false` when
    /// the message must wait for answers to what was sent ahead of it.
    fn forward(&mut self, request: Request, head: Head, here: usize) -> bool {
        if self.pipeline.skipping() || self.pipeline.copying_in() {
            return self.pass(request, head, here, None);
        }
        if self.mode == Mode::Transaction {
            self.keep(request, head, here);
        }
        match request {
            Request::Parse => self.tally.client_parses += 1,
            Request::Bind => self.tally.binds += 1,
            _ => {}
        }
        match request {
            Request::Query => self.query(head, here),
            Request::Parse => self.parse(head, here),
            Request::Bind | Request::Describe | Request::Close => self.named(request, head, here),
            Request::Execute => self.execute(head, here),
            Request::Function => self.function(head, here),
            _ => self.pass(request, head, here, None),
        }
    }

    /// Sends the message on as it is.
    pub(super) fn pass(&mut self, request: Request, head: Head, here: usize, undo: Option<Undo>) -> bool {
        self.tally.server_parses += u64::from(request == Request::Parse);
        self.pipeline.request_with(request, Reply::Forward, undo);
        self.undo();
        self.take_up(here, false);
        self.up_left = head.size - here;
        self.up_dropped = false;
        true
    }

    /// Sends the message on with another beginning than its first `cut` bytes.
    pub(super) fn pass_with(
        &mut self,
        request: Request,
        head: Head,
        here: usize,
        undo: Option<Undo>,
        (cut, tag, before, name): (usize, u8, &[u8], &str),
    ) -> bool {
        self.splice();
        frontend::put_renamed(&mut self.link.conn.output, tag, before, name, head.size - cut);
        self.take_up(cut, true);
        self.pass(request, Head { tag, size: head.size - cut }, here - cut, undo)
    }

    /// Answers the message instead of the server.
    pub(super) fn invent(&mut self, request: Request, head: Head, here: usize, undo: Undo) -> bool {
        self.pipeline.request_with(request, Reply::Invent, Some(undo));
        self.undo();
        self.drop_message(head, here)
    }

    /// Refuses the message: what is sent in its place fails, and the client is told `fault`.
    pub(super) fn refuse(&mut self, fault: &Fault, request: Request, head: Head, here: usize) -> bool {
        tracing::debug!(client = self.control.id, "refused a statement: {fault}");
        self.splice();
        let out = &mut self.link.conn.output;
        match request {
            Request::Query | Request::Function => frontend::put_query(out, &REFUSED[..REFUSED.len() - 3]),
            _ => frontend::put_parse(out, "pgferry_refused", REFUSED),
        }
        let mut frame = Vec::new();
        fault.put(&mut frame);
        let undo = Undo { refusal: Some(frame.into()), ..Undo::default() };
        self.pipeline.request_with(request, Reply::Refuse, Some(undo));
        self.undo();
        self.drop_message(head, here)
    }

    /// Does not send the message.
    pub(super) fn drop_message(&mut self, head: Head, here: usize) -> bool {
        self.splice();
        self.take_up(here, true);
        self.up_left = head.size - here;
        self.up_dropped = true;
        true
    }

    fn take_up(&mut self, n: usize, dropped: bool) {
        if dropped {
            self.splice();
            self.client.input.skip(n);
        } else {
            self.client.input.parse(n);
        }
    }

    /// Moves what waits to be sent behind what is to be sent before it, so that something else can follow.
    pub(super) fn splice(&mut self) {
        let unsent = self.client.input.unsent();
        self.link.conn.output.extend_from_slice(unsent);
        let n = unsent.len();
        self.client.input.sent(n);
    }
}
