//! A session's transaction: the block state of `xact.c`, and what is to be done when it ends.

use std::rc::Rc;
use std::time::Duration;

use super::BackendId;
use super::catalog::{Column, TableId, Xid};
use super::lock::{Mode, Tag};
use super::value::Value;

/// `TBlockState`. Savepoints are beside it: with any, `InProgress` is `TBLOCK_SUBINPROGRESS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    #[default]
    Default,
    Started,
    Begin,
    InProgress,
    Implicit,
    End,
    Abort,
    /// The innermost savepoint's part has failed.
    SubAbort,
    AbortEnd,
    AbortPending,
    Prepare,
}

/// What is undone if the transaction, or its part, fails; and made final if not.
#[derive(Debug)]
pub enum Undo {
    Inserted(TableId, u64),
    Deleted(TableId, u64),
    Created(TableId),
    Dropped(TableId),
    Altered(TableId, Rc<[Column]>, Vec<(u64, Rc<[Value]>)>),
    TempNamespace,
    /// What sessions begin with changes once it is final: whose, which setting or all, and to what.
    Beginning(Sessions, Option<Rc<str>>, Option<Rc<str>>),
}

/// The sessions of a database, of a role, or of both.
pub type Sessions = (Option<Rc<str>>, Option<Rc<str>>);

#[derive(Clone, Debug)]
pub enum Listening {
    Listen(Rc<str>),
    Unlisten(Rc<str>),
    UnlistenAll,
}

/// A savepoint, and how much there was when it began.
#[derive(Debug)]
pub struct Savepoint {
    pub name: Rc<str>,
    pub undo: usize,
    pub locks: usize,
    pub listening: usize,
    pub notifies: usize,
    /// Whether the transaction only read.
    pub read_only: bool,
}

/// A transaction that `PREPARE TRANSACTION` has made one without a session.
#[derive(Debug)]
pub struct PreparedTransaction {
    pub database: Rc<str>,
    pub owner: Rc<str>,
    pub undo: Vec<Undo>,
    pub locks: Vec<(Tag, Mode)>,
    /// What holds its locks.
    pub holder: BackendId,
}

#[derive(Debug, Default)]
pub struct Transaction {
    pub block: Block,
    pub chain: bool,
    pub savepoints: Vec<Savepoint>,
    pub undo: Vec<Undo>,
    pub locks: Vec<(Tag, Mode)>,
    pub listening: Vec<Listening>,
    pub notifies: Vec<(Rc<str>, Rc<str>)>,
    pub xid: Option<Xid>,
    /// An Execute has been completed and not committed: `XACT_FLAGS_PIPELINING`.
    pub pipelining: bool,
    /// `XACT_FLAGS_NEEDIMMEDIATECOMMIT`.
    pub immediate: bool,
    /// The name that it is to be prepared under.
    pub gid: Option<Rc<str>>,
    /// It has used a temporary table.
    pub temp: bool,
    /// When `transaction_timeout` ends its session.
    pub until: Option<Duration>,
    /// Tables that go when it is committed.
    pub drop_at_commit: Vec<TableId>,
}

impl Transaction {
    /// What ReadyForQuery says.
    pub fn status(&self) -> u8 {
        match self.block {
            Block::Default | Block::Started => b'I',
            Block::Abort | Block::SubAbort | Block::AbortEnd | Block::AbortPending => b'E',
            Block::Begin | Block::InProgress | Block::Implicit | Block::End | Block::Prepare => b'T',
        }
    }

    /// `IsAbortedTransactionBlockState`.
    pub fn is_aborted(&self) -> bool {
        matches!(self.block, Block::Abort | Block::SubAbort)
    }

    /// `IsTransactionBlock`.
    pub fn is_block(&self) -> bool {
        !matches!(self.block, Block::Default | Block::Started)
    }

    /// `IsTransactionOrTransactionBlock`.
    pub fn is_any(&self) -> bool {
        self.block != Block::Default
    }

    /// How deep savepoints are nested.
    pub fn depth(&self) -> usize {
        self.savepoints.len()
    }
}
