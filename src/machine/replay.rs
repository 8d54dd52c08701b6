//! Work that is done again because the server's plan for a prepared statement was out of date.
//!
//! A client that has just prepared a statement, or has never changed a table, should not be told that a plan is out of
//! date only because pgferry had prepared it before. Where nothing else has happened, the client never learns of it.

use std::sync::Arc;

use super::from_client::Incoming;
use super::{Buffers, Machine, Phase, flush_forwarded};
use crate::error::sqlstate;
use crate::track::Request;
use crate::track::statements::Statement;
use crate::track::transaction_block::IDLE;
use crate::wire::backend;

/// The longest work that is kept to be done again, in bytes.
const MAX_WORK_BYTES: usize = 16 * 1024;

/// Number of statements that are remembered that may have to be prepared again.
const MAX_USED: usize = 64;

/// Repeatability of the work at hand.
#[derive(Debug, Default)]
enum Work {
    /// It can't, or there is none.
    #[default]
    NotKept,
    /// These messages are one use of a prepared statement, and nothing of the answer has been passed on.
    Kept(Vec<u8>),
    /// It is being done for the second time.
    Second,
}

/// The work that a client has sent since nothing was owed and no transaction was open.
#[derive(Debug, Default)]
pub(super) struct Replay {
    work: Work,
    /// The statements that were used.
    used: Vec<Arc<Statement>>,
    /// The beginning of an answer that is held back while the work may be done again.
    held: Vec<u8>,
}

impl Replay {
    /// Returns whether the work may be done again.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.work, Work::Kept(_))
    }

    /// Holds `message` back, the beginning of an answer, if the work may be done again. Says whether it does.
    pub(super) fn holds(&mut self, message: &[u8]) -> bool {
        if self.is_kept() {
            self.held.extend_from_slice(message);
        }
        self.is_kept()
    }

    /// Takes what was held back.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Part of the work has been sent on by itself.
    pub(super) fn part_was_sent(&mut self) {
        self.forget();
    }

    /// Part of the answer goes to the client: from here on the work can't be done again unseen.
    pub(super) fn part_was_answered(&mut self) {
        self.forget();
    }

    /// All of it has been answered.
    pub(super) fn was_answered(&mut self) {
        self.work = Work::NotKept;
    }

    fn forget(&mut self) {
        if matches!(self.work, Work::Kept(_)) {
            self.work = Work::NotKept;
        }
    }
}

impl Machine<'_> {
    /// Notes a message of the client's that is about to be sent on.
    pub(super) fn keep_for_replay(&mut self, io: &Buffers<'_>, incoming: Incoming) {
        // Behind a preparation is as good as behind nothing.
        let first = if let Phase::Preparing { left } = self.phase {
            self.pipeline.owes_synthesized_only_behind(left)
        } else {
            let nothing = self.pipeline.owes_synthesized_only_behind(0);
            self.pipeline.settled() || (nothing && self.pipeline.status() == IDLE)
        };
        let again = matches!(self.replay.work, Work::Second);
        if first {
            self.replay.used.clear();
            let begins = matches!(incoming.request, Request::Bind | Request::Describe);
            if !again {
                // Mostly all of it has come.
                let here = io.from_client.unparsed().len().min(MAX_WORK_BYTES);
                self.replay.work = if begins { Work::Kept(Vec::with_capacity(here)) } else { Work::NotKept };
            }
        } else if !matches!(incoming.request, Request::Describe | Request::Execute | Request::Sync | Request::Flush) {
            self.replay.forget();
        }
        if let Work::Kept(kept) = &mut self.replay.work {
            let bytes = io.from_client.unparsed().get(..incoming.here).unwrap_or_default();
            if incoming.is_whole() && kept.len() + bytes.len() <= MAX_WORK_BYTES {
                kept.extend_from_slice(bytes);
            } else {
                self.replay.work = Work::NotKept;
            }
        }
    }

    /// Notes a statement that the client uses.
    pub(super) fn uses_in_replay(&mut self, statement: &Arc<Statement>) {
        let used = &mut self.replay.used;
        if used.len() < MAX_USED && !used.iter().any(|known| known.id == statement.id) {
            used.push(Arc::clone(statement));
        }
    }

    /// The server is ready: the work becomes the client's next messages.
    pub(super) fn replay_now(&mut self, io: &mut Buffers<'_>) {
        self.phase = Phase::Working;
        let Work::Kept(bytes) = std::mem::replace(&mut self.replay.work, Work::Second) else { return };
        flush_forwarded(io);
        io.from_client.put_back(&bytes);
    }

    /// An error has come: whether it is only about a plan that is out of date, and the client need not know. In any case
    /// such a plan is not used again.
    pub(super) fn replays(&mut self, error: &[u8]) -> bool {
        let message = backend::error_field(error, b'M').unwrap_or_default();
        let code = backend::error_field(error, b'C').unwrap_or_default();
        let changed =
            code == sqlstate::FEATURE_NOT_SUPPORTED.as_bytes() && message.starts_with(b"cached plan must not change");
        let gone = code == sqlstate::UNDEFINED_STATEMENT.as_bytes();
        // The client's own mistakes have the same code.
        let is_it = |statement: &Arc<Statement>| changed || (gone && names(message, statement.name().as_bytes()));
        let (outdated, used): (Vec<_>, _) = std::mem::take(&mut self.replay.used).into_iter().partition(is_it);
        self.replay.used = used;
        if outdated.is_empty() {
            return false;
        }
        for statement in outdated {
            self.context.statements.retire(&statement);
            if gone {
                self.server.prepared.remove(statement.id);
            }
        }
        let alone = matches!(self.replay.work, Work::Kept(_)) && self.pipeline.status() == IDLE;
        if alone && self.pipeline.swallow_lone_sync() {
            self.replay.held.clear();
            self.phase = Phase::Replaying;
            return true;
        }
        false
    }
}

/// Returns whether a message has `name` in it, and not only a longer one that begins like it.
fn names(message: &[u8], name: &[u8]) -> bool {
    let mut places = message.windows(name.len()).enumerate().filter(|(_, window)| *window == name);
    places.any(|(at, _)| !message.get(at + name.len()).is_some_and(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_longer_name_is_another() {
        assert!(names(b"prepared statement \"pgferry_1\" does not exist", b"pgferry_1"));
        assert!(names(b"pgferry_12, pgferry_1", b"pgferry_1"));
        assert!(!names(b"prepared statement \"pgferry_12\" does not exist", b"pgferry_1"));
        assert!(!names(b"unnamed prepared statement does not exist", b"pgferry_1"));
    }
}
