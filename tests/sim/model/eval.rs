//! Working out expressions and selects.

use std::rc::Rc;
use std::time::Duration;

use super::analyze::{Columns, ResultColumn};
use super::backend::Backend;
use super::catalog::{Table, TableId};
use super::error::{Report, Stop, fail};
use super::functions::view;
use super::lock::{Mode, Tag, Wait};
use super::portal::{Portal, Rows, Strategy};
use super::shared::Shared;
use super::sql::ast::{Expr, From, Item, Operator, Select, Statement};
use super::value::{Type, Value};

/// The table that a planned statement is about. It was looked up when the statement was planned, and stays the same when
/// another one of its name would be found first by now; `None` where there is no plan.
pub type Target = Option<TableId>;

/// Cells of one row.
pub type Cells = Rc<[Value]>;

/// A row that an expression's columns stand in, and the parameters.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub columns: &'a [ResultColumn],
    pub cells: &'a [Value],
    pub params: &'a [Value],
}

impl<'a> Scope<'a> {
    pub fn params(params: &'a [Value]) -> Self {
        Self { columns: &[], cells: &[], params }
    }
}

/// Finds what the planner would: constants divided by zero.
pub fn fold(statement: &Statement) -> Result<(), Report> {
    let items = |items: &[Item]| {
        items.iter().try_for_each(|item| if let Item::Expr { expr, .. } = item { fold_expr(expr) } else { Ok(()) })
    };
    match statement {
        Statement::Select(select) => {
            items(&select.items)?;
            select.filter.iter().try_for_each(fold_expr)
        }
        Statement::Insert(insert) => {
            insert.rows.iter().flatten().try_for_each(fold_expr)?;
            items(insert.returning.as_deref().unwrap_or_default())
        }
        Statement::Declare { select, .. } => fold(select),
        Statement::CreateTableAs { select, .. } => items(&select.items),
        Statement::CopyOut(select) => items(&select.items),
        Statement::Update(update) => fold_expr(&update.to),
        _ => Ok(()),
    }
}

fn fold_expr(expr: &Expr) -> Result<(), Report> {
    match expr {
        Expr::Binary(operator, left, right) => {
            fold_expr(left)?;
            fold_expr(right)?;
            let constants = matches!((&**left, &**right), (Expr::Constant(_), Expr::Constant(Value::Int(0))));
            if *operator == Operator::Divide && constants { Err(division_by_zero()) } else { Ok(()) }
        }
        Expr::Cast(inner, _) | Expr::Not(inner) | Expr::IsNull(inner, _) => fold_expr(inner),
        Expr::Call(_, args) | Expr::Coalesce(args) => args.iter().try_for_each(fold_expr),
        _ => Ok(()),
    }
}

/// What is summed in an expression that makes one row of all: `count(*)` itself, where nothing is.
fn aggregate(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Count => Some(expr),
        Expr::Sum(of) => Some(of),
        Expr::Cast(inner, _) => aggregate(inner),
        Expr::Binary(_, left, right) => aggregate(left).or_else(|| aggregate(right)),
        Expr::Case(parts) => parts.iter().find_map(aggregate),
        _ => None,
    }
}

fn division_by_zero() -> Report {
    Report::error("22012", "division by zero")
}

impl Backend {
    /// The columns of a select's source, as they are now.
    pub fn source_columns(&self, shared: &Shared, from: &From, target: Target) -> Result<Columns, Stop> {
        let plain = |name: &str, ty| ResultColumn { name: name.into(), ty, table: 0, number: 0 };
        match from {
            From::Nothing => Ok(Vec::new()),
            From::Function(name, _, alias) => {
                let ty = if &*name.name == "pg_listening_channels" { Type::Text } else { Type::Int4 };
                Ok(vec![plain(alias, ty)])
            }
            From::Table(name) => {
                if let Some(columns) = view(name.schema.as_deref(), &name.name) {
                    return Ok(columns.iter().map(|(name, ty)| plain(name, *ty)).collect());
                }
                let id = self.table_id(shared, name, target)?;
                let table = &shared.databases[&self.database].tables[&id];
                Ok(table.columns.iter().map(|column| plain(&column.name, column.ty)).collect())
            }
        }
    }

