//! Messages in bytes: reading a client's, writing a server's.

use std::borrow::Cow;

use super::error::Report;
use super::value::Encoding;

/// The largest length that PostgreSQL takes for a message of a type that is always small.
const SMALL: usize = 10_000;

/// Since this version a message of a type that is always small is not waited for where its length is larger.
const SMALL_IS_BOUNDED: u32 = 14;

/// The largest length that PostgreSQL takes for any message: `MaxAllocSize - 1`.
const LARGE: usize = 0x3fff_fffe;

/// What is at the start of a client's bytes.
#[derive(Debug)]
pub enum Framed {
    /// Not all of a message yet.
    Partial,
    /// A type that no message has.
    UnknownType(u8),
    /// A length that no message of the type has.
    BadLength,
    /// A message of this size, its type and length included.
    Whole(usize),
}

/// Looks for a message of any type at the start of `bytes`.
pub fn frame_any(bytes: &[u8]) -> Framed {
    frame_up_to(bytes, LARGE)
}

/// Looks for a message at the start of `bytes`, as a server of this major version does.
pub fn frame(bytes: &[u8], version: u32) -> Framed {
    let Some(&tag) = bytes.first() else { return Framed::Partial };
    let limit = match tag {
        b'Q' | b'F' | b'B' | b'P' | b'd' => LARGE,
        b'X' | b'C' | b'D' | b'E' | b'H' | b'S' | b'c' | b'f' if version < SMALL_IS_BOUNDED => LARGE,
        b'X' | b'C' | b'D' | b'E' | b'H' | b'S' | b'c' | b'f' => SMALL,
        _ => return Framed::UnknownType(tag),
    };
    frame_up_to(bytes, limit)
}

fn frame_up_to(bytes: &[u8], limit: usize) -> Framed {
    let Some(length) = bytes.get(1..5).and_then(<[u8]>::first_chunk) else { return Framed::Partial };
    let length = u32::from_be_bytes(*length) as usize;
    if length < 4 || length > limit {
        return Framed::BadLength;
    }
    if bytes.len() < length + 1 { Framed::Partial } else { Framed::Whole(length + 1) }
}

/// The body of a message, read from its front.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a>(pub &'a [u8]);

impl<'a> Body<'a> {
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Report> {
        let Some((bytes, rest)) = self.0.split_at_checked(n) else {
            return Err(Report::error("08P01", "insufficient data left in message"));
        };
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Report> {
        let bytes = self.bytes(N)?;
        Ok(bytes.first_chunk().copied().unwrap_or([0; N]))
    }

    pub fn u8(&mut self) -> Result<u8, Report> {
        // `pq_getmsgbyte` says it in its own words.
        self.array::<1>().map(|[byte]| byte).map_err(|_| Report::error("08P01", "no data left in message"))
    }

    pub fn u16(&mut self) -> Result<u16, Report> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Report> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn string(&mut self) -> Result<&'a [u8], Report> {
        let Some(end) = self.0.iter().position(|&byte| byte == 0) else {
            return Err(Report::error("08P01", "invalid string in message"));
        };
        let string = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(string)
    }

    /// A string that is read as text: `pq_getmsgstring`, which refuses one that is not valid before anything is done for the message.
    pub fn text(&mut self, encoding: Encoding) -> Result<Cow<'a, str>, Report> {
        encoding.decoded(self.string()?)
    }

    /// # Errors
    /// If anything is left.
    pub fn end(self) -> Result<(), Report> {
        if self.0.is_empty() { Ok(()) } else { Err(Report::error("08P01", "invalid message format")) }
    }
}

/// `PQ_SEND_BUFFER_SIZE`.
const SEND_BUFFER: usize = 8192;

/// What a backend sends: first into a buffer, as in `pqcomm.c`, and from there to the client when that is full or flushed.
#[derive(Debug, Default)]
pub struct Output {
    buffered: Vec<u8>,
    sent: Vec<u8>,
    scratch: Vec<u8>,
}

impl Output {
    /// Sends a message whose body `fill` appends.
    pub fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&[tag, 0, 0, 0, 0]);
        fill(&mut scratch);
        let length = u32::try_from(scratch.len() - 1).unwrap_or(u32::MAX);
        scratch[1..5].copy_from_slice(&length.to_be_bytes());
        self.bytes(&scratch);
        self.scratch = scratch;
    }

    /// Sends a message that is all header.
    pub fn empty(&mut self, tag: u8) {
        self.bytes(&[tag, 0, 0, 0, 4]);
    }

    /// Sends bytes at once.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
        self.flush();
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.buffered.len() >= SEND_BUFFER {
                self.flush();
            }
            let fit = bytes.len().min(SEND_BUFFER - self.buffered.len());
            self.buffered.extend_from_slice(&bytes[..fit]);
            bytes = &bytes[fit..];
        }
    }

    pub fn flush(&mut self) {
        self.sent.append(&mut self.buffered);
    }

    /// Loses what is buffered.
    pub fn lose(&mut self) {
        self.buffered.clear();
    }

    pub fn report(&mut self, report: &Report) {
        let tag = match report.severity {
            super::error::Severity::Notice | super::error::Severity::Warning => b'N',
            _ => b'E',
        };
        self.message(tag, |body| {
            let word = report.severity.word();
            for (field, text) in [(b'S', word), (b'V', word), (b'C', report.code), (b'M', &*report.message)] {
                body.push(field);
                body.extend_from_slice(text.as_bytes());
                body.push(0);
            }
            body.push(0);
        });
        // `send_message_to_frontend` does that.
        self.flush();
    }

    /// Takes what has been sent so far.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent)
    }

    pub fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }
}

/// Appends a zero-terminated string.
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}
