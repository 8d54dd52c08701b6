//! Locks, and who waits for whom.

use std::collections::HashMap;

use super::BackendId;
use super::catalog::{TableId, Xid};

/// What is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    Table(TableId),
    /// An advisory lock: its database and key.
    Advisory(u32, i64),
    /// A transaction, which holds itself until it ends.
    Transaction(Xid),
}

/// How it is locked. Only `Exclusive` conflicts with anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Shared,
    Exclusive,
}

/// What a backend waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Lock(Tag, Mode),
    /// A moment of the cluster's clock.
    Until(std::time::Duration),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    backend: BackendId,
    mode: Mode,
    count: usize,
}

#[derive(Debug, Default)]
pub struct Locks {
    held: HashMap<Tag, Vec<Held>>,
    /// Something has been released since the waiting were looked at.
    pub released: bool,
}

impl Locks {
    /// The others whose locks conflict.
    pub fn blockers(&self, tag: Tag, mode: Mode, me: BackendId) -> impl Iterator<Item = BackendId> {
        let conflicts = move |held: &&Held| held.backend != me && mode.max(held.mode) == Mode::Exclusive;
        self.held.get(&tag).into_iter().flatten().filter(conflicts).map(|held| held.backend)
    }

    pub fn is_free(&self, tag: Tag, mode: Mode, me: BackendId) -> bool {
        self.blockers(tag, mode, me).next().is_none()
    }

    /// Takes a free lock once more.
    pub fn take(&mut self, tag: Tag, mode: Mode, me: BackendId) {
        let held = self.held.entry(tag).or_default();
        match held.iter_mut().find(|held| held.backend == me && held.mode == mode) {
            Some(held) => held.count += 1,
            None => held.push(Held { backend: me, mode, count: 1 }),
        }
    }

    /// Releases a lock once; says whether it was held.
    pub fn release(&mut self, tag: Tag, mode: Mode, me: BackendId) -> bool {
        let Some(held) = self.held.get_mut(&tag) else { return false };
        let Some(at) = held.iter().position(|held| held.backend == me && held.mode == mode) else { return false };
        held[at].count -= 1;
        if held[at].count == 0 {
            held.swap_remove(at);
            self.released = true;
            if held.is_empty() {
                self.held.remove(&tag);
            }
        }
        true
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
