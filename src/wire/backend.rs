//! The server's messages: views for the data path, writers for what pgferry answers itself.
//!
//! Login messages are read with `postgres-protocol` where they arrive.

use aws_lc_rs::digest::{SHA256, digest};

use super::cstr;
use super::frontend::message;

/// `Authentication…`.
pub(crate) const AUTHENTICATION: u8 = b'R';
/// `BackendKeyData`.
pub(crate) const BACKEND_KEY_DATA: u8 = b'K';
/// `BindComplete`.
pub(crate) const BIND_COMPLETE: u8 = b'2';
/// `CloseComplete`.
pub(crate) const CLOSE_COMPLETE: u8 = b'3';
/// `CommandComplete`.
pub const COMMAND_COMPLETE: u8 = b'C';
/// `CopyBothResponse`.
pub(crate) const COPY_BOTH: u8 = b'W';
/// `CopyInResponse`.
pub(crate) const COPY_IN: u8 = b'G';
/// `DataRow`.
pub const DATA_ROW: u8 = b'D';
/// `EmptyQueryResponse`.
pub(crate) const EMPTY_QUERY: u8 = b'I';
/// `ErrorResponse`.
pub const ERROR: u8 = b'E';
/// `NegotiateProtocolVersion`.
pub(crate) const NEGOTIATE: u8 = b'v';
/// `NoData`.
pub(crate) const NO_DATA: u8 = b'n';
/// `NoticeResponse`.
pub const NOTICE: u8 = b'N';
/// `NotificationResponse`.
pub const NOTIFICATION: u8 = b'A';
/// `ParameterStatus`.
pub const PARAMETER_STATUS: u8 = b'S';
/// `ParseComplete`.
pub(crate) const PARSE_COMPLETE: u8 = b'1';
/// `ParameterDescription`.
pub(crate) const PARAMETER_DESCRIPTION: u8 = b't';
/// `PortalSuspended`.
pub(crate) const PORTAL_SUSPENDED: u8 = b's';
/// `ReadyForQuery`.
pub const READY: u8 = b'Z';
/// `RowDescription`.
pub const ROW_DESCRIPTION: u8 = b'T';

/// The value of field `field` in the body of an `ErrorResponse` or `NoticeResponse`.
#[must_use]
pub(crate) fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    let mut rest = body;
    while let Some((&kind, after)) = rest.split_first() {
        if kind == 0 {
            return None;
        }
        let (value, after) = cstr(after)?;
        if kind == field {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// Returns whether an error ends the connection: its severity (`V`, or `S` from servers before 9.6) is FATAL or PANIC.
#[must_use]
pub(crate) fn is_fatal(body: &[u8]) -> bool {
    let severity = error_field(body, b'V').or_else(|| error_field(body, b'S'));
    matches!(severity, Some(b"FATAL" | b"PANIC"))
}

/// Name and value of a `ParameterStatus`; `None` when malformed.
#[must_use]
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    Some((name, value))
}

/// The tag of a `CommandComplete`.
#[must_use]
pub fn command_tag(body: &[u8]) -> &[u8] {
    cstr(body).map_or(body, |(tag, _)| tag)
}

/// Pid and secret of a `BackendKeyData`; `None` when malformed.
#[must_use]
pub fn key_data(body: &[u8]) -> Option<(i32, &[u8])> {
    let (pid, secret) = body.split_first_chunk::<4>()?;
    if secret.is_empty() || secret.len() > 256 {
        return None;
    }
    Some((i32::from_be_bytes(*pid), secret))
}

/// Reads the values of a `DataRow`, `None` being NULL; what is malformed ends them.
#[must_use]
pub(crate) fn values(body: &[u8]) -> Vec<Option<&[u8]>> {
    let mut values = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let Some((value, after)) = after.split_at_checked(length.unwrap_or(0)) else { break };
        values.push(length.map(|_| value));
        rest = after;
    }
    values
}

