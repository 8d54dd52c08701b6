//! Server to client.

use std::task::{Context, Poll};

use super::{End, Relay};
use crate::config::Mode;
use crate::error::{Fault, sqlstate};
use crate::track::statements::PREFIX;
use crate::track::{Pins, Request};
use crate::wire::{backend, frame, frontend, head};

/// The longest server message that is held whole in memory to be looked at. Longer errors are passed on unseen.
const LOOK_LIMIT: usize = 1 << 20;

/// The longest tag of a command: PostgreSQL's `COMPLETION_TAG_BUFSIZE`.
const LONGEST_TAG: usize = 64;

impl Relay<'_> {
    /// Server to client, as far as it goes. Says whether anything moved.
    pub(super) fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if !self.client.is_flushed() {
                match self.client.poll_flush(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(())) => progress = true,
                }
            }
            if !self.link.conn.input.unsent().is_empty() {
                match self.client.poll_write(cx, self.link.conn.input.unsent()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_) | Ok(0)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(n)) => self.link.conn.input.sent(n),
                }
                progress = true;
                continue;
            }
            if self.parse_down()? {
                progress = true;
                continue;
            }
            let done = self.mode == Mode::Transaction && self.pipeline.answered() && self.link.conn.input.is_empty();
            if self.dry.1 || (progress && done) {
                // Where all has been answered the connection mostly goes, and nobody need be woken for it.
                return Ok(progress);
            }
            match self.gather.poll_fill(cx, &mut self.link.conn) {
                Poll::Pending => {
                    self.dry.1 = true;
                    return Ok(progress);
                }
                Poll::Ready(Err(_) | Ok(0)) => return Err(self.upstream_failed()),
                Poll::Ready(Ok(_)) => progress = true,
            }
        }
    }

    /// Walks what the server has sent: marks what may be sent on, drops what is not the client's, makes up what the
    /// server was not asked for. Says whether that is anything.
    fn parse_down(&mut self) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if self.down_left > 0 {
                let here = self.down_left.min(self.link.conn.input.unparsed().len());
                self.take_down(here, self.down_hidden);
                self.down_left -= here;
                progress |= here > 0;
                if self.down_left > 0 {
                    return Ok(progress);
                }
            }
            progress |= self.make_up();
            let bytes = self.link.conn.input.unparsed();
            let head = match head(bytes, frame::BACKEND_LIMIT) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(progress),
                Err(_) => return Err(self.upstream_failed()),
            };
            if matches!(head.tag, backend::DATA_ROW | frontend::COPY_DATA) && !self.asking {
                let rows = frame::run(bytes, head.tag, frame::BACKEND_LIMIT);
                if rows > 0 {
                    let hidden = self.pipeline.hides(head.tag);
                    if !hidden {
                        self.passed_on();
                    }
                    self.take_down(rows, hidden);
                    progress = true;
                    continue;
                }
            }
            let here = head.size.min(bytes.len());
            if self.must_see(head.tag) && here < head.size && head.size <= LOOK_LIMIT {
                self.link.conn.input.reserve(head.size);
                return Ok(progress);
            }
            let hidden = self.answer(head.tag, here == head.size)?;
            if !hidden && !matches!(head.tag, backend::NOTICE | backend::NOTIFICATION | backend::PARAMETER_STATUS) {
                self.passed_on();
            }
            self.take_down(here, hidden);
            self.down_left = head.size - here;
            self.down_hidden = hidden;
            progress = true;
            if self.prepared {
                self.prepared = false;
                self.is_prepared()?;
                return Ok(true);
            }
        }
    }

    /// Answers those requests whose turn has come and that the server was not asked.
    fn make_up(&mut self) -> bool {
        let mut any = false;
        while let Some(request) = self.pipeline.invented() {
            self.stash();
            any = true;
            match request {
                Request::Close => backend::put_close_complete(&mut self.client.output),
                _ => backend::put_parse_complete(&mut self.client.output),
            }
        }
        any
    }

    /// Moves what waits to be sent to the client to where something can be put behind it.
    pub(super) fn stash(&mut self) {
        let unsent = self.link.conn.input.unsent();
        self.client.output.extend_from_slice(unsent);
        let n = unsent.len();
        self.link.conn.input.sent(n);
    }

    fn take_down(&mut self, n: usize, hidden: bool) {
        if hidden {
            self.stash();
            self.link.conn.input.skip(n);
        } else {
            self.link.conn.input.parse(n);
        }
    }

    /// Takes note of the server's next message; `whole` says whether all of it is there. Says whether the client does not
    /// get it.
    fn answer(&mut self, tag: u8, whole: bool) -> Result<bool, End> {
        let hiding = self.pipeline.hides(tag);
        match tag {
            // By far the most frequent.
            backend::DATA_ROW => {
                if hiding && self.asking && whole {
                    let row = self.message(whole).to_vec();
                    self.learn_answer(&row);
                }
            }
            frontend::COPY_DATA | backend::NOTICE => {}
            backend::NOTIFICATION => self.rename_notifier(),
            backend::READY => {
                let status = self.message(true).first().copied().unwrap_or_default();
                self.pipeline.ready(status);
                self.hidden_or_not_ready(status, hiding);
            }
            backend::PARAMETER_STATUS => {
                if whole {
                    let body = self.message(whole).to_vec();
                    return Ok(self.parameter(&body, hiding));
                }
            }
            backend::ERROR => return self.error(whole, hiding),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                if let Some(statement) = self.pipeline.describing().filter(|_| whole) {
                    let shape = if tag == backend::NO_DATA { Vec::new() } else { backend::shape(self.message(whole)) };
                    if !statement.note_shape(&shape) {
                        self.shared.registry.catalog.retire(statement);
                    }
                }
                self.pipeline.response(tag);
            }
            backend::COMMAND_COMPLETE => {
                let acting = self.pipeline.acting();
                self.pipeline.response(tag);
                if whole && !hiding {
                    let mut room = [0; LONGEST_TAG];
                    let command = backend::command_tag(self.message(whole));
                    let command = &command[..command.len().min(LONGEST_TAG)];
                    let copy = &mut room[..command.len()];
                    copy.copy_from_slice(command);
                    self.completed(copy, acting);
                }
            }
            _ => {
                self.pipeline.response(tag);
            }
        }
        Ok(hiding)
    }

    /// The body of the server's next message, as far as it is there.
    fn message(&self, whole: bool) -> &[u8] {
        let bytes = self.link.conn.input.unparsed();
        let size = head(bytes, frame::BACKEND_LIMIT).ok().flatten().map_or(0, |head| head.size);
        bytes.get(frame::HEADER..if whole { size } else { bytes.len() }).unwrap_or_default()
    }

    fn hidden_or_not_ready(&mut self, status: u8, hiding: bool) {
        if !hiding {
            self.ready_for_query(status);
        } else if self.preparing() {
            if self.preparing == self.preparation.requests().len() {
                self.learn_base();
            }
            self.preparing -= 1;
            self.prepared = !self.preparing();
        } else {
            self.asking = false;
        }
        self.ready_again(hiding);
    }

    /// Notes a reported setting; says whether the client does not get the report now.
    fn parameter(&mut self, body: &[u8], hiding: bool) -> bool {
        let Some((name, value)) = backend::parameter_status(body) else { return hiding };
        self.link.params.set(name, value);
        if hiding || self.correcting {
            return true;
        }
        self.bag.view.set(name, value);
        if self.mode == Mode::Session {
            self.pins.add(Pins::SETTING);
        }
        false
    }

    /// A client knows its own notifications by the pid that it was given.
    fn rename_notifier(&mut self) {
        let (real, given) = (self.link.key.pid, self.control.pid);
        let body = self.link.conn.input.unparsed_mut().get_mut(frame::HEADER..frame::HEADER + 4);
        if let Some(pid) = body.filter(|pid| **pid == real.to_be_bytes()) {
            pid.copy_from_slice(&given.to_be_bytes());
        }
    }

    /// Takes note of an error; says whether the client does not get it as it is.
    fn error(&mut self, whole: bool, hiding: bool) -> Result<bool, End> {
        let refusal = self.pipeline.refusal().map(<[u8]>::to_vec);
        let body = if whole { self.message(whole).to_vec() } else { Vec::new() };
        let fatal = backend::is_fatal(&body);
        let acting = self.pipeline.acting();
        self.pipeline.response(backend::ERROR);
        self.undo();
        if hiding && refusal.is_none() {
            if fatal {
                return Err(self.upstream_failed());
            }
            if self.refused.is_none() && self.preparing() && whole {
                let size = frame::HEADER + body.len();
                self.refused = self.link.conn.input.unparsed().get(..size).map(Into::into);
            }
            return Ok(true);
        }
        self.failed(acting);
        if fatal {
            self.told = true;
            return Ok(false);
        }
        if let Some(refusal) = refusal {
            self.stash();
            self.client.output.extend_from_slice(&refusal);
            return Ok(true);
        }
        if self.again(&body) {
            return Ok(true);
        }
        Ok(whole && self.put_edited(&body))
    }

    /// Puts an error that needs other words than the server's; says whether it did.
    fn put_edited(&mut self, body: &[u8]) -> bool {
        if self.mode == Mode::Session {
            return false;
        }
        let message = backend::error_field(body, b'M').unwrap_or_default();
        let named = find(message, PREFIX.as_bytes()).is_some();
        let lost = backend::error_field(body, b'C') == Some(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE.as_bytes())
            && find(message, b"is not yet defined in this session").is_some();
        if !named && !lost {
            return false;
        }
        self.stash();
        let hint = lost.then_some(super::state::SEQUENCE_HINT);
        let names = &self.bag.names;
        let (variants, former) = (&self.variants, &self.former);
        backend::put_error_with(&mut self.client.output, body, hint, |kind, value| match kind {
            b'M' => with_clients_name(value, |id| {
                let original =
                    variants.iter().find(|variant| variant.statement.id == id).map_or(id, |variant| variant.of);
                let given_up = former.iter().rfind(|(id, _)| *id == original).map(|(_, name)| &**name);
                names.name_of(original).or_else(|| names.name_of(id)).or(given_up).map(<[u8]>::to_vec)
            }),
            _ => value.to_vec(),
        });
        true
    }

    /// Our own messages in front of the client's have been answered: the connection is alive and as the client expects
    /// it.
    fn is_prepared(&mut self) -> Result<(), End> {
        if let Some(error) = self.refused.take() {
            return Err(End::Refuse(Fault::upstream_fatal(&error)));
        }
        self.on_prepared();
        Ok(())
    }

    fn must_see(&self, tag: u8) -> bool {
        match tag {
            backend::READY
            | backend::PARAMETER_STATUS
            | backend::ERROR
            | backend::COMMAND_COMPLETE
            | backend::NOTIFICATION => true,
            backend::DATA_ROW => self.asking,
            backend::ROW_DESCRIPTION => self.pipeline.describing().is_some(),
            _ => false,
        }
    }
}

/// Where `needle` begins in `haystack`.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A message with the server's name of a statement replaced by the client's.
fn with_clients_name(message: &[u8], name_of: impl Fn(u64) -> Option<Vec<u8>>) -> Vec<u8> {
    let Some(at) = find(message, PREFIX.as_bytes()) else { return message.to_vec() };
    let digits = &message[at + PREFIX.len()..];
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    let id = std::str::from_utf8(&digits[..end]).ok().and_then(|digits| digits.parse().ok());
    match id.and_then(name_of) {
        Some(name) => [&message[..at], &name, &digits[end..]].concat(),
        None => message.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_see_their_own_names() {
        let edit = |message: &[u8]| with_clients_name(message, |id| (id == 12).then(|| b"S_1".to_vec()));
        assert_eq!(
            edit(b"prepared statement \"pgferry_12\" already exists"),
            b"prepared statement \"S_1\" already exists"
        );
        for other in
            [&b"prepared statement \"pgferry_1\" exists"[..], b"pgferry_", b"pgferry_99999999999999999999", b"x"]
        {
            assert_eq!(edit(other), other);
        }
    }
}
