//! The extended protocol's messages.

use std::rc::Rc;

use super::analyze::{Meaning, Meaningless, Params, ResultColumn, analyze};
use super::backend::{Backend, aborted};
use super::catalog::TableId;
use super::error::{Report, Stop, fail};
use super::eval::{Cells, fold};
use super::lock::{Mode, Tag};
use super::portal::{CommandTag, Portal, Rows, State, Strategy, format, is_binary};
use super::shared::Shared;
use super::sql::ast::{From, Statement};
use super::sql::lexer::shortened;
use super::statement::Ran;
use super::value::{Encoding, Type, Value, utf8};
use super::wire::{Body, put_string};

/// A prepared statement.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// `None` for an empty text.
    pub statement: Option<Rc<Statement>>,
    pub meaning: Rc<Meaning>,
    pub from_sql: bool,
}

impl Prepared {
    pub fn columns(&self) -> Option<&Rc<[ResultColumn]>> {
        self.meaning.columns.as_ref()
    }

    /// Whether it is planned, so that what its names stand for is looked up again when that may have changed.
    fn is_planned(&self) -> bool {
        self.statement.as_deref().is_some_and(is_planned)
    }
}

/// Whether a statement is analysed when it is prepared, and not only when it runs.
pub fn is_planned(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Select(_)
            | Statement::Insert(_)
            | Statement::Delete(_)
            | Statement::Update(_)
            | Statement::Declare { .. }
            | Statement::CreateTableAs { .. }
    )
}

/// The strategy of a portal for `statement`, whose result has `columns`.
pub fn strategy(statement: &Statement, columns: bool) -> Strategy {
    match statement {
        Statement::Select(_) => Strategy::OneSelect,
        Statement::Insert(_) | Statement::Delete(_) if columns => Strategy::OneReturning,
        _ if columns => Strategy::UtilSelect,
        _ => Strategy::Multi,
    }
}

/// The name of a statement or portal: a key of a table, which is so long at most.
fn name(bytes: &[u8]) -> Result<Box<str>, Report> {
    utf8(bytes).map(|name| shortened(name).into())
}

pub fn formats(body: &mut Body<'_>) -> Result<Vec<u16>, Report> {
    let count = body.u16()?;
    (0..count).map(|_| body.u16()).collect()
}

/// What a portal has come to.
enum Part {
    /// As many rows as were wanted; with its tag at its end.
    Rows(Option<CommandTag>),
    /// It waits for the client's data.
    Copying,
}

/// A value that is given in a format.
pub fn argument(ty: Type, format: u16, body: &mut Body<'_>, encoding: Encoding) -> Result<Value, Stop> {
    let bytes = usize::try_from(body.i32()?).ok().map(|length| body.bytes(length)).transpose()?;
    match (format, bytes) {
        (0 | 1, None) => Ok(Value::Null),
        (0, Some(bytes)) => Ok(Value::parse(ty, &encoding.decoded(bytes)?)?),
        (1, Some(bytes)) => Ok(Value::receive(ty, bytes, encoding)?),
        _ => fail("22023", format!("unsupported format code: {format}")),
    }
}

impl Backend {
    pub fn parse(&mut self, shared: &mut Shared, mut body: Body<'_>) -> Result<(), Stop> {
        let name = name(body.string()?)?;
        let text = body.text(self.settings.encoding())?;
        let count = body.u16()?;
        let mut types = Vec::new();
        for _ in 0..count {
            let oid = body.i32()?;
            let known = Type::from_oid(oid);
            types.push(known.ok_or_else(|| Report::error("42704", format!("type with OID {oid} does not exist")))?);
        }
        body.end()?;
        self.begin_command(shared)?;
        if name.is_empty() {
            self.unnamed = None;
        }
        let statements = shared.parse(&text, self.settings.escapes())?;
        let statement = match &*statements {
            [] => None,
            [statement] => Some(Rc::clone(statement)),
            _ => return fail("42601", "cannot insert multiple commands into a prepared statement"),
        };
        let mut meaning = Meaning { params: types.clone(), ..Meaning::default() };
        if let Some(statement) = &statement {
            if self.transaction.is_aborted() && !statement.is_exit() {
                return Err(aborted().into());
            }
            self.settings.queried |= is_planned(statement);
            meaning = self.analyze(shared, statement, Params::declared(&types))?;
        }
        let prepared = Prepared { statement, meaning: meaning.into(), from_sql: false };
        self.store(name, prepared)?;
        self.output.empty(b'1');
        Ok(())
    }

