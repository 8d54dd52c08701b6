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

/// The first number of those that hold the locks of prepared transactions.
pub const FIRST_PREPARED: BackendId = usize::MAX / 2;

#[derive(Clone, Copy, Debug)]
struct Held {
    backend: BackendId,
    mode: Mode,
    count: usize,
}

#[derive(Debug, Default)]
pub struct Locks {
    held: HashMap<Tag, Vec<Held>>,
    /// Those that wait, and for what. Who stands before another one gets a lock first.
    pub waiting: Vec<(BackendId, Wait)>,
    /// The one that goes on now with the lock that it waited for.
    pub granted: Option<(BackendId, Tag)>,
    /// Something has been released since the waiting were looked at.
    pub released: bool,
    /// The one whose work has let others go on: while they do, it does too.
    racing: Option<BackendId>,
    raced: bool,
}

fn conflict(a: Mode, b: Mode) -> bool {
    a.max(b) == Mode::Exclusive
}

impl Locks {
    /// The others whose locks conflict.
    fn holders(&self, tag: Tag, mode: Mode, me: BackendId) -> impl Iterator<Item = BackendId> {
        let conflicts = move |held: &&Held| held.backend != me && conflict(mode, held.mode);
        self.held.get(&tag).into_iter().flatten().filter(conflicts).map(|held| held.backend)
    }

    /// Those that stand before `me`, and wait for what conflicts. They don't matter to one that has a lock there already.
    fn before(&self, tag: Tag, mode: Mode, me: BackendId) -> impl Iterator<Item = BackendId> {
        let holds = self.held.get(&tag).is_some_and(|held| held.iter().any(|held| held.backend == me));
        let first = holds || self.granted == Some((me, tag));
        let waiting = self.waiting.iter().take_while(move |(id, _)| *id != me).filter(move |_| !first);
        waiting.filter_map(move |(id, wait)| match wait {
            Wait::Lock(other, theirs) if *other == tag && conflict(mode, *theirs) => Some(*id),
            _ => None,
        })
    }

    pub fn is_free(&self, tag: Tag, mode: Mode, me: BackendId) -> bool {
        self.holders(tag, mode, me).next().is_none() && self.before(tag, mode, me).next().is_none()
    }

    /// Takes a free lock once more.
    pub fn take(&mut self, tag: Tag, mode: Mode, me: BackendId) {
        if self.granted == Some((me, tag)) {
            self.granted = None;
        }
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
            if self.waiting.iter().any(|(_, wait)| matches!(wait, Wait::Lock(other, _) if *other == tag)) {
                self.racing = Some(me);
            }
        }
        true
    }

    /// `me` waits no more: those behind it may go on.
    pub fn leave(&mut self, me: BackendId) {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != me);
        self.released |= self.waiting.len() < before;
    }

    /// Whether no session has locked anything.
    pub fn is_empty(&self) -> bool {
        self.held.values().flatten().all(|held| held.backend >= FIRST_PREPARED)
    }

    /// What one holds is another's from now on.
    pub fn pass_on(&mut self, tag: Tag, mode: Mode, from: BackendId, to: BackendId) {
        let held = self.held.entry(tag).or_default();
        for held in held.iter_mut().filter(|held| held.backend == from && held.mode == mode) {
            held.backend = to;
        }
    }

    /// Notes that `me` does something more.
    pub fn goes_on(&mut self, me: BackendId) {
        self.raced |= self.racing == Some(me);
    }

    /// Notes that so many go on at once that waited.
    pub fn go_on(&mut self, count: usize) {
        self.racing = None;
        self.raced |= count > 1;
    }

    /// Whether two have gone on at once, after one had waited for the other: in which order is not certain.
    pub fn raced(&self) -> bool {
        self.raced
    }

    fn blockers(&self, of: BackendId, queued: bool) -> Vec<BackendId> {
        let mut all = Vec::new();
        for (id, wait) in &self.waiting {
            if let (true, Wait::Lock(tag, mode)) = (*id == of, wait) {
                all.extend(self.holders(*tag, *mode, of));
                if queued {
                    all.extend(self.before(*tag, *mode, of));
                }
            }
        }
        all
    }

    /// Those that `me` waits for, and those that they wait for; and whether `me` is among them.
    fn reachable(&self, me: BackendId, queued: bool) -> (Vec<BackendId>, bool) {
        let mut seen = Vec::new();
        let mut next = self.blockers(me, queued);
        while let Some(id) = next.pop() {
            if !seen.contains(&id) {
                seen.push(id);
                next.extend(self.blockers(id, queued));
            }
        }
        let circle = seen.contains(&me);
        (seen, circle)
    }

    /// Whether `me`, which waits, would wait for ever. Where a circle is only one of places in a queue, one goes ahead.
    pub fn is_deadlock(&mut self, me: BackendId) -> bool {
        if self.reachable(me, false).1 {
            return true;
        }
        for _ in 0..self.waiting.len() {
            let (seen, circle) = self.reachable(me, true);
            let queued = |id: &BackendId| self.blockers(*id, false).is_empty() && !self.blockers(*id, true).is_empty();
            let Some(ahead) = seen.into_iter().filter(|_| circle).find(queued) else { break };
            if let Some(at) = self.waiting.iter().position(|(id, _)| *id == ahead) {
                let first = self.waiting.remove(at);
                self.waiting.insert(0, first);
                self.released = true;
            }
        }
        false
    }
}
