//! Client to server.

use std::task::{Context, Poll};

use super::{End, Relay};
use crate::error::{Blame, Fault, sqlstate};
use crate::track::unnamed::Foreign;
use crate::track::{Pins, Reply, Request, pinning};
use crate::wire::{Frame, frame, frontend, head};

impl Relay<'_> {
    /// Client to server, as far as it goes. Says whether anything moved.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        if self.deaf {
            return Ok(progress);
        }
        loop {
            if !self.lease.conn.output.is_empty() {
                match self.lease.conn.poll_flush(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_)) => return self.upstream_takes_no_more(),
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
                Err(bad) => return Err(End::Refuse(Fault::violation(bad.to_string()))),
            };
            let Some(request) = Request::of(head.tag) else {
                if head.tag == frontend::TERMINATE {
                    self.goodbye = true;
                    return Ok(progress);
                }
                return Err(End::Refuse(Fault::unknown_message(head.tag)));
            };
            if !pinning::can_judge(head, bytes, input.capacity()) {
                return Ok(progress);
            }
            let here = head.size.min(bytes.len());
            let body = bytes.get(frame::HEADER..here).unwrap_or_default();
            self.unnamed.note(head.tag, body).map_err(|Foreign| End::Refuse(no_unnamed_statement()))?;
            if here == head.size {
                self.pins.add(pinning::of_message(Frame { tag: head.tag, bytes: &bytes[..here] }));
            } else if matches!(request, Request::Query | Request::Parse) {
                self.pins.add(Pins::UNSEEN);
            } else if request == Request::Function {
                self.pins.add(Pins::CODE);
            }
            self.pipeline.request(request, Reply::Forward);
            input.parse(here);
            self.up_left = head.size - here;
            progress = true;
        }
    }
}

/// PostgreSQL's error for an unnamed statement that does not exist; ours ends the session, for the server is not asked.
fn no_unnamed_statement() -> Fault {
    Fault::fatal(Blame::Client, sqlstate::UNDEFINED_STATEMENT, "unnamed prepared statement does not exist")
        .detail("It was not parsed on the upstream connection that now serves this client.")
        .hint("In transaction mode, bind it in the transaction that parses it, or use mode = \"session\".")
}
