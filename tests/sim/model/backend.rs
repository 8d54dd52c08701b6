//! One backend: its session, and the loop of `PostgresMain` that takes messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use super::BackendId;
use super::catalog::{SequenceName, TableId, Xid};
use super::copy::CopyIn;
use super::error::{Report, Severity, Stop};
use super::eval::Target;
use super::extended::Prepared;
use super::lock::{Mode, Tag, Wait};
use super::portal::{Portal, State};
use super::settings::{Settings, identifiers};
use super::shared::Shared;
use super::simple::Texts;
use super::sql::ast::{Name, Statement};
use super::transaction::Transaction;
use super::wire::{Body, Framed, Output, frame, frame_any, put_string};

/// Since this version what follows the first Execute of a pipeline is an implicit transaction block.
pub const PIPELINES_ARE_BLOCKS: u32 = 18;

/// What a backend is made to do wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How long its next statement takes.
    pub slow: Option<std::time::Duration>,
    /// The error that the next DISCARD ALL fails with.
    pub discard: Option<&'static str>,
    /// It ends with a FATAL of this code when it comes to its next message.
    pub fatal: Option<&'static str>,
    /// It takes no message.
    pub stalled: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    Closed,
}

#[derive(Debug)]
pub struct Backend {
    pub id: BackendId,
    pub pid: i32,
    pub secret: i32,
    pub phase: Phase,
    pub database: Rc<str>,
    pub user: Rc<str>,
    input: Vec<u8>,
    read: usize,
    eof: bool,
    pub output: Output,
    pub settings: Settings,
    /// The schemas that names are looked for in, in order, as far as they exist.
    pub path: Rc<[Rc<str>]>,
    path_generation: (u64, bool),
    pub transaction: Transaction,
    /// `xact_started`: a command has begun, and what it did has not been finished.
    pub in_command: bool,
    pub statements: BTreeMap<Box<str>, Prepared>,
    pub unnamed: Option<Prepared>,
    pub portals: BTreeMap<Box<str>, Portal>,
    /// An error in an extended request: everything is skipped up to a Sync.
    pub skipping: bool,
    /// The message that is worked on belongs to the extended protocol.
    pub extended: bool,
    /// A ReadyForQuery is due.
    pub ready: bool,
    /// The rest of a simple query.
    pub texts: Option<Texts>,
    pub copy: Option<CopyIn>,
    pub waiting: bool,
    pub asleep_since: Option<Duration>,
    /// When `idle_in_transaction_session_timeout` ends it, if nothing comes before that.
    pub idle_until: Option<Duration>,
    pub cancelled: bool,
    pub listening: BTreeSet<Rc<str>>,
    /// `unlistenExitRegistered`.
    pub has_listened: bool,
    /// Notifications that have come.
    pub notified: Vec<(i32, Rc<str>, Rc<str>)>,
    pub sequences: HashMap<SequenceName, i64>,
    pub last_sequence: Option<SequenceName>,
    /// Advisory locks of the session.
    pub advisory: BTreeMap<i64, usize>,
    pub temp_namespace: bool,
    pub temp_schema: Rc<str>,
    pub faults: Faults,
    /// How deep EXECUTE stands in EXECUTE.
    pub depth: usize,
    /// How many changes of the configuration it has seen.
    pub configured: usize,
    /// Messages taken so far.
    pub taken: u64,
}

