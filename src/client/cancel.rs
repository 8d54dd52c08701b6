//! How a `CancelRequest` finds the query it is meant for, and no other.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tracing::debug;

use crate::auth::ProcessKey;
use crate::upstream::link::{BackendKey, Gate};
use crate::upstream::{Registry, cancel};
use crate::wake::Wake;

/// The first pid that is given to a client: above every real one (Linux's `PID_MAX_LIMIT` is 4194304), so that
/// nobody takes it for a process.
const FIRST_PID: i32 = 4_194_305;

/// What marks off the MACs that secrets are cut from, from others under the same key.
const PURPOSE: &[u8] = b"cancel key";

/// What a session is doing, as far as a cancel request is concerned.
#[derive(Debug)]
enum Doing {
    /// Nothing that could be cancelled.
    Idle,
    /// It waits for a connection.
    Waiting,
    /// Its connection is being prepared; a cancel request must not hit that work.
    Preparing,
    /// Its query runs there.
    Running(Arc<BackendKey>, Arc<Gate>),
}

#[derive(Debug)]
struct State {
    doing: Doing,
    /// A cancel request came that has not been acted upon.
    cancelled: bool,
}

/// How others reach a session.
#[derive(Debug)]
pub struct Control {
    /// A number of its own, for logs and for the books of its connections.
    pub id: u64,
    /// The pid it was given.
    pub pid: i32,
    /// Its secret: 4 bytes in protocol 3.0, 32 from 3.2.
    pub secret: Vec<u8>,
    /// Wakes it to look at the process's phase and at cancel requests.
    pub wake: Wake,
    state: Mutex<State>,
}

impl Control {
    /// The session has nothing that could be cancelled. Says whether a cancel request had come too late to be acted
    /// upon.
    pub fn set_idle(&self) {
        *self.state() = State { doing: Doing::Idle, cancelled: false };
    }

    /// The session waits for a connection.
    pub fn set_waiting(&self) {
        *self.state() = State { doing: Doing::Waiting, cancelled: false };
    }

    /// The session's connection is being prepared. A request that comes meanwhile is kept.
    pub fn set_preparing(&self) {
        self.state().doing = Doing::Preparing;
    }

    /// The session's query runs. Says whether a cancel request came before that is now due.
    #[must_use]
    pub fn set_running(&self, key: &Arc<BackendKey>, gate: &Arc<Gate>) -> bool {
        let mut state = self.state();
        state.doing = Doing::Running(Arc::clone(key), Arc::clone(gate));
        std::mem::take(&mut state.cancelled)
    }

    /// Whether a cancel request came while the session waited.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All sessions, by the pid they were given.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Mutex<Table>,
    next: AtomicU64,
    keystream: Mutex<Keystream>,
}

type Table = HashMap<i32, Arc<Control>, BuildHasherDefault<PidHasher>>;

/// Spreads pids over a table. They are of our own choosing, or PostgreSQL's: nobody can choose them to collide.
#[derive(Debug, Default)]
struct PidHasher(u64);

impl Hasher for PidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_i32(&mut self, pid: i32) {
        // The golden ratio spreads consecutive numbers evenly.
        self.0 = u64::from(pid.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Unpredictable bytes for secrets: MACs of ascending numbers, each byte of them used once.
#[derive(Debug, Default)]
struct Keystream {
    next: u64,
    block: [u8; 32],
    left: usize,
}

impl Keystream {
    /// The next `length` bytes, at most 32.
    fn take(&mut self, key: &ProcessKey, length: usize) -> Vec<u8> {
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

/// A session's place in the table, until it ends.
#[derive(Debug)]
pub struct Registered<'a> {
    sessions: &'a Sessions,
    /// How others reach it.
    pub control: Arc<Control>,
}

impl Sessions {
    /// Gives a session its pid and secret, for protocol `version`: the pid of its backend if it has one and nobody was
    /// given the same.
    pub fn register(&self, registry: &Registry, version: u32, backend: Option<i32>) -> Registered<'_> {
        let mut table = self.table();
        let (id, pid) = loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if let Some(real) = backend.filter(|pid| *pid > 0 && !table.contains_key(pid)) {
                break (id, real);
            }
            let span = u64::from((i32::MAX - FIRST_PID).unsigned_abs());
            // Smaller than `span`, which fits.
            let pid = FIRST_PID + i32::try_from(id % span).unwrap_or_default();
            if !table.contains_key(&pid) {
                break (id, pid);
            }
        };
        let length = if version > 3 << 16 { 32 } else { 4 };
        let mut keystream = self.keystream.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = keystream.take(&registry.key, length);
        drop(keystream);
        let state = Mutex::new(State { doing: Doing::Idle, cancelled: false });
        let control = Arc::new(Control { id, pid, secret, wake: Wake::default(), state });
        table.insert(pid, Arc::clone(&control));
        Registered { sessions: self, control }
    }

    /// Acts upon a cancel request, and returns when it has been acted upon. Whether there was anything to cancel, or
    /// anybody of that name, the requester does not learn.
    pub async fn cancel(&self, registry: &Registry, pid: i32, secret: &[u8]) {
        let Some(control) = self.table().get(&pid).cloned() else {
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

    /// Wakes every session, to look at the process's phase.
    pub fn wake_all(&self) {
        for control in self.table().values() {
            control.wake.wake();
        }
    }

    /// How many sessions wait for a connection.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.table().values().filter(|control| matches!(control.state().doing, Doing::Waiting)).count()
    }

    /// How many sessions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.sessions.table().remove(&self.control.pid);
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
