//! What a copy to the server means for what is owed.

use super::super::owed::{CopyIn, Course, Data};
use super::super::request::{Request, ResponseAction};
use super::Pipeline;

impl Pipeline {
    /// Returns whether a copy may begin with what is owed, for which data or its end was sent already: whether a `Sync` behind that
    /// counts is not known.
    #[must_use]
    pub fn copy_is_expected(&self) -> bool {
        self.copy_in == CopyIn::No && self.data == Data::Sent
    }

    /// Returns whether a copy may begin with what the client is owed: it would fail by a message that has no place in it.
    #[must_use]
    pub fn may_copy(&self) -> bool {
        let may = |request| matches!(request, Request::Query | Request::Execute);
        self.queue.iter().any(|entry| entry.action == ResponseAction::Forward && may(entry.request))
    }

    /// Returns whether the server waits for copy data.
    #[must_use]
    pub fn copying_in(&self) -> bool {
        self.copy_in == CopyIn::Open
    }

    pub(super) fn copy_in_begins(&mut self) {
        let end = self.queue.iter().position(|entry| entry.request == Request::CopyEnd);
        let ahead = self.queue.len().min(end.unwrap_or(usize::MAX));
        let out_of_place =
            (1..ahead).find(|&at| !matches!(self.queue[at].request, Request::Sync | Request::MalformedFlush));
        for at in (1..out_of_place.unwrap_or(ahead)).rev() {
            if let Some(removed) = self.queue.remove(at) {
                self.swallowed += usize::from(removed.data == Data::Sent && self.counts_behind_copy(removed.request));
                self.readies -= usize::from(removed.request.ends_ready());
            }
        }
        // A `Sync` or `Flush` that the copy ignores brings no answer, and commits nothing.
        let since = self.queue.iter().rev().take_while(|entry| !entry.request.ends_ready());
        self.unsynced = since.filter(|entry| entry.request.is_extended()).count();
        self.prompted = self.queue.iter().rposition(|entry| entry.request.ends_ready()).map_or(0, |at| at + 1);
        self.copy_in = if end.is_some() { CopyIn::Ended } else { CopyIn::Open };
        if out_of_place.is_some() {
            self.fail_copy();
        }
    }

    /// Returns whether a request that the copy under way ignores would count if that had failed before. In the extended protocol all
    /// but a `Sync` is discarded then.
    pub(super) fn counts_behind_copy(&self, request: Request) -> bool {
        let is_extended = self.queue.front().is_some_and(|entry| entry.request == Request::Execute);
        request == Request::Sync || !is_extended
    }

    /// Notes that a message was sent that has no place in the copy under way, which fails by it if it has not failed by its data.
    /// In the extended protocol all from there to the next `Sync` is discarded either way; behind a simple query the message
    /// is only discarded if the copy had not failed before.
    pub(super) fn fail_copy(&mut self) {
        let front = self.queue.front().map(|entry| entry.request);
        if front != Some(Request::Execute) {
            self.course = Course::Lost;
            return;
        }
        self.copy_in = CopyIn::Ended;
        self.prompted = self.prompted.max(1);
        if !self.queue.iter().any(|entry| entry.request == Request::Sync) {
            self.course = Course::Skipping;
        }
    }

    pub(super) fn copy_in_ends(&mut self) {
        if self.copy_in != CopyIn::No {
            self.copy_in = CopyIn::No;
            self.swallowed = 0;
            if let Some(end) = self.queue.iter().position(|entry| entry.request == Request::CopyEnd) {
                self.queue.remove(end);
                self.prompted = self.prompted.saturating_sub(usize::from(end < self.prompted));
            }
        }
        self.drop_late_copy_ends();
    }

    /// A `CopyDone` that comes after its copy has failed is ignored by the server.
    pub(super) fn drop_late_copy_ends(&mut self) {
        while self.queue.front().is_some_and(|entry| entry.request == Request::CopyEnd) {
            self.pop();
        }
    }
}
