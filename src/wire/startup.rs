//! The untagged packets a client opens with.

use bytes::Bytes;

use super::cstr;

/// Bytes of the length field that starts every opening packet.
pub(crate) const LENGTH: usize = 4;

pub(super) const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;
pub(super) const CANCEL: u32 = 80_877_102;
/// The longest packet that PostgreSQL reads: `MAX_STARTUP_PACKET_LENGTH`, and the length field.
pub(crate) const MAX_BYTES: usize = LENGTH + 10_000;

/// Request of a client's opening packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// `SSLRequest`.
    Ssl,
    /// `GSSENCRequest`.
    GssEnc,
    /// `CancelRequest`: end the query of the session that was given this pid and secret.
    Cancel {
        /// The pid from `BackendKeyData`.
        pid: i32,
        /// The secret from `BackendKeyData`: 4 bytes in protocol 3.0, up to 256 in 3.2.
        secret: Vec<u8>,
    },
    /// `StartupMessage` of protocol 3.
    Startup(Startup),
}

/// A `StartupMessage`. Names and values are kept as the bytes they came as: PostgreSQL does not convert them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// The minor protocol version asked for.
    pub minor: u16,
    /// Parameters in the order sent, `_pq_.` options left out.
    pub params: Vec<(Bytes, Bytes)>,
    /// Names of `_pq_.` protocol options, none of which pgferry knows.
    pub protocol_options: Vec<Vec<u8>>,
}

impl Startup {
    /// The last value given for `name`, as PostgreSQL takes it; empty values count as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.params.iter().rev().find(|(n, _)| **n == *name.as_bytes());
        found.map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// The version to speak with this client, and whether it must be told with `NegotiateProtocolVersion`.
    #[must_use]
    pub fn negotiated(&self) -> (u32, bool) {
        let minor = match self.minor {
            0 | 1 => 0,
            _ => 2,
        };
        (3 << 16 | minor, u32::from(self.minor) != minor || !self.protocol_options.is_empty())
    }
}

/// Reason why an opening packet is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length field is outside PostgreSQL's bounds.
    #[error("invalid length of startup packet")]
    Length,
    /// A protocol other than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version {
        /// The major version asked for.
        major: u16,
        /// The minor version asked for.
        minor: u16,
    },
    /// The parameter list does not end where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

/// The size of the opening packet that starts with `bytes`, length field included; `Ok(None)` when the length
/// field is not all there.
///
/// # Errors
/// [`StartupError::Length`] outside PostgreSQL's bounds (`ProcessStartupPacket`: 4 to 10,000 bytes behind the
/// length field).
pub fn size(bytes: &[u8]) -> Result<Option<usize>, StartupError> {
    let [a, b, c, d, ..] = *bytes else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    if (LENGTH + 4..=MAX_BYTES).contains(&size) { Ok(Some(size)) } else { Err(StartupError::Length) }
}

/// Reads one whole opening packet, `packet` being exactly as long as [`size`] said.
///
/// # Errors
/// As [`StartupError`] lists.
///
/// ```
/// use pgferry::internals::wire::frontend;
/// use pgferry::internals::wire::startup::{self, Opening};
///
/// let mut packet = Vec::new();
/// frontend::put_startup(&mut packet, 0, [(&b"user"[..], &b"app"[..])]);
/// assert_eq!(startup::size(&packet), Ok(Some(packet.len())));
/// let Ok(Opening::Startup(startup)) = startup::parse(&packet.into()) else { panic!("a startup packet") };
/// assert_eq!(startup.get("user"), Some(&b"app"[..]));
/// ```
pub fn parse(packet: &Bytes) -> Result<Opening, StartupError> {
    let (Some(code), Some(body)) = (int32(packet, LENGTH), packet.get(LENGTH + 4..)) else {
        return Err(StartupError::Length);
    };
    match code {
        SSL => Ok(Opening::Ssl),
        GSSENC => Ok(Opening::GssEnc),
        CANCEL => cancel(body),
        _ => startup(code, &packet.slice_ref(body)).map(Opening::Startup),
    }
}

