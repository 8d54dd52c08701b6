//! Message boundaries: one tag byte, then a big-endian length that counts itself but not the tag.

use std::fmt;

/// Bytes of a message header: the tag and the length field.
pub const HEADER_BYTES: usize = 5;

/// The longest message PostgreSQL accepts from a client (`PQ_LARGE_MESSAGE_LIMIT`, that is `MaxAllocSize - 1`),
/// as the value of the length field.
pub(crate) const FRONTEND_LIMIT: usize = 0x3fff_fffe;

/// The longest message a server may send: the length field is a signed 32-bit number.
pub const BACKEND_LIMIT: usize = 0x7fff_ffff;

/// A length field below 4 or above the limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    /// The message's tag.
    pub tag: u8,
    /// Value of its length field.
    pub length: u32,
}

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid message length {} (type 0x{:02x})", self.length, self.tag)
    }
}

impl std::error::Error for BadLength {}

/// Header of a message: its type and its whole size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The message's type.
    pub tag: u8,
    /// Bytes of the whole message, tag and length field included.
    pub size: usize,
}

/// Reads the header at the start of `bytes`; `Ok(None)` when fewer than [`HEADER_BYTES`] bytes are there.
///
/// # Errors
/// [`BadLength`] unless 4 ≤ length ≤ `limit`.
#[inline]
pub fn head(bytes: &[u8], limit: usize) -> Result<Option<Head>, BadLength> {
    let [tag, a, b, c, d, ..] = *bytes else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    let size = length as usize;
    if size < 4 || size > limit {
        return Err(BadLength { tag, length });
    }
    Ok(Some(Head { tag, size: size + 1 }))
}

/// Number of bytes of the whole messages of one type that `bytes` begins with: rows come by the thousand, and are all treated
/// alike. Stops in front of a bad header.
#[must_use]
pub fn run(bytes: &[u8], tag: u8, limit: usize) -> usize {
    let mut end = 0;
    while let Some(Ok(Some(next))) = bytes.get(end..).map(|rest| head(rest, limit)) {
        if next.tag != tag || next.size > bytes.len() - end {
            break;
        }
        end += next.size;
    }
    end
}

/// One whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message's type.
    pub tag: u8,
    /// The whole message, header included: what is forwarded.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns the body, which follows the header.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

/// Walks the whole messages at the front of a slice; never yields part of one, never looks into a body.
///
/// ```
/// use pgferry::internals::wire::frame::Frames;
///
/// // A Sync, and the first three bytes of another message.
/// let mut frames = Frames::new(b"S\0\0\0\x04Q\0\0", 1000);
/// assert_eq!(frames.next().expect("whole").expect("good").tag, b'S');
/// assert!(frames.next().is_none());
/// assert_eq!(frames.rest(), b"Q\0\0");
/// ```
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    limit: usize,
}

impl<'a> Frames<'a> {
    /// Walks `bytes`, refusing messages with a length field above `limit`.
    #[must_use]
    pub fn new(bytes: &'a [u8], limit: usize) -> Self {
        Self { rest: bytes, limit }
    }

    /// Returns what has not been yielded: nothing, the start of an incomplete message, or a bad header.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, BadLength>;

    fn next(&mut self) -> Option<Self::Item> {
        match head(self.rest, self.limit) {
            Ok(Some(head)) if head.size <= self.rest.len() => {
                let (bytes, rest) = self.rest.split_at(head.size);
                self.rest = rest;
                Some(Ok(Frame { tag: head.tag, bytes }))
            }
            Ok(_) => None,
            Err(bad) => Some(Err(bad)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend(u32::try_from(body.len() + 4).expect("small").to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for length in [0u32, 1, 2, 3, 101, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(head(&bytes, 100), Err(BadLength { tag: b'Q', length }), "length {length}");
        }
        assert_eq!(head(b"Q\0\0\0\x04", 100), Ok(Some(Head { tag: b'Q', size: 5 })));
        assert_eq!(head(b"Q\0\0\0", 100), Ok(None));
    }

    #[test]
    fn runs_end_with_the_last_whole_message_of_the_type() {
        let row = |n: usize| [&b"D"[..], &u32::try_from(n + 4).expect("small").to_be_bytes(), &vec![7; n]].concat();
        let rows = [row(0), row(3), row(300)].concat();
        for (behind, whole) in [
            (&b""[..], rows.len()),
            (b"D", rows.len()),
            (b"D\0\0\0\x05", rows.len()),
            (b"C\0\0\0\x04", rows.len()),
            (b"D\0\0\0\x04", rows.len() + 5),
            (b"D\0\0\0\0", rows.len()),
        ] {
            assert_eq!(run(&[&rows, behind].concat(), b'D', BACKEND_LIMIT), whole, "{behind:?}");
        }
        assert_eq!(run(&rows, b'd', BACKEND_LIMIT), 0);
    }

    proptest! {
        /// However a stream of messages is cut, the same whole messages come out, in order.
        #[test]
        fn any_cut_yields_the_same_frames(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let cut = cut.index(stream.len() + 1);
            let mut seen = Vec::new();
            let mut frames = Frames::new(&stream[..cut], BACKEND_LIMIT);
            for frame in frames.by_ref() {
                let frame = frame.expect("lengths are good");
                seen.push((frame.tag, frame.body().to_vec()));
            }
            let at = cut - frames.rest().len();
            for frame in Frames::new(&stream[at..], BACKEND_LIMIT) {
                let frame = frame.expect("lengths are good");
                seen.push((frame.tag, frame.body().to_vec()));
            }
            prop_assert_eq!(seen, messages);
        }

        /// Arbitrary bytes neither panic nor yield anything outside the slice.
        #[test]
        fn arbitrary_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..200), limit in 0usize..300) {
            let mut total = 0;
            for frame in Frames::new(&bytes, limit).take(100) {
                let Ok(frame) = frame else { break };
                prop_assert!(frame.bytes.len() >= HEADER_BYTES && frame.bytes.len() <= limit + 1);
                total += frame.bytes.len();
            }
            prop_assert!(total <= bytes.len());
        }
    }
}