impl Backend {
    pub fn new(id: BackendId, secret: i32) -> Self {
        let pid = 1000 + i32::try_from(id).unwrap_or(i32::MAX);
        Self {
            id,
            pid,
            secret,
            phase: Phase::Starting,
            database: "".into(),
            user: "".into(),
            input: Vec::new(),
            read: 0,
            eof: false,
            output: Output::default(),
            settings: Settings::new("", 15),
            path: Rc::new([]),
            path_generation: (u64::MAX, false),
            transaction: Transaction::default(),
            in_command: false,
            statements: BTreeMap::new(),
            unnamed: None,
            portals: BTreeMap::new(),
            skipping: false,
            extended: false,
            ready: false,
            texts: None,
            copy: None,
            waiting: false,
            asleep_since: None,
            idle_until: None,
            cancelled: false,
            listening: BTreeSet::new(),
            has_listened: false,
            notified: Vec::new(),
            sequences: HashMap::new(),
            last_sequence: None,
            advisory: BTreeMap::new(),
            temp_namespace: false,
            temp_schema: format!("pg_temp_{id}").into(),
            faults: Faults::default(),
            depth: 0,
            configured: 0,
            taken: 0,
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Closed || self.eof {
            return;
        }
        if self.read == self.input.len() {
            self.input.clear();
            self.read = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// No more will come.
    pub fn end_input(&mut self) {
        self.eof = true;
    }

    /// Bytes that have come and have not been read.
    pub fn unread(&self) -> usize {
        self.input.len() - self.read
    }

    /// Works as far as it can.
    pub fn run(&mut self, shared: &mut Shared) {
        while self.step(shared) {}
    }

    fn step(&mut self, shared: &mut Shared) -> bool {
        if self.faults.stalled {
            return false;
        }
        match self.phase {
            Phase::Closed => return false,
            Phase::Starting => return self.startup(shared),
            Phase::Serving => {}
        }
        if self.texts.is_some() && self.copy.is_none() {
            // A simple query that waited for a lock, or for the end of a copy.
            let result = self.go_on(shared);
            return self.outcome(shared, result);
        }
        if self.ready {
            self.send_ready();
            let allowed = self.settings.time_within_transaction("idle_in_transaction_session_timeout");
            self.idle_until = allowed.filter(|_| self.transaction.is_block()).map(|allowed| shared.now + allowed);
        }
        // They are looked for where the server waits for a message (`ProcessClientReadInterrupt`), not where it has got the next one already.
        if !self.transaction.is_any() && self.copy.is_none() && self.read >= self.input.len() {
            self.tell_notifications(true);
        }
        let message = self.input.get(self.read..).unwrap_or_default();
        // Before 14 a copy reads a message before it looks at its type.
        let any = self.copy.is_some() && shared.version < 14;
        let framed = if any { frame_any(message) } else { frame(message, shared.version) };
        if let (Some(&tag @ (b'Q' | b'F' | b'B' | b'P' | b'X' | b'C' | b'D' | b'E')), true) =
            (message.first(), self.copy.is_some() && shared.version >= 14)
        {
            // Its type alone ends the session.
            return self.unexpected_in_copy(shared, tag);
        }
        let size = match framed {
            Framed::Partial if !self.eof => return false,
            Framed::Partial | Framed::BadLength => {
                if self.copy.is_some() {
                    let lost = Report::error("08006", "unexpected EOF on client connection with an open transaction");
                    self.error(shared, &lost);
                    self.lose_sync(shared);
                }
                self.close(shared);
                return false;
            }
            Framed::UnknownType(tag) if self.copy.is_some() => return self.unexpected_in_copy(shared, tag),
            Framed::UnknownType(tag) => {
                let fatal = Report::fatal("08P01", format!("invalid frontend message type {tag}"));
                self.error(shared, &fatal);
                return false;
            }
            Framed::Whole(size) => size,
        };
        self.idle_until = None;
        if let Some(code) = self.faults.fatal.take() {
            self.error(shared, &Report::fatal(code, "terminating connection due to administrator command"));
            return false;
        }
        let tag = message[0];
        if self.copy.is_none() {
            for (name, value) in shared.configured.iter().skip(self.configured) {
                self.settings.configure(name, value);
            }
            self.configured = shared.configured.len();
        }
        shared.locks.goes_on(self.id);
        // Taken out, since the work on it changes the rest of the backend.
        let input = std::mem::take(&mut self.input);
        let result = self.message(shared, tag, &input[self.read + 5..self.read + size]);
        if self.phase != Phase::Closed {
            self.input = input;
        }
        if matches!(result, Err(Stop::Wait(_))) && !self.is_in_texts() {
            // The message is worked on again later.
            return self.outcome(shared, result);
        }
        if self.phase != Phase::Closed {
            self.taken += 1;
            self.read += size;
        }
        self.outcome(shared, result)
    }

    fn outcome(&mut self, shared: &mut Shared, result: Result<(), Stop>) -> bool {
        self.limit_transaction(shared);
        match result {
            Ok(()) => self.phase != Phase::Closed,
            Err(Stop::Error(report)) => {
                self.error(shared, &report);
                self.phase != Phase::Closed
            }
            Err(Stop::Wait(wait)) => {
                self.waiting = true;
                shared.locks.waiting.push((self.id, wait));
                let deadlock = shared.locks.is_deadlock(self.id);
                if deadlock {
                    self.interrupt(shared, &Report::error("40P01", "deadlock detected"));
                }
                deadlock
            }
        }
    }

    /// `StartTransaction` and `assign_transaction_timeout`: the time that a transaction is allowed begins with it, or when it is set.
    fn limit_transaction(&mut self, shared: &Shared) {
        let allowed = self.settings.time("transaction_timeout").filter(|_| self.transaction.is_any());
        self.transaction.until = allowed.map(|allowed| self.transaction.until.unwrap_or_else(|| shared.now + allowed));
    }

    /// The FATAL that a time limit is due to end the session with.
    pub fn overdue(&self, now: std::time::Duration) -> Option<Report> {
        if self.transaction.until.is_some_and(|until| until <= now) {
            return Some(Report::fatal("25P04", "terminating connection due to transaction timeout"));
        }
        let is_idle_too_long = self.idle_until.is_some_and(|until| until <= now);
        is_idle_too_long.then(|| Report::fatal("25P03", "terminating connection due to idle-in-transaction timeout"))
    }

    /// Whether it works on a simple query whose message has been read.
    fn is_in_texts(&self) -> bool {
        self.texts.is_some() && self.copy.is_none()
    }

    /// Fails what waits.
    pub fn interrupt(&mut self, shared: &mut Shared, report: &Report) {
        shared.locks.leave(self.id);
        self.waiting = false;
        self.asleep_since = None;
        self.faults.slow = None;
        let read = self.is_in_texts();
        self.error(shared, report);
        if !read
            && self.phase != Phase::Closed
            && let Framed::Whole(size) = frame(self.input.get(self.read..).unwrap_or_default(), shared.version)
        {
            // The message that waited has failed.
            self.read += size;
        }
    }

    fn message(&mut self, shared: &mut Shared, tag: u8, body: &[u8]) -> Result<(), Stop> {
        let mut body = Body(body);
        if self.copy.is_some() {
            return self.copy_message(shared, tag, body);
        }
        match tag {
            b'X' | b'S' => {
                self.skipping = false;
                self.extended = false;
            }
            b'Q' | b'F' | b'd' | b'c' | b'f' => self.extended = false,
            _ => self.extended = true,
        }
        if self.skipping {
            return Ok(());
        }
        match tag {
            b'Q' => {
                self.ready = false;
                let text = body.text(self.settings.encoding())?;
                body.end()?;
                if self.transaction.is_aborted() && self.portals.values().any(|portal| portal.state == State::Ready) {
                    // The end of the transaction warns of it: `AtCleanup_Portals`.
                    shared.beyond.push("a portal that was made in a failed transaction");
                }
                self.simple_query(shared, &text)
            }
            b'P' => self.parse(shared, body),
            b'B' => self.bind(shared, body),
            b'E' => {
                let portal = body.string()?;
                let limit = body.i32()?;
                body.end()?;
                self.execute(shared, portal, limit)
            }
            b'D' => {
                let kind = body.u8()?;
                let name = body.string()?;
                body.end()?;
                self.describe(shared, kind, name)
            }
            b'C' => {
                let kind = body.u8()?;
                let name = body.string()?;
                body.end()?;
                self.close_name(kind, name)
            }
            b'H' => {
                body.end()?;
                self.output.flush();
                Ok(())
            }
            b'S' => {
                body.end()?;
                if shared.version >= PIPELINES_ARE_BLOCKS {
                    self.end_implicit();
                }
                self.finish(shared)?;
                self.ready = true;
                Ok(())
            }
            b'F' => self.function_call(shared, body),
            b'X' => {
                self.close(shared);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells an error, and does what `PostgresMain` does after one.
    pub fn error(&mut self, shared: &mut Shared, report: &Report) {
        let stale = self.texts.take().is_some() && self.portals.get("").is_some_and(|p| p.state == State::Active);
        self.copy = None;
        self.cancelled = false;
        self.waiting = false;
        self.report_at_once();
        self.output.report(report);
        if report.severity == Severity::Fatal {
            self.close(shared);
            return;
        }
        self.abort_current(shared);
        self.report_at_once();
        self.in_command = false;
        if stale {
            self.set_state("", State::Stale);
        }
        if self.extended {
            self.skipping = true;
        } else {
            self.ready = true;
        }
    }

    /// The end of a session whose next message can't be found.
    pub fn lose_sync(&mut self, shared: &mut Shared) {
        let fatal = Report::fatal("08P01", "terminating connection because protocol synchronization was lost");
        self.error(shared, &fatal);
    }

    pub fn unexpected_in_copy(&mut self, shared: &mut Shared, tag: u8) -> bool {
        let report = Report::error("08P01", format!("unexpected message type 0x{tag:02X} during COPY from stdin"));
        self.error(shared, &report);
        if shared.version < 14 {
            return true;
        }
        self.lose_sync(shared);
        false
    }

    fn send_ready(&mut self) {
        self.ready = false;
        if !self.transaction.is_any() {
            self.tell_notifications(false);
        }
        self.report_changed();
        let status = self.transaction.status();
        self.output.message(b'Z', |body| body.push(status));
        self.output.flush();
    }

    fn report_changed(&mut self) {
        let output = &mut self.output;
        self.settings.changed(|name, value| {
            output.message(b'S', |body| {
                put_string(body, name);
                put_string(body, value);
            });
        });
    }

    /// Reports settings before anything else is sent, as servers before 14 do.
    pub fn report_at_once(&mut self) {
        if self.settings.reports_at_once() {
            self.report_changed();
        }
    }

    fn tell_notifications(&mut self, flush: bool) {
        if self.notified.is_empty() {
            return;
        }
        for (pid, channel, payload) in std::mem::take(&mut self.notified) {
            self.output.message(b'A', |body| {
                body.extend(pid.to_be_bytes());
                put_string(body, &channel);
                put_string(body, &payload);
            });
        }
        if flush {
            self.output.flush();
        }
    }

    /// Sends a notice or warning.
    pub fn notice(&mut self, report: &Report) {
        self.output.report(report);
    }

    /// Ends the session. What has not been flushed is lost, as in `proc_exit`.
    pub fn close(&mut self, shared: &mut Shared) {
        self.output.lose();
        if self.phase == Phase::Serving {
            self.texts = None;
            self.copy = None;
            self.abort_all(shared);
            self.unlock_all(shared);
            self.drop_temp(shared);
        }
        shared.locks.leave(self.id);
        self.waiting = false;
        self.idle_until = None;
        self.phase = Phase::Closed;
        self.input = Vec::new();
        self.read = 0;
        self.statements.clear();
        self.portals.clear();
        self.listening.clear();
    }

    /// The bytes that have come, from the first that has not been read; and how to go on from there.
    pub fn take_startup(&mut self) -> (&[u8], &mut usize) {
        (&self.input[self.read..], &mut self.read)
    }

    /// Looks up a table.
    pub fn find_table(&self, shared: &Shared, name: &Name, me: Option<Xid>) -> Option<TableId> {
        let database = &shared.databases[&self.database];
        if let Some(schema) = &name.schema {
            let schema = if **schema == *"pg_temp" { &self.temp_schema } else { schema };
            return database.find(schema, &name.name, me);
        }
        self.path.iter().find_map(|schema| database.find(schema, &name.name, me))
    }

    /// Brings the list of schemas up to date.
    pub fn refresh_path(&mut self, shared: &Shared) {
        let generation = (self.settings.generation, self.temp_namespace);
        if self.path_generation == generation {
            return;
        }
        self.path_generation = generation;
        let database = &shared.databases[&self.database];
        let listed = self.settings.get("search_path").map(|value| identifiers(value)).unwrap_or_default();
        let mut path: Vec<Rc<str>> = Vec::new();
        if self.temp_namespace && !listed.iter().any(|name| **name == *"pg_temp") {
            path.push(Rc::clone(&self.temp_schema));
        }
        for name in listed {
            if *name == *"pg_temp" {
                if self.temp_namespace {
                    path.push(Rc::clone(&self.temp_schema));
                }
            } else if database.schemas.contains(&name) && !path.contains(&name) {
                path.push(name);
            }
        }
        if *self.path != *path {
            self.path = path.into();
        }
    }

    fn is_temporary(&self, shared: &Shared, id: TableId) -> bool {
        let table = shared.databases.get(&self.database).and_then(|database| database.tables.get(&id));
        table.is_some_and(|table| table.schema == self.temp_schema)
    }

    /// `GetUserId`.
    pub fn current_user(&self) -> Rc<str> {
        match self.settings.get("role") {
            Some(role) if **role != *"none" => Rc::clone(role),
            _ => Rc::clone(&self.user),
        }
    }

    /// `PreventCommandIfReadOnly`.
    pub fn check_writes(&self) -> Result<(), Stop> {
        if self.settings.is_read_only() { Err(read_only().into()) } else { Ok(()) }
    }

    /// `ExecCheckXactReadOnly` and `PreventCommandIfReadOnly`.
    pub fn check_read_only(&self, shared: &Shared, statement: &Statement, target: Target) -> Result<(), Stop> {
        if !self.settings.is_read_only() {
            return Ok(());
        }
        let table = match statement {
            Statement::Insert(insert) => Some(&insert.table),
            Statement::Delete(delete) => Some(&delete.table),
            Statement::Update(update) => Some(&update.table),
            Statement::CopyIn { table, .. } => Some(table),
            _ => None,
        };
        let id = match table {
            Some(table) => Some(self.table_id(shared, table, target)?),
            None => None,
        };
        if statement.is_definition() || id.is_some_and(|id| !self.is_temporary(shared, id)) {
            return self.check_writes();
        }
        Ok(())
    }

    /// The schema in which a table is made whose name says none.
    pub fn creation_schema(&self, shared: &Shared) -> Option<Rc<str>> {
        let listed = self.settings.get("search_path").map(|value| identifiers(value)).unwrap_or_default();
        let schemas = &shared.databases[&self.database].schemas;
        listed.into_iter().find(|name| **name == *"pg_temp" || schemas.contains(name))
    }

    /// The lock's holder if it can't be taken at once is waited for.
    pub fn lock(&mut self, shared: &mut Shared, tag: Tag, mode: Mode) -> Result<(), Stop> {
        if let Tag::Table(id) = tag {
            self.transaction.temp |= self.is_temporary(shared, id);
        }
        if self.transaction.locks.contains(&(tag, mode)) {
            return Ok(());
        }
        if !shared.locks.is_free(tag, mode, self.id) {
            return Err(Stop::Wait(Wait::Lock(tag, mode)));
        }
        shared.locks.take(tag, mode, self.id);
        self.transaction.locks.push((tag, mode));
        Ok(())
    }
}

fn read_only() -> Report {
    Report::error("25006", "cannot do that in a read-only transaction")
}

pub fn aborted() -> Report {
    Report::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}
