//! Position in a stream of messages that is passed on as it comes: between two messages, or in one of which the rest is still to come.

use super::frame::{BACKEND_LIMIT, BadLength, HEADER_BYTES, head};

/// Place behind the last byte that was taken from a stream of messages behind the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamPosition {
    /// In a message of which this many bytes are still to come: none where it is between two.
    Body(usize),
    /// In a header, of which the first `here` bytes have come.
    Header { header: [u8; HEADER_BYTES], here: usize },
}

impl Default for StreamPosition {
    fn default() -> Self {
        Self::Body(0)
    }
}

impl StreamPosition {
    /// Takes what `bytes` begin with of the current header or body, or of the next header where it is between two messages. Returns
    /// the number of bytes.
    ///
    /// # Errors
    /// [`BadLength`] beside that number, where the header is whole and its length is not between 4 and `limit`.
    pub(crate) fn take(&mut self, bytes: &[u8], limit: usize) -> (usize, Result<(), BadLength>) {
        let (mut header, here) = match *self {
            Self::Body(left) if left > 0 || bytes.is_empty() => {
                let taken = left.min(bytes.len());
                *self = Self::Body(left - taken);
                return (taken, Ok(()));
            }
            Self::Body(_) => ([0; HEADER_BYTES], 0),
            Self::Header { header, here } => (header, here),
        };
        let taken = bytes.len().min(HEADER_BYTES - here);
        let until = here + taken;
        header[here..until].copy_from_slice(&bytes[..taken]);
        *self = Self::Header { header, here: until };
        let read = head(&header[..until], limit).map(|head| {
            if let Some(head) = head {
                *self = Self::Body(head.size - HEADER_BYTES);
            }
        });
        (taken, read)
    }

    /// Notes that `bytes` were passed on, whatever the lengths in them.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, read) = self.take(bytes, BACKEND_LIMIT);
            if let Err(BadLength { length, .. }) = read {
                *self = Self::Body((length as usize).saturating_sub(4));
            }
            bytes = &bytes[taken..];
        }
    }

    /// Returns whether it is between two messages.
    #[must_use]
    pub(crate) fn is_between(self) -> bool {
        self == Self::Body(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_between_messages_where_these_end(sizes in prop::collection::vec(0u8..20, 0..8), portion in 1usize..9) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for size in sizes {
                bytes.extend([b'd', 0, 0, 0, size + 4]);
                bytes.resize(bytes.len() + usize::from(size), b'x');
                ends.push(bytes.len());
            }
            let (mut position, mut passed) = (StreamPosition::default(), 0);
            for part in bytes.chunks(portion) {
                position.pass(part);
                passed += part.len();
                prop_assert_eq!(position.is_between(), ends.contains(&passed));
            }
        }
    }
}