    /// The rows of a select's source that it keeps, in its order.
    pub fn source(
        &mut self,
        shared: &mut Shared,
        select: &Select,
        target: Target,
        params: &[Value],
    ) -> Result<Vec<Cells>, Stop> {
        let columns = self.source_columns(shared, &select.from, target)?;
        let mut rows = match &select.from {
            From::Nothing => vec![Cells::from([])],
            From::Function(name, args, _) => {
                let mut values = Vec::new();
                for arg in args {
                    values.push(self.eval(shared, arg, Scope::params(params))?);
                }
                match (&*name.name, values.as_slice()) {
                    ("generate_series", [Value::Int(from), Value::Int(to)]) => {
                        (*from..=*to).map(|n| Cells::from([Value::Int(n)])).collect()
                    }
                    ("pg_listening_channels", _) => {
                        self.listening.iter().map(|channel| Cells::from([Value::Text(Rc::clone(channel))])).collect()
                    }
                    _ => Vec::new(),
                }
            }
            From::Table(name) if view(name.schema.as_deref(), &name.name).is_some() => {
                self.view_rows(shared, &name.name)
            }
            From::Table(name) => {
                let me = self.transaction.xid;
                let id = self.table_id(shared, name, target)?;
                let table = &shared.databases[&self.database].tables[&id];
                table.rows.iter().filter(|row| Table::sees(row, me)).map(|row| Rc::clone(&row.cells)).collect()
            }
        };
        if let Some(filter) = &select.filter {
            let mut kept = Vec::new();
            for cells in rows {
                if self.eval(shared, filter, Scope { columns: &columns, cells: &cells, params })?.is_true() {
                    kept.push(cells);
                }
            }
            rows = kept;
        }
        if let Some(at) = select.order.as_ref().and_then(|order| columns.iter().position(|c| c.name == *order)) {
            // NULLs come last.
            rows.sort_by_key(|row| (row[at] == Value::Null, row[at].clone()));
        }
        let aggregate = select.items.iter().find_map(|item| match item {
            Item::Expr { expr, .. } => aggregate(expr),
            Item::All => None,
        });
        if let Some(summed) = aggregate {
            let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
            let mut sum = Value::Null;
            for cells in rows.iter().filter(|_| *summed != Expr::Count) {
                let value = self.eval(shared, summed, Scope { columns: &columns, cells, params })?;
                sum = if sum == Value::Null { value } else { binary(Operator::Plus, sum, value)? };
            }
            rows = vec![Cells::from([Value::Int(count), sum])];
        }
        if let Some(limit) = select.limit {
            rows.truncate(usize::try_from(limit).unwrap_or(0));
        }
        Ok(rows)
    }

    fn view_rows(&self, shared: &Shared, name: &str) -> Vec<Cells> {
        let temp = |names: &mut dyn Iterator<Item = Rc<str>>| {
            names.map(|name| Cells::from([Value::Text(name), Value::Int(self.temp_oid())])).collect()
        };
        match name {
            "pg_class" | "pg_type" => {
                let me = self.transaction.xid;
                let mine = |table: &&Table| {
                    table.schema == self.temp_schema && (table.dropped_by.is_none() || table.dropped_by != me)
                };
                let tables = shared.databases[&self.database].tables.values().filter(mine);
                temp(&mut tables.map(|table| Rc::clone(&table.name)))
            }
            "pg_prepared_statements" => {
                let statements = self.statements.iter();
                statements.map(|(name, p)| Cells::from([Value::text(name), Value::Bool(p.from_sql)])).collect()
            }
            "pg_cursors" => {
                let cursors = self.portals.iter().filter(|(name, _)| !name.is_empty());
                cursors.map(|(name, portal)| Cells::from([Value::text(name), Value::Bool(portal.hold)])).collect()
            }
            "pg_locks" => {
                let advisory = |tag: &Tag| matches!(tag, Tag::Advisory(..));
                let held = self.advisory.len() + self.transaction.locks.iter().filter(|(tag, _)| advisory(tag)).count();
                let row = || Cells::from([Value::text("advisory"), Value::Int(i64::from(self.pid))]);
                (0..held).map(|_| row()).collect()
            }
            "pg_settings" => {
                let row = |(name, value, reset, source): (&Rc<str>, &Rc<str>, &Rc<str>, &str)| {
                    let [name, value, reset] = [name, value, reset].map(|text| Value::Text(Rc::clone(text)));
                    Cells::from([name, value, reset, Value::text(source)])
                };
                self.settings.iter().map(row).collect()
            }
            _ => Vec::new(),
        }
    }

