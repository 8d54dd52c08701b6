//! Changes to what is known of statements that are taken back if a request fails or is discarded: they are made when a message is sent.

use std::sync::Arc;

use super::client_statements::{NamedStatement, Unnamed};
use super::prepared_statement::PreparedStatement;
use super::session_command::Commands;
use super::unnamed_statement::UnnamedStatement;

/// A name, and the resetting commands of what it stood for before.
pub(crate) type FormerResetting = (Box<[u8]>, Option<Commands>);

/// Changes to take back.
#[derive(Debug, Default)]
pub struct Rollback {
    /// A client's name, and what it stood for before.
    pub name: Option<(Box<[u8]>, Option<NamedStatement>)>,
    /// The statement that is not prepared on the connection after all.
    pub prepared: Option<u64>,
    /// The statement that is still prepared on the connection.
    pub closed: Option<(u64, PreparedStatement)>,
    /// Commands that a text which is not kept has replaced.
    pub resetting: Option<FormerResetting>,
    /// The unnamed statements before it.
    pub unnamed: Option<UnnamedChange>,
}

/// A change of the unnamed statements, of the client and of the connection.
#[derive(Debug)]
pub struct UnnamedChange {
    /// Cause.
    pub cause: UnnamedCause,
    /// The client's before.
    pub client: Option<Arc<Unnamed>>,
    /// The connection's before.
    pub server: UnnamedStatement,
    /// Stake in the change when it was made.
    pub stake: Stake,
}

/// Dependence of requests behind the next `Sync` on a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// They find the same in either case.
    Nothing,
    /// It does.
    WhatIsFound,
}

impl UnnamedChange {
    /// Notes that a change before this one has not happened, which ended as `how` says.
    pub(super) fn follows_undone(&mut self, undone: Self, how: Unfulfilled) {
        match (how, undone.cause) {
            (Unfulfilled::Discarded, _) => (self.client, self.server) = (undone.client, undone.server),
            (Unfulfilled::Failed, UnnamedCause::ClientParse | UnnamedCause::Drop) => {
                (self.client, self.server) = (None, UnnamedStatement::Absent);
            }
            (Unfulfilled::Failed, UnnamedCause::OwnParse) => self.server = UnnamedStatement::Absent,
        }
    }

    /// The change to `after`, which may turn out not to have happened: what is found hangs on that if the two differed before, or if
    /// what pgferry does about one of them is more than to send on what the client says of it.
    #[must_use]
    pub fn uncertain(self, after: Option<&Unnamed>) -> Self {
        let differed = !self.server.is(self.client.as_deref());
        let matters = differed || [self.client.as_deref(), after].into_iter().flatten().any(|one| !one.is_plain());
        Self { stake: if matters { Stake::WhatIsFound } else { Stake::Nothing }, ..self }
    }
}

/// Causes of a change of an unnamed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnnamedCause {
    /// The client's `Parse`: if it fails, neither has one (`exec_parse_message` in `src/backend/tcop/postgres.c` drops
    /// the former one first).
    ClientParse,
    /// A `Parse` of pgferry's own: if it fails, the connection has none.
    OwnParse,
    /// A request that can't fail without having dropped it: a simple query, or `Close`.
    Drop,
}

/// Ends of a request that did not have its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfulfilled {
    /// The server has begun to work on it, and failed.
    Failed,
    /// The server has discarded it, or never came to it.
    Discarded,
}

impl Rollback {
    /// Returns whether it decides what requests behind the next `Sync` find: which named statements there are, or which client's the unnamed
    /// one is.
    #[must_use]
    pub fn is_at_stake(&self) -> bool {
        let names = self.name.is_some() || self.resetting.is_some() || self.prepared.is_some() || self.closed.is_some();
        names || self.unnamed.as_ref().is_some_and(|change| change.stake == Stake::WhatIsFound)
    }

    /// Bytes of texts that would be gone but for it.
    #[must_use]
    pub(super) fn kept_bytes(&self) -> usize {
        let named = self.name.as_ref().and_then(|(_, named)| named.as_ref()).map_or(0, |named| named.statement.size());
        let unnamed =
            self.unnamed.as_ref().and_then(|change| change.client.as_ref()).map_or(0, |unnamed| unnamed.size());
        named + unnamed
    }
}
