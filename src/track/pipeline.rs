//! One queue of what the server still owes.
//!
//! Every request that will be answered is an entry; answers take entries off the front. Only when the queue is
//! empty and the last `ReadyForQuery` said idle is the session [`Pipeline::settled`].
//!
//! The server's rules, from `PostgresMain` and `SocketBackend` in `src/backend/tcop/postgres.c`:
//! - an error in an extended-protocol message makes the server discard *everything* up to the next `Sync`, simple
//!   queries included;
//! - an error in a simple query, a function call, or in the commit that a `Sync` does discards nothing;
//! - while a `COPY … FROM STDIN` runs, `Sync` and `Flush` are ignored, and any other message is an error;
//! - `CopyData`, `CopyDone` and `CopyFail` outside of a copy are ignored.

mod copy_in;
mod discarded;
mod owing;

use std::collections::VecDeque;

use super::owed::{CopyIn, Course, Data, Entry, Settings};
pub(crate) use super::owed::{Describes, Note, SentNames, Tells};
use super::request::{Request, ResponseAction};
use super::rollback::{Rollback, Unfulfilled};
use super::session_command::SessionCommand;
use super::transaction_block::IDLE;
use crate::wire::backend;

/// Number of requests that there is room for at first: what a statement takes in the extended protocol.
const USUAL_REQUESTS: usize = 6;

