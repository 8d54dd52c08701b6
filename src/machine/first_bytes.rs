//! The client's first messages on a connection, until it is known that the server has come to them.

use crate::wire::{Head, frame, head};

/// The client's first bytes, kept for as long as it may turn out that the server has not come to them.
#[derive(Debug)]
pub(super) enum FirstBytes {
    /// The kernel has not taken any of them.
    Unsent(Vec<u8>),
    /// The kernel has taken some, behind a preparation.
    Sent(Vec<u8>),
    /// The server may have come to them.
    Forgotten,
}

impl FirstBytes {
    /// Notes that these were taken too.
    pub(super) fn took(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Unsent(first) if first.is_empty() => *first = bytes,
            Self::Unsent(first) => first.extend_from_slice(&bytes),
            Self::Sent(_) | Self::Forgotten => {}
        }
    }

    /// Notes that the client has its answer to the next of them that has type `tag`: with what is before that it is not unread
    /// any more, whatever becomes of the connection.
    pub(super) fn answered(&mut self, tag: u8) {
        let (Self::Unsent(first) | Self::Sent(first)) = self else { return };
        let mut answered = 0;
        while let Ok(Some(Head { tag: next, size })) = head(&first[answered..], frame::FRONTEND_LIMIT) {
            answered = (answered + size).min(first.len());
            if next == tag {
                break;
            }
        }
        first.drain(..answered);
    }
}

#[cfg(test)]
mod tests {
    use super::FirstBytes;
    use crate::wire::frontend;

    #[test]
    fn what_has_been_answered_is_not_unread_again() {
        let mut bytes = Vec::new();
        frontend::put_flush(&mut bytes);
        frontend::put_close(&mut bytes, "a");
        let behind = bytes.len();
        frontend::put_sync(&mut bytes);
        let rest = bytes[behind..].to_vec();
        let mut first = FirstBytes::Unsent(bytes);
        first.answered(frontend::CLOSE);
        assert!(matches!(&first, FirstBytes::Unsent(left) if *left == rest));
        first.answered(frontend::PARSE);
        assert!(matches!(&first, FirstBytes::Unsent(left) if left.is_empty()));
    }
}
