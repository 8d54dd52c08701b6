//! Requests, by how they are answered, and what becomes of the answers.

use crate::wire::{Head, backend, frame, frontend};

/// Treatment of the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseAction {
    /// It goes to the client, which asked.
    Forward,
    /// pgferry asked; the client never sees it.
    Swallow,
    /// pgferry asked for the sake of the client's next request: the client sees only an error, as the answer to that.
    ForwardErrorOnly,
    /// The client asked for something that is refused: the server was sent something that fails in its place, so that
    /// it does to the transaction what an error does, and the client sees the refusal instead of the server's words.
    Reject,
    /// The client asked for something that needs no server: the answer is synthesized when its turn comes.
    Synthesize,
}

/// A request, by how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `Query`: any number of results, then `ReadyForQuery`.
    Query,
    /// `FunctionCall`: one result, then `ReadyForQuery`.
    Function,
    /// `Parse`: `ParseComplete`.
    Parse,
    /// `Bind`: `BindComplete`.
    Bind,
    /// `Describe`: `RowDescription` or `NoData` is the last of its answer.
    Describe,
    /// `Execute`: `CommandComplete`, `EmptyQueryResponse` or `PortalSuspended` is the last of its answer.
    Execute,
    /// `Close`: `CloseComplete`.
    Close,
    /// `Sync`: `ReadyForQuery`.
    Sync,
    /// `Flush`: no answer of its own.
    Flush,
    /// `Flush` with a body: an error, behind which the server discards everything up to the next `Sync` (`pq_getmsgend` in
    /// `PostgresMain`). A copy ignores it.
    MalformedFlush,
    /// `CopyData`: no answer of its own.
    CopyData,
    /// `CopyDone` or `CopyFail`: no answer of its own, but it ends a copy.
    CopyEnd,
}

impl Request {
    /// The request that a frontend message makes; `None` for types that PostgreSQL does not know here.
    #[must_use]
    pub fn of(head: Head) -> Option<Self> {
        Some(match head.tag {
            frontend::QUERY => Self::Query,
            frontend::FUNCTION_CALL => Self::Function,
            frontend::PARSE => Self::Parse,
            frontend::BIND => Self::Bind,
            frontend::DESCRIBE => Self::Describe,
            frontend::EXECUTE => Self::Execute,
            frontend::CLOSE => Self::Close,
            frontend::SYNC => Self::Sync,
            frontend::FLUSH if head.size > frame::HEADER_BYTES => Self::MalformedFlush,
            frontend::FLUSH => Self::Flush,
            frontend::COPY_DATA => Self::CopyData,
            frontend::COPY_DONE | frontend::COPY_FAIL => Self::CopyEnd,
            _ => return None,
        })
    }

    /// Returns whether an error while the server works on it makes the server skip to the next `Sync`.
    pub(super) fn is_extended(self) -> bool {
        matches!(self, Self::Parse | Self::Bind | Self::Describe | Self::Execute | Self::Close | Self::MalformedFlush)
    }

    /// Returns whether the server begins a command for it, in a transaction if none is open (`start_xact_command` in
    /// `src/backend/tcop/postgres.c`).
    pub(super) fn begins_command(self) -> bool {
        matches!(self, Self::Query | Self::Function | Self::Parse | Self::Bind | Self::Describe | Self::Execute)
    }

    /// Returns whether `ReadyForQuery` ends it.
    #[must_use]
    pub fn ends_ready(self) -> bool {
        matches!(self, Self::Query | Self::Function | Self::Sync)
    }

    /// Returns whether `ReadyForQuery` ends it without a `Sync` of the client's.
    pub(super) fn ends_alone(self) -> bool {
        matches!(self, Self::Query | Self::Function)
    }

    /// Returns whether a backend message of type `tag` is the last of its answer.
    pub(super) fn ended_by(self, tag: u8) -> bool {
        match self {
            Self::Parse => tag == backend::PARSE_COMPLETE,
            Self::Bind => tag == backend::BIND_COMPLETE,
            Self::Describe => matches!(tag, backend::ROW_DESCRIPTION | backend::NO_DATA),
            Self::Execute => {
                matches!(tag, backend::COMMAND_COMPLETE | backend::EMPTY_QUERY | backend::PORTAL_SUSPENDED)
            }
            Self::Close => tag == backend::CLOSE_COMPLETE,
            _ => false,
        }
    }
}