/// Queue of the requests that the server has not answered.
///
/// ```
/// # use pgferry::internals::track::{pipeline::Pipeline, request::{ResponseAction, Request}};
/// let mut pipeline = Pipeline::new();
/// pipeline.request(Request::Query, ResponseAction::Swallow); // a reset of pgferry's own
/// pipeline.request(Request::Query, ResponseAction::Forward);
/// assert_eq!(pipeline.ready(b'I'), ResponseAction::Swallow);
/// assert_eq!((pipeline.ready(b'I'), pipeline.settled()), (ResponseAction::Forward, true));
/// ```
#[derive(Debug)]
pub struct Pipeline {
    queue: VecDeque<Entry>,
    status: u8,
    settings: Settings,
    copy_in: CopyIn,
    data: Data,
    course: Course,
    /// Extended requests sent since the last `Sync` or simple query: the server may keep a transaction open for them.
    unsynced: usize,
    /// `Sync`s behind copy data that the copy under way ignores, if the server came to read them before it failed.
    swallowed: usize,
    /// Changes of requests that failed or were discarded.
    undone: Vec<(Rollback, Unfulfilled)>,
    /// Number of requests in the queue that are at stake.
    stakes: usize,
    /// Number of those that have a `Sync` behind them.
    synced_stakes: usize,
    /// Number of requests in the queue that change the unnamed statements.
    unnamed_changes: usize,
    /// Bytes of texts that the queue keeps, in case that requests fail.
    kept_bytes: usize,
    /// Number of requests in the queue that end in a `ReadyForQuery`.
    readies: usize,
    /// Number of requests at the front of the queue that the server answers without further messages.
    prompted: usize,
    /// Number of requests taken off the front since the last `ReadyForQuery` for which the server begins a command.
    begun: usize,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipeline {
    /// The pipeline of a session that is idle.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            status: IDLE,
            settings: Settings::Reported,
            copy_in: CopyIn::No,
            data: Data::Unsent,
            course: Course::Working,
            unsynced: 0,
            swallowed: 0,
            undone: Vec::new(),
            stakes: 0,
            synced_stakes: 0,
            unnamed_changes: 0,
            kept_bytes: 0,
            readies: 0,
            prompted: 0,
            begun: 0,
        }
    }

    /// Notes a request that is being sent (or, to be synthesized, is not).
    pub fn request(&mut self, request: Request, action: ResponseAction) {
        self.request_with(request, action, None);
    }

    /// As [`Pipeline::request`], with what is to be known when its answer comes.
    pub fn request_with(&mut self, request: Request, action: ResponseAction, note: Option<Note>) {
        if self.skipping() {
            if request == Request::Sync {
                self.course = Course::Working;
                self.push(request, action, None);
            } else {
                if request.is_extended() {
                    self.course = Course::Skipping;
                }
                self.discard(note);
            }
            return;
        }
        match request {
            // The copy ignores it.
            Request::Flush if self.copy_in == CopyIn::Open => {}
            Request::Flush => self.prompted = self.queue.len(),
            // Outside of a copy it is ignored.
            Request::CopyData | Request::CopyEnd if self.queue.is_empty() => {}
            Request::CopyData => self.data = Data::Sent,
            Request::CopyEnd => {
                if self.copy_in == CopyIn::Open {
                    self.copy_in = CopyIn::Ended;
                }
                self.data = Data::Sent;
                self.push(request, action, None);
            }
            Request::Sync | Request::MalformedFlush if self.copy_in == CopyIn::Open => {
                self.swallowed += usize::from(self.data == Data::Sent && self.counts_behind_copy(request));
            }
            _ if self.copy_in == CopyIn::Open => {
                self.fail_copy();
                self.discard(note);
            }
            _ => self.push(request, action, note),
        }
    }

    fn discard(&mut self, note: Option<Note>) {
        self.undone.extend(note.map(|note| (note.rollback, Unfulfilled::Discarded)));
    }

    fn push(&mut self, request: Request, action: ResponseAction, note: Option<Note>) {
        if request == Request::Sync {
            self.synced_stakes = self.stakes;
        }
        if request.is_extended() {
            self.unsynced += 1;
        } else if request != Request::CopyEnd {
            self.unsynced = 0;
        }
        self.readies += usize::from(request.ends_ready());
        if matches!(request, Request::Query | Request::Execute) {
            self.data = Data::Unsent;
        }
        let kept_bytes = note.as_ref().map_or(0, Note::kept_bytes);
        self.kept_bytes += kept_bytes;
        let entry = Entry { request, action, note: note.map(Box::new), kept_bytes, data: self.data };
        self.stakes += usize::from(entry.is_at_stake());
        self.unnamed_changes += usize::from(entry.changes_unnamed());
        if self.queue.capacity() == 0 {
            self.queue = VecDeque::with_capacity(USUAL_REQUESTS);
        }
        self.queue.push_back(entry);
        if request.ends_ready() {
            self.prompted = self.queue.len();
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.kept_bytes -= entry.kept_bytes;
        self.readies -= usize::from(entry.request.ends_ready());
        self.prompted = self.prompted.saturating_sub(1);
        self.begun += usize::from(entry.request.begins_command());
        self.unnamed_changes -= usize::from(entry.changes_unnamed());
        if entry.is_at_stake() {
            self.stakes -= 1;
            self.synced_stakes = self.synced_stakes.saturating_sub(1);
        }
        if self.queue.is_empty() {
            self.data = Data::Unsent;
        }
        Some(entry)
    }

    /// Returns whether it is not known yet which statements there are for requests that come now: some requests that change them
    /// may yet fail, and these would be carried out all the same, since a `Sync` is in between.
    #[must_use]
    pub fn at_stake(&self) -> bool {
        self.synced_stakes > 0
    }

    /// Returns whether a request that is owed changes the unnamed statements.
    #[must_use]
    pub fn changes_unnamed(&self) -> bool {
        self.unnamed_changes > 0
    }

    /// The note of the request that is answered next.
    pub fn front_note(&mut self) -> Option<&mut Note> {
        self.queue.front_mut()?.note.as_deref_mut()
    }

    /// Returns whether the next answer is to a request with a note.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        self.queue.front().is_some_and(|entry| entry.note.is_some())
    }

    /// Returns whether the next answer is to a request of this kind.
    #[must_use]
    pub fn answers(&self, request: Request) -> bool {
        self.queue.front().is_some_and(|entry| entry.request == request)
    }

    /// The next command that the request that is answered next runs, if `tag` is that of its success.
    pub fn next_command(&mut self, tag: &[u8]) -> Option<SessionCommand> {
        self.front_note()?.take_command(tag)
    }

    /// Notes that all owed so far is pgferry's own preparation, which changes settings and commits what it does.
    pub fn on_preparation_sent(&mut self) {
        self.unsynced = 0;
        self.settings = Settings::Changed;
    }

    /// Notes that the client goes on with what it has sent without a `Sync`, after one of pgferry's own.
    pub fn goes_on(&mut self) {
        self.unsynced = 1;
    }

    /// Returns whether the session would be settled if the server had reported the settings that pgferry has changed.
    #[must_use]
    pub fn settled_but_for_reports(&self) -> bool {
        self.answered() && self.status == IDLE && self.unsynced == 0 && self.settings == Settings::Changed
    }

    /// Returns whether the next answer is that to a command which pgferry has put into the client's text.
    #[must_use]
    pub fn is_inserted(&self) -> bool {
        let front = self.queue.front().and_then(|entry| entry.note.as_ref());
        front.and_then(|note| note.next_command()).is_some_and(|command| *command == SessionCommand::Inserted)
    }

    /// Takes the next request off if its answer is synthesized and its turn has come.
    pub fn synthesized(&mut self) -> Option<Request> {
        let synthesize = self.queue.front().is_some_and(|entry| entry.action == ResponseAction::Synthesize);
        let entry = if synthesize { self.pop() } else { None }?;
        self.drop_late_copy_ends();
        Some(entry.request)
    }

    /// Takes what is to be undone since the last time, in that order.
    pub fn take_undone(&mut self) -> Vec<(Rollback, Unfulfilled)> {
        std::mem::take(&mut self.undone)
    }

    /// Gives up what the server owes: nothing of it will come. What is to be undone is in [`Pipeline::take_undone`].
    pub fn abandon(&mut self) {
        while let Some(entry) = self.queue.pop_back() {
            self.undone.extend(entry.note.map(|note| (note.rollback, Unfulfilled::Discarded)));
        }
        *self = Self { undone: std::mem::take(&mut self.undone), ..Self::new() };
    }

    /// Notes an answer of type `tag`, and says what becomes of it. `ReadyForQuery` goes to [`Pipeline::ready`]
    /// instead; messages the server sends unasked (notices, notifications, parameter changes) are not noted.
    pub fn response(&mut self, tag: u8) -> ResponseAction {
        let Some(&Entry { request, action, .. }) = self.queue.front() else {
            if tag != backend::ERROR {
                // An error with nothing asked is how a server says good-bye; anything else is not foreseen.
                self.course = Course::Lost;
            }
            return ResponseAction::Forward;
        };
        match tag {
            backend::ERROR => {
                self.error(request);
                return if action == ResponseAction::ForwardErrorOnly { ResponseAction::Forward } else { action };
            }
            backend::COPY_IN => self.copy_in_begins(),
            backend::COPY_BOTH => self.course = Course::Lost,
            _ if request.ended_by(tag) => {
                self.pop();
                self.copy_in_ends();
            }
            backend::COMMAND_COMPLETE => self.copy_in_ends(),
            backend::PARSE_COMPLETE | backend::BIND_COMPLETE | backend::CLOSE_COMPLETE => self.course = Course::Lost,
            _ => {}
        }
        if action == ResponseAction::Reject {
            // What is to fail must not succeed.
            self.course = Course::Lost;
        }
        action
    }

    /// Notes a `ReadyForQuery` with `status`, and says what becomes of it.
    pub fn ready(&mut self, status: u8) -> ResponseAction {
        // Behind a query in the middle of a pipeline servers since 18 say that they are idle with a transaction open, which fails the
        // next command: that is to be the same client's.
        let leaves_open = self.answers(Request::Sync) && self.begun == 0 && self.status != IDLE;
        self.status = if leaves_open { self.status } else { status };
        self.settings = Settings::Reported;
        self.copy_in = CopyIn::No;
        self.swallowed = 0;
        let entry = self.pop();
        self.begun = 0;
        let action = match entry {
            Some(entry) if entry.request.ends_ready() => entry.action,
            _ => {
                self.course = Course::Lost;
                ResponseAction::Forward
            }
        };
        self.drop_late_copy_ends();
        action
    }

    /// Nothing is owed, no transaction is open, and the settings are known: the session is between two pieces of work.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.answered() && self.status == IDLE && self.unsynced == 0 && self.settings == Settings::Reported
    }

    /// Returns whether a transaction is open for extended requests that no `Sync` has followed.
    #[must_use]
    pub fn unsynced(&self) -> bool {
        self.unsynced > 0 && !self.skipping()
    }

    /// Returns whether nothing will come from the server unless something is sent: it has answered all, or keeps its answers
    /// back, or discards what comes, until a `Sync`.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.course == Course::Lost || self.prompted == 0
    }

    /// Returns whether the server has been asked for all the answers that it owes.
    #[must_use]
    pub fn is_prompted(&self) -> bool {
        self.prompted == self.queue.len()
    }

    /// Returns whether a request that is sent now finds the transaction status that [`Pipeline::status`] tells, unless it is
    /// discarded.
    #[must_use]
    pub fn knows_status(&self) -> bool {
        self.readies == 0
    }

    /// Nothing is owed; a transaction may be open.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.queue.is_empty() && self.course == Course::Working
    }

    /// Returns whether no answer is to be waited for: nothing is owed, or the server discards what comes and says nothing before
    /// it has read a `Sync`, or what it owes is not known.
    #[must_use]
    pub fn has_no_answer_due(&self) -> bool {
        self.queue.is_empty() || self.course == Course::Lost
    }

    /// Returns whether the client does not see the server's next message if it is of type `tag`.
    #[must_use]
    pub fn hides(&self, tag: u8) -> bool {
        self.queue.front().is_some_and(|entry| entry.hides(tag))
    }

    /// Takes what the client is told in answer to a refused request, if its turn has come.
    pub fn take_refusal(&mut self) -> Option<Box<[u8]>> {
        self.queue.front().filter(|entry| entry.action == ResponseAction::Reject)?;
        self.front_note()?.refusal.take()
    }

    /// Returns whether the next answer tells the columns of a statement.
    #[must_use]
    pub fn describes(&self) -> bool {
        let front = self.queue.front().and_then(|entry| entry.note.as_ref());
        front.is_some_and(|note| note.describes.is_some())
    }

    /// Bytes of texts that are kept for requests that are owed.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Returns whether all that is owed behind the next `n` answers is synthesized.
    #[must_use]
    pub fn owes_synthesized_only_behind(&self, n: usize) -> bool {
        self.queue.iter().skip(n).all(|entry| entry.action == ResponseAction::Synthesize)
    }

    /// Swallows the answer to the `Sync` that is all that is owed. Returns whether it is.
    pub fn swallow_lone_sync(&mut self) -> bool {
        let [only] = self.queue.make_contiguous() else { return false };
        let is_sync = only.request == Request::Sync;
        only.action = if is_sync { ResponseAction::Swallow } else { only.action };
        is_sync
    }

    /// Returns whether the pipeline can't be trusted any more: the session must end with its client.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.course == Course::Lost
    }

    /// The status of the last `ReadyForQuery`: `I`, `T` or `E`.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }
}

#[cfg(test)]
mod tests;
