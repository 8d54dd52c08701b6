//! How a `CancelRequest` finds the query it is meant for, and no other.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tracing::debug;

use super::sessions::{Doing, Sessions};
use crate::auth::ProcessKey;
use crate::upstream::{Registry, cancel};

/// What marks off the MACs that secrets are cut from, from others under the same key.
const PURPOSE: &[u8] = b"cancel key";

/// Unpredictable bytes for secrets: MACs of ascending numbers, each byte of them used once.
#[derive(Debug, Default)]
pub(super) struct Keystream {
    next: u64,
    block: [u8; 32],
    left: usize,
}

impl Keystream {
    /// The next `length` bytes, at most 32.
    pub fn take(&mut self, key: &ProcessKey, length: usize) -> Vec<u8> {
        if self.left < length {
            self.block = *key.mac(&[PURPOSE, &self.next.to_be_bytes()]).bytes();
            self.next += 1;
            self.left = self.block.len();
        }
        let end = self.left;
        self.left -= length;
        self.block[self.left..end].to_vec()
    }
}

impl Sessions {
    /// Acts upon a cancel request, and returns when it has been acted upon. Whether there was anything to cancel, or
    /// anybody of that name, the requester does not learn.
    pub async fn cancel(&self, registry: &Registry, pid: i32, secret: &[u8]) {
        let Some(control) = self.find(pid) else {
            debug!(pid, "a cancel request for nobody");
            return;
        };
        if verify_slices_are_equal(secret, &control.secret).is_err() {
            debug!(pid, "a cancel request with a wrong key");
            return;
        }
        let target = {
            let mut state = control.state();
            match &state.doing {
                Doing::Idle => None,
                Doing::Waiting | Doing::Preparing => {
                    state.cancelled = true;
                    None
                }
                // The gate is entered under the lock: a session that gives its connection back later sees it.
                Doing::Running(key, gate) => Some((Arc::clone(key), gate.enter())),
            }
        };
        match target {
            Some((key, gate)) => cancel::send(registry, &key, gate).await,
            None => control.wake.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_secrets_are_cut_from_the_same_bytes() {
        let key = ProcessKey::generate().expect("randomness");
        let mut keystream = Keystream::default();
        let short: Vec<_> = (0..16).map(|_| keystream.take(&key, 4)).collect();
        assert_eq!(keystream.next, 2, "eight short ones of each block");
        let long = keystream.take(&key, 32);
        assert_eq!(keystream.next, 3);
        for (at, secret) in short.iter().enumerate() {
            assert_eq!(secret.len(), 4);
            let block = *key.mac(&[PURPOSE, &(at as u64 / 8).to_be_bytes()]).bytes();
            assert!(block.chunks(4).any(|part| part == secret));
            assert!(block.chunks(4).filter(|part| part == secret).count() == 1 && !long.starts_with(secret));
        }
        let _ = keystream.take(&key, 4);
        let again = keystream.take(&key, 32);
        assert_ne!(again, long, "what is left of a block is too short for a long one");
    }
}
