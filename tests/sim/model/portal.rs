//! Portals and cursors.

use std::rc::Rc;

use super::analyze::ResultColumn;
use super::catalog::TableId;
use super::eval::Target;
use super::sql::ast::Statement;
use super::value::Value;

/// `PortalStrategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    OneSelect,
    OneReturning,
    UtilSelect,
    Multi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// What it runs looks at portals.
    Active,
    Done,
    Failed,
    /// Failed in a simple query: the server has freed its statement, and runs into that.
    Stale,
}

/// The rows that a portal reads.
#[derive(Clone, Debug)]
pub enum Rows {
    /// A select's source: its items are worked out as they are fetched.
    Source(Rc<[Rc<[Value]>]>),
    /// Rows as the client gets them.
    Result(Rc<[Rc<[Value]>]>),
    /// Not known before it is run.
    Unrun,
}

/// A command's tag, with its count for those that have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandTag {
    Plain(&'static str),
    Counted(&'static str, usize),
}

impl CommandTag {
    pub fn text(&self) -> String {
        match self {
            Self::Plain(tag) => (*tag).to_owned(),
            Self::Counted(tag, count) => format!("{tag} {count}"),
        }
    }

    /// The same with another count.
    pub fn with_count(&self, count: usize) -> Self {
        match self {
            Self::Counted(tag, _) => Self::Counted(tag, count),
            Self::Plain(_) => self.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Portal {
    /// `None` for an empty query.
    pub statement: Option<Rc<Statement>>,
    pub params: Rc<[Value]>,
    pub columns: Option<Rc<[ResultColumn]>>,
    /// Result formats: none, one for all, or one each.
    pub formats: Rc<[u16]>,
    pub strategy: Strategy,
    pub state: State,
    pub rows: Rows,
    /// The row that it is on, counted from 1; behind the last one where it is at the end.
    pub position: usize,
    pub at_start: bool,
    pub at_end: bool,
    /// It may go back.
    pub scrolls: bool,
    pub tag: Option<CommandTag>,
    /// How many savepoints there were when it was made; `None` for those that outlive their transaction.
    pub level: Option<usize>,
    pub hold: bool,
    /// The table that its statement is about.
    pub target: Target,
    /// The tables that it has open.
    pub tables: Rc<[TableId]>,
}

impl Portal {
    /// A portal that has no query yet, made when there were `level` savepoints.
    pub fn empty(level: usize) -> Self {
        Self {
            statement: None,
            params: Rc::new([]),
            columns: None,
            formats: Rc::new([]),
            strategy: Strategy::Multi,
            state: State::Ready,
            rows: Rows::Unrun,
            position: 0,
            at_start: true,
            at_end: false,
            scrolls: false,
            tag: None,
            level: Some(level),
            hold: false,
            target: None,
            tables: Rc::new([]),
        }
    }
}

/// The format that column `n` is sent in, given result formats.
pub fn format(formats: &[u16], n: usize) -> u16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(n).copied().unwrap_or_default(),
    }
}

/// Whether column `n` is sent in binary, given result formats.
pub fn is_binary(formats: &[u16], n: usize) -> bool {
    format(formats, n) == 1
}
