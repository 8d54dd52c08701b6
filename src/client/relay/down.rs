//! Server to client.

use std::task::{Context, Poll};

use super::{End, Relay};
use crate::track::{Pins, pinning};
use crate::wire::{backend, frame, frontend, head};

/// The longest server message that is held whole in memory to be looked at. Longer errors are passed on unseen.
const LOOK_LIMIT: usize = 1 << 20;

impl Relay<'_> {
    /// Server to client, as far as it goes. Says whether anything moved.
    pub(super) fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
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
}

/// Messages of the server that have to be looked into.
fn must_see(tag: u8) -> bool {
    matches!(tag, backend::READY | backend::PARAMETER_STATUS | backend::ERROR | backend::COMMAND_COMPLETE)
}
