//! Statements other than plain selects, and what they do.

use std::rc::Rc;

use super::analyze::{Params, no_relation};
use super::backend::Backend;
use super::catalog::{Column, TableId};
use super::copy::CopyIn;
use super::cursor::goes_back;
use super::dml::{converts, copy_field};
use super::error::{Report, Stop, fail};
use super::eval::{Cells, Scope, Target, fold};
use super::extended::{Prepared, is_planned};
use super::lock::{Mode, Tag};
use super::portal::{CommandTag, State};
use super::settings::Action;
use super::shared::Shared;
use super::sql::ast::{Beginning, ColumnDef, Discard, Expr, Modes, Name, OnCommit, Select, SetTo, Statement};
use super::transaction::{Listening, Undo};
use super::value::{Type, Value};

/// How deep EXECUTE may stand in EXECUTE: a statement may execute itself.
const DEEPEST: usize = 50;

/// The version of PostgreSQL, of those that this is held against, from which on a snapshot of no session is not there, rather than invalid.
const SNAPSHOTS_ARE_LOOKED_FOR: u32 = 17;

/// What has become of a statement.
pub enum Ran {
    Done(CommandTag, Vec<Cells>),
    /// It waits for the client's data.
    Copying,
}

#[expect(clippy::unnecessary_wraps, reason = "it ends functions that may fail")]
fn done(tag: &'static str) -> Result<Ran, Stop> {
    Ok(Ran::Done(CommandTag::Plain(tag), Vec::new()))
}

#[expect(clippy::unnecessary_wraps, reason = "it ends functions that may fail")]
fn counted(tag: &'static str, count: usize) -> Result<Ran, Stop> {
    Ok(Ran::Done(CommandTag::Counted(tag, count), Vec::new()))
}

