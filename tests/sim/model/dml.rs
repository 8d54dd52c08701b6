//! Rows: INSERT, UPDATE, DELETE and what COPY brings.

use std::rc::Rc;

use super::analyze::{ResultColumn, no_relation};
use super::backend::Backend;
use super::catalog::{Row, Table, TableId};
use super::error::{Report, Stop, fail};
use super::eval::{Cells, Scope, Target};
use super::lock::{Mode, Tag, Wait};
use super::shared::Shared;
use super::sql::ast::{Delete, Expr, Insert, Name, Update};
use super::transaction::Undo;
use super::value::{Type, Value};

/// How many rows were changed, and what RETURNING returns of them.
pub type Changed = (usize, Vec<Cells>);

fn duplicate() -> Report {
    Report::error("23505", "duplicate key value violates unique constraint")
}

/// The table that `code.insert` writes to.
fn tokens() -> Name {
    Name { schema: Some("public".into()), name: "t".into() }
}

impl Backend {
    /// The table of a statement.
    pub fn table_id(&self, shared: &Shared, name: &Name, target: Target) -> Result<TableId, Report> {
        let known = target.or_else(|| self.find_table(shared, name, self.transaction.xid));
        known.ok_or_else(|| no_relation(name))
    }

    fn result_columns(&self, shared: &Shared, id: TableId) -> Vec<ResultColumn> {
        let table = &shared.databases[&self.database].tables[&id];
        let column = |column: &super::catalog::Column| ResultColumn {
            name: Rc::clone(&column.name),
            ty: column.ty,
            table: 0,
            number: 0,
        };
        table.columns.iter().map(column).collect()
    }

    /// Whether a row with `value` in the unique column can be inserted: a transaction that is under way may decide it.
    fn check_unique(&self, shared: &Shared, id: TableId, value: &Value) -> Result<(), Stop> {
        let me = self.transaction.xid;
        let table = &shared.databases[&self.database].tables[&id];
        for row in table.same(value) {
            let wait = |xid| Err(Stop::Wait(Wait::Lock(Tag::Transaction(xid), Mode::Shared)));
            match (row.inserted_by, row.deleted_by) {
                (Some(xid), _) | (_, Some(xid)) if Some(xid) != me => return wait(xid),
                (_, Some(_)) => {}
                _ => return Err(duplicate().into()),
            }
        }
        Ok(())
    }

    /// As [`Self::check_unique`], but only whether it must wait.
    pub fn check_wait(&self, shared: &Shared, id: TableId, value: &Value) -> Result<(), Stop> {
        match self.check_unique(shared, id, value) {
            Err(Stop::Wait(wait)) => Err(Stop::Wait(wait)),
            _ => Ok(()),
        }
    }

    /// Whether `code.insert` must wait; locks its table.
    pub fn check_token(&mut self, shared: &mut Shared, value: &Value) -> Result<(), Stop> {
        let Ok(id) = self.table_id(shared, &tokens(), None) else { return Ok(()) };
        if self.check_writes().is_err() {
            return Ok(());
        }
        self.lock(shared, Tag::Table(id), Mode::Shared)?;
        self.check_wait(shared, id, value)
    }

    /// Whether an insert must wait.
    pub fn check_insert(
        &mut self,
        shared: &mut Shared,
        id: TableId,
        insert: &Insert,
        params: &[Value],
    ) -> Result<(), Stop> {
        let table = &shared.databases[&self.database].tables[&id];
        let Some(unique) = table.unique else { return Ok(()) };
        let name = Rc::clone(&table.columns[unique].name);
        let at = if insert.columns.is_empty() { Some(unique) } else { insert.columns.iter().position(|c| *c == name) };
        let Some(at) = at else { return Ok(()) };
        for row in &insert.rows {
            let value = match row.get(at) {
                Some(Expr::Constant(value)) => value.clone(),
                Some(Expr::Param(n)) => params.get(n - 1).cloned().unwrap_or(Value::Null),
                _ => continue,
            };
            self.check_wait(shared, id, &value)?;
        }
        Ok(())
    }

