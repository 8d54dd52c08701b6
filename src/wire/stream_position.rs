//! Where in a stream of messages that is passed on as it comes its last byte lies.

use super::frame::HEADER_BYTES;

/// Place of the last byte that was passed on in a stream of messages behind the login.
#[derive(Debug, Default)]
pub(crate) struct StreamPosition {
    header: [u8; HEADER_BYTES],
    /// Bytes of the next message's header that have passed.
    header_bytes: usize,
    /// Bytes of the current message that are still to come.
    left: usize,
}

impl StreamPosition {
    /// Notes that `bytes` were passed on.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.header_bytes] = first;
            self.header_bytes += 1;
            bytes = rest;
            if self.header_bytes == HEADER_BYTES {
                let [_, a, b, c, d] = self.header;
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                self.header_bytes = 0;
            }
        }
    }

    /// Returns whether it is between two messages.
    #[must_use]
    pub(crate) fn is_between(&self) -> bool {
        self.header_bytes == 0 && self.left == 0
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
