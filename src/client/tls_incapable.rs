//! Programs that ask for TLS over unix sockets and can't use it there.
//!
//! An `SSLRequest` does not tell whether its client insists on TLS or only prefers it. Most drivers that ask on a unix socket are well
//! served with TLS, and those that insist are with nothing else. tokio-postgres only prefers it, by default, and fails
//! when it is offered: it has no host name to begin TLS with. So what a program does with an answer decides about its next one.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, MutexGuard};

use crate::lock::lock;
use crate::net::{Peer, Stream};

/// Number of programs that are remembered.
const REMEMBERED: usize = 64;

/// A program of this machine, as far as it can be told from others without its help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The user that it runs as.
    uid: u32,
    /// The name of its process (`/proc/PID/comm`); `None` where it is in a PID namespace that this process does not see.
    name: Option<String>,
}

impl Program {
    /// The program at the other end of `stream`; `None` where that is no unix socket.
    #[must_use]
    pub(crate) fn of(stream: &Stream) -> Option<Self> {
        if stream.is_tcp() {
            return None;
        }
        let Ok(Peer::Unix { uid, pid, .. }) = stream.peer() else { return None };
        // The kernel's own memory: this does not block.
        let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        Some(Self { uid, name })
    }
}

/// The programs that were last seen to end a connection because TLS was offered.
#[derive(Debug, Default)]
pub(crate) struct TlsIncapable(Mutex<VecDeque<Program>>);

impl TlsIncapable {
    /// Returns whether `program` is one of them.
    #[must_use]
    pub(crate) fn contains(&self, program: &Program) -> bool {
        self.programs().contains(program)
    }

    /// Remembers `program`, in place of the one that has been known longest where there are too many.
    pub(crate) fn insert(&self, program: Program) {
        let mut programs = self.programs();
        programs.retain(|known| *known != program);
        if programs.len() >= REMEMBERED {
            programs.pop_front();
        }
        programs.push_back(program);
    }

    /// Forgets `program`, which has ended a connection because TLS was not offered.
    pub(crate) fn remove(&self, program: &Program) {
        self.programs().retain(|known| known != program);
    }

    fn programs(&self) -> MutexGuard<'_, VecDeque<Program>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(uid: u32) -> Program {
        Program { uid, name: Some("app\n".to_owned()) }
    }

    #[test]
    fn the_newest_are_remembered_and_each_once() {
        let incapable = TlsIncapable::default();
        for uid in 0..100 {
            incapable.insert(program(uid));
            incapable.insert(program(99));
        }
        assert_eq!(incapable.programs().len(), REMEMBERED);
        assert!(
            incapable.contains(&program(99)) && incapable.contains(&program(98)) && !incapable.contains(&program(0))
        );
        assert!(!incapable.contains(&Program { name: None, ..program(99) }), "another program of the same user");
        incapable.remove(&program(99));
        assert!(!incapable.contains(&program(99)));
    }
}
