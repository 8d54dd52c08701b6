//! A database's schemas, tables, rows and sequences. What a transaction has not committed is marked with its number.

use std::collections::HashMap;
use std::rc::Rc;

use super::value::{Type, Value};

/// The number of a transaction that writes.
pub type Xid = u64;
/// A table's identity, which is never used again.
pub type TableId = u32;

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Rc<str>,
    pub ty: Type,
    /// A sequence that its default comes from.
    pub sequence: Option<SequenceName>,
}

/// A sequence's schema and name.
pub type SequenceName = (Rc<str>, Rc<str>);

/// A row's version.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: u64,
    pub cells: Rc<[Value]>,
    pub inserted_by: Option<Xid>,
    pub deleted_by: Option<Xid>,
}

#[derive(Debug)]
pub struct Table {
    pub schema: Rc<str>,
    pub name: Rc<str>,
    pub columns: Rc<[Column]>,
    /// Grows with every change of the columns.
    pub version: u64,
    /// The column whose values are unique.
    pub unique: Option<usize>,
    pub rows: Vec<Row>,
    next_row: u64,
    index: HashMap<Value, Vec<u64>>,
    pub created_by: Option<Xid>,
    pub dropped_by: Option<Xid>,
}

impl Table {
    /// Whether transaction `me` sees `row`.
    pub fn sees(row: &Row, me: Option<Xid>) -> bool {
        let inserted = row.inserted_by.is_none() || row.inserted_by == me;
        let deleted = row.deleted_by.is_some() && row.deleted_by == me;
        inserted && !deleted
    }

    pub fn insert(&mut self, cells: Rc<[Value]>, xid: Xid) -> u64 {
        let id = self.next_row;
        self.next_row += 1;
        if let Some(unique) = self.unique {
            self.index.entry(cells[unique].clone()).or_default().push(id);
        }
        self.rows.push(Row { id, cells, inserted_by: Some(xid), deleted_by: None });
        id
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.rows.binary_search_by_key(&id, |row| row.id).ok()
    }

    pub fn row(&self, id: u64) -> Option<&Row> {
        self.position(id).map(|at| &self.rows[at])
    }

    pub fn row_mut(&mut self, id: u64) -> Option<&mut Row> {
        self.position(id).map(|at| &mut self.rows[at])
    }

    pub fn remove(&mut self, id: u64) {
        let Some(at) = self.position(id) else { return };
        let row = self.rows.remove(at);
        if let Some(unique) = self.unique
            && let Some(ids) = self.index.get_mut(&row.cells[unique])
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.index.remove(&row.cells[unique]);
            }
        }
    }

    /// The versions of rows that have `value` where values are unique.
    pub fn same(&self, value: &Value) -> impl Iterator<Item = &Row> {
        let ids = self.index.get(value).filter(|_| *value != Value::Null);
        ids.into_iter().flatten().filter_map(|id| self.row(*id))
    }

    /// Gives the table other columns, and its rows other cells.
    pub fn alter(&mut self, columns: Rc<[Column]>, version: u64, cells: Vec<(u64, Rc<[Value]>)>) {
        self.columns = columns;
        self.version = version;
        for (id, cells) in cells {
            if let Some(row) = self.row_mut(id) {
                row.cells = cells;
            }
        }
        self.index.clear();
        if let Some(unique) = self.unique {
            for row in &self.rows {
                self.index.entry(row.cells[unique].clone()).or_default().push(row.id);
            }
        }
    }
}

#[derive(Debug, Default)]
pub struct Sequence {
    pub last: i64,
}

#[derive(Debug, Default)]
pub struct Database {
    pub number: u32,
    pub schemas: Vec<Rc<str>>,
    pub tables: HashMap<TableId, Table>,
    names: HashMap<Rc<str>, Vec<TableId>>,
    pub sequences: HashMap<SequenceName, Sequence>,
}

impl Database {
    pub fn new(number: u32, schemas: Vec<Rc<str>>) -> Self {
        Self { number, schemas, ..Self::default() }
    }

    /// The table `name` in `schema` that transaction `me` sees.
    pub fn find(&self, schema: &str, name: &str, me: Option<Xid>) -> Option<TableId> {
        let sees = |id: &&TableId| {
            self.tables.get(id).is_some_and(|table| {
                *table.schema == *schema
                    && (table.created_by.is_none() || table.created_by == me)
                    && (table.dropped_by.is_none() || table.dropped_by != me)
            })
        };
        self.names.get(name)?.iter().find(sees).copied()
    }

    pub fn create(
        &mut self,
        id: TableId,
        schema: Rc<str>,
        name: Rc<str>,
        columns: Rc<[Column]>,
        unique: Option<usize>,
    ) {
        self.names.entry(Rc::clone(&name)).or_default().push(id);
        let table = Table {
            schema,
            name,
            columns,
            version: 0,
            unique,
            rows: Vec::new(),
            next_row: 0,
            index: HashMap::new(),
            created_by: None,
            dropped_by: None,
        };
        self.tables.insert(id, table);
    }

    pub fn remove(&mut self, id: TableId) {
        let Some(table) = self.tables.remove(&id) else { return };
        if let Some(ids) = self.names.get_mut(&table.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.names.remove(&table.name);
            }
        }
    }
}
