//! How a `CancelRequest` finds the query it is meant for, and no other.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tracing::debug;

use super::session_handle::SessionPhase;
use super::sessions::Sessions;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::upstream::limiter::SourceLimit;
use crate::upstream::{Registry, cancel};

/// Number of random bytes that are taken from the system at once.
const POOL_BYTES: usize = 256;

/// Random bytes for secrets: taken from the system many at a time, each used once.
#[derive(Debug)]
pub(super) struct RandomPool {
    bytes: [u8; POOL_BYTES],
    left: usize,
}

impl Default for RandomPool {
    fn default() -> Self {
        Self { bytes: [0; POOL_BYTES], left: 0 }
    }
}

impl RandomPool {
    /// A secret for a client that speaks protocol `version`.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn secret(&mut self, version: u32) -> Result<CancelKey, getrandom::Error> {
        Ok(CancelKey(if version > 3 << 16 { Bytes::Long(Box::new(self.take()?)) } else { Bytes::Short(self.take()?) }))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], getrandom::Error> {
        if self.left < N {
            getrandom::fill(&mut self.bytes)?;
            self.left = POOL_BYTES;
        }
        let mut taken = [0; N];
        taken.swap_with_slice(&mut self.bytes[self.left - N..self.left]);
        self.left -= N;
        Ok(taken)
    }
}

/// The key that a cancel request must have: 4 bytes in protocol 3.0, 32 from 3.2.
#[derive(Clone)]
pub(crate) struct CancelKey(Bytes);

/// Most clients have a short one.
#[derive(Clone)]
enum Bytes {
    Short([u8; 4]),
    Long(Box<[u8; 32]>),
}

impl Deref for CancelKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(bytes) => bytes,
            Bytes::Long(bytes) => &**bytes,
        }
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret of {} bytes", self.len())
    }
}

impl Sessions {
    /// Creates a key for a client of protocol `version`.
    ///
    /// # Errors
    /// When the system has no randomness to give; the words are PostgreSQL's.
    pub(crate) fn secret(&self, version: u32) -> Result<CancelKey, ClientError> {
        self.random_pool().secret(version).map_err(|error| {
            ClientError::fatal(ErrorSource::Limits, sqlstate::INTERNAL, "could not generate random cancel key")
                .detail(error.to_string())
        })
    }

    /// Acts upon a cancel request, and returns when it has been acted upon. Whether there was anything to cancel, or
    /// any such session, the requester does not learn.
    pub(crate) async fn cancel(&self, registry: &Registry, source: &SourceLimit, pid: i32, secret: &[u8]) {
        let turn = source.cancel_turn().await;
        let handle =
            self.find(pid).filter(|handle| turn.is_some() && verify_slices_are_equal(secret, &handle.secret).is_ok());
        let Some(handle) = handle else {
            debug!(pid, "a cancel request without a session, with a wrong key, or one too many");
            source.count_cancel();
            registry.counters.wrong_cancels.add();
            return;
        };
        drop(turn);
        let target = {
            let mut state = handle.state();
            match &state.phase {
                SessionPhase::Idle => None,
                SessionPhase::Waiting | SessionPhase::Preparing => {
                    state.cancelled = true;
                    None
                }
                // The gate is entered under the lock: a session that gives its connection back later sees it.
                SessionPhase::Running(key, gate) => Some((Arc::clone(key), gate.enter())),
            }
        };
        match target {
            Some((key, gate)) => cancel::send(registry, &key, gate).await,
            None => handle.wake.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_secrets_are_cut_from_the_same_bytes() {
        let mut random_pool = RandomPool::default();
        let mut seen = Vec::new();
        for (version, length) in [(3 << 16, 4), (3 << 16 | 2, 32), (3 << 16, 4)].into_iter().cycle().take(100) {
            let secret = random_pool.secret(version).expect("randomness");
            assert_eq!(secret.len(), length);
            assert!(random_pool.bytes[random_pool.left..].iter().all(|byte| *byte == 0), "what is used is forgotten");
            seen.push(secret.to_vec());
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        // Two of 67 that are 4 bytes long are the same once in two million runs.
        assert_eq!(seen.len(), all);
    }
}
