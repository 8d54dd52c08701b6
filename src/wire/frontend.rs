//! The client's messages: views of those that must be looked into, writers for those that pgferry sends upstream.
//!
//! Login and cancel messages are written with `postgres-protocol` where they are sent.

use super::cstr;
use super::frame::HEADER_BYTES;
use super::startup::{CANCEL as CANCEL_REQUEST, SSL as SSL_REQUEST};

/// `Bind`.
pub(crate) const BIND: u8 = b'B';
/// `Close`.
pub(crate) const CLOSE: u8 = b'C';
/// `CopyData`, in either direction.
pub(crate) const COPY_DATA: u8 = b'd';
/// `CopyDone`, in either direction.
pub(crate) const COPY_DONE: u8 = b'c';
/// `CopyFail`.
pub(crate) const COPY_FAIL: u8 = b'f';
/// `Describe`.
pub(crate) const DESCRIBE: u8 = b'D';
/// `Execute`.
pub(crate) const EXECUTE: u8 = b'E';
/// `Flush`.
pub(crate) const FLUSH: u8 = b'H';
/// `FunctionCall`.
pub(crate) const FUNCTION_CALL: u8 = b'F';
/// `Parse`.
pub(crate) const PARSE: u8 = b'P';
/// `PasswordMessage` and every other authentication response.
pub(crate) const PASSWORD: u8 = b'p';
/// `Query`.
pub(crate) const QUERY: u8 = b'Q';
/// `Sync`.
pub(crate) const SYNC: u8 = b'S';
/// `Terminate`.
pub(crate) const TERMINATE: u8 = b'X';

/// The text of a `Query`; what is there when its terminator is missing, which the server will refuse.
#[must_use]
pub(crate) fn query(body: &[u8]) -> &[u8] {
    cstr(body).map_or(body, |(text, _)| text)
}

/// Returns whether a message's body has the form that the server looks for before it does anything for the message. Of a `Bind` or
/// `FunctionCall` it reads the rest as it goes.
#[must_use]
pub(crate) fn is_well_formed(tag: u8, body: &[u8]) -> bool {
    let is_string = |body| cstr(body).is_some_and(|(_, rest)| rest.is_empty());
    match tag {
        QUERY => is_string(body),
        PARSE => cstr(body).and_then(|(_, rest)| cstr(rest)).is_some_and(|(_, types)| are_types(types)),
        DESCRIBE | CLOSE => body.split_first().is_some_and(|(_, name)| is_string(name)),
        EXECUTE => cstr(body).is_some_and(|(_, rows)| rows.len() == size_of::<u32>()),
        _ => true,
    }
}

/// Returns whether `bytes` are a count and as many OIDs.
fn are_types(bytes: &[u8]) -> bool {
    let counted = bytes.split_first_chunk::<2>();
    counted.is_some_and(|(count, oids)| oids.len() == 4 * usize::from(u16::from_be_bytes(*count)))
}

/// Name and text of a `Parse`; `None` when a terminator is missing.
#[must_use]
pub(crate) fn parse(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    let (text, _) = cstr(rest)?;
    Some((name, text))
}

/// `Bind` without parameters: portal, statement, the format codes of the result's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// Number of parameters.
    pub parameters: usize,
    /// The formats of the result's columns.
    pub formats: Vec<i16>,
}

/// Reads a `Bind`; `None` when it is malformed. The values of parameters are passed over.
///
/// ```
/// use pgferry::internals::wire::frontend;
///
/// let mut message = Vec::new();
/// frontend::put_bind(&mut message, "portal", "statement");
/// let bind = frontend::bind(&message[5..]).expect("well-formed");
/// assert_eq!((bind.portal, bind.statement, bind.parameters), (&b"portal"[..], &b"statement"[..], 0));
/// ```
#[must_use]
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let (portal, rest) = cstr(body)?;
    let (statement, mut rest) = cstr(rest)?;
    let int16 = |rest: &mut &[u8]| {
        let (number, after) = rest.split_first_chunk::<2>()?;
        *rest = after;
        Some(i16::from_be_bytes(*number))
    };
    for _ in 0..int16(&mut rest)? {
        int16(&mut rest)?;
    }
    let parameters = usize::try_from(int16(&mut rest)?).ok()?;
    for _ in 0..parameters {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        rest = after.get(length..)?;
    }
    let count = int16(&mut rest)?;
    let formats = (0..count).map(|_| int16(&mut rest)).collect::<Option<_>>()?;
    Some(Bind { portal, statement, parameters, formats })
}

