//! What a cluster's backends share.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use super::catalog::{Column, Database, TableId, Xid};
use super::error::Report;
use super::lock::Locks;
use super::sql::{self, ast::Statement};
use super::transaction::{PreparedTransaction, Sessions};
use super::value::{Type, Value};

/// How many texts are kept parsed.
const MOST_TEXTS: usize = 20_000;

/// The first version with functions whose bodies are of SQL's own form.
const BODIES_OF_SQL: u32 = 14;

type Parsed = Rc<[Rc<Statement>]>;

/// A notification on its way.
#[derive(Clone, Debug)]
pub struct Notification {
    pub database: Rc<str>,
    pub pid: i32,
    pub channel: Rc<str>,
    pub payload: Rc<str>,
}

#[derive(Debug, Default)]
pub struct Shared {
    pub databases: BTreeMap<Rc<str>, Database>,
    pub locks: Locks,
    pub notifications: Vec<Notification>,
    /// All that there have been, in order.
    pub notified: Vec<Notification>,
    pub terminated: Vec<i32>,
    /// Pids, with the secrets of those who ask from outside.
    pub cancelled: Vec<(i32, Option<i32>)>,
    pub now: Duration,
    /// Settings that its configuration has changed since it began, in order.
    pub configured: Vec<(&'static str, &'static str)>,
    /// The same for sessions that begin from now on, as `ALTER DATABASE … SET` has it.
    pub defaults: Vec<(&'static str, &'static str)>,
    /// What sessions begin with, as `pg_db_role_setting` has it.
    pub beginnings: BTreeMap<Sessions, BTreeMap<Rc<str>, Rc<str>>>,
    /// Prepared transactions, by their names.
    pub prepared: BTreeMap<Rc<str>, PreparedTransaction>,
    /// The major version of the server.
    pub version: u32,
    next_xid: Xid,
    next_table: TableId,
    table_version: u64,
    /// By whether backslashes are escapes.
    parsed: [HashMap<Box<str>, Parsed>; 2],
    /// What was done that the model does not do as the server does.
    pub beyond: Vec<&'static str>,
    /// Texts that could not be parsed, the last of them.
    pub unparsed: Vec<String>,
}

impl Shared {
    /// The statements of a text.
    pub fn parse(&mut self, text: &str, escapes: bool) -> Result<Parsed, Report> {
        let known = &mut self.parsed[usize::from(escapes)];
        if let Some(parsed) = known.get(text) {
            return Ok(Rc::clone(parsed));
        }
        let has_bodies = self.version >= BODIES_OF_SQL;
        let understood = sql::parse(text, escapes).and_then(|statements| {
            let is_bodied = statements.iter().any(|statement| matches!(statement, Statement::CreateFunction(_)));
            let unknown = || Report::error("42601", "syntax error at or near \"begin\"");
            if is_bodied && !has_bodies { Err(unknown()) } else { Ok(statements) }
        });
        let parsed: Parsed = match understood {
            Ok(statements) => statements.into_iter().map(Rc::new).collect(),
            Err(error) => {
                if self.unparsed.len() < 100 {
                    self.unparsed.push(text.to_owned());
                }
                return Err(error);
            }
        };
        let known = &mut self.parsed[usize::from(escapes)];
        if known.len() >= MOST_TEXTS {
            known.clear();
        }
        known.insert(text.into(), Rc::clone(&parsed));
        Ok(parsed)
    }

    /// Changes what sessions begin with.
    pub fn alter_beginning(
        beginnings: &mut BTreeMap<Sessions, BTreeMap<Rc<str>, Rc<str>>>,
        sessions: Sessions,
        name: Option<Rc<str>>,
        value: Option<Rc<str>>,
    ) {
        let settings = beginnings.entry(sessions).or_default();
        match (name, value) {
            (Some(name), Some(value)) => {
                settings.insert(name, value);
            }
            (Some(name), None) => {
                settings.remove(&name);
            }
            (None, _) => settings.clear(),
        }
    }

    pub fn new_xid(&mut self) -> Xid {
        self.next_xid += 1;
        self.next_xid
    }

    pub fn new_table(&mut self) -> TableId {
        self.next_table += 1;
        self.next_table
    }

    pub fn new_version(&mut self) -> u64 {
        self.table_version += 1;
        self.table_version
    }

    /// Makes a database with the tables and sequences that the scripts use. [`super::setup`] says the same in SQL.
    pub fn create_database(&mut self, name: &str) {
        let number = u32::try_from(self.databases.len()).unwrap_or(u32::MAX) + 1;
        let schemas = ["public", "one", "two", "code"].map(Rc::from).to_vec();
        let mut database = Database::new(number, schemas);
        let column = |name: &str, ty| Column { name: name.into(), ty, sequence: None };
        for name in ["seq", "seq0", "seq1", "seq2", "seq3"] {
            database.sequences.entry(("code".into(), name.into())).or_default();
        }
        let numbers: (Rc<str>, Rc<str>) = ("code".into(), "numbers".into());
        database.sequences.entry(numbers.clone()).or_default();
        let numbered = Column { name: "id".into(), ty: Type::Int8, sequence: Some(numbers) };
        let mut tables = vec![
            ("public", "t", vec![column("token", Type::Text)], Some(0)),
            ("public", "u", vec![column("token", Type::Text), column("n", Type::Int4)], None),
            ("public", "numbered", vec![numbered, column("token", Type::Text)], None),
            ("one", "v", vec![column("a", Type::Text)], None),
            ("two", "v", vec![column("a", Type::Text), column("b", Type::Int4)], None),
        ];
        tables.push(if name == "beta" {
            ("public", "v", vec![column("a", Type::Int8), column("b", Type::Text)], None)
        } else {
            ("public", "v", vec![column("a", Type::Int4)], None)
        });
        for (schema, table, columns, unique) in tables {
            let id = self.new_table();
            database.create(id, schema.into(), table.into(), columns.into(), unique);
            if table == "v"
                && let Some(table) = database.tables.get_mut(&id)
            {
                let cell = |column: &Column| match column.ty {
                    Type::Text => Value::text(&format!("{schema} {name}")),
                    _ => Value::Int(42),
                };
                let cells: Rc<[Value]> = table.columns.iter().map(cell).collect();
                let id = table.insert(cells, 0);
                if let Some(row) = table.row_mut(id) {
                    row.inserted_by = None;
                }
            }
        }
        self.databases.insert(name.into(), database);
    }
}
