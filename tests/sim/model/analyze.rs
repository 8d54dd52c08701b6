//! What a statement means: the tables, columns and types that its names stand for now.

use std::rc::Rc;

use super::backend::Backend;
use super::catalog::{TableId, Xid};
use super::error::Report;
use super::eval::Target;
use super::functions::{signature, view};
use super::lock::Mode;
use super::shared::Shared;
use super::sql::ast::{Expr, From, Item, Name, Operator, Select, Statement};
use super::value::{Type, Value};

/// A result column, as RowDescription has it.
#[derive(Clone, Debug)]
pub struct ResultColumn {
    pub name: Rc<str>,
    pub ty: Type,
    pub table: TableId,
    pub number: i16,
}

/// `equalTupleDescs`.
impl PartialEq for ResultColumn {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.ty == other.ty
    }
}

/// The meaning of a statement.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    pub params: Vec<Type>,
    /// The columns of its result, if it has one.
    pub columns: Option<Rc<[ResultColumn]>>,
    /// Its tables, with the version of their columns and how they are locked.
    pub tables: Vec<(TableId, u64, Mode)>,
    /// The schemas that were looked through.
    pub path: Rc<[Rc<str>]>,
}

impl Meaning {
    /// The table that the statement is about.
    pub fn target(&self) -> Target {
        self.tables.first().map(|(id, ..)| *id)
    }
}

/// The types of parameters, as far as they are known.
#[derive(Debug)]
pub struct Params {
    types: Vec<Type>,
    used: Vec<bool>,
    /// There may be more than were declared.
    open: bool,
}

impl Params {
    /// Those that a Parse declares, or PREPARE; others may come.
    pub fn declared(types: &[Type]) -> Self {
        Self { types: types.to_vec(), used: vec![true; types.len()], open: true }
    }

    /// None, as in a simple query.
    pub fn none() -> Self {
        Self { types: Vec::new(), used: Vec::new(), open: false }
    }

    fn ty(&mut self, n: usize, expected: Type) -> Result<Type, Report> {
        if n > self.types.len() {
            if !self.open || n > 65_535 {
                return Err(Report::error("42P02", format!("there is no parameter ${n}")));
            }
            self.types.resize(n, Type::Unknown);
            self.used.resize(n, false);
        }
        self.used[n - 1] = true;
        if self.types[n - 1] == Type::Unknown {
            self.types[n - 1] = expected;
        }
        Ok(self.types[n - 1])
    }

    fn finish(self) -> Result<Vec<Type>, Report> {
        match self.types.iter().position(|ty| *ty == Type::Unknown) {
            Some(at) => Err(Report::error("42P18", format!("could not determine data type of parameter ${}", at + 1))),
            None => Ok(self.types),
        }
    }
}

/// The names and types of a row source's columns.
pub type Columns = Vec<ResultColumn>;

struct Analysis<'a> {
    backend: &'a Backend,
    shared: &'a Shared,
    params: Params,
    tables: Vec<(TableId, u64, Mode)>,
    me: Option<Xid>,
}

/// A statement that means nothing, and its tables as far as they were looked at, which are locked before that is found out.
#[derive(Debug)]
pub struct Meaningless {
    pub report: Report,
    pub tables: Vec<(TableId, u64, Mode)>,
}

/// Finds out what `statement` means to `backend` now.
pub fn analyze(
    backend: &Backend,
    shared: &Shared,
    statement: &Statement,
    params: Params,
) -> Result<Meaning, Meaningless> {
    let me = backend.transaction.xid;
    let mut analysis = Analysis { backend, shared, params, tables: Vec::new(), me };
    let columns = analysis.statement(statement);
    let Analysis { params, tables, .. } = analysis;
    match columns.and_then(|columns| Ok((columns, params.finish()?))) {
        Ok((columns, params)) => {
            Ok(Meaning { params, columns: columns.map(Rc::from), tables, path: Rc::clone(&backend.path) })
        }
        Err(report) => Err(Meaningless { report, tables }),
    }
}

/// A column that is no table's.
fn plain(name: &str, ty: Type) -> ResultColumn {
    ResultColumn { name: name.into(), ty, table: 0, number: 0 }
}

pub fn no_relation(name: &Name) -> Report {
    let name = match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.to_string(),
    };
    Report::error("42P01", format!("relation \"{name}\" does not exist"))
}