/// The kind (`S` or `P`) and name in a `Describe` or `Close`; `None` when it is malformed.
#[must_use]
pub(crate) fn target(body: &[u8]) -> Option<(u8, &[u8])> {
    let (kind, rest) = body.split_first()?;
    cstr(rest).map(|(name, _)| (*kind, name))
}

/// The portal and the most rows of an `Execute`, 0 being all; `None` when it is malformed.
#[must_use]
pub(crate) fn execute(body: &[u8]) -> Option<(&[u8], u32)> {
    let (portal, rest) = cstr(body)?;
    let rows = rest.first_chunk::<4>()?;
    Some((portal, u32::from_be_bytes(*rows)))
}

/// The password of a `PasswordMessage`; `None` when the terminator is missing or not last.
#[must_use]
pub(crate) fn password(body: &[u8]) -> Option<&[u8]> {
    match cstr(body) {
        Some((password, [])) => Some(password),
        _ => None,
    }
}

/// The mechanism and the first message of a `SASLInitialResponse`. There may be no first message, which is not the same as
/// an empty one.
///
/// # Errors
/// What is wrong with it, in PostgreSQL's words (`pqformat.c`).
pub(crate) fn sasl_initial(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), &'static str> {
    let (mechanism, rest) = cstr(body).ok_or("invalid string in message")?;
    let (length, data) = rest.split_first_chunk::<4>().ok_or("insufficient data left in message")?;
    let (length, there) = (i32::from_be_bytes(*length), data.len());
    match usize::try_from(length) {
        Ok(length) if length > there => Err("insufficient data left in message"),
        Ok(length) if length == there => Ok((mechanism, Some(data))),
        Err(_) if length == -1 && there == 0 => Ok((mechanism, None)),
        _ => Err("invalid message format"),
    }
}

/// Appends a `Query`. A text with a NUL in it would end there: callers pass none.
pub fn put_query(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(!text.contains(&0), "a query text has no NUL");
    out.reserve(HEADER_BYTES + text.len() + 1);
    message(out, QUERY, |out| {
        out.extend_from_slice(text);
        out.push(0);
    });
}

/// Appends a `Parse` of statement `name`; `body` is what follows the name: text and parameter types.
pub(crate) fn put_parse(out: &mut Vec<u8>, name: &str, body: &[u8]) {
    put_renamed(out, PARSE, b"", name, body.len());
    out.extend_from_slice(body);
}