    /// Whether rows that are to be changed are being changed by others.
    pub fn check_changed(
        &mut self,
        shared: &mut Shared,
        id: TableId,
        filter: Option<&Expr>,
        params: &[Value],
    ) -> Result<(), Stop> {
        let me = self.transaction.xid;
        for row in self.matching(shared, id, filter, params)? {
            if let Some(xid) = row.deleted_by.filter(|xid| Some(*xid) != me) {
                return Err(Stop::Wait(Wait::Lock(Tag::Transaction(xid), Mode::Shared)));
            }
        }
        Ok(())
    }

    /// Whether an update's new value must wait.
    pub fn check_updated(
        &mut self,
        shared: &mut Shared,
        id: TableId,
        update: &Update,
        params: &[Value],
    ) -> Result<(), Stop> {
        let table = &shared.databases[&self.database].tables[&id];
        let unique = table.unique.is_some_and(|at| table.columns[at].name == update.column);
        let value = match &update.to {
            Expr::Constant(value) if unique => value.clone(),
            Expr::Param(n) if unique => params.get(n - 1).cloned().unwrap_or(Value::Null),
            _ => return Ok(()),
        };
        if self.matching(shared, id, update.filter.as_ref(), params)?.is_empty() {
            return Ok(());
        }
        self.check_wait(shared, id, &value)
    }

    fn matching(
        &mut self,
        shared: &mut Shared,
        id: TableId,
        filter: Option<&Expr>,
        params: &[Value],
    ) -> Result<Vec<Row>, Stop> {
        let me = self.transaction.xid;
        let columns = self.result_columns(shared, id);
        let table = &shared.databases[&self.database].tables[&id];
        let rows: Vec<Row> = table.rows.iter().filter(|row| Table::sees(row, me)).cloned().collect();
        let mut matching = Vec::new();
        for row in rows {
            let keep = match filter {
                Some(filter) => {
                    self.eval(shared, filter, Scope { columns: &columns, cells: &row.cells, params })?.is_true()
                }
                None => true,
            };
            if keep {
                matching.push(row);
            }
        }
        Ok(matching)
    }

    pub fn insert_row(&mut self, shared: &mut Shared, id: TableId, cells: Cells) -> Result<(), Stop> {
        let unique = shared.databases[&self.database].tables[&id].unique;
        if let Some(unique) = unique {
            self.check_unique(shared, id, &cells[unique])?;
        }
        let xid = self.xid(shared);
        let table = shared.databases.get_mut(&self.database).and_then(|database| database.tables.get_mut(&id));
        if let Some(table) = table {
            let row = table.insert(cells, xid);
            self.transaction.undo.push(Undo::Inserted(id, row));
        }
        Ok(())
    }

    pub fn insert_token(&mut self, shared: &mut Shared, token: &str) -> Result<(), Stop> {
        let id = self.table_id(shared, &tokens(), None)?;
        self.check_writes()?;
        self.lock(shared, Tag::Table(id), Mode::Shared)?;
        self.insert_row(shared, id, Cells::from([Value::text(token)]))
    }

    pub fn insert(
        &mut self,
        shared: &mut Shared,
        insert: &Insert,
        target: Target,
        params: &[Value],
    ) -> Result<Changed, Stop> {
        let id = self.table_id(shared, &insert.table, target)?;
        let columns = Rc::clone(&shared.databases[&self.database].tables[&id].columns);
        let named = self.result_columns(shared, id);
        let mut returned = Vec::new();
        for row in &insert.rows {
            let mut cells = Vec::new();
            for (at, column) in columns.iter().enumerate() {
                let at = if insert.columns.is_empty() {
                    Some(at)
                } else {
                    insert.columns.iter().position(|name| *name == column.name)
                };
                let value = match (at.and_then(|at| row.get(at)), &column.sequence) {
                    (Some(expr), _) => self.eval(shared, expr, Scope::params(params))?.cast(column.ty)?,
                    (None, Some((schema, name))) => self.nextval(shared, &format!("{schema}.{name}"))?,
                    (None, None) => Value::Null,
                };
                cells.push(value);
            }
            let cells = Cells::from(cells);
            self.insert_row(shared, id, Rc::clone(&cells))?;
            if let Some(items) = &insert.returning {
                returned.push(self.items(shared, items, Scope { columns: &named, cells: &cells, params })?);
            }
        }
        Ok((insert.rows.len(), returned))
    }

