//! Work that is done again because the server's plan for a prepared statement was out of date.
//!
//! A client that has just prepared a statement, or has never changed a table, should not be told that a plan is out of
//! date only because pgferry had prepared it before. Where nothing else has happened, the client never learns of it.

use std::sync::Arc;

use super::Relay;
use crate::error::sqlstate;
use crate::track::Request;
use crate::track::statements::Statement;
use crate::wire::{Head, backend};

/// The longest work that is kept to be done again.
const LONGEST: usize = 16 * 1024;

/// How many statements are remembered that may have to be prepared again.
const MOST_USED: usize = 64;

/// The work that a client has sent since nothing was owed and no transaction was open.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Its messages, while it is one use of a prepared statement and nothing of the answer has been passed on.
    bytes: Option<Vec<u8>>,
    /// The statements that were used.
    used: Vec<Arc<Statement>>,
    /// It is being done again.
    second: bool,
    /// It is to be done again when the server is ready.
    due: bool,
}

impl Relay<'_> {
    /// Notes a message of the client's that is about to be sent on.
    pub(super) fn keep(&mut self, request: Request, head: Head, here: usize) {
        // Behind our own messages, which each end in a `ReadyForQuery`, is as good as behind nothing.
        if self.pipeline.settled() || (self.preparing() && self.pipeline.owed() == self.preparing) {
            self.exchange.used.clear();
            let begins = matches!(request, Request::Bind | Request::Describe);
            self.exchange.bytes = begins.then(Vec::new);
        } else if !matches!(request, Request::Describe | Request::Execute | Request::Sync | Request::Flush) {
            self.exchange.bytes = None;
        }
        if let Some(kept) = &mut self.exchange.bytes {
            let bytes = self.client.input.unparsed().get(..here).unwrap_or_default();
            if here == head.size && kept.len() + here <= LONGEST {
                kept.extend_from_slice(bytes);
            } else {
                self.exchange.bytes = None;
            }
        }
    }

    /// Notes a statement that the client uses.
    pub(super) fn uses(&mut self, statement: &Arc<Statement>) {
        let used = &mut self.exchange.used;
        if used.len() < MOST_USED && !used.iter().any(|known| known.id == statement.id) {
            used.push(Arc::clone(statement));
        }
    }

    /// Part of the answer goes to the client: from here on the work can't be done again unseen.
    pub(super) fn passed_on(&mut self) {
        self.exchange.bytes = None;
    }

    /// The server is ready: work that is to be done again becomes the client's next messages.
    pub(super) fn ready_again(&mut self, hidden: bool) {
        if hidden && self.exchange.due {
            self.exchange.due = false;
            self.exchange.second = true;
            self.hold = false;
            self.splice();
            let bytes = self.exchange.bytes.take().unwrap_or_default();
            self.client.input.put_back(&bytes);
        } else if !hidden {
            self.exchange.second = false;
        }
    }

    /// An error has come: whether it is only about a plan that is out of date, and the client need not know. In any case
    /// such a plan is not used again.
    pub(super) fn again(&mut self, error: &[u8]) -> bool {
        let message = backend::error_field(error, b'M').unwrap_or_default();
        let code = backend::error_field(error, b'C').unwrap_or_default();
        let begins = |what: &[u8]| message.starts_with(what);
        let changed = code == sqlstate::FEATURE_NOT_SUPPORTED.as_bytes() && begins(b"cached plan must not change");
        let gone = code == sqlstate::UNDEFINED_STATEMENT.as_bytes();
        if self.exchange.used.is_empty() || !(changed || gone) {
            return false;
        }
        for statement in std::mem::take(&mut self.exchange.used) {
            self.shared.registry.catalog.retire(&statement);
            if gone {
                self.link.prepared.remove(statement.id);
            }
        }
        let alone = self.exchange.bytes.is_some() && !self.exchange.second && self.pipeline.owes_a_sync_only();
        if alone && self.pipeline.status() == crate::track::pipeline::IDLE {
            self.pipeline.hide_last();
            self.exchange.due = true;
            self.hold = true;
            return true;
        }
        false
    }
}