    fn temp_oid(&self) -> i64 {
        if self.temp_namespace { 100_000 + i64::from(self.pid) } else { 0 }
    }

    /// Sees to it that a portal's source is known, and says how many rows it has.
    pub fn source_rows(&mut self, shared: &mut Shared, portal: &mut Portal) -> Result<usize, Stop> {
        if matches!(portal.rows, Rows::Unrun)
            && let (Some(statement), Strategy::OneSelect) = (portal.statement.clone(), portal.strategy)
            && let Statement::Select(select) = &*statement
        {
            let params = Rc::clone(&portal.params);
            portal.rows = Rows::Source(self.source(shared, select, portal.target, &params)?.into());
        }
        Ok(match &portal.rows {
            Rows::Source(rows) | Rows::Result(rows) => rows.len(),
            Rows::Unrun => 0,
        })
    }

    /// Row number `at` of a portal, as the client gets it.
    pub fn project(&mut self, shared: &mut Shared, portal: &Portal, at: usize) -> Result<Cells, Stop> {
        let cells = match &portal.rows {
            Rows::Result(rows) => return Ok(Rc::clone(&rows[at])),
            Rows::Source(rows) => Rc::clone(&rows[at]),
            Rows::Unrun => Cells::from([]),
        };
        let Some(Statement::Select(select)) = portal.statement.as_deref() else { return Ok(cells) };
        if let [Item::All] = select.items.as_slice() {
            return Ok(cells);
        }
        let columns = self.source_columns(shared, &select.from, portal.target)?;
        self.items(shared, &select.items, Scope { columns: &columns, cells: &cells, params: &portal.params })
    }