impl Backend {
    /// Runs `statement`, and collects its rows. `top` says that it comes from the client itself.
    pub fn run_statement(
        &mut self,
        shared: &mut Shared,
        statement: &Statement,
        target: Target,
        params: &[Value],
        top: bool,
    ) -> Result<Ran, Stop> {
        self.check_read_only(shared, statement, target)?;
        self.settings.queried |= !statement.needs_no_snapshot();
        match statement {
            Statement::Begin(tag, modes) => {
                self.begin();
                self.set_modes("transaction_", modes, Action::Local)?;
                done(tag)
            }
            Statement::SetTransaction(modes) => {
                self.warn_outside(top, "SET TRANSACTION");
                self.set_modes("transaction_", modes, Action::Local)?;
                done("SET")
            }
            Statement::SetSnapshot(_) => {
                self.warn_outside(top, "SET TRANSACTION");
                let levels = self.settings.characteristics();
                match &*levels[0] {
                    _ if self.settings.queried || self.transaction.xid.is_some() || self.transaction.depth() > 0 => {
                        fail("25001", "SET TRANSACTION SNAPSHOT must be called before any query")
                    }
                    "serializable" | "repeatable read" if shared.version >= SNAPSHOTS_ARE_LOOKED_FOR => {
                        fail("42704", "snapshot does not exist")
                    }
                    "serializable" | "repeatable read" => fail("22023", "invalid snapshot identifier"),
                    _ => fail("0A000", "a snapshot-importing transaction must have another isolation level"),
                }
            }
            Statement::SetCharacteristics(modes) => {
                self.set_modes("default_transaction_", modes, Action::Set)?;
                done("SET")
            }
            Statement::PrepareTransaction(gid) => {
                let prepared = self.prepare_block(gid)?;
                done(if prepared { "PREPARE TRANSACTION" } else { "ROLLBACK" })
            }
            Statement::EndPrepared { gid, commit } => {
                if self.transaction.is_block() || self.transaction.pipelining || !top {
                    return fail("25001", "COMMIT PREPARED cannot run inside a transaction block");
                }
                self.transaction.immediate = true;
                self.end_prepared(shared, gid, *commit)?;
                done(if *commit { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" })
            }
            Statement::Commit { chain } => {
                let committed = self.commit_block(*chain)?;
                done(if committed { "COMMIT" } else { "ROLLBACK" })
            }
            Statement::Rollback { chain } => {
                self.rollback_block(*chain)?;
                done("ROLLBACK")
            }
            Statement::Savepoint(name) => {
                self.savepoint(name)?;
                done("SAVEPOINT")
            }
            Statement::Release(name) => {
                self.release(name)?;
                done("RELEASE")
            }
            Statement::RollbackTo(name) => {
                self.rollback_to(shared, name)?;
                done("ROLLBACK")
            }
            Statement::Set { name, to, local } => self.set(shared, name, to, *local, top),
            Statement::Reset(name) if **name == *"session_authorization" => {
                self.settings.reset_authorization()?;
                self.refresh_path(shared);
                done("RESET")
            }
            Statement::Reset(name) => {
                self.settings.set(name, None, Action::Set)?;
                self.refresh_path(shared);
                done("RESET")
            }
            Statement::ResetAll => {
                self.settings.reset_all();
                self.refresh_path(shared);
                done("RESET")
            }
            Statement::Show(name) => match self.settings.get(name) {
                Some(value) => {
                    let row = Cells::from([Value::Text(Rc::clone(value))]);
                    Ok(Ran::Done(CommandTag::Plain("SHOW"), vec![row]))
                }
                None => fail("42704", format!("unrecognized configuration parameter \"{name}\"")),
            },
            Statement::Discard(what) => self.discard(shared, *what, top),
            Statement::Deallocate(None) => {
                self.statements.clear();
                done("DEALLOCATE ALL")
            }
            Statement::Deallocate(Some(name)) => match self.statements.remove(&**name) {
                Some(_) => done("DEALLOCATE"),
                None => fail("26000", format!("prepared statement \"{name}\" does not exist")),
            },
            Statement::Prepare { name, types, body } => self.prepare(shared, name, types, body),
            Statement::Execute { name, args } => self.execute_prepared(shared, name, args),
            Statement::Declare { name, scrolls, hold, select } => {
                if !hold && top && !self.transaction.is_block() {
                    return fail("25P01", "DECLARE CURSOR can only be used in transaction blocks");
                }
                self.declare(shared, name, (*scrolls, *hold), select)
            }
            Statement::Fetch { cursor, to, moves } => self.fetch(shared, cursor, *to, *moves),
            Statement::CloseCursor(None) => {
                self.portals.retain(|_, portal| portal.state == State::Active);
                done("CLOSE CURSOR ALL")
            }
            Statement::CloseCursor(Some(name)) => match self.portals.get(&**name).map(|portal| portal.state) {
                Some(State::Active) => fail("24000", format!("cannot drop active portal \"{name}\"")),
                Some(_) => {
                    self.portals.remove(&**name);
                    done("CLOSE CURSOR")
                }
                None => fail("34000", format!("cursor \"{name}\" does not exist")),
            },
            Statement::Listen(channel) => {
                self.transaction.listening.push(Listening::Listen(Rc::clone(channel)));
                done("LISTEN")
            }
            Statement::Unlisten(channel) => {
                if self.transaction.listening.is_empty() && !self.has_listened {
                    return done("UNLISTEN");
                }
                let action = channel.clone().map_or(Listening::UnlistenAll, Listening::Unlisten);
                self.transaction.listening.push(action);
                done("UNLISTEN")
            }
            Statement::Notify(channel, payload) => {
                self.transaction.notifies.push((Rc::clone(channel), Rc::clone(payload)));
                done("NOTIFY")
            }
            Statement::LockTable(name) => {
                if top && !self.transaction.is_block() {
                    return fail("25P01", "LOCK TABLE can only be used in transaction blocks");
                }
                let id = self.find(shared, name)?;
                self.lock(shared, Tag::Table(id), Mode::Exclusive)?;
                self.xid(shared);
                done("LOCK TABLE")
            }
            Statement::CreateFunction(name) => {
                if !shared.prepared.is_empty() {
                    shared.beyond.push("CREATE FUNCTION where a prepared transaction may have made it");
                }
                self.new_schema(shared, false, name)?;
                done("CREATE FUNCTION")
            }
            Statement::Call { commit } => {
                if !top || self.transaction.is_block() {
                    return fail("2D000", "invalid transaction termination");
                }
                self.end_in_procedure(shared, *commit)?;
                done("CALL")
            }
            Statement::CallTwice(token) => {
                let may_end = top && !self.transaction.is_block();
                self.insert_token(shared, &format!("{token}_1"))?;
                if !may_end {
                    return fail("2D000", "invalid transaction termination");
                }
                self.end_in_procedure(shared, true)?;
                self.insert_token(shared, &format!("{token}_2"))?;
                done("CALL")
            }
            Statement::Perform(select) => {
                let statement = Statement::Select(select.clone());
                let meaning = self.analyze(shared, &statement, Params::none())?;
                fold(&statement)?;
                self.select_all(shared, select, meaning.target(), &[])?;
                done("SELECT")
            }
            Statement::Do(statements) => {
                let may_end = top && !self.transaction.is_block();
                for statement in statements {
                    self.run_in_code(shared, statement, may_end)?;
                }
                done("DO")
            }
            Statement::Insert(insert) => {
                let (count, rows) = self.insert(shared, insert, target, params)?;
                Ok(Ran::Done(CommandTag::Counted("INSERT 0", count), rows))
            }
            Statement::Delete(delete) => {
                let (count, rows) = self.delete(shared, delete, target, params)?;
                Ok(Ran::Done(CommandTag::Counted("DELETE", count), rows))
            }
            Statement::Update(update) => {
                let count = self.update(shared, update, target, params)?;
                counted("UPDATE", count)
            }
            Statement::Select(select) => {
                let rows = self.select_all(shared, select, target, params)?;
                Ok(Ran::Done(CommandTag::Counted("SELECT", rows.len()), rows))
            }
            Statement::CopyIn { table, columns } => self.begin_copy(shared, table, columns),
            Statement::CopyOut(select) => self.copy_out(shared, select),
            Statement::CreateTable { temp, if_not_exists, name, columns, on_commit } => {
                self.create_table(shared, *temp, *if_not_exists, name, columns, on_commit)
            }
            Statement::CreateTableAs { temp, name, select } => self.create_table_as(shared, *temp, name, select),
            Statement::DropTable { if_exists, name } => self.drop_table(shared, *if_exists, name),
            Statement::AlterBeginning(beginning) => self.alter_beginning(shared, beginning),
            Statement::AddColumn { table, column } => self.add_column(shared, table, column),
            Statement::AlterType { table, column, ty } => self.alter_type(shared, table, column, *ty),
        }
    }

    /// A statement of a block of code, which ends transactions only where that is the client's own.
    fn run_in_code(&mut self, shared: &mut Shared, statement: &Statement, may_end: bool) -> Result<(), Stop> {
        match statement {
            Statement::Commit { .. } | Statement::Rollback { .. } if !may_end => {
                fail("2D000", "invalid transaction termination")
            }
            Statement::Commit { .. } => self.end_in_procedure(shared, true),
            Statement::Rollback { .. } => self.end_in_procedure(shared, false),
            _ => {
                if is_planned(statement) {
                    self.analyze(shared, statement, Params::none())?;
                    fold(statement)?;
                }
                self.run_statement(shared, statement, None, &[], false).map(|_| ())
            }
        }
    }

    fn set_modes(&mut self, prefix: &str, modes: &Modes, action: Action) -> Result<(), Stop> {
        for (name, value) in modes {
            self.settings.set(&format!("{prefix}{name}"), Some(value), action)?;
        }
        Ok(())
    }

    fn warn_outside(&mut self, top: bool, what: &str) {
        if top && !self.transaction.is_block() {
            self.notice(&Report::warning("25P01", format!("{what} can only be used in transaction blocks")));
        }
    }

    fn find(&self, shared: &Shared, name: &Name) -> Result<TableId, Report> {
        self.find_table(shared, name, self.transaction.xid).ok_or_else(|| no_relation(name))
    }

    fn select_all(
        &mut self,
        shared: &mut Shared,
        select: &Select,
        target: Target,
        params: &[Value],
    ) -> Result<Vec<Cells>, Stop> {
        let columns = self.source_columns(shared, &select.from, target)?;
        let mut rows = Vec::new();
        for cells in self.source(shared, select, target, params)? {
            rows.push(self.items(shared, &select.items, Scope { columns: &columns, cells: &cells, params })?);
        }
        Ok(rows)
    }

    fn set(&mut self, shared: &mut Shared, name: &str, to: &SetTo, local: bool, top: bool) -> Result<Ran, Stop> {
        if local {
            self.warn_outside(top, "SET LOCAL");
        }
        if name == "session_authorization" && *to == SetTo::Default && !local {
            self.settings.reset_authorization()?;
            self.refresh_path(shared);
            return done("SET");
        }
        let value = match to {
            SetTo::Default => None,
            SetTo::Values(values) => Some(self.settings.flatten(name, values)?),
        };
        self.settings.set(name, value.as_deref(), if local { Action::Local } else { Action::Set })?;
        self.refresh_path(shared);
        done("SET")
    }

    /// `AlterSetting`.
    fn alter_beginning(&mut self, shared: &mut Shared, beginning: &Beginning) -> Result<Ran, Stop> {
        let Beginning { of, name, to } = beginning;
        if self.current_user() != self.user {
            return fail("42501", "permission denied to alter setting");
        }
        let value = match (name, to) {
            (Some(name), SetTo::Values(values)) => {
                let value = self.settings.flatten(name, values)?;
                self.settings.clone().start(name, &value)?;
                Some(value)
            }
            _ => None,
        };
        self.xid(shared);
        let name = name.as_ref().map(|name| name.to_ascii_lowercase().into());
        self.transaction.undo.push(Undo::Beginning(of.clone(), name, value));
        done(if of.1.is_some() { "ALTER ROLE" } else { "ALTER DATABASE" })
    }

    fn discard(&mut self, shared: &mut Shared, what: Discard, top: bool) -> Result<Ran, Stop> {
        match what {
            Discard::Plans => return done("DISCARD PLANS"),
            Discard::Temp => {
                // As when DISCARD ALL fails.
                if let Some(code) = self.faults.discard.take() {
                    return fail(code, "out of shared memory");
                }
                self.discard_temp(shared)?;
                return done("DISCARD TEMP");
            }
            Discard::Sequences => {
                self.sequences.clear();
                self.last_sequence = None;
                return done("DISCARD SEQUENCES");
            }
            Discard::All => {}
        }
        if self.transaction.is_block() || self.transaction.pipelining || !top {
            return fail("25001", "DISCARD ALL cannot run inside a transaction block");
        }
        self.transaction.immediate = true;
        if let Some(code) = self.faults.discard.take() {
            return fail(code, "out of shared memory");
        }
        self.portals.retain(|_, portal| portal.state == State::Active);
        self.settings.reset_authorization()?;
        self.settings.reset_all();
        self.statements.clear();
        self.transaction.listening.push(Listening::UnlistenAll);
        self.unlock_all(shared);
        self.discard_temp(shared)?;
        self.sequences.clear();
        self.last_sequence = None;
        self.refresh_path(shared);
        done("DISCARD ALL")
    }

    fn discard_temp(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        let tables = &shared.databases[&self.database].tables;
        let mine = |(id, table): (&TableId, &super::catalog::Table)| {
            (table.schema == self.temp_schema && table.dropped_by.is_none()).then_some(*id)
        };
        let temp: Vec<TableId> = tables.iter().filter_map(mine).collect();
        temp.iter().try_for_each(|id| self.check_unused(*id, "DROP TABLE"))?;
        temp.into_iter().try_for_each(|id| self.drop_id(shared, id))
    }

    fn prepare(&mut self, shared: &mut Shared, name: &str, types: &[Type], body: &Rc<Statement>) -> Result<Ran, Stop> {
        let meaning = self.analyze(shared, body, Params::declared(types))?;
        let prepared = Prepared { statement: Some(Rc::clone(body)), meaning: meaning.into(), from_sql: true };
        self.store(name.into(), prepared)?;
        done("PREPARE")
    }

    fn execute_prepared(&mut self, shared: &mut Shared, name: &str, args: &[Expr]) -> Result<Ran, Stop> {
        if !self.statements.contains_key(name) {
            return fail("26000", format!("prepared statement \"{name}\" does not exist"));
        }
        let types = self.statements[name].meaning.params.clone();
        let mut params = Vec::new();
        if !types.is_empty() {
            if args.len() != types.len() {
                return fail("42601", "wrong number of parameters for prepared statement");
            }
            for (arg, ty) in args.iter().zip(&types) {
                params.push(self.eval(shared, arg, Scope::params(&[]))?.cast(*ty)?);
            }
        }
        let prepared = self.prepared(shared, name)?;
        let Some(statement) = prepared.statement else { return done("EXECUTE") };
        if statement.is_transaction() {
            // The server trips over its own feet.
            shared.beyond.push("EXECUTE of a transaction command");
            return Err(Report::fatal("XX000", "unexpected transaction state").into());
        }
        fold(&statement)?;
        let target = prepared.meaning.target();
        self.check_waits(shared, &statement, target, &params)?;
        if self.depth >= DEEPEST {
            return fail("54001", "stack depth limit exceeded");
        }
        self.depth += 1;
        let ran = self.run_statement(shared, &statement, target, &params, false);
        self.depth -= 1;
        ran
    }

    fn declare(
        &mut self,
        shared: &mut Shared,
        name: &str,
        (scrolls, hold): (Option<bool>, bool),
        select: &Rc<Statement>,
    ) -> Result<Ran, Stop> {
        let meaning = self.analyze(shared, select, Params::none())?;
        fold(select)?;
        if self.portals.contains_key(name) {
            return fail("42P03", format!("cursor \"{name}\" already exists"));
        }
        let prepared = Prepared { statement: Some(Rc::clone(select)), meaning: meaning.into(), from_sql: true };
        let mut portal = self.open(shared, &prepared, Rc::new([]), Rc::new([]))?;
        portal.hold = hold;
        portal.scrolls = scrolls.unwrap_or_else(|| goes_back(select));
        portal.tag = Some(CommandTag::Counted("SELECT", 0));
        self.portals.insert(name.into(), portal);
        done("DECLARE CURSOR")
    }

    fn begin_copy(&mut self, shared: &mut Shared, name: &Name, columns: &[Rc<str>]) -> Result<Ran, Stop> {
        let id = self.find(shared, name)?;
        self.lock(shared, Tag::Table(id), Mode::Shared)?;
        let table = &shared.databases[&self.database].tables[&id];
        if let Some(missing) = columns.iter().find(|name| !table.columns.iter().any(|column| column.name == **name)) {
            return fail("42703", format!("column \"{missing}\" does not exist"));
        }
        let count = if columns.is_empty() { table.columns.len() } else { columns.len() };
        self.output.message(b'G', |body| put_copy(body, count));
        self.output.flush();
        self.copy = Some(CopyIn::new(id, columns.to_vec()));
        Ok(Ran::Copying)
    }

    fn copy_out(&mut self, shared: &mut Shared, select: &Select) -> Result<Ran, Stop> {
        let statement = Statement::Select(select.clone());
        let meaning = self.analyze(shared, &statement, Params::none())?;
        fold(&statement)?;
        self.check_waits(shared, &statement, meaning.target(), &[])?;
        let count = meaning.columns.as_ref().map_or(0, |columns| columns.len());
        self.output.message(b'H', |body| put_copy(body, count));
        let rows = self.select_all(shared, select, meaning.target(), &[])?;
        for row in &rows {
            let fields: Vec<String> = row.iter().map(copy_field).collect();
            self.output.message(b'd', |body| {
                body.extend_from_slice(fields.join("\t").as_bytes());
                body.push(b'\n');
            });
        }
        self.output.empty(b'c');
        counted("COPY", rows.len())
    }

    /// The schema for a new table; its temporary one is made where needed.
    fn new_schema(&mut self, shared: &Shared, temp: bool, name: &Name) -> Result<Rc<str>, Report> {
        let schemas = &shared.databases[&self.database].schemas;
        let schema = match &name.schema {
            None if temp => "pg_temp".into(),
            None => self
                .creation_schema(shared)
                .ok_or_else(|| Report::error("3F000", "no schema has been selected to create in"))?,
            Some(schema) if **schema == *"pg_temp" => Rc::clone(schema),
            Some(_) if temp => {
                return Err(Report::error("42P16", "cannot create temporary relation in non-temporary schema"));
            }
            Some(schema) if schemas.contains(schema) => Rc::clone(schema),
            Some(schema) => return Err(Report::error("3F000", format!("schema \"{schema}\" does not exist"))),
        };
        if *schema != *"pg_temp" {
            return Ok(schema);
        }
        self.transaction.temp = true;
        if !self.temp_namespace {
            self.temp_namespace = true;
            self.transaction.undo.push(Undo::TempNamespace);
            self.refresh_path(shared);
        }
        Ok(Rc::clone(&self.temp_schema))
    }

    fn create_table(
        &mut self,
        shared: &mut Shared,
        temp: bool,
        if_not_exists: bool,
        name: &Name,
        columns: &[ColumnDef],
        on_commit: &OnCommit,
    ) -> Result<Ran, Stop> {
        let schema = self.new_schema(shared, temp, name)?;
        if *on_commit == OnCommit::Drop && schema != self.temp_schema {
            return fail("42P16", "ON COMMIT can only be used on temporary tables");
        }
        if shared.databases[&self.database].find(&schema, &name.name, self.transaction.xid).is_some() {
            if if_not_exists {
                let text = format!("relation \"{}\" already exists, skipping", name.name);
                self.notice(&Report::notice("42P07", text));
                return done("CREATE TABLE");
            }
            return fail("42P07", format!("relation \"{}\" already exists", name.name));
        }
        let unique = columns.iter().position(|column| column.unique);
        let columns = columns.iter().map(|def| self.column(shared, def)).collect::<Result<_, Report>>()?;
        let id = self.create(shared, schema, &name.name, columns, unique);
        if *on_commit == OnCommit::Drop {
            self.transaction.drop_at_commit.push(id);
        }
        done("CREATE TABLE")
    }

    fn column(&self, shared: &Shared, def: &ColumnDef) -> Result<Column, Report> {
        let sequence = def.sequence.as_ref().map(|name| {
            let text = match &name.schema {
                Some(schema) => format!("{schema}.{}", name.name),
                None => name.name.to_string(),
            };
            self.find_sequence(shared, &text)
        });
        Ok(Column { name: Rc::clone(&def.name), ty: def.ty, sequence: sequence.transpose()? })
    }

    fn create(
        &mut self,
        shared: &mut Shared,
        schema: Rc<str>,
        name: &Rc<str>,
        columns: Rc<[Column]>,
        unique: Option<usize>,
    ) -> TableId {
        let (xid, id, version) = (self.xid(shared), shared.new_table(), shared.new_version());
        if let Some(database) = shared.databases.get_mut(&self.database) {
            database.create(id, schema, Rc::clone(name), columns, unique);
            self.transaction.temp |= database.tables.get(&id).is_some_and(|table| table.schema == self.temp_schema);
            if let Some(table) = database.tables.get_mut(&id) {
                table.created_by = Some(xid);
                table.version = version;
            }
        }
        self.transaction.undo.push(Undo::Created(id));
        id
    }

    fn create_table_as(&mut self, shared: &mut Shared, temp: bool, name: &Name, select: &Select) -> Result<Ran, Stop> {
        let statement = Statement::Select(select.clone());
        let meaning = self.analyze(shared, &statement, Params::none())?;
        let rows = self.select_all(shared, select, meaning.target(), &[])?;
        let schema = self.new_schema(shared, temp, name)?;
        if shared.databases[&self.database].find(&schema, &name.name, self.transaction.xid).is_some() {
            return fail("42P07", format!("relation \"{}\" already exists", name.name));
        }
        let columns = meaning.columns.iter().flat_map(|columns| columns.iter());
        let columns = columns.map(|column| Column { name: Rc::clone(&column.name), ty: column.ty, sequence: None });
        let id = self.create(shared, schema, &name.name, columns.collect(), None);
        let count = rows.len();
        for row in rows {
            self.insert_row(shared, id, row)?;
        }
        counted("SELECT", count)
    }

    /// The table that `code.temp` makes.
    pub fn code_temp(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        let name = Name { schema: Some("pg_temp".into()), name: "hidden".into() };
        if self.temp_namespace && self.find(shared, &name).is_ok() {
            return Ok(());
        }
        self.check_writes()?;
        let column = ColumnDef { name: "token".into(), ty: Type::Text, unique: false, sequence: None };
        self.create_table(shared, true, false, &name, &[column], &OnCommit::Preserve).map(|_| ())
    }

    /// `CheckTableNotInUse`.
    fn check_unused(&self, id: TableId, what: &str) -> Result<(), Stop> {
        if self.portals.values().any(|portal| portal.tables.contains(&id)) {
            return fail("55006", format!("cannot {what} because it is being used by active queries in this session"));
        }
        Ok(())
    }

    fn drop_id(&mut self, shared: &mut Shared, id: TableId) -> Result<(), Stop> {
        self.lock(shared, Tag::Table(id), Mode::Exclusive)?;
        self.transaction.temp |=
            shared.databases[&self.database].tables.get(&id).is_some_and(|t| t.schema == self.temp_schema);
        let xid = self.xid(shared);
        let table = shared.databases.get_mut(&self.database).and_then(|database| database.tables.get_mut(&id));
        if let Some(table) = table {
            table.dropped_by = Some(xid);
            self.transaction.undo.push(Undo::Dropped(id));
        }
        Ok(())
    }

    fn drop_table(&mut self, shared: &mut Shared, if_exists: bool, name: &Name) -> Result<Ran, Stop> {
        match self.find(shared, name) {
            Ok(id) => {
                self.lock(shared, Tag::Table(id), Mode::Exclusive)?;
                self.check_unused(id, "DROP TABLE")?;
                self.drop_id(shared, id)?;
            }
            Err(_) if !self.temp_namespace && name.schema.as_deref() == Some("pg_temp") && !if_exists => {
                return fail("3F000", "schema \"pg_temp\" does not exist");
            }
            Err(_) if if_exists => {
                let text = format!("table \"{}\" does not exist, skipping", name.name);
                self.notice(&Report::notice("00000", text));
            }
            Err(_) => return fail("42P01", format!("table \"{}\" does not exist", name.name)),
        }
        done("DROP TABLE")
    }

    /// The table of an ALTER TABLE, locked.
    fn altered(&mut self, shared: &mut Shared, name: &Name) -> Result<TableId, Stop> {
        if !self.temp_namespace && name.schema.as_deref() == Some("pg_temp") {
            return fail("3F000", "schema \"pg_temp\" does not exist");
        }
        let id = self.find(shared, name)?;
        self.lock(shared, Tag::Table(id), Mode::Exclusive)?;
        self.check_unused(id, "ALTER TABLE")?;
        Ok(id)
    }

    /// Gives a table other columns, and each row the cells that `convert` makes of them.
    fn alter(
        &mut self,
        shared: &mut Shared,
        id: TableId,
        columns: Rc<[Column]>,
        convert: impl Fn(&[Value]) -> Result<Vec<Value>, Report>,
    ) -> Result<(), Stop> {
        self.xid(shared);
        let version = shared.new_version();
        let table = shared.databases.get_mut(&self.database).and_then(|database| database.tables.get_mut(&id));
        let Some(table) = table else { return Ok(()) };
        let before: Vec<(u64, Cells)> = table.rows.iter().map(|row| (row.id, Rc::clone(&row.cells))).collect();
        let mut after = Vec::new();
        for (row, cells) in &before {
            after.push((*row, convert(cells)?.into()));
        }
        let undo = Undo::Altered(id, Rc::clone(&table.columns), before);
        table.alter(columns, version, after);
        self.transaction.undo.push(undo);
        Ok(())
    }

    fn add_column(&mut self, shared: &mut Shared, table: &Name, def: &ColumnDef) -> Result<Ran, Stop> {
        let id = self.altered(shared, table)?;
        let known = Rc::clone(&shared.databases[&self.database].tables[&id].columns);
        if known.iter().any(|column| column.name == def.name) {
            return fail("42701", format!("column \"{}\" of relation \"{}\" already exists", def.name, table.name));
        }
        let mut columns = known.to_vec();
        columns.push(self.column(shared, def)?);
        self.alter(shared, id, columns.into(), |cells| Ok([cells, &[Value::Null]].concat()))?;
        done("ALTER TABLE")
    }

    fn alter_type(&mut self, shared: &mut Shared, table: &Name, name: &str, ty: Type) -> Result<Ran, Stop> {
        let id = self.altered(shared, table)?;
        let mut columns = shared.databases[&self.database].tables[&id].columns.to_vec();
        let Some(at) = columns.iter().position(|column| *column.name == *name) else {
            return fail("42703", format!("column \"{name}\" of relation \"{}\" does not exist", table.name));
        };
        if !converts(columns[at].ty, ty) {
            return fail("42804", format!("column \"{name}\" cannot be cast automatically to type"));
        }
        columns[at].ty = ty;
        self.alter(shared, id, columns.into(), |cells| {
            let mut cells = cells.to_vec();
            cells[at] = std::mem::replace(&mut cells[at], Value::Null).cast(ty)?;
            Ok(cells)
        })?;
        done("ALTER TABLE")
    }
}

/// The body of CopyInResponse and CopyOutResponse: text, so many columns.
fn put_copy(body: &mut Vec<u8>, columns: usize) {
    body.push(0);
    body.extend(u16::try_from(columns).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(std::iter::repeat_n(0, 2 * columns));
}
