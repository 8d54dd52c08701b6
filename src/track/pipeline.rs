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

use std::collections::VecDeque;
use std::sync::Arc;

use super::request::{Reply, Request};
use super::statements::{Statement, Undo};
use crate::wire::backend;

/// The transaction status `I`: no transaction is open.
pub const IDLE: u8 = b'I';

#[derive(Debug)]
struct Entry {
    request: Request,
    reply: Reply,
    /// What the books of statements say too much if the request fails or is discarded.
    undo: Option<Box<Undo>>,
    /// Its success means something to the session.
    acts: bool,
}

/// Whether the server reads copy data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyIn {
    No,
    /// The client may still send; its `Sync`s are ignored.
    Open,
    /// The client's `CopyDone` or `CopyFail` is under way: what follows it counts again.
    Ended,
}

/// What the server still owes this session.
#[derive(Debug)]
pub struct Pipeline {
    queue: VecDeque<Entry>,
    status: u8,
    copy_in: CopyIn,
    /// An extended request has been sent and no `Sync` since: the server keeps a transaction open for it.
    unsynced: bool,
    /// An extended request failed and no `Sync` has been sent since: the server discards all that comes.
    skipping: bool,
    /// A `Sync` was sent that this copy ignores, if the server came to read it during the copy.
    swallowed: bool,
    /// The server did what these books don't foresee: they can't be trusted any more.
    lost: bool,
    /// What requests that failed or were discarded would have done.
    undone: Vec<Undo>,
    /// How many requests in the queue may have to be undone.
    stakes: usize,
    /// How many of those have a `Sync` behind them.
    synced_stakes: usize,
    /// How many requests in the queue end in a `ReadyForQuery`.
    readies: usize,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipeline {
    /// The books of a session that is idle.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            status: IDLE,
            copy_in: CopyIn::No,
            unsynced: false,
            skipping: false,
            swallowed: false,
            lost: false,
            undone: Vec::new(),
            stakes: 0,
            synced_stakes: 0,
            readies: 0,
        }
    }

    /// Notes a request that is being sent (or, to be invented, is not).
    pub fn request(&mut self, request: Request, reply: Reply) {
        self.request_with(request, reply, None);
    }

    /// As [`Pipeline::request`]; `undo` is what must be undone if the request fails or is discarded.
    pub fn request_with(&mut self, request: Request, reply: Reply, undo: Option<Undo>) {
        if self.skipping {
            if request == Request::Sync {
                self.skipping = false;
                self.push(request, reply, None);
            } else {
                self.undone.extend(undo);
            }
            return;
        }
        match request {
            Request::Flush | Request::CopyData => {}
            Request::CopyEnd => {
                if self.copy_in == CopyIn::Open {
                    self.copy_in = CopyIn::Ended;
                }
                if !self.queue.is_empty() {
                    self.push(request, reply, None);
                }
            }
            Request::Sync if self.copy_in == CopyIn::Open => self.swallowed = true,
            _ if self.copy_in == CopyIn::Open => {
                self.lost = true;
                self.undone.extend(undo);
            }
            _ => self.push(request, reply, undo),
        }
    }

    fn push(&mut self, request: Request, reply: Reply, undo: Option<Undo>) {
        if request == Request::Sync {
            self.synced_stakes = self.stakes;
            self.unsynced = false;
        }
        self.unsynced |= request.is_extended();
        self.readies += usize::from(request.ends_ready());
        self.stakes += usize::from(undo.as_ref().is_some_and(Undo::changes_statements));
        self.queue.push_back(Entry { request, reply, undo: undo.map(Box::new), acts: false });
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front();
        self.readies -= usize::from(entry.as_ref().is_some_and(|entry| entry.request.ends_ready()));
        if entry.as_ref().and_then(|entry| entry.undo.as_ref()).is_some_and(|undo| undo.changes_statements()) {
            self.stakes -= 1;
            self.synced_stakes = self.synced_stakes.saturating_sub(1);
        }
        entry
    }

    /// Whether it is not known yet which statements there are for requests that come now: some requests that change them
    /// may yet fail, and these would be carried out all the same, since a `Sync` is in between.
    #[must_use]
    pub fn at_stake(&self) -> bool {
        self.synced_stakes > 0
    }

    /// Marks the request noted last as one whose success means something to the session.
    pub fn mark_last(&mut self) {
        if let Some(last) = self.queue.back_mut() {
            last.acts = true;
        }
    }

    /// Whether what comes next is the answer to a marked request.
    #[must_use]
    pub fn acting(&self) -> bool {
        self.queue.front().is_some_and(|entry| entry.acts)
    }

    /// Whether a marked request is owed.
    #[must_use]
    pub fn has_mark(&self) -> bool {
        // It is among the last, since others wait for it.
        self.queue.iter().rev().any(|entry| entry.acts)
    }

    /// Takes the next request off whose answer is made up, if its turn has come.
    pub fn invented(&mut self) -> Option<Request> {
        let invent = self.queue.front().is_some_and(|entry| entry.reply == Reply::Invent);
        let entry = if invent { self.pop() } else { None };
        entry.map(|entry| entry.request)
    }

    /// Takes what is to be undone since the last time, in that order.
    pub fn take_undone(&mut self) -> Vec<Undo> {
        std::mem::take(&mut self.undone)
    }

    /// Gives up what the server owes: nothing of it will come. What is to be undone is in [`Pipeline::take_undone`].
    pub fn abandon(&mut self) {
        while let Some(entry) = self.queue.pop_back() {
            self.undone.extend(entry.undo.map(|undo| *undo));
        }
        *self = Self { undone: std::mem::take(&mut self.undone), ..Self::new() };
    }

    /// Notes an answer of type `tag`, and says what becomes of it. `ReadyForQuery` goes to [`Pipeline::ready`]
    /// instead; messages the server sends unasked (notices, notifications, parameter changes) are not noted.
    pub fn response(&mut self, tag: u8) -> Reply {
        let Some(&Entry { request, reply, .. }) = self.queue.front() else {
            // An error with nothing asked is how a server says good-bye; anything else is not foreseen.
            self.lost |= tag != backend::ERROR;
            return Reply::Forward;
        };
        match tag {
            backend::ERROR => {
                self.error(request);
                return if reply == Reply::Assist { Reply::Forward } else { reply };
            }
            backend::COPY_IN => self.copy_in_begins(),
            backend::COPY_BOTH => self.lost = true,
            _ if request.ended_by(tag) => {
                self.pop();
                self.copy_in_ends();
            }
            backend::COMMAND_COMPLETE => self.copy_in_ends(),
            backend::PARSE_COMPLETE | backend::BIND_COMPLETE | backend::CLOSE_COMPLETE => self.lost = true,
            _ => {}
        }
        // What is to fail must not succeed.
        self.lost |= reply == Reply::Refuse;
        reply
    }

    /// Notes a `ReadyForQuery` with `status`, and says what becomes of it.
    pub fn ready(&mut self, status: u8) -> Reply {
        self.status = status;
        self.copy_in = CopyIn::No;
        self.swallowed = false;
        let extended = self.queue.iter().skip(1).any(|entry| entry.request.is_extended());
        if !extended {
            // A simple query ends what came before it too.
            self.unsynced = false;
        }
        let reply = match self.pop() {
            Some(entry) if entry.request.ends_ready() => entry.reply,
            other => {
                self.lost = true;
                other.map_or(Reply::Forward, |entry| entry.reply)
            }
        };
        self.drop_late_copy_ends();
        reply
    }

    /// Nothing is owed and no transaction is open: the session is between two pieces of work.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.answered() && self.status == IDLE && !self.unsynced
    }

    /// Whether a transaction is open for extended requests that no `Sync` has followed.
    #[must_use]
    pub fn unsynced(&self) -> bool {
        self.unsynced && !self.skipping
    }

    /// Whether nothing will come from the server unless something is sent: it has answered all, or keeps its answers
    /// back, or discards what comes, until a `Sync`.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.lost || self.readies == 0
    }

    /// Whether a request that is sent now finds the transaction status that [`Pipeline::status`] tells, unless it is
    /// discarded.
    #[must_use]
    pub fn knows_status(&self) -> bool {
        self.readies == 0
    }

    /// Nothing is owed; a transaction may be open.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.queue.is_empty() && !self.skipping && !self.lost
    }

    /// Whether the client does not see the server's next message if it is of type `tag`.
    #[must_use]
    pub fn hides(&self, tag: u8) -> bool {
        self.queue.front().is_some_and(|entry| match entry.reply {
            Reply::Forward | Reply::Invent => false,
            Reply::Hide => true,
            Reply::Assist => tag != backend::ERROR,
            // The `ReadyForQuery` behind the error is the client's.
            Reply::Refuse => tag != backend::READY,
        })
    }

    /// What the client is told in answer to a refused request, if its turn has come.
    #[must_use]
    pub fn refusal(&self) -> Option<&[u8]> {
        let front = self.queue.front().filter(|entry| entry.reply == Reply::Refuse)?;
        front.undo.as_ref()?.refusal.as_deref()
    }

    /// The statement that is described, if the answer to that comes next.
    #[must_use]
    pub fn describing(&self) -> Option<&Arc<Statement>> {
        self.queue.front()?.undo.as_ref()?.describes.as_ref()
    }

    /// Whether the server discards everything up to the next `Sync`.
    #[must_use]
    pub fn skipping(&self) -> bool {
        self.skipping
    }

    /// How many requests are owed.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// Whether all that is owed is the answer to one `Sync`.
    #[must_use]
    pub fn owes_a_sync_only(&self) -> bool {
        self.queue.len() == 1 && self.queue.front().is_some_and(|entry| entry.request == Request::Sync)
    }

    /// Hides the answer to what is owed last.
    pub fn hide_last(&mut self) {
        if let Some(last) = self.queue.back_mut() {
            last.reply = Reply::Hide;
        }
    }

    /// Whether the server waits for copy data.
    #[must_use]
    pub fn copying_in(&self) -> bool {
        self.copy_in == CopyIn::Open
    }

    /// Whether the books can't be trusted any more: the session must end with its client.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// The status of the last `ReadyForQuery`: `I`, `T` or `E`.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }

    fn error(&mut self, head: Request) {
        if self.copy_in != CopyIn::No {
            // Whether the server had read the `Sync`s before the copy failed can't be known from here, so
            // neither can the number of `ReadyForQuery`s to come.
            self.lost |= self.swallowed;
            self.copy_in = CopyIn::No;
        }
        if head.is_extended() {
            let mut cut = Vec::new();
            while self.queue.front().is_some_and(|entry| entry.request != Request::Sync) {
                cut.extend(self.pop().and_then(|entry| entry.undo));
            }
            // The last first, as with anything that is undone.
            self.undone.extend(cut.into_iter().rev().map(|undo| *undo));
            self.skipping = self.queue.is_empty();
        }
    }

    fn copy_in_begins(&mut self) {
        let end = self.queue.iter().position(|entry| entry.request == Request::CopyEnd);
        let ahead = self.queue.len().min(end.unwrap_or(usize::MAX));
        for at in (1..ahead).rev() {
            if self.queue[at].request == Request::Sync {
                self.swallowed = true;
            } else {
                self.lost = true;
            }
            let removed = self.queue.remove(at);
            self.readies -= usize::from(removed.is_some_and(|entry| entry.request.ends_ready()));
        }
        self.copy_in = if end.is_some() { CopyIn::Ended } else { CopyIn::Open };
    }

    fn copy_in_ends(&mut self) {
        if self.copy_in != CopyIn::No {
            self.copy_in = CopyIn::No;
            self.swallowed = false;
            if let Some(end) = self.queue.iter().position(|entry| entry.request == Request::CopyEnd) {
                self.queue.remove(end);
            }
        }
        self.drop_late_copy_ends();
    }

    /// A `CopyDone` that comes after its copy has failed is ignored by the server.
    fn drop_late_copy_ends(&mut self) {
        while self.queue.front().is_some_and(|entry| entry.request == Request::CopyEnd) {
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(pipeline: &mut Pipeline, requests: &[Request]) {
        for &request in requests {
            pipeline.request(request, Reply::Forward);
        }
    }

    #[test]
    fn an_error_is_cut_to_the_next_sync_for_extended_requests_only() {
        use Request::{Bind, Execute, Parse, Query, Sync};
        let mut p = Pipeline::new();
        ask(&mut p, &[Parse, Bind, Query, Execute, Sync, Query]);
        p.response(backend::ERROR);
        assert!(!p.settled());
        p.ready(IDLE);
        assert!(!p.settled(), "the query after the Sync is still owed");
        p.response(backend::ERROR);
        p.ready(IDLE);
        assert!(p.settled());
    }

    #[test]
    fn an_error_without_a_sync_swallows_what_comes_until_one() {
        use Request::{Execute, Parse, Query, Sync};
        let mut p = Pipeline::new();
        ask(&mut p, &[Parse]);
        p.response(backend::ERROR);
        assert!(!p.answered());
        ask(&mut p, &[Query, Execute]);
        assert!(!p.answered());
        ask(&mut p, &[Sync]);
        p.ready(IDLE);
        assert!(p.settled());
    }

    #[test]
    fn without_a_sync_a_transaction_is_open() {
        use Request::{Bind, Execute, Flush, Parse, Query, Sync};
        let mut p = Pipeline::new();
        ask(&mut p, &[Parse, Bind, Execute, Flush]);
        for tag in [backend::PARSE_COMPLETE, backend::BIND_COMPLETE, backend::COMMAND_COMPLETE] {
            p.response(tag);
        }
        assert!(p.answered() && !p.settled() && p.unsynced());
        ask(&mut p, &[Sync]);
        p.ready(IDLE);
        assert!(p.settled());
        ask(&mut p, &[Parse, Query, Parse]);
        p.response(backend::PARSE_COMPLETE);
        p.response(backend::COMMAND_COMPLETE);
        p.ready(IDLE);
        p.response(backend::PARSE_COMPLETE);
        assert!(p.answered() && !p.settled(), "the second is open still");
        ask(&mut p, &[Query]);
        p.ready(IDLE);
        assert!(p.settled(), "a simple query ends it as well");
    }

    #[test]
    fn an_error_in_the_commit_of_a_sync_cuts_nothing() {
        let mut p = Pipeline::new();
        ask(&mut p, &[Request::Execute, Request::Sync, Request::Parse, Request::Sync]);
        p.response(backend::COMMAND_COMPLETE);
        p.response(backend::ERROR);
        p.ready(IDLE);
        p.response(backend::PARSE_COMPLETE);
        p.ready(IDLE);
        assert!(p.settled());
    }

    #[test]
    fn syncs_are_ignored_during_a_copy() {
        use Request::{Bind, CopyData, CopyEnd, Execute, Parse, Sync};
        let mut p = Pipeline::new();
        ask(&mut p, &[Parse, Bind, Execute, Sync]);
        p.response(backend::PARSE_COMPLETE);
        p.response(backend::BIND_COMPLETE);
        p.response(backend::COPY_IN);
        assert!(p.copying_in());
        ask(&mut p, &[CopyData, Sync, CopyEnd, Sync]);
        p.response(backend::COMMAND_COMPLETE);
        assert!(!p.settled());
        p.ready(IDLE);
        assert!(p.settled());
    }

    #[test]
    fn copy_data_sent_ahead_of_the_copy_response() {
        use Request::{CopyData, CopyEnd, Query};
        let mut p = Pipeline::new();
        ask(&mut p, &[Query, CopyData, CopyEnd, Query]);
        p.response(backend::COPY_IN);
        assert!(!p.copying_in());
        p.response(backend::COMMAND_COMPLETE);
        p.ready(IDLE);
        assert!(!p.settled());
        p.response(backend::COMMAND_COMPLETE);
        p.ready(IDLE);
        assert!(p.settled());
    }

    #[test]
    fn a_failed_copy_with_an_ambiguous_sync_is_never_settled() {
        use Request::{Bind, CopyEnd, Execute, Parse, Sync};
        let mut p = Pipeline::new();
        ask(&mut p, &[Parse, Bind, Execute, Sync]);
        p.response(backend::PARSE_COMPLETE);
        p.response(backend::BIND_COMPLETE);
        p.response(backend::COPY_IN);
        p.response(backend::ERROR);
        ask(&mut p, &[CopyEnd, Sync]);
        p.ready(IDLE);
        p.ready(IDLE);
        assert!(!p.settled() && p.lost());
    }

    #[test]
    fn late_copy_messages_owe_nothing() {
        use Request::{CopyData, CopyEnd, Query};
        let mut p = Pipeline::new();
        ask(&mut p, &[Query]);
        p.response(backend::COPY_IN);
        p.response(backend::ERROR);
        ask(&mut p, &[CopyData, CopyEnd]);
        p.ready(IDLE);
        assert!(p.settled());
        ask(&mut p, &[CopyData, CopyEnd]);
        assert!(p.settled());
    }

    #[test]
    fn hidden_answers_are_told_apart() {
        let mut p = Pipeline::new();
        p.request(Request::Query, Reply::Hide);
        p.request(Request::Query, Reply::Forward);
        assert!(p.hides(backend::COMMAND_COMPLETE));
        assert_eq!(p.response(backend::COMMAND_COMPLETE), Reply::Hide);
        assert_eq!(p.ready(IDLE), Reply::Hide);
        assert!(!p.hides(backend::COMMAND_COMPLETE));
        assert_eq!(p.response(backend::COMMAND_COMPLETE), Reply::Forward);
        assert_eq!(p.ready(b'T'), Reply::Forward);
        assert!(p.answered() && !p.settled());
    }

    /// A server that reads the whole list of requests in order, as PostgreSQL does: the model that the queue is
    /// held against. `fails` says for each request whether working on it fails.
    fn serve(requests: &[(Request, bool)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut skip = false;
        for &(request, fails) in requests {
            if request == Request::Sync {
                skip = false;
                if fails {
                    out.push(backend::ERROR);
                }
                out.push(backend::READY);
                continue;
            }
            if skip {
                continue;
            }
            match request {
                Request::Query | Request::Function => {
                    if request == Request::Query {
                        out.push(backend::ROW_DESCRIPTION);
                    }
                    out.push(if fails { backend::ERROR } else { backend::COMMAND_COMPLETE });
                    out.push(backend::READY);
                }
                Request::Flush | Request::CopyData | Request::CopyEnd => {}
                _ if fails => {
                    out.push(backend::ERROR);
                    skip = true;
                }
                Request::Parse => out.push(backend::PARSE_COMPLETE),
                Request::Bind => out.push(backend::BIND_COMPLETE),
                Request::Describe => out.push(backend::NO_DATA),
                Request::Execute => out.push(backend::COMMAND_COMPLETE),
                Request::Close => out.push(backend::CLOSE_COMPLETE),
                Request::Sync => {}
            }
        }
        out
    }

    fn request() -> impl Strategy<Value = Request> {
        use Request::{Bind, Close, CopyData, CopyEnd, Describe, Execute, Flush, Function, Parse, Query, Sync};
        prop::sample::select(vec![
            Query, Function, Parse, Bind, Describe, Execute, Close, Sync, Sync, Flush, CopyData, CopyEnd,
        ])
    }

    proptest! {
        /// However requests and answers interleave, the queue is settled exactly when the model has said all.
        #[test]
        fn settled_when_the_model_has_answered_all(
            mut requests in prop::collection::vec((request(), prop::bool::weighted(0.2)), 1..40),
            schedule in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            requests.push((Request::Sync, false));
            let mut p = Pipeline::new();
            let mut sent = 0;
            let mut answered = 0;
            let mut schedule = schedule.into_iter();
            while sent < requests.len() || answered < serve(&requests[..sent]).len() {
                let answers = serve(&requests[..sent]);
                let may_answer = answered < answers.len();
                if sent < requests.len() && (!may_answer || schedule.next().unwrap_or(true)) {
                    p.request(requests[sent].0, Reply::Forward);
                    sent += 1;
                } else {
                    match answers[answered] {
                        backend::READY => p.ready(IDLE),
                        tag => p.response(tag),
                    };
                    answered += 1;
                }
                prop_assert!(!p.lost());
                let owes = answered < serve(&requests[..sent]).len();
                prop_assert!(!(owes && p.settled()), "settled while the server owes");
            }
            prop_assert!(p.settled());
        }
    }
}