/// Appends the beginning of a `Parse`, `Bind`, `Describe` or `Close` of statement `name`, up to and with that name:
/// `before` is what precedes the name in the body, and `rest` bytes are to follow.
pub(crate) fn put_renamed(out: &mut Vec<u8>, tag: u8, before: &[u8], name: &str, rest: usize) {
    let size = 4 + before.len() + name.len() + 1 + rest;
    out.push(tag);
    out.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(before);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

/// Appends a `Bind` of statement `name`, which has no parameters, to `portal`.
pub fn put_bind(out: &mut Vec<u8>, portal: &str, name: &str) {
    let mut before = portal.as_bytes().to_vec();
    before.push(0);
    put_renamed(out, BIND, &before, name, 6);
    out.extend_from_slice(&[0; 6]);
}

/// Appends a `Bind` of statement `name`, which has one parameter, to the unnamed portal; `value` is text.
pub(crate) fn put_bind_one(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put_renamed(out, BIND, b"\0", name, 10 + value.len());
    // No format codes; one parameter.
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(value);
    // Results as text.
    out.extend_from_slice(&[0; 2]);
}

/// Appends an `Execute` of `portal`, to its end.
pub(crate) fn put_execute(out: &mut Vec<u8>, portal: &str) {
    put_renamed(out, EXECUTE, b"", portal, 4);
    out.extend_from_slice(&[0; 4]);
}

/// Appends a `Close` of statement `name`.
pub(crate) fn put_close(out: &mut Vec<u8>, name: &str) {
    put_renamed(out, CLOSE, b"S", name, 0);
}

/// Appends a `Close` of `portal`.
pub(crate) fn put_close_portal(out: &mut Vec<u8>, portal: &str) {
    put_renamed(out, CLOSE, b"P", portal, 0);
}

/// Appends a `Flush`.
pub(crate) fn put_flush(out: &mut Vec<u8>) {
    out.extend_from_slice(&[FLUSH, 0, 0, 0, 4]);
}

/// A whole `Sync`.
pub(crate) const SYNC_MESSAGE: &[u8] = &[SYNC, 0, 0, 0, 4];

/// Appends a `Sync`.
pub fn put_sync(out: &mut Vec<u8>) {
    out.extend_from_slice(SYNC_MESSAGE);
}

/// Appends a `Terminate`.
pub fn put_terminate(out: &mut Vec<u8>) {
    out.extend_from_slice(&[TERMINATE, 0, 0, 0, 4]);
}

/// Appends a `CopyFail` with `why`.
pub fn put_copy_fail(out: &mut Vec<u8>, why: &str) {
    message(out, COPY_FAIL, |out| {
        out.extend_from_slice(why.as_bytes());
        out.push(0);
    });
}

/// Appends a `CancelRequest`.
pub(crate) fn put_cancel(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    let size = u32::try_from(12 + secret.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    out.extend_from_slice(secret);
}

/// Appends an `SSLRequest`.
pub(crate) fn put_ssl_request(out: &mut Vec<u8>) {
    out.extend_from_slice(&8u32.to_be_bytes());
    out.extend_from_slice(&SSL_REQUEST.to_be_bytes());
}

/// Appends a `StartupMessage` of protocol 3.`minor` with `params`, bytes as they are.
pub fn put_startup<'a>(out: &mut Vec<u8>, minor: u16, params: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(3u32 << 16 | u32::from(minor)).to_be_bytes());
    for (name, value) in params {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    out.push(0);
    // A startup packet is bounded by 10,000 bytes of client parameters, far below u32.
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends a message with tag `tag` and the body that `write` appends.
pub(super) fn message(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Opening, startup};

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Vec::new();
        put_query(&mut out, b"select 1");
        assert_eq!(out, b"Q\0\0\0\x0dselect 1\0");
        assert_eq!(query(&out[5..]), b"select 1");

        let mut out = Vec::new();
        put_startup(&mut out, 0, [(&b"user"[..], &b"me"[..]), (b"database", b"d")]);
        let Ok(Opening::Startup(read)) = startup::parse(&out.clone().into()) else { panic!("not a startup") };
        assert_eq!(read.get("user"), Some(&b"me"[..]));
        assert_eq!(startup::size(&out), Ok(Some(out.len())));
    }

    #[test]
    fn forms() {
        for (tag, good, bad) in [
            (QUERY, &[&b"select 1\0"[..], b"\0"][..], &[&b""[..], b"select 1", b"select 1\0\0"][..]),
            (
                PARSE,
                &[b"\0\0\0\0", b"s\0select 1\0\0\x01\0\0\0\x17"],
                &[
                    b"s",
                    b"s\0select 1",
                    b"s\0select 1\0\0",
                    b"s\0select 1\0\0\0x",
                    b"s\0select 1\0\0\x01\0\0",
                    b"\0\0\xff\xff",
                ],
            ),
            (DESCRIBE, &[b"S\0", b"Ps\0", b"Xs\0"], &[b"", b"S", b"Ss", b"Ss\0\0"]),
            (CLOSE, &[b"S\0", b"Ps\0"], &[b"", b"Ss", b"Ss\0x"]),
            (EXECUTE, &[b"\0\0\0\0\0"], &[b"", b"p", b"\0", b"\0\0\0\0\0\0"]),
            (BIND, &[b""], &[]),
        ] {
            assert!(good.iter().all(|body| is_well_formed(tag, body)), "{}", char::from(tag));
            assert!(bad.iter().all(|body| !is_well_formed(tag, body)), "{}", char::from(tag));
        }
    }

    #[test]
    fn broken_bodies_give_nothing() {
        assert_eq!(parse(b"name"), None);
        assert_eq!(parse(b"name\0select"), None);
        assert_eq!(parse(b"\0select 1\0\0\0"), Some((&b""[..], &b"select 1"[..])));
        assert_eq!(password(b"secret\0"), Some(&b"secret"[..]));
        assert_eq!(password(b"secret"), None);
        assert_eq!(password(b"sec\0ret\0"), None);
    }
}
