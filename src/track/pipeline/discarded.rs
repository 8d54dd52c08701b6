//! What the server discards behind an error in the extended protocol.

use super::super::owed::{CopyIn, Course};
use super::super::request::{Request, ResponseAction};
use super::super::rollback::Unfulfilled;
use super::Pipeline;

impl Pipeline {
    /// Returns whether the server discards everything up to the next `Sync`.
    #[must_use]
    pub fn skipping(&self) -> bool {
        matches!(self.course, Course::Skipping | Course::SkippingUnasked)
    }

    /// Returns whether an error now would have the server discard a query or a function call of the client's for the sake of what
    /// pgferry has sent just in front of it: then nothing is ready before another `Sync`.
    #[must_use]
    pub fn discards_query(&self) -> bool {
        let ahead = self.queue.iter().take_while(|entry| entry.action == ResponseAction::ForwardErrorOnly).count();
        ahead > 0 && self.queue.get(ahead).is_some_and(|entry| entry.request.ends_alone())
    }

    /// Returns whether the server would discard a `request` that is sent now for the sake of what pgferry has sent just in front of
    /// it, of which the client has the error: nothing is ready before a `Sync` in its place.
    #[must_use]
    pub fn would_discard(&self, request: Request) -> bool {
        self.course == Course::SkippingUnasked && request.ends_alone()
    }

    /// Notes an error in answer to `head`, the request at the front.
    pub(super) fn error(&mut self, head: Request) {
        if self.copy_in != CopyIn::No {
            if self.swallowed > 0 {
                // Whether the server had read the `Sync`s before the copy failed can't be known from here, so
                // neither can the number of `ReadyForQuery`s to come.
                self.course = Course::Lost;
            }
            self.copy_in = CopyIn::No;
        }
        if !head.is_extended() {
            return;
        }
        let mut how = Unfulfilled::Failed;
        let mut cut = Vec::new();
        let mut course = Course::SkippingUnasked;
        while self.queue.front().is_some_and(|entry| entry.request != Request::Sync)
            && let Some(entry) = self.pop()
        {
            if entry.action != ResponseAction::ForwardErrorOnly {
                course = Course::Skipping;
            }
            cut.extend(entry.note.map(|note| (note.rollback, how)));
            how = Unfulfilled::Discarded;
        }
        // The last first, as with anything that is undone.
        for (mut rollback, how) in cut.into_iter().rev() {
            let later = self.queue.iter_mut().find_map(|entry| entry.note.as_mut()?.rollback.unnamed.as_mut());
            if let Some(later) = later
                && let Some(undone) = rollback.unnamed.take()
            {
                // What has changed since stays.
                later.follows_undone(undone, how);
            }
            self.undone.push((rollback, how));
        }
        if self.queue.is_empty() {
            self.unsynced = 0;
            if self.course == Course::Working {
                self.course = course;
            }
        }
    }
}