fn cancel(body: &[u8]) -> Result<Opening, StartupError> {
    let pid = int32(body, 0).ok_or(StartupError::Length)?.cast_signed();
    let secret = &body[4..];
    if secret.is_empty() || secret.len() > 256 {
        return Err(StartupError::Length);
    }
    Ok(Opening::Cancel { pid, secret: secret.to_vec() })
}

fn startup(code: u32, body: &Bytes) -> Result<Startup, StartupError> {
    let [hi, lo] = [(code >> 16) as u16, (code & 0xffff) as u16];
    if hi != 3 {
        return Err(StartupError::Version { major: hi, minor: lo });
    }
    let mut startup = Startup { minor: lo, ..Startup::default() };
    let mut rest = &body[..];
    loop {
        let (name, after) = cstr(rest).ok_or(StartupError::Layout)?;
        if name.is_empty() {
            return if after.is_empty() { Ok(startup) } else { Err(StartupError::Layout) };
        }
        let (value, after) = cstr(after).ok_or(StartupError::Layout)?;
        if name.starts_with(b"_pq_.") {
            startup.protocol_options.push(name.to_vec());
        } else {
            startup.params.push((body.slice_ref(name), body.slice_ref(value)));
        }
        rest = after;
    }
}

fn int32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, body: &[u8]) -> Bytes {
        let mut out = u32::try_from(body.len() + 8).expect("small").to_be_bytes().to_vec();
        out.extend(code.to_be_bytes());
        out.extend(body);
        out.into()
    }

    #[test]
    fn bounds_are_postgresqls() {
        for (claimed, good) in
            [(0u32, false), (7, false), (8, true), (10_004, true), (10_005, false), (u32::MAX, false)]
        {
            let got = size(&claimed.to_be_bytes());
            assert_eq!(got.is_ok(), good, "{claimed}");
        }
        assert_eq!(size(&[0, 0, 0]), Ok(None));
    }

    #[test]
    fn parameters_and_protocol_options_are_told_apart() {
        let body = b"user\0me\0_pq_.command_tag\0on\0database\0shop\0user\0you\0\0";
        let Ok(Opening::Startup(startup)) = parse(&packet(3 << 16, body)) else { panic!("not a startup") };
        assert_eq!(startup.get("user"), Some(&b"you"[..]));
        assert_eq!(startup.get("database"), Some(&b"shop"[..]));
        assert_eq!(startup.protocol_options, [b"_pq_.command_tag".to_vec()]);
        assert_eq!(startup.negotiated(), (3 << 16, true));
    }

    #[test]
    fn minors_are_negotiated() {
        for (minor, expected) in [(0, (0, false)), (1, (0, true)), (2, (2, false)), (3, (2, true)), (9999, (2, true))] {
            let startup = Startup { minor, ..Startup::default() };
            assert_eq!(startup.negotiated(), (3 << 16 | expected.0, expected.1), "3.{minor}");
        }
    }

    #[test]
    fn broken_layouts_are_refused() {
        for body in [&b""[..], b"user\0me\0", b"user\0me", b"user\0", b"user\0me\0\0\0", b"user\0me\0\0x"] {
            assert_eq!(parse(&packet(3 << 16, body)), Err(StartupError::Layout), "{body:?}");
        }
        assert_eq!(parse(&packet(2 << 16, b"\0")), Err(StartupError::Version { major: 2, minor: 0 }));
    }

    #[test]
    fn cancel_keys_may_be_long() {
        let long = [7u8; 256];
        let mut body = 5i32.to_be_bytes().to_vec();
        body.extend(long);
        assert_eq!(parse(&packet(CANCEL, &body)), Ok(Opening::Cancel { pid: 5, secret: long.to_vec() }));
        body.push(0);
        assert_eq!(parse(&packet(CANCEL, &body)), Err(StartupError::Length));
        assert_eq!(parse(&packet(CANCEL, &[0, 0, 0, 1])), Err(StartupError::Length));
        assert_eq!(parse(&packet(CANCEL, &[0, 0])), Err(StartupError::Length));
    }

    proptest! {
        #[test]
        fn arbitrary_packets_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = size(&bytes);
            let _ = parse(&bytes.into());
        }
    }
}