impl Analysis<'_> {
    fn statement(&mut self, statement: &Statement) -> Result<Option<Columns>, Report> {
        match statement {
            Statement::Select(select) => self.select(select).map(Some),
            Statement::Insert(insert) => {
                let columns = self.table(&insert.table, Mode::Shared)?;
                let names: Vec<Rc<str>> = if insert.columns.is_empty() {
                    columns.iter().map(|column| Rc::clone(&column.name)).collect()
                } else {
                    insert.columns.clone()
                };
                for row in &insert.rows {
                    if row.len() > names.len() {
                        return Err(Report::error("42601", "INSERT has more expressions than target columns"));
                    }
                    if row.len() < names.len() && !insert.columns.is_empty() {
                        return Err(Report::error("42601", "INSERT has more target columns than expressions"));
                    }
                    for (expr, name) in row.iter().zip(&names) {
                        let ty = column(&columns, name)?.ty;
                        self.expr(expr, &[], ty)?;
                    }
                }
                self.returning(insert.returning.as_deref(), &columns)
            }
            Statement::Delete(delete) => {
                let columns = self.table(&delete.table, Mode::Shared)?;
                self.filter(delete.filter.as_ref(), &columns)?;
                self.returning(delete.returning.as_deref(), &columns)
            }
            Statement::Update(update) => {
                let columns = self.table(&update.table, Mode::Shared)?;
                let ty = column(&columns, &update.column)?.ty;
                self.expr(&update.to, &columns, ty)?;
                self.filter(update.filter.as_ref(), &columns)?;
                Ok(None)
            }
            Statement::Show(name) => {
                let canonical = self.backend.settings.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
                match canonical {
                    Some((name, ..)) => Ok(Some(vec![plain(name, Type::Text)])),
                    None => Err(Report::error("42704", format!("unrecognized configuration parameter \"{name}\""))),
                }
            }
            Statement::Fetch { cursor, moves: false, .. } => {
                Ok(self.backend.portals.get(&**cursor).and_then(|portal| portal.columns.as_ref()).map(|c| c.to_vec()))
            }
            Statement::Execute { name, .. } => {
                let known = self.backend.statements.get(&**name).and_then(|prepared| prepared.columns());
                Ok(known.map(|columns| columns.to_vec()))
            }
            Statement::Declare { select, .. } => self.statement(select).map(|_| None),
            Statement::CreateTableAs { select, .. } => self.select(select).map(|_| None),
            _ => Ok(None),
        }
    }

    /// The columns of a table, which is locked.
    fn table(&mut self, name: &Name, mode: Mode) -> Result<Columns, Report> {
        let id = self.backend.find_table(self.shared, name, self.me).ok_or_else(|| no_relation(name))?;
        let table = &self.shared.databases[&self.backend.database].tables[&id];
        self.tables.push((id, table.version, mode));
        let numbered = table.columns.iter().zip(1..);
        let column = |(column, number): (&super::catalog::Column, i16)| ResultColumn {
            name: Rc::clone(&column.name),
            ty: column.ty,
            table: id,
            number,
        };
        Ok(numbered.map(column).collect())
    }

    fn source(&mut self, from: &From) -> Result<Columns, Report> {
        match from {
            From::Nothing => Ok(Vec::new()),
            From::Table(name) => match view(name.schema.as_deref(), &name.name) {
                Some(columns) => Ok(columns.iter().map(|(name, ty)| plain(name, *ty)).collect()),
                None => self.table(name, Mode::Shared),
            },
            From::Function(name, args, alias) => {
                let ty = self.call(name, args, &[])?;
                Ok(vec![plain(alias, ty)])
            }
        }
    }

    fn select(&mut self, select: &Select) -> Result<Columns, Report> {
        let source = self.source(&select.from)?;
        let columns = self.items(&select.items, &source)?;
        self.filter(select.filter.as_ref(), &source)?;
        if let Some(order) = &select.order {
            let known = source.iter().chain(&columns).any(|column| column.name == *order);
            if !known {
                return Err(no_column(order));
            }
        }
        Ok(columns)
    }

    fn filter(&mut self, filter: Option<&Expr>, source: &[ResultColumn]) -> Result<(), Report> {
        if let Some(filter) = filter {
            self.expr(filter, source, Type::Bool)?;
        }
        Ok(())
    }

    fn returning(&mut self, items: Option<&[Item]>, source: &[ResultColumn]) -> Result<Option<Columns>, Report> {
        items.map(|items| self.items(items, source)).transpose()
    }

    fn items(&mut self, items: &[Item], source: &[ResultColumn]) -> Result<Columns, Report> {
        let mut columns = Vec::new();
        for item in items {
            let Item::Expr { expr, name } = item else {
                columns.extend_from_slice(source);
                continue;
            };
            let mut ty = self.expr(expr, source, Type::Unknown)?;
            if ty == Type::Unknown {
                if let Expr::Param(n) = expr {
                    self.params.ty(*n, Type::Text)?;
                }
                ty = Type::Text;
            }
            let mut result = plain(&column_name(expr).0, ty);
            if let Expr::Column(name) = expr {
                result = column(source, name)?.clone();
            }
            if let Some(name) = name {
                result.name = Rc::clone(name);
            }
            columns.push(result);
        }
        Ok(columns)
    }

    fn call(&mut self, name: &Name, args: &[Expr], source: &[ResultColumn]) -> Result<Type, Report> {
        let Some(signature) = signature(name.schema.as_deref(), &name.name, args.len()) else {
            return Err(Report::error("42883", format!("function {}() does not exist", name.name)));
        };
        for (arg, ty) in args.iter().zip(signature.args) {
            self.expr(arg, source, *ty)?;
        }
        if let ("nextval" | "currval", [Expr::Constant(Value::Text(text))]) = (&*name.name, args) {
            self.backend.find_sequence(self.shared, text)?;
        }
        Ok(signature.result)
    }

    /// The type of `expr`, where `expected` is what it should be.
    fn expr(&mut self, expr: &Expr, source: &[ResultColumn], expected: Type) -> Result<Type, Report> {
        Ok(match expr {
            Expr::Constant(Value::Null) => Type::Unknown,
            Expr::Constant(Value::Text(text)) => {
                if !matches!(expected, Type::Unknown | Type::Text) {
                    Value::parse(expected, text)?;
                }
                Type::Unknown
            }
            Expr::Constant(Value::Bool(_)) => Type::Bool,
            Expr::Constant(Value::Int(n)) => {
                if i32::try_from(*n).is_ok() {
                    Type::Int4
                } else {
                    Type::Int8
                }
            }
            Expr::Param(n) => self.params.ty(*n, expected)?,
            Expr::Column(name) => column(source, name)?.ty,
            Expr::Cast(inner, ty) => {
                self.expr(inner, source, *ty)?;
                *ty
            }
            Expr::Call(name, args) => self.call(name, args, source)?,
            Expr::Binary(operator, left, right) => self.binary(*operator, left, right, source)?,
            Expr::Any(left, right) => {
                self.expr(left, source, Type::Text)?;
                self.expr(right, source, Type::Text)?;
                Type::Bool
            }
            Expr::Not(inner) => {
                self.expr(inner, source, Type::Bool)?;
                Type::Bool
            }
            Expr::IsNull(inner, _) => {
                self.expr(inner, source, Type::Unknown)?;
                Type::Bool
            }
            Expr::Exists(select) => {
                self.select(select)?;
                Type::Bool
            }
            Expr::Count => Type::Int8,
            Expr::Sum(of) => {
                self.expr(of, source, Type::Int8)?;
                Type::Int8
            }
            Expr::Case(parts) => {
                let [condition, then, otherwise] = &**parts;
                self.expr(condition, source, Type::Bool)?;
                let ty = self.expr(then, source, expected)?;
                self.expr(otherwise, source, ty)?;
                ty
            }
            Expr::Coalesce(args) => {
                let mut ty = expected;
                for arg in args {
                    let known = self.expr(arg, source, ty)?;
                    if ty == Type::Unknown {
                        ty = known;
                    }
                }
                ty
            }
        })
    }

    fn binary(
        &mut self,
        operator: Operator,
        left: &Expr,
        right: &Expr,
        source: &[ResultColumn],
    ) -> Result<Type, Report> {
        let hint = match operator {
            Operator::And | Operator::Or => Type::Bool,
            Operator::Concat => Type::Text,
            _ => Type::Unknown,
        };
        let mut a = self.expr(left, source, hint)?;
        let mut b = self.expr(right, source, if hint == Type::Unknown { a } else { hint })?;
        if a == Type::Unknown && b == Type::Unknown {
            (a, b) = (Type::Text, self.expr(right, source, Type::Text)?);
        }
        if a == Type::Unknown || a == Type::Text {
            a = self.expr(left, source, b.or(Type::Text))?;
        }
        if b == Type::Unknown {
            b = a;
        }
        Ok(match operator {
            Operator::And
            | Operator::Or
            | Operator::Equal
            | Operator::NotEqual
            | Operator::Less
            | Operator::Greater => {
                let number = |ty| matches!(ty, Type::Int4 | Type::Int8);
                if number(a) && b == Type::Text || a == Type::Text && number(b) {
                    return Err(Report::error("42883", "operator does not exist"));
                }
                Type::Bool
            }
            Operator::Concat => Type::Text,
            _ if a == Type::Int8 || b == Type::Int8 => Type::Int8,
            _ => Type::Int4,
        })
    }
}

fn no_column(name: &str) -> Report {
    Report::error("42703", format!("column \"{name}\" does not exist"))
}

fn column<'a>(columns: &'a [ResultColumn], name: &str) -> Result<&'a ResultColumn, Report> {
    columns.iter().find(|column| *column.name == *name).ok_or_else(|| no_column(name))
}

/// `FigureColname`: a name, and how good it is.
fn column_name(expr: &Expr) -> (Rc<str>, u8) {
    match expr {
        Expr::Column(name) => (Rc::clone(name), 2),
        Expr::Call(name, _) => (Rc::clone(&name.name), 2),
        Expr::Count => ("count".into(), 2),
        Expr::Sum(_) => ("sum".into(), 2),
        Expr::Case(_) => ("case".into(), 1),
        Expr::Coalesce(_) => ("coalesce".into(), 2),
        Expr::Exists(_) => ("exists".into(), 2),
        Expr::Cast(inner, ty) => match column_name(inner) {
            (name, 2) => (name, 2),
            _ => (ty.column_name().into(), 1),
        },
        _ => ("?column?".into(), 0),
    }
}