    pub fn items(&mut self, shared: &mut Shared, items: &[Item], scope: Scope<'_>) -> Result<Cells, Stop> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::All => out.extend_from_slice(scope.cells),
                Item::Expr { expr: Expr::Count, .. } => out.push(scope.cells.first().cloned().unwrap_or(Value::Null)),
                Item::Expr { expr, .. } => out.push(self.eval(shared, expr, scope)?),
            }
        }
        Ok(out.into())
    }

    pub fn eval(&mut self, shared: &mut Shared, expr: &Expr, scope: Scope<'_>) -> Result<Value, Stop> {
        Ok(match expr {
            Expr::Constant(value) => value.clone(),
            Expr::Param(n) => scope.params.get(n - 1).cloned().unwrap_or(Value::Null),
            Expr::Column(name) => {
                let at = scope.columns.iter().position(|column| column.name == *name);
                at.and_then(|at| scope.cells.get(at).cloned()).unwrap_or(Value::Null)
            }
            Expr::Cast(inner, ty) => self.eval(shared, inner, scope)?.cast(*ty)?,
            Expr::Not(inner) => match self.eval(shared, inner, scope)? {
                Value::Bool(b) => Value::Bool(!b),
                _ => Value::Null,
            },
            Expr::IsNull(inner, is) => Value::Bool((self.eval(shared, inner, scope)? == Value::Null) == *is),
            Expr::Count => scope.cells.first().cloned().unwrap_or(Value::Null),
            Expr::Sum(_) => scope.cells.get(1).cloned().unwrap_or(Value::Null),
            Expr::Case(parts) => {
                let [condition, then, otherwise] = &**parts;
                let chosen = if self.eval(shared, condition, scope)?.is_true() { then } else { otherwise };
                self.eval(shared, chosen, scope)?
            }
            Expr::Coalesce(args) => {
                for arg in args {
                    let value = self.eval(shared, arg, scope)?;
                    if value != Value::Null {
                        return Ok(value);
                    }
                }
                Value::Null
            }
            Expr::Exists(select) => Value::Bool(!self.source(shared, select, None, scope.params)?.is_empty()),
            Expr::Any(left, list) => {
                let left = self.eval(shared, left, scope)?;
                let list = self.eval(shared, list, scope)?;
                match (left, list) {
                    (Value::Text(left), Value::Text(list)) => {
                        let list = list.trim_matches(['{', '}']);
                        Value::Bool(list.split(',').any(|one| one.trim_matches('"') == &*left))
                    }
                    _ => Value::Null,
                }
            }
            Expr::Binary(operator, left, right) => {
                let left = self.eval(shared, left, scope)?;
                match (operator, left.is_true()) {
                    (Operator::And, false) if left == Value::Bool(false) => return Ok(left),
                    (Operator::Or, true) => return Ok(left),
                    _ => {}
                }
                let right = self.eval(shared, right, scope)?;
                binary(*operator, left, right)?
            }
            Expr::Call(name, args) => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.eval(shared, arg, scope)?);
                }
                self.call(shared, name.schema.as_deref(), &name.name, &values)?
            }
        })
    }

    /// Sees whether `statement` can be run without waiting.
    pub fn check_waits(
        &mut self,
        shared: &mut Shared,
        statement: &Statement,
        target: Target,
        params: &[Value],
    ) -> Result<(), Stop> {
        if let Some(length) = self.faults.slow {
            self.sleep(shared, length)?;
            self.faults.slow = None;
        }
        if self.check_read_only(shared, statement, target).is_err() {
            // It fails when it runs.
            return Ok(());
        }
        match statement {
            Statement::Select(select) => {
                for item in &select.items {
                    if let Item::Expr { expr, .. } = item {
                        self.check_expr(shared, expr, params)?;
                    }
                }
                Ok(())
            }
            Statement::Insert(insert) => {
                let id = self.table_id(shared, &insert.table, target)?;
                self.check_insert(shared, id, insert, params)
            }
            Statement::Delete(delete) => {
                let id = self.table_id(shared, &delete.table, target)?;
                self.check_changed(shared, id, delete.filter.as_ref(), params)
            }
            Statement::Update(update) => {
                let id = self.table_id(shared, &update.table, target)?;
                self.check_changed(shared, id, update.filter.as_ref(), params)?;
                self.check_updated(shared, id, update, params)
            }
            _ => Ok(()),
        }
    }

    /// Lets `length` pass once, as far as `statement_timeout` allows.
    fn sleep(&mut self, shared: &Shared, length: Duration) -> Result<(), Stop> {
        let allowed = self.settings.time_within_transaction("statement_timeout");
        let since = *self.asleep_since.get_or_insert(shared.now);
        let until = since + allowed.map_or(length, |allowed| allowed.min(length));
        if until > shared.now {
            return Err(Stop::Wait(Wait::Until(until)));
        }
        self.asleep_since = None;
        if allowed.is_some_and(|allowed| allowed < length) {
            self.faults.slow = None;
            return fail("57014", "canceling statement due to statement timeout");
        }
        Ok(())
    }

    fn check_expr(&mut self, shared: &mut Shared, expr: &Expr, params: &[Value]) -> Result<(), Stop> {
        let Expr::Call(name, args) = expr else { return Ok(()) };
        let key = match args.as_slice() {
            [Expr::Cast(arg, _)] => &**arg,
            [arg] => arg,
            _ => return Ok(()),
        };
        let value = match key {
            Expr::Constant(value) => value.clone(),
            Expr::Param(n) => params.get(n - 1).cloned().unwrap_or(Value::Null),
            _ => return Ok(()),
        };
        match (name.schema.as_deref(), &*name.name) {
            (Some("code"), "lock") | (_, "pg_advisory_lock" | "pg_advisory_xact_lock") => {
                let Ok(Value::Int(key)) = value.cast(Type::Int8) else { return Ok(()) };
                let tag = self.advisory_tag(shared, key);
                if shared.locks.is_free(tag, Mode::Exclusive, self.id) {
                    Ok(())
                } else {
                    Err(Stop::Wait(Wait::Lock(tag, Mode::Exclusive)))
                }
            }
            (_, "pg_sleep") => {
                let Ok(Value::Int(seconds)) = value.cast(Type::Int4) else { return Ok(()) };
                let length = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                self.sleep(shared, length)
            }
            (Some("code"), "insert") => {
                let Ok(value) = value.cast(Type::Text) else { return Ok(()) };
                self.check_token(shared, &value)
            }
            _ => Ok(()),
        }
    }

    pub fn advisory_tag(&self, shared: &Shared, key: i64) -> Tag {
        Tag::Advisory(shared.databases[&self.database].number, key)
    }

    pub fn call(
        &mut self,
        shared: &mut Shared,
        schema: Option<&str>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Stop> {
        if schema == Some("code") {
            return self.call_code(shared, name, args);
        }
        // All but these are strict.
        if args.contains(&Value::Null) && !matches!(name, "set_config" | "pg_notify") {
            return Ok(Value::Null);
        }
        let text = |n: usize| args.get(n).and_then(Value::shown).unwrap_or_default();
        let int = |n: usize| match args.get(n) {
            Some(Value::Int(n)) => *n,
            Some(Value::Text(text)) => text.parse().unwrap_or(0),
            _ => 0,
        };
        Ok(match name {
            "current_setting" => match self.settings.get(&text(0)) {
                Some(value) => Value::Text(Rc::clone(value)),
                None if args.get(1).is_some_and(Value::is_true) => Value::Null,
                None => return fail("42704", format!("unrecognized configuration parameter \"{}\"", text(0))),
            },
            "set_config" => {
                // What is not said is what a reset makes it.
                let value = (args.get(1) != Some(&Value::Null)).then(|| text(1));
                self.set_config(shared, &text(0), value.as_deref(), args.get(2).is_some_and(Value::is_true))?
            }
            "nextval" => self.nextval(shared, &text(0))?,
            "currval" => {
                let sequence = self.find_sequence(shared, &text(0))?;
                match self.sequences.get(&sequence) {
                    Some(value) => Value::Int(*value),
                    None => return fail("55000", "currval is not yet defined in this session"),
                }
            }
            "setval" => {
                let sequence = self.find_sequence(shared, &text(0))?;
                self.check_writes()?;
                let database = shared.databases.get_mut(&self.database);
                if let Some(found) = database.and_then(|database| database.sequences.get_mut(&sequence)) {
                    found.last = int(1);
                }
                self.sequences.insert(sequence, int(1));
                Value::Int(int(1))
            }
            "lastval" => match self.last_sequence.as_ref().and_then(|last| self.sequences.get(last)) {
                Some(value) => Value::Int(*value),
                None => return fail("55000", "lastval is not yet defined in this session"),
            },
            "pg_advisory_lock" => {
                self.advisory_lock(shared, int(0));
                Value::text("")
            }
            "pg_try_advisory_lock" => {
                let tag = self.advisory_tag(shared, int(0));
                let free = shared.locks.is_free(tag, Mode::Exclusive, self.id);
                if free {
                    self.advisory_lock(shared, int(0));
                }
                Value::Bool(free)
            }
            "pg_advisory_xact_lock" => {
                let tag = self.advisory_tag(shared, int(0));
                self.lock(shared, tag, Mode::Exclusive)?;
                Value::text("")
            }
            "pg_try_advisory_xact_lock" => {
                let tag = self.advisory_tag(shared, int(0));
                Value::Bool(self.lock(shared, tag, Mode::Exclusive).is_ok())
            }
            "pg_advisory_unlock" => Value::Bool(self.advisory_unlock(shared, int(0))),
            "pg_advisory_unlock_all" => {
                self.unlock_all(shared);
                Value::text("")
            }
            "pg_backend_pid" => Value::Int(i64::from(self.pid)),
            "pg_my_temp_schema" => Value::Int(self.temp_oid()),
            "current_database" => Value::Text(Rc::clone(&self.database)),
            "current_schema" => match self.creation_schema(shared) {
                Some(schema) => Value::Text(schema),
                None => Value::Null,
            },
            "session_user" => Value::Text(Rc::clone(&self.user)),
            "current_user" => Value::Text(self.current_user()),
            "length" => Value::Int(i64::try_from(text(0).chars().count()).unwrap_or(i64::MAX)),
            "upper" => Value::text(&text(0).to_uppercase()),
            "lower" => Value::text(&text(0).to_lowercase()),
            "repeat" => Value::text(&text(0).repeat(usize::try_from(int(1)).unwrap_or(0))),
            "pg_notify" => {
                let refused = match (text(0).len(), text(1).len()) {
                    (0, _) => Some("channel name cannot be empty"),
                    (64.., _) => Some("channel name too long"),
                    (_, 8000..) => Some("payload string too long"),
                    _ => None,
                };
                if let Some(message) = refused {
                    return Err(Report::error("22023", message).into());
                }
                self.transaction.notifies.push((text(0).into(), text(1).into()));
                Value::text("")
            }
            "pg_terminate_backend" | "pg_cancel_backend" => {
                #[expect(clippy::cast_possible_truncation, reason = "an int4")]
                let pid = int(0) as i32;
                if pid == self.pid {
                    return Err(if name == "pg_cancel_backend" {
                        Report::error("57014", "canceling statement due to user request").into()
                    } else {
                        Report::fatal("57P01", "terminating connection due to administrator command").into()
                    });
                }
                if name == "pg_cancel_backend" {
                    shared.cancelled.push((pid, None));
                } else {
                    shared.terminated.push(pid);
                }
                Value::Bool(true)
            }
            _ => Value::text(""),
        })
    }

    /// The functions that hide what they do.
    fn call_code(&mut self, shared: &mut Shared, name: &str, args: &[Value]) -> Result<Value, Stop> {
        let text = |n: usize| args.get(n).and_then(Value::shown).unwrap_or_default();
        let done = Ok(Value::text("done"));
        match name {
            "set" => self.set_config(shared, &text(0), Some(&text(1)), false),
            "deallocate" => {
                self.statements.clear();
                done
            }
            "temp" => {
                self.code_temp(shared)?;
                done
            }
            "listen" => {
                self.transaction.listening.push(super::transaction::Listening::Listen("hidden".into()));
                done
            }
            "lock" => {
                if let Some(Value::Int(key)) = args.first() {
                    self.advisory_lock(shared, *key);
                }
                done
            }
            "next" if args.is_empty() => self.nextval(shared, "code.seq"),
            "next" => self.nextval(shared, &text(0)),
            "reset" => {
                self.settings.set(&text(0), None, super::settings::Action::Set)?;
                self.refresh_path(shared);
                done
            }
            "reset_all" => {
                self.settings.reset_all();
                self.refresh_path(shared);
                done
            }
            "note" => {
                self.notice(&Report::notice("00000", text(0)));
                Ok(args[0].clone())
            }
            "insert" => {
                self.insert_token(shared, &text(0))?;
                Ok(args[0].clone())
            }
            _ => fail("P0001", text(0)),
        }
    }

    fn set_config(&mut self, shared: &Shared, name: &str, value: Option<&str>, local: bool) -> Result<Value, Stop> {
        let action = if local { super::settings::Action::Local } else { super::settings::Action::Set };
        self.settings.set(name, value, action)?;
        self.refresh_path(shared);
        Ok(self.settings.get(name).map_or(Value::Null, |value| Value::Text(Rc::clone(value))))
    }

    fn advisory_lock(&mut self, shared: &mut Shared, key: i64) {
        let tag = self.advisory_tag(shared, key);
        shared.locks.take(tag, Mode::Exclusive, self.id);
        *self.advisory.entry(key).or_default() += 1;
    }

    fn advisory_unlock(&mut self, shared: &mut Shared, key: i64) -> bool {
        let tag = self.advisory_tag(shared, key);
        let Some(count) = self.advisory.get_mut(&key) else {
            self.notice(&Report::warning("01000", "you don't own a lock of type ExclusiveLock"));
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.advisory.remove(&key);
        }
        shared.locks.release(tag, Mode::Exclusive, self.id)
    }

    pub fn find_sequence(&self, shared: &Shared, text: &str) -> Result<super::catalog::SequenceName, Report> {
        let database = &shared.databases[&self.database];
        let missing = || Report::error("42P01", format!("relation \"{text}\" does not exist"));
        let find = |schema: &str, name: &str| {
            let key = (Rc::from(schema), Rc::from(name));
            database.sequences.contains_key(&key).then_some(key)
        };
        match text.split_once('.') {
            Some((schema, name)) => find(schema, name).ok_or_else(missing),
            None => self.path.iter().find_map(|schema| find(schema, text)).ok_or_else(missing),
        }
    }

    pub fn nextval(&mut self, shared: &mut Shared, name: &str) -> Result<Value, Stop> {
        let key = self.find_sequence(shared, name)?;
        self.check_writes()?;
        let sequence = shared.databases.get_mut(&self.database).and_then(|db| db.sequences.get_mut(&key));
        let Some(sequence) = sequence else { return Ok(Value::Null) };
        sequence.last += 1;
        let value = sequence.last;
        self.sequences.insert(key.clone(), value);
        self.last_sequence = Some(key);
        Ok(Value::Int(value))
    }
}

