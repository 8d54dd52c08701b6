//! What a queue of requests still owes.

use super::{Entry, Pipeline};
use crate::track::{Request, ResponseAction};

impl Pipeline {
    /// Notes that the last request, where that is a `request`, is never sent whole: the server does not come to it. Nothing else is sent.
    pub fn withdraw(&mut self, request: Request) {
        // Where the server discards it, it is not in the queue.
        let is_last = |entry: &Entry| entry.request == request && entry.action == ResponseAction::Forward;
        if !self.skipping() && self.queue.back().is_some_and(is_last) {
            self.queue.pop_back();
            self.prompted = self.prompted.min(self.queue.len());
            let unsynced = self.queue.iter().rev().take_while(|entry| !entry.request.ends_ready());
            self.unsynced = unsynced.filter(|entry| entry.request.is_extended()).count();
            self.readies = self.queue.iter().filter(|entry| entry.request.ends_ready()).count();
        }
    }

    /// Returns whether behind the first `ahead` that are owed there is an extended request that no `Sync` has followed: if it fails,
    /// what is sent now is discarded.
    #[must_use]
    pub fn owes_unsynced(&self, ahead: usize) -> bool {
        let behind = self.queue.range(ahead.min(self.queue.len())..);
        behind.rev().take_while(|entry| entry.request != Request::Sync).any(|entry| entry.request.is_extended())
    }

    /// Number of requests that are owed.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// Number of `ReadyForQuery`s that are owed.
    #[must_use]
    pub fn owed_readies(&self) -> usize {
        self.readies
    }
}