    /// Keeps a prepared statement.
    pub fn store(&mut self, name: Box<str>, prepared: Prepared) -> Result<(), Report> {
        if name.is_empty() {
            self.unnamed = Some(prepared);
            return Ok(());
        }
        if self.statements.contains_key(&name) {
            return Err(Report::error("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.statements.insert(name, prepared);
        Ok(())
    }

    /// Finds out what `statement` means now, and locks its tables.
    pub fn analyze(&mut self, shared: &mut Shared, statement: &Statement, params: Params) -> Result<Meaning, Stop> {
        match analyze(self, shared, statement, params) {
            Ok(meaning) => {
                self.lock_tables(shared, &meaning.tables)?;
                Ok(meaning)
            }
            Err(Meaningless { report, tables }) => {
                self.lock_tables(shared, &tables)?;
                Err(report.into())
            }
        }
    }

    fn lock_tables(&mut self, shared: &mut Shared, tables: &[(TableId, u64, Mode)]) -> Result<(), Stop> {
        tables.iter().try_for_each(|(id, _, mode)| self.lock(shared, Tag::Table(*id), *mode))
    }

    fn find_prepared(&self, name: &str) -> Result<&Prepared, Report> {
        let missing = |what: String| Report::error("26000", what);
        if name.is_empty() {
            let unnamed = self.unnamed.as_ref();
            return unnamed.ok_or_else(|| missing("unnamed prepared statement does not exist".to_owned()));
        }
        let named = self.statements.get(name);
        named.ok_or_else(|| missing(format!("prepared statement \"{name}\" does not exist")))
    }

    /// A prepared statement, whose names stand for what they do now: `RevalidateCachedQuery`.
    pub fn prepared(&mut self, shared: &mut Shared, name: &str) -> Result<Prepared, Stop> {
        let prepared = self.find_prepared(name)?.clone();
        let Some(statement) = prepared.statement.as_ref().filter(|_| prepared.is_planned()) else {
            return Ok(prepared);
        };
        if self.is_current(shared, &prepared.meaning) {
            self.lock_tables(shared, &prepared.meaning.tables)?;
            return Ok(prepared);
        }
        self.settings.queried = true;
        let meaning = self.analyze(shared, statement, Params::declared(&prepared.meaning.params))?;
        if meaning.columns != prepared.meaning.columns {
            return fail("0A000", "cached plan must not change result type");
        }
        let prepared = Prepared { meaning: meaning.into(), ..prepared };
        if name.is_empty() {
            self.unnamed = Some(prepared.clone());
        } else {
            self.statements.insert(name.into(), prepared.clone());
        }
        Ok(prepared)
    }

    fn is_current(&self, shared: &Shared, meaning: &Meaning) -> bool {
        if meaning.tables.is_empty() && meaning.path == self.path {
            return true;
        }
        let tables = &shared.databases[&self.database].tables;
        let same = |(id, version, _): &(u32, u64, Mode)| {
            tables.get(id).is_some_and(|table| {
                table.version == *version && (table.dropped_by.is_none() || table.dropped_by != self.transaction.xid)
            })
        };
        meaning.path == self.path && meaning.tables.iter().all(same)
    }

    pub fn bind(&mut self, shared: &mut Shared, mut body: Body<'_>) -> Result<(), Stop> {
        let portal_name = name(body.string()?)?;
        let name = name(body.string()?)?;
        let prepared = self.find_prepared(&name)?.clone();
        self.begin_command(shared)?;
        let param_formats = formats(&mut body)?;
        let count = usize::from(body.u16()?);
        if param_formats.len() > 1 && param_formats.len() != count {
            let (formats, params) = (param_formats.len(), count);
            return fail("08P01", format!("bind message has {formats} parameter formats but {params} parameters"));
        }
        let types = &prepared.meaning.params;
        if count != types.len() {
            let needed = types.len();
            return fail(
                "08P01",
                format!(
                    "bind message supplies {count} parameters, but prepared statement \"{name}\" requires {needed}"
                ),
            );
        }
        let exits = prepared.statement.as_ref().is_none_or(|statement| statement.is_exit());
        if self.transaction.is_aborted() && (!exits || count != 0 || prepared.statement.is_none()) {
            return Err(aborted().into());
        }
        if !portal_name.is_empty() && self.portals.contains_key(&portal_name) {
            return fail("42P03", format!("cursor \"{portal_name}\" already exists"));
        }
        // There is an empty portal from here on, also where what follows fails.
        self.portals.insert(portal_name.clone(), Portal::empty(self.transaction.depth()));
        let bound = self.bound(shared, body, &name, &param_formats);
        match bound {
            Ok(portal) => {
                let counts = (portal.formats.len(), portal.columns.as_ref().map(|columns| columns.len()));
                self.portals.insert(portal_name, portal);
                if let (formats @ 2.., Some(columns)) = counts
                    && formats != columns
                {
                    let text = format!("bind message has {formats} result formats but query has {columns} columns");
                    return fail("08P01", text);
                }
                self.output.empty(b'2');
                Ok(())
            }
            Err(stop) => {
                if matches!(stop, Stop::Wait(_)) {
                    self.portals.remove(&portal_name);
                }
                Err(stop)
            }
        }
    }

    /// The portal for a statement and what is left of a Bind message: the parameters and the formats of the result.
    fn bound(
        &mut self,
        shared: &mut Shared,
        mut body: Body<'_>,
        name: &str,
        param_formats: &[u16],
    ) -> Result<Portal, Stop> {
        let prepared = self.find_prepared(name)?.clone();
        self.settings.queried |= prepared.is_planned() || !prepared.meaning.params.is_empty();
        let prepared = self.find_prepared(name)?;
        let types = &prepared.meaning.params;
        let count = types.len();
        let encoding = self.settings.encoding();
        let mut params = Vec::with_capacity(count);
        for (at, ty) in types.iter().enumerate() {
            params.push(argument(*ty, format(param_formats, at), &mut body, encoding)?);
        }
        let result_formats = formats(&mut body)?;
        body.end()?;
        let prepared = self.prepared(shared, name)?;
        self.open(shared, &prepared, params.into(), result_formats.into())
    }

    /// `PortalStart`.
    pub fn open(
        &mut self,
        shared: &mut Shared,
        prepared: &Prepared,
        params: Rc<[Value]>,
        formats: Rc<[u16]>,
    ) -> Result<Portal, Stop> {
        let mut columns = prepared.meaning.columns.clone();
        let mut found = Strategy::Multi;
        let mut rows = Rows::Unrun;
        let target = prepared.meaning.target();
        let mut tables: Rc<[u32]> = Rc::new([]);
        if let Some(statement) = &prepared.statement {
            fold(statement)?;
            if matches!(**statement, Statement::Fetch { .. } | Statement::Execute { .. } | Statement::Show(_)) {
                columns = self.analyze(shared, statement, Params::none())?.columns;
            }
            found = strategy(statement, columns.is_some());
            if let Statement::Select(select) = &**statement
                && matches!(select.from, From::Table(_))
                && !prepared.meaning.tables.is_empty()
            {
                rows = Rows::Source(self.source(shared, select, target, &params)?.into());
            }
            if found == Strategy::OneSelect {
                tables = prepared.meaning.tables.iter().map(|(id, ..)| *id).collect();
            }
        }
        let empty = Portal::empty(self.transaction.depth());
        let statement = prepared.statement.clone();
        Ok(Portal { statement, params, columns, formats, strategy: found, rows, target, tables, ..empty })
    }

    pub fn describe(&mut self, shared: &mut Shared, kind: u8, name_bytes: &[u8]) -> Result<(), Stop> {
        let name = name(name_bytes)?;
        match kind {
            b'S' => {
                self.begin_command(shared)?;
                let found = self.find_prepared(&name)?;
                if self.transaction.is_aborted() && found.columns().is_some() {
                    return Err(aborted().into());
                }
                let prepared = if found.columns().is_some() { self.prepared(shared, &name)? } else { found.clone() };
                let params = &prepared.meaning.params;
                self.output.message(b't', |body| {
                    body.extend(u16::try_from(params.len()).unwrap_or(u16::MAX).to_be_bytes());
                    body.extend(params.iter().flat_map(|ty| ty.oid().to_be_bytes()));
                });
                self.row_description(prepared.columns().map(|columns| &**columns), &[]);
                Ok(())
            }
            b'P' => {
                self.begin_command(shared)?;
                let Some(portal) = self.portals.get(&name) else {
                    return fail("34000", format!("portal \"{name}\" does not exist"));
                };
                if self.transaction.is_aborted() && portal.columns.is_some() {
                    return Err(aborted().into());
                }
                let (columns, formats) = (portal.columns.clone(), Rc::clone(&portal.formats));
                let executes = match portal.statement.as_deref() {
                    Some(Statement::Execute { name, .. }) if columns.is_some() => Some(name.clone()),
                    _ => None,
                };
                // `FetchPortalTargetList` looks at the statement once more.
                if let Some(name) = executes {
                    self.prepared(shared, &name)?;
                }
                self.row_description(columns.as_deref(), &formats);
                Ok(())
            }
            other => fail("08P01", format!("invalid DESCRIBE message subtype {other}")),
        }
    }

    /// Sends RowDescription or NoData.
    pub fn row_description(&mut self, columns: Option<&[ResultColumn]>, formats: &[u16]) {
        self.report_at_once();
        let Some(columns) = columns else { return self.output.empty(b'n') };
        self.output.message(b'T', |body| {
            body.extend(u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes());
            for (n, column) in columns.iter().enumerate() {
                put_string(body, &column.name);
                body.extend(column.table.to_be_bytes());
                body.extend(column.number.to_be_bytes());
                body.extend(column.ty.oid().to_be_bytes());
                body.extend(column.ty.size().to_be_bytes());
                body.extend((-1_i32).to_be_bytes());
                body.extend(format(formats, n).to_be_bytes());
            }
        });
    }

    /// Fails where a value has no form in the client's encoding.
    pub fn check_encoding(&self, values: &[Value]) -> Result<(), Stop> {
        let encoding = self.settings.encoding();
        if values.iter().all(|value| encoding.has(value)) {
            return Ok(());
        }
        fail("22P05", "character with byte sequence in encoding \"UTF8\" has no equivalent in encoding \"LATIN1\"")
    }

    pub fn data_row(&mut self, columns: &[ResultColumn], formats: &[u16], cells: &Cells) -> Result<(), Stop> {
        self.report_at_once();
        self.check_encoding(cells)?;
        let encoding = self.settings.encoding();
        self.output.message(b'D', |body| {
            body.extend(u16::try_from(cells.len()).unwrap_or(u16::MAX).to_be_bytes());
            for (n, cell) in cells.iter().enumerate() {
                let ty = columns.get(n).map_or(Type::Text, |column| column.ty);
                cell.put(body, (ty, is_binary(formats, n), encoding));
            }
        });
        Ok(())
    }

    pub fn close_name(&mut self, kind: u8, name_bytes: &[u8]) -> Result<(), Stop> {
        let name = name(name_bytes)?;
        match kind {
            b'S' if name.is_empty() => self.unnamed = None,
            b'S' => {
                self.statements.remove(&name);
            }
            b'P' => {
                self.portals.remove(&name);
            }
            other => return fail("08P01", format!("invalid CLOSE message subtype {other}")),
        }
        self.output.empty(b'3');
        Ok(())
    }

    pub fn execute(&mut self, shared: &mut Shared, name_bytes: &[u8], limit: i32) -> Result<(), Stop> {
        let name = name(name_bytes)?;
        let Some(portal) = self.portals.get(&name) else {
            return fail("34000", format!("portal \"{name}\" does not exist"));
        };
        let Some(statement) = portal.statement.clone() else {
            self.output.empty(b'I');
            return Ok(());
        };
        let mut portal = portal.clone();
        if portal.state == State::Stale {
            shared.beyond.push("Execute of the portal that a failed simple query left behind");
        }
        self.begin_command(shared)?;
        // A portal that the abort has failed has lost its statement: `PortalReleaseCachedPlan`.
        let is_exit = statement.is_exit() && portal.state != State::Failed;
        if self.transaction.is_aborted() && !is_exit {
            return Err(aborted().into());
        }
        if portal.state != State::Ready {
            return fail("55000", format!("portal \"{name}\" cannot be run"));
        }
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let ran = self.run_some(shared, &name, &statement, &mut portal, limit);
        if let Err(Stop::Error(_)) = ran {
            self.set_state(&name, State::Failed);
        }
        let Part::Rows(tag) = ran? else {
            self.set_state(&name, State::Done);
            return Ok(());
        };
        if portal.strategy == Strategy::Multi {
            self.set_state(&name, State::Done);
        } else if let Some(kept) = self.portals.get_mut(&name) {
            *kept = portal;
        }
        if let Some(tag) = tag {
            return self.executed(shared, statement.is_transaction(), &tag);
        }
        self.transaction.pipelining = true;
        self.output.empty(b's');
        Ok(())
    }

    /// Runs a portal, or as much of it as is wanted.
    fn run_some(
        &mut self,
        shared: &mut Shared,
        name: &str,
        statement: &Statement,
        portal: &mut Portal,
        limit: Option<usize>,
    ) -> Result<Part, Stop> {
        match portal.strategy {
            Strategy::Multi => Ok(match self.run_portal(shared, name, statement, portal)? {
                Ran::Done(tag, _) => Part::Rows(Some(tag)),
                Ran::Copying => Part::Copying,
            }),
            Strategy::OneSelect => {
                self.check_waits(shared, statement, portal.target, &portal.params)?;
                portal.tag = Some(CommandTag::Counted("SELECT", 0));
                self.run_rows(shared, portal, limit).map(Part::Rows)
            }
            Strategy::OneReturning | Strategy::UtilSelect => {
                if matches!(portal.rows, Rows::Unrun)
                    && let Ran::Done(tag, rows) = self.run_portal(shared, name, statement, portal)?
                {
                    portal.rows = Rows::Result(rows.into());
                    portal.tag = Some(tag);
                }
                self.run_rows(shared, portal, limit).map(Part::Rows)
            }
        }
    }

    /// Runs what a portal holds. Meanwhile the portal is not to be touched.
    fn run_portal(
        &mut self,
        shared: &mut Shared,
        name: &str,
        statement: &Statement,
        portal: &Portal,
    ) -> Result<Ran, Stop> {
        self.check_waits(shared, statement, portal.target, &portal.params)?;
        self.set_state(name, State::Active);
        let ran = self.run_statement(shared, statement, portal.target, &portal.params, true);
        if matches!(ran, Err(Stop::Wait(_))) {
            self.set_state(name, State::Ready);
        }
        ran
    }

    pub fn set_state(&mut self, name: &str, state: State) {
        if let Some(portal) = self.portals.get_mut(name) {
            portal.state = state;
        }
    }

    /// A portal has been run to its end.
    pub fn executed(&mut self, shared: &mut Shared, control: bool, tag: &CommandTag) -> Result<(), Stop> {
        if control || self.transaction.immediate {
            self.finish(shared)?;
        } else {
            self.transaction.pipelining = true;
        }
        self.command_complete(tag);
        Ok(())
    }

    pub fn command_complete(&mut self, tag: &CommandTag) {
        self.report_at_once();
        self.output.message(b'C', |body| put_string(body, &tag.text()));
    }

    /// Sends rows of a portal, at most `limit`. Its tag if they are all, as far as anybody knows.
    pub fn run_rows(
        &mut self,
        shared: &mut Shared,
        portal: &mut Portal,
        limit: Option<usize>,
    ) -> Result<Option<CommandTag>, Stop> {
        let total = self.source_rows(shared, portal)?;
        let from = portal.position;
        let to = if portal.at_end { from } else { limit.map_or(total, |limit| total.min(from + limit)) };
        let columns = portal.columns.clone().unwrap_or_default();
        for at in from..to {
            let cells = self.project(shared, portal, at)?;
            if let Some(unknown) = (0..columns.len()).map(|n| format(&portal.formats, n)).find(|format| *format > 1) {
                return fail("22023", format!("unsupported format code: {unknown}"));
            }
            self.data_row(&columns, &portal.formats, &cells)?;
        }
        portal.position = to;
        portal.at_start &= from == to;
        portal.at_end |= limit.is_none_or(|limit| to - from < limit);
        Ok(portal.tag.as_ref().filter(|_| portal.at_end).map(|tag| tag.with_count(to - from)))
    }
}
