//! What is known of one request that the server still owes an answer to, and of what the server does meanwhile.

use std::sync::Arc;

use super::client_statements::significant;
use super::request::{Request, ResponseAction};
use super::rollback::Rollback;
use super::session_command::{Commands, SessionCommand};
use super::text_edit::Positions;
use crate::wire::backend;

/// Notes on a request for when its answer comes.
#[derive(Debug, Default)]
pub struct Note {
    /// Changes to take back if the request fails or is discarded.
    pub rollback: Rollback,
    /// Statement of which the answer gives the columns.
    pub describes: Option<Describes>,
    /// Meaning of its rows to pgferry.
    pub tells: Tells,
    /// The `ErrorResponse` that the client gets instead of the server's.
    pub refusal: Option<Box<[u8]>>,
    /// The commands that the request runs, and how many of them have succeeded.
    pub commands: Option<(Commands, usize)>,
    /// Edits of the client's text in the one that was sent.
    pub positions: Option<Positions>,
    /// The client's names for the statements that it is about, as they were sent.
    pub names: SentNames,
}

/// Names by which a client has referred to statements in one request, by the numbers of those on the connection.
#[derive(Debug, Default)]
pub struct SentNames(Vec<(u64, Arc<[u8]>)>);

impl SentNames {
    /// The name in a request that is about one statement.
    #[must_use]
    pub fn one(id: u64, name: Arc<[u8]>) -> Self {
        Self(vec![(id, name)])
    }

    /// Notes that the client says `name` for statement `id`.
    pub fn add(&mut self, id: u64, name: &[u8]) {
        self.0.push((id, name.into()));
    }

    /// Bytes of names that no statement is kept under.
    fn kept_bytes(&self) -> usize {
        self.0.iter().map(|(_, name)| name.len() - significant(name).len()).sum()
    }

    /// The name for statement `id`.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, name)| &**name)
    }
}

/// Meanings of an answer's rows to pgferry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tells {
    /// Nothing.
    #[default]
    Nothing,
    /// The value of a reported setting that is in force.
    SettingInForce(&'static str),
}

/// A statement that is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Describes {
    /// The statement's number on the connection.
    pub server: u64,
    /// The client's name for it, and the number of what that stands for; `None` where pgferry asks.
    pub client: Option<(Arc<[u8]>, u64)>,
}

/// A request that the server still owes an answer to.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: Request,
    pub(super) action: ResponseAction,
    pub(super) note: Option<Box<Note>>,
    /// Bytes of texts that the note keeps.
    pub(super) kept_bytes: usize,
    /// Copy data that was sent between the last statement and this.
    pub(super) data: Data,
}

impl Note {
    /// With what is to be taken back if the request fails.
    #[must_use]
    pub fn of(rollback: Rollback) -> Self {
        Self { rollback, ..Self::default() }
    }

    /// Bytes of texts that would be gone but for it.
    pub(super) fn kept_bytes(&self) -> usize {
        self.rollback.kept_bytes() + self.names.kept_bytes()
    }

    /// The next of its commands.
    pub(super) fn next_command(&self) -> Option<&SessionCommand> {
        let (commands, done) = self.commands.as_ref()?;
        commands.get(*done).map(|placed| &placed.command)
    }

    /// The next of its commands, if `tag` is that of its success: then it is done.
    pub(super) fn take_command(&mut self, tag: &[u8]) -> Option<SessionCommand> {
        let command = self.next_command().filter(|command| command.has_tag(tag))?.clone();
        if let Some((_, done)) = &mut self.commands {
            *done += 1;
        }
        Some(command)
    }
}

impl Entry {
    /// Returns whether the client does not see an answer of type `tag`.
    pub(super) fn hides(&self, tag: u8) -> bool {
        match self.action {
            // One that this request does not ask for is owed to a `Sync` that a copy has not ignored after all.
            _ if tag == backend::READY && !self.request.ends_ready() => false,
            ResponseAction::Forward | ResponseAction::Synthesize => false,
            ResponseAction::Swallow => true,
            ResponseAction::ForwardErrorOnly => tag != backend::ERROR,
            // The `ReadyForQuery` behind the error is the client's.
            ResponseAction::Reject => tag != backend::READY,
        }
    }

    pub(super) fn changes_unnamed(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.rollback.unnamed.is_some())
    }

    /// Returns whether its failure decides what requests behind the next `Sync` find.
    pub(super) fn is_at_stake(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.rollback.is_at_stake())
    }
}

/// Copy data since the last statement that is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Unsent,
    /// Some was sent, or its end, on which a copy may fail.
    Sent,
}

/// State of a copy to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyIn {
    No,
    /// The client may still send; its `Sync`s are ignored.
    Open,
    /// The client's `CopyDone` or `CopyFail` is under way: what follows it counts again.
    Ended,
}

/// Treatment of the next requests by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It works on it.
    Working,
    /// It discards everything up to the next `Sync`: an extended request of the client's has failed.
    Skipping,
    /// So it does, but the request was pgferry's own, and the client has sent none since that could have failed instead.
    SkippingUnasked,
    /// It did what the pipeline does not foresee, which can't be trusted any more.
    Lost,
}

/// State of the reports on settings that pgferry has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settings {
    Reported,
    /// It will with its next `ReadyForQuery` (`ReportChangedGUCOptions` in `src/backend/utils/misc/guc.c`).
    Changed,
}