/// Longest list of columns that is kept as it is, in bytes. Of a longer one a digest is: a statement of few bytes may have 1,600 columns,
/// and they are only compared.
const MAX_SHAPE_BYTES: usize = 256;

/// The columns of a `RowDescription` as far as a prepared statement must not change them: names and types. Not which
/// table they come from, and not their format.
#[must_use]
pub(crate) fn shape(body: &[u8]) -> Vec<u8> {
    let mut shape = Vec::with_capacity(body.len());
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((name, after)) = cstr(rest) {
        // Table (4), column (2), type (4), size (2), modifier (4), format (2).
        let Some((fields, after)) = after.split_at_checked(18) else { break };
        shape.extend_from_slice(name);
        shape.push(0);
        shape.extend_from_slice(&fields[6..16]);
        rest = after;
    }
    if shape.len() > MAX_SHAPE_BYTES { digest(&SHA256, &shape).as_ref().to_vec() } else { shape }
}

/// Appends `ParseComplete`.
pub(crate) fn put_parse_complete(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PARSE_COMPLETE, 0, 0, 0, 4]);
}

/// Appends `CloseComplete`.
pub(crate) fn put_close_complete(out: &mut Vec<u8>) {
    out.extend_from_slice(&[CLOSE_COMPLETE, 0, 0, 0, 4]);
}

/// Appends `AuthenticationOk`.
pub fn put_authentication_ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"R\0\0\0\x08\0\0\0\0");
}

/// Appends `AuthenticationCleartextPassword`.
pub(crate) fn put_cleartext_request(out: &mut Vec<u8>) {
    out.extend_from_slice(b"R\0\0\0\x08\0\0\0\x03");
}

/// Appends an `AuthenticationMD5Password` with `salt`.
pub(crate) fn put_md5_request(out: &mut Vec<u8>, salt: [u8; 4]) {
    put_authentication(out, 5, &[&salt]);
}

/// Appends an `AuthenticationSASL` that offers `mechanisms`, the best first.
pub(crate) fn put_sasl_request(out: &mut Vec<u8>, mechanisms: &[&str]) {
    let mut parts: Vec<&[u8]> = mechanisms.iter().flat_map(|name| [name.as_bytes(), &b"\0"[..]]).collect();
    parts.push(b"\0");
    put_authentication(out, 10, &parts);
}

/// Appends an `AuthenticationSASLContinue`.
pub(crate) fn put_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    put_authentication(out, 11, &[data]);
}

/// Appends an `AuthenticationSASLFinal`.
pub(crate) fn put_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    put_authentication(out, 12, &[data]);
}

fn put_authentication(out: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&kind.to_be_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
    });
}

/// Appends `ParameterStatus`.
pub(crate) fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, PARAMETER_STATUS, |out| {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    });
}

/// Appends `BackendKeyData`.
pub fn put_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    message(out, BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Appends `BindComplete`.
pub(crate) fn put_bind_complete(out: &mut Vec<u8>) {
    out.extend_from_slice(&[BIND_COMPLETE, 0, 0, 0, 4]);
}

/// Appends `NoData`.
pub(crate) fn put_no_data(out: &mut Vec<u8>) {
    out.extend_from_slice(&[NO_DATA, 0, 0, 0, 4]);
}

/// Appends `EmptyQueryResponse`.
pub(crate) fn put_empty_query(out: &mut Vec<u8>) {
    out.extend_from_slice(&[EMPTY_QUERY, 0, 0, 0, 4]);
}

/// Appends `PortalSuspended`.
pub(crate) fn put_portal_suspended(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PORTAL_SUSPENDED, 0, 0, 0, 4]);
}

/// Appends the `ParameterDescription` of a statement without parameters.
pub(crate) fn put_no_parameters(out: &mut Vec<u8>) {
    out.extend_from_slice(b"t\0\0\0\x06\0\0");
}

/// Appends `CommandComplete`.
pub(crate) fn put_command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, COMMAND_COMPLETE, |out| {
        out.extend_from_slice(tag.as_bytes());
        out.push(0);
    });
}