fn binary(operator: Operator, left: Value, right: Value) -> Result<Value, Report> {
    if left == Value::Null || right == Value::Null {
        return Ok(Value::Null);
    }
    // A constant of no type takes the other's.
    let (left, right) = match (&left, &right) {
        (Value::Int(_), Value::Text(text)) => (left.clone(), Value::parse(Type::Int8, text)?),
        (Value::Text(text), Value::Int(_)) => (Value::parse(Type::Int8, text)?, right.clone()),
        (Value::Bool(_), Value::Text(text)) => (left.clone(), Value::parse(Type::Bool, text)?),
        _ => (left, right),
    };
    let overflow = || Report::error("22003", "bigint out of range");
    Ok(match (operator, &left, &right) {
        (Operator::And, ..) => Value::Bool(left.is_true() && right.is_true()),
        (Operator::Or, ..) => Value::Bool(left.is_true() || right.is_true()),
        (Operator::Equal, ..) => Value::Bool(left == right),
        (Operator::NotEqual, ..) => Value::Bool(left != right),
        (Operator::Less, ..) => Value::Bool(left < right),
        (Operator::Greater, ..) => Value::Bool(left > right),
        (Operator::Concat, ..) => {
            Value::text(&[left.shown().unwrap_or_default(), right.shown().unwrap_or_default()].concat())
        }
        (Operator::Divide, Value::Int(_), Value::Int(0)) => return Err(division_by_zero()),
        (Operator::Plus, Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
        (Operator::Minus, Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(overflow)?),
        (Operator::Times, Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or_else(overflow)?),
        (Operator::Divide, Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or_else(overflow)?),
        _ => Value::Null,
    })
}
