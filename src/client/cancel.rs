//! How a `CancelRequest` finds the query it is meant for, and no other.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tracing::debug;

use super::Shared;
use super::session_handle::{SessionHandle, SessionPhase};
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

impl CancelKey {
    /// The digits in which a key goes from one process to another.
    #[must_use]
    pub(super) fn to_hex(key: &[u8]) -> String {
        key.iter().fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
    }

    /// The key that `digits` stand for.
    #[must_use]
    pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let (pairs, rest) = digits.as_bytes().as_chunks();
        let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
        rest.is_empty().then(|| pairs.iter().map(byte).collect())?
    }
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

    /// The session that was given `pid`, if `secret` is its own.
    fn find_by_key(&self, pid: i32, secret: &[u8]) -> Option<Arc<SessionHandle>> {
        self.find(pid).filter(|handle| verify_slices_are_equal(secret, &handle.secret).is_ok())
    }
}

impl Shared {
    /// Acts upon a client's cancel request, and returns when it has been acted upon. Whether there was anything to cancel, or
    /// any such session, the requester does not learn.
    pub(super) async fn cancel(&self, source: &SourceLimit, pid: i32, secret: &[u8]) {
        let turn = source.cancel_turn().await;
        let handle = self.sessions.find_by_key(pid, secret).filter(|_| turn.is_some());
        if let Some(handle) = handle {
            drop(turn);
            handle.cancel(&self.registry).await;
            return;
        }
        // What the predecessor knows is counted as well: a guess costs as much as without one.
        source.count_cancel();
        let may_ask = turn.is_some();
        drop(turn);
        if !(may_ask && self.cancel_at_predecessor(pid, secret).await) {
            debug!(pid, "a cancel request without a session, with a wrong key, or one too many");
            self.registry.counters.wrong_cancels.add();
        }
    }

    /// As [`Shared::cancel`], for a process that has replaced this one and has looked at the source. Returns whether there is
    /// such a session.
    pub(crate) async fn cancel_for_successor(&self, pid: i32, secret: &[u8]) -> bool {
        match self.sessions.find_by_key(pid, secret) {
            Some(handle) => {
                handle.cancel(&self.registry).await;
                true
            }
            None => self.cancel_at_predecessor(pid, secret).await,
        }
    }

    async fn cancel_at_predecessor(&self, pid: i32, secret: &[u8]) -> bool {
        match &self.predecessor {
            Some(predecessor) => predecessor.cancel(pid, secret).await,
            None => false,
        }
    }
}

impl SessionHandle {
    /// Cancels what the session does, and returns when the server has heard of it.
    async fn cancel(&self, registry: &Registry) {
        let target = {
            let mut state = self.state();
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
            None => self.wake.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_way_to_another_process() {
        for key in [&b""[..], b"\x00\x0f\xf0\xff", &[7; 32]] {
            assert_eq!(CancelKey::from_hex(&CancelKey::to_hex(key)).as_deref(), Some(key));
        }
        for digits in ["xy", "+1", "a", "a\u{e4}"] {
            assert_eq!(CancelKey::from_hex(digits), None, "{digits}");
        }
    }

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
