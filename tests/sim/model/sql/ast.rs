//! Statements.

use std::rc::Rc;

use super::super::value::{Type, Value};

/// The name of a relation or function, perhaps with its schema.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    pub schema: Option<Rc<str>>,
    pub name: Rc<str>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Constant(Value),
    Param(usize),
    Column(Rc<str>),
    Cast(Box<Self>, Type),
    Call(Name, Vec<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
    /// `x = ANY (y)`.
    Any(Box<Self>, Box<Self>),
    Not(Box<Self>),
    IsNull(Box<Self>, bool),
    Exists(Box<Select>),
    /// `count(*)`.
    Count,
    Sum(Box<Self>),
    /// `CASE WHEN … THEN … ELSE … END`.
    Case(Box<[Self; 3]>),
    Coalesce(Vec<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    Greater,
    Plus,
    Minus,
    Times,
    Divide,
    Concat,
}

/// An item of a select list.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    All,
    Expr { expr: Expr, name: Option<Rc<str>> },
}

/// What a select reads.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    Nothing,
    Table(Name),
    Function(Name, Vec<Expr>, Rc<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    pub items: Vec<Item>,
    pub from: From,
    pub filter: Option<Expr>,
    /// A column's name.
    pub order: Option<Rc<str>>,
    pub limit: Option<i64>,
}

/// A column in CREATE TABLE.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDef {
    pub name: Rc<str>,
    pub ty: Type,
    pub unique: bool,
    /// A sequence that its default comes from.
    pub sequence: Option<Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OnCommit {
    Preserve,
    Drop,
}

/// Where a cursor goes: how many rows, `None` for all, or to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward(Option<i64>),
    Backward(Option<i64>),
    Absolute(i64),
    Relative(i64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum SetTo {
    Default,
    Values(Vec<Rc<str>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    All,
    Temp,
    Plans,
    Sequences,
}

/// A change of what sessions begin with.
#[derive(Clone, Debug, PartialEq)]
pub struct Beginning {
    /// The sessions that it is about: those of a database, of a role, or of both.
    pub of: (Option<Rc<str>>, Option<Rc<str>>),
    /// The setting; none for all of them.
    pub name: Option<Rc<str>>,
    pub to: SetTo,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub table: Name,
    pub columns: Vec<Rc<str>>,
    pub rows: Vec<Vec<Expr>>,
    pub returning: Option<Vec<Item>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    pub table: Name,
    pub filter: Option<Expr>,
    pub returning: Option<Vec<Item>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub table: Name,
    pub column: Rc<str>,
    pub to: Expr,
    pub filter: Option<Expr>,
}

/// Settings of a transaction, without what their names begin with, and their values.
pub type Modes = Vec<(&'static str, &'static str)>;

#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// With the tag that it has.
    Begin(&'static str, Modes),
    SetTransaction(Modes),
    SetSnapshot(Rc<str>),
    SetCharacteristics(Modes),
    PrepareTransaction(Rc<str>),
    /// `COMMIT PREPARED` or `ROLLBACK PREPARED`.
    EndPrepared {
        gid: Rc<str>,
        commit: bool,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(Rc<str>),
    RollbackTo(Rc<str>),
    Release(Rc<str>),
    Set {
        name: Rc<str>,
        to: SetTo,
        local: bool,
    },
    Reset(Rc<str>),
    ResetAll,
    Show(Rc<str>),
    Discard(Discard),
    Deallocate(Option<Rc<str>>),
    Prepare {
        name: Rc<str>,
        types: Vec<Type>,
        body: Rc<Statement>,
    },
    Execute {
        name: Rc<str>,
        args: Vec<Expr>,
    },
    Declare {
        name: Rc<str>,
        /// Whether it scrolls, where that is said.
        scrolls: Option<bool>,
        hold: bool,
        select: Rc<Statement>,
    },
    Fetch {
        cursor: Rc<str>,
        to: Direction,
        moves: bool,
    },
    CloseCursor(Option<Rc<str>>),
    Listen(Rc<str>),
    Unlisten(Option<Rc<str>>),
    Notify(Rc<str>, Rc<str>),
    CreateTable {
        temp: bool,
        if_not_exists: bool,
        name: Name,
        columns: Vec<ColumnDef>,
        on_commit: OnCommit,
    },
    CreateTableAs {
        temp: bool,
        name: Name,
        select: Rc<Select>,
    },
    DropTable {
        if_exists: bool,
        name: Name,
    },
    AddColumn {
        table: Name,
        column: ColumnDef,
    },
    AlterType {
        table: Name,
        column: Rc<str>,
        ty: Type,
    },
    /// `ALTER DATABASE … SET` and `ALTER ROLE … SET`, or `RESET`.
    AlterBeginning(Beginning),
    Select(Select),
    Insert(Insert),
    Delete(Delete),
    Update(Update),
    CopyIn {
        table: Name,
        columns: Vec<Rc<str>>,
    },
    CopyOut(Select),
    LockTable(Name),
    /// A function of this name, which nothing calls.
    CreateFunction(Name),
    /// A procedure that ends the transaction, by COMMIT or ROLLBACK.
    Call {
        commit: bool,
    },
    /// `code.twice`: a row that is committed, and another one.
    CallTwice(Rc<str>),
    /// What code does with a result that it does not want.
    Perform(Select),
    /// The statements of a block of code.
    Do(Vec<Rc<Statement>>),
}

impl Statement {
    /// COMMIT, PREPARE TRANSACTION, ROLLBACK and ROLLBACK TO: what a failed transaction takes.
    pub fn is_exit(&self) -> bool {
        matches!(self, Self::Commit { .. } | Self::Rollback { .. } | Self::RollbackTo(_) | Self::PrepareTransaction(_))
    }

    /// `TransactionStmt`.
    pub fn is_transaction(&self) -> bool {
        self.is_exit()
            || matches!(self, Self::Begin(..) | Self::Savepoint(_) | Self::Release(_) | Self::EndPrepared { .. })
    }

    /// Whether it needs no snapshot when it runs: the reverse of `PlannedStmtRequiresSnapshot`.
    pub fn needs_no_snapshot(&self) -> bool {
        self.is_transaction()
            || matches!(
                self,
                Self::LockTable(_)
                    | Self::Set { .. }
                    | Self::SetTransaction(_)
                    | Self::SetSnapshot(_)
                    | Self::SetCharacteristics(_)
                    | Self::Reset(_)
                    | Self::ResetAll
                    | Self::Show(_)
                    | Self::Fetch { .. }
                    | Self::Listen(_)
                    | Self::Unlisten(_)
                    | Self::Notify(..)
            )
    }

    /// A change of definitions, which no transaction takes that only reads.
    pub fn is_definition(&self) -> bool {
        matches!(
            self,
            Self::CreateTable { .. }
                | Self::CreateTableAs { .. }
                | Self::DropTable { .. }
                | Self::AddColumn { .. }
                | Self::AlterType { .. }
                | Self::AlterBeginning(_)
                | Self::CreateFunction(_)
        )
    }
}