    pub fn delete(
        &mut self,
        shared: &mut Shared,
        delete: &Delete,
        target: Target,
        params: &[Value],
    ) -> Result<Changed, Stop> {
        let id = self.table_id(shared, &delete.table, target)?;
        let columns = self.result_columns(shared, id);
        let rows = self.matching(shared, id, delete.filter.as_ref(), params)?;
        let mut returned = Vec::new();
        for row in &rows {
            self.delete_row(shared, id, row.id);
            if let Some(items) = &delete.returning {
                returned.push(self.items(shared, items, Scope { columns: &columns, cells: &row.cells, params })?);
            }
        }
        Ok((rows.len(), returned))
    }

    fn delete_row(&mut self, shared: &mut Shared, id: TableId, row: u64) {
        let xid = self.xid(shared);
        let table = shared.databases.get_mut(&self.database).and_then(|database| database.tables.get_mut(&id));
        if let Some(row) = table.and_then(|table| table.row_mut(row)) {
            row.deleted_by = Some(xid);
            self.transaction.undo.push(Undo::Deleted(id, row.id));
        }
    }

    pub fn update(
        &mut self,
        shared: &mut Shared,
        update: &Update,
        target: Target,
        params: &[Value],
    ) -> Result<usize, Stop> {
        let id = self.table_id(shared, &update.table, target)?;
        let columns = self.result_columns(shared, id);
        let at = columns.iter().position(|column| column.name == update.column);
        let Some(at) = at else { return fail("42703", "column does not exist") };
        let rows = self.matching(shared, id, update.filter.as_ref(), params)?;
        for row in &rows {
            let scope = Scope { columns: &columns, cells: &row.cells, params };
            let value = self.eval(shared, &update.to, scope)?.cast(columns[at].ty)?;
            let mut cells = row.cells.to_vec();
            cells[at] = value;
            self.delete_row(shared, id, row.id);
            self.insert_row(shared, id, cells.into())?;
        }
        Ok(rows.len())
    }

    /// A line of COPY's text format as a row.
    pub fn copied_row(&self, shared: &Shared, id: TableId, names: &[Rc<str>], line: &str) -> Result<Cells, Report> {
        let table = &shared.databases[&self.database].tables[&id];
        let listed: Vec<usize> = if names.is_empty() {
            (0..table.columns.len()).collect()
        } else {
            names.iter().filter_map(|name| table.columns.iter().position(|column| column.name == *name)).collect()
        };
        let mut cells = vec![Value::Null; table.columns.len()];
        let mut fields = line.split('\t');
        for at in listed {
            let Some(field) = fields.next() else { return Err(Report::error("22P04", "missing data for column")) };
            let null = field == "\\N";
            cells[at] = if null { Value::Null } else { Value::parse(table.columns[at].ty, field)? };
        }
        if fields.next().is_some() {
            return Err(Report::error("22P04", "extra data after last expected column"));
        }
        Ok(cells.into())
    }
}

/// A value in COPY's text format.
pub fn copy_field(value: &Value) -> String {
    match value.shown() {
        None => "\\N".to_owned(),
        Some(text) => text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n"),
    }
}

/// Whether a column's type can be made another one by ALTER TABLE without USING.
pub fn converts(from: Type, to: Type) -> bool {
    from == to || to == Type::Text || matches!((from, to), (Type::Int4, Type::Int8) | (Type::Int8, Type::Int4))
}