/// A column of a `RowDescription` that belongs to no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type's OID.
    pub oid: u32,
    /// Its type's length; negative where that varies.
    pub length: i16,
    /// 0 for text, 1 for binary.
    pub format: i16,
}

/// Appends a `RowDescription`.
pub(crate) fn put_row_description<'a>(out: &mut Vec<u8>, columns: impl ExactSizeIterator<Item = Column<'a>>) {
    message(out, ROW_DESCRIPTION, |out| {
        // pgferry's own tables have a few dozen columns at most.
        out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or_default().to_be_bytes());
        for column in columns {
            out.extend_from_slice(column.name.as_bytes());
            out.extend_from_slice(&[0; 7]);
            out.extend_from_slice(&column.oid.to_be_bytes());
            out.extend_from_slice(&column.length.to_be_bytes());
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            out.extend_from_slice(&column.format.to_be_bytes());
        }
    });
}

/// Appends a `DataRow`; a cell that is nothing is NULL.
pub(crate) fn put_data_row(out: &mut Vec<u8>, cells: impl ExactSizeIterator<Item = Option<Vec<u8>>>) {
    message(out, DATA_ROW, |out| {
        // As above.
        out.extend_from_slice(&u16::try_from(cells.len()).unwrap_or_default().to_be_bytes());
        for cell in cells {
            match cell {
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(bytes) => {
                    out.extend_from_slice(&i32::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
                    out.extend_from_slice(&bytes);
                }
            }
        }
    });
}

/// Appends a `NoticeResponse` of `fields` in the order given.
pub(crate) fn put_notice(out: &mut Vec<u8>, fields: &[(u8, &str)]) {
    put_fields(out, NOTICE, fields);
}

/// Appends a `NotificationResponse`.
pub(crate) fn put_notification(out: &mut Vec<u8>, pid: i32, channel: &str, payload: &str) {
    let length = 4 + 4 + channel.len() + 1 + payload.len() + 1;
    out.push(NOTIFICATION);
    // Both are pgferry's own, and short.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    for text in [channel, payload] {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
}

/// Returns the process id, the channel and the payload of a `NotificationResponse`.
#[must_use]
pub(crate) fn notification(body: &[u8]) -> Option<(i32, &[u8], &[u8])> {
    let (pid, rest) = body.split_first_chunk()?;
    let (channel, rest) = cstr(rest)?;
    let (payload, _) = cstr(rest)?;
    Some((i32::from_be_bytes(*pid), channel, payload))
}

/// Appends `ReadyForQuery` with the transaction status `I`, `T` or `E`.
pub fn put_ready(out: &mut Vec<u8>, status: u8) {
    out.extend_from_slice(&[READY, 0, 0, 0, 5, status]);
}

/// Appends `NegotiateProtocolVersion`: the version to be spoken (PostgreSQL sends it whole, major and minor) and
/// the options that are not known.
pub fn put_negotiate(out: &mut Vec<u8>, version: u32, options: &[Vec<u8>]) {
    message(out, NEGOTIATE, |out| {
        out.extend_from_slice(&version.to_be_bytes());
        // At most 10,000 bytes of startup packet: the count fits.
        let count = u32::try_from(options.len()).unwrap_or(0);
        out.extend_from_slice(&count.to_be_bytes());
        for option in options {
            out.extend_from_slice(option);
            out.push(0);
        }
    });
}

/// Appends an `ErrorResponse` of `fields` in the order given. NULs inside values end them early, so they are
/// left out.
pub(crate) fn put_error(out: &mut Vec<u8>, fields: &[(u8, &str)]) {
    put_fields(out, ERROR, fields);
}

fn put_fields(out: &mut Vec<u8>, tag: u8, fields: &[(u8, &str)]) {
    message(out, tag, |out| {
        for (field, value) in fields {
            out.push(*field);
            out.extend(value.bytes().filter(|&b| b != 0));
            out.push(0);
        }
        out.push(0);
    });
}

/// Appends the error in `body` as one that ends the connection: as PostgreSQL reports it when a setting in a startup
/// packet is refused, where a `SET` would get an ERROR. It gets `hint` if it has none.
pub(crate) fn put_error_as_fatal(out: &mut Vec<u8>, body: &[u8], hint: Option<&str>) {
    put_edited(out, ERROR, body, hint, |kind, value| match kind {
        b'S' | b'V' => b"FATAL".to_vec(),
        _ => value.to_vec(),
    });
}

/// Appends the error or notice (`tag`) in `body` with each field's value as `edit` makes it, and with `hint` if it has none.
pub(crate) fn put_edited(
    out: &mut Vec<u8>,
    tag: u8,
    body: &[u8],
    hint: Option<&str>,
    edit: impl Fn(u8, &[u8]) -> Vec<u8>,
) {
    message(out, tag, |out| {
        let mut rest = body;
        while let Some((&kind, after)) = rest.split_first().filter(|(kind, _)| **kind != 0) {
            let Some((value, after)) = cstr(after) else { break };
            out.push(kind);
            out.extend(edit(kind, value));
            out.push(0);
            rest = after;
        }
        if let Some(hint) = hint.filter(|_| error_field(body, b'H').is_none()) {
            out.push(b'H');
            out.extend_from_slice(hint.as_bytes());
            out.push(0);
        }
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_read_back() {
        let mut out = Vec::new();
        put_error(&mut out, &[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "53300"), (b'M', "too\0 many")]);
        let body = &out[5..];
        assert_eq!(error_field(body, b'C'), Some(&b"53300"[..]));
        assert_eq!(error_field(body, b'M'), Some(&b"too many"[..]));
        assert_eq!(error_field(body, b'H'), None);
        assert!(is_fatal(body));
    }

    #[test]
    fn a_translated_severity_does_not_hide_fatal() {
        let mut out = Vec::new();
        put_error(&mut out, &[(b'S', "FATALE"), (b'V', "FATAL")]);
        assert!(is_fatal(&out[5..]));
        let mut out = Vec::new();
        put_error(&mut out, &[(b'S', "ERROR"), (b'V', "ERROR"), (b'M', "FATAL")]);
        assert!(!is_fatal(&out[5..]));
    }

    #[test]
    fn an_error_becomes_fatal_and_nothing_else() {
        let mut error = Vec::new();
        put_error(&mut error, &[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "22023"), (b'M', "bad"), (b'H', "try")]);
        let mut expected = Vec::new();
        put_error(&mut expected, &[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "22023"), (b'M', "bad"), (b'H', "try")]);
        let mut out = Vec::new();
        put_error_as_fatal(&mut out, &error[5..], None);
        assert_eq!(out, expected);
    }

    #[test]
    fn many_columns_are_compared_without_being_kept() {
        let described = |count: u16, last: u8| {
            let columns = (0..count).flat_map(|nth| {
                let number = if nth + 1 == count { last } else { 23 };
                [format!("c{nth}\0").as_bytes(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, number, 0, 4, 0, 0, 0, 0, 0, 0]].concat()
            });
            count.to_be_bytes().into_iter().chain(columns).collect::<Vec<_>>()
        };
        for count in [1, 20, 1600] {
            let columns = shape(&described(count, 23));
            assert!(columns.len() <= MAX_SHAPE_BYTES, "{count}");
            assert_eq!(columns, shape(&described(count, 23)), "{count}");
            assert_ne!(columns, shape(&described(count, 25)), "{count}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..100), field in any::<u8>()) {
            let _ = error_field(&body, field);
            let _ = is_fatal(&body);
            let _ = parameter_status(&body);
            let _ = command_tag(&body);
            let _ = key_data(&body);
            let _ = values(&body);
            let _ = shape(&body);
            put_error_as_fatal(&mut Vec::new(), &body, Some("try"));
        }
    }
}
