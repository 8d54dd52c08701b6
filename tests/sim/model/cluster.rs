//! The cluster: its backends, and what happens between them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::BackendId;
use super::backend::{Backend, Phase};
use super::error::Report;
use super::lock::Wait;
use super::shared::Shared;
use super::value::Value;

/// What a cluster is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Its databases. `beta` has a table `v` of other columns than others have.
    pub databases: &'static [&'static str],
    /// The major version of PostgreSQL: 13, 14 to 17, or 18.
    pub version: u32,
    /// Whether each connection has had a temporary table: what it has then for life decides when a plan is made anew.
    pub worn: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { databases: &["alpha", "beta"], version: 15, worn: false }
    }
}

/// A server with its databases, and the backends of its connections.
///
/// It has no thread, no clock and no randomness of its own: the same calls give the same bytes.
#[derive(Debug)]
pub struct Cluster {
    shared: Shared,
    backends: Vec<Option<Backend>>,
    worn: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new(&Options::default())
    }
}

impl Cluster {
    /// A cluster as `options` say.
    pub fn new(options: &Options) -> Self {
        let mut shared = Shared::default();
        shared.version = options.version;
        for name in options.databases {
            shared.create_database(name);
        }
        Self { shared, backends: Vec::new(), worn: options.worn }
    }

    /// A new connection, whose first bytes are to be a startup packet.
    pub fn connect(&mut self) -> BackendId {
        let id = self.backends.len();
        // Of no use but to be told apart.
        let secret = i32::try_from(id).unwrap_or(0).wrapping_mul(0x9e37_79b1_u32.cast_signed());
        let mut backend = Backend::new(id, secret);
        backend.temp_namespace = self.worn;
        self.backends.push(Some(backend));
        id
    }

    fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id)?.as_ref()
    }

    fn with(&mut self, id: BackendId, f: impl FnOnce(&mut Backend, &mut Shared)) {
        if let Some(backend) = self.backends.get_mut(id).and_then(Option::as_mut) {
            f(backend, &mut self.shared);
            self.settle();
        }
    }

    /// Bytes from the client. All that can be done with them is done at once.
    pub fn receive(&mut self, id: BackendId, bytes: &[u8]) {
        self.with(id, |backend, shared| {
            backend.receive(bytes);
            if !backend.waiting {
                backend.run(shared);
            }
        });
    }

    /// What the backend has sent since the last time.
    pub fn take_output(&mut self, id: BackendId) -> Vec<u8> {
        self.backends.get_mut(id).and_then(Option::as_mut).map(|backend| backend.output.take()).unwrap_or_default()
    }

    /// Whether there is output to be taken.
    pub fn has_output(&self, id: BackendId) -> bool {
        self.backend(id).is_some_and(|backend| backend.output.has_sent())
    }

    /// Whether the backend has ended the connection. There may be output left.
    pub fn is_closed(&self, id: BackendId) -> bool {
        self.backend(id).is_none_or(|backend| backend.phase == Phase::Closed)
    }

    /// Whether it waits for a lock or sleeps.
    pub fn is_waiting(&self, id: BackendId) -> bool {
        self.backend(id).is_some_and(|backend| backend.waiting)
    }

    /// Bytes that have come and have not been read, because it waits or is stalled, or since a message is not complete.
    pub fn unread(&self, id: BackendId) -> usize {
        self.backend(id).map_or(0, Backend::unread)
    }

    /// How many messages it has taken.
    pub fn messages_taken(&self, id: BackendId) -> u64 {
        self.backend(id).map_or(0, |backend| backend.taken)
    }

    /// The client's end of the stream: what came before it is carried out, then the session ends. Its output can still
    /// be taken, as that of a half-closed connection.
    pub fn disconnect(&mut self, id: BackendId) {
        self.with(id, |backend, shared| {
            backend.end_input();
            if !backend.waiting {
                backend.run(shared);
            }
        });
    }

    /// `pg_terminate_backend`: FATAL 57P01, whatever it does.
    pub fn terminate(&mut self, id: BackendId) {
        self.fatal(id, "57P01");
    }

    /// Ends it with a FATAL of this code, whatever it does.
    pub fn fatal(&mut self, id: BackendId, code: &'static str) {
        self.with(id, |backend, shared| {
            if backend.phase != Phase::Closed {
                let fatal = Report::fatal(code, "terminating connection due to administrator command");
                backend.interrupt(shared, &fatal);
            }
        });
    }

    /// Ends it with a FATAL of this code when it comes to its next message, which is not carried out.
    pub fn fatal_at_next_message(&mut self, id: BackendId, code: &'static str) {
        self.with(id, |backend, _| backend.faults.fatal = Some(code));
    }

    /// Ends it without a word; what it has not flushed is lost.
    pub fn crash(&mut self, id: BackendId) {
        self.with(id, Backend::close);
    }

    /// Lets its next DISCARD ALL fail with this code.
    pub fn refuse_discard(&mut self, id: BackendId, code: &'static str) {
        self.with(id, |backend, _| backend.faults.discard = Some(code));
    }

    /// Its configuration is reloaded, in which a setting has another value: sessions see it with their next message.
    pub fn configure(&mut self, name: &'static str, value: &'static str) {
        self.shared.configured.push((name, value));
    }

    /// Sessions that begin from now on have another default.
    pub fn set_default(&mut self, name: &'static str, value: &'static str) {
        self.shared.defaults.push((name, value));
    }

    /// Lets its next statement take so long.
    pub fn slow_down(&mut self, id: BackendId, by: Duration) {
        self.with(id, |backend, _| backend.faults.slow = Some(by));
    }

    /// Lets it read nothing, or read on.
    pub fn stall(&mut self, id: BackendId, stalled: bool) {
        self.with(id, |backend, shared| {
            backend.faults.stalled = stalled;
            if !stalled && !backend.waiting {
                backend.run(shared);
            }
        });
    }

    /// A cancel request; it has no effect unless the backend does something that takes time.
    pub fn cancel(&mut self, pid: i32, secret: i32) {
        self.shared.cancelled.push((pid, Some(secret)));
        self.settle();
    }

    /// What has been told on a channel of a database, in order.
    pub fn notifications<'a>(&'a self, database: &'a str, channel: &'a str) -> impl Iterator<Item = &'a str> {
        let told = self.shared.notified.iter();
        let told = told.filter(move |told| *told.database == *database && *told.channel == *channel);
        told.map(|told| &*told.payload)
    }

    /// The pid and secret that its client was told.
    pub fn key(&self, id: BackendId) -> (i32, i32) {
        self.backend(id).map_or((0, 0), |backend| (backend.pid, backend.secret))
    }

    /// Time that has passed since the cluster began.
    pub fn now(&self) -> Duration {
        self.shared.now
    }

    /// Lets time pass, which ends sleeps and transactions that nothing is done in, each when it is due.
    pub fn advance(&mut self, by: Duration) {
        let until = self.shared.now + by;
        while let Some(due) = self.next_wake().filter(|at| *at <= until) {
            self.shared.now = due.max(self.shared.now);
            self.wake();
        }
        self.shared.now = until;
    }

    /// What is due by now happens.
    fn wake(&mut self) {
        let now = self.shared.now;
        for backend in self.backends.iter_mut().flatten() {
            if backend.phase != Phase::Closed
                && let Some(fatal) = backend.overdue(now)
            {
                backend.interrupt(&mut self.shared, &fatal);
            }
        }
        self.shared.locks.released = true;
        self.settle();
    }

    /// When the first of those that sleep wakes.
    pub fn next_wake(&self) -> Option<Duration> {
        let until = |wait: &Wait| match wait {
            Wait::Until(at) => Some(*at),
            Wait::Lock(..) => None,
        };
        let asleep = self.shared.locks.waiting.iter().filter_map(|(_, wait)| until(wait));
        let open = self.backends.iter().flatten().filter(|backend| backend.phase != Phase::Closed);
        asleep.chain(open.flat_map(|backend| [backend.idle_until, backend.transaction.until]).flatten()).min()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.backends.iter().flatten().filter(|backend| backend.phase != Phase::Closed).count()
    }

    /// Forgets a closed connection.
    pub fn forget(&mut self, id: BackendId) {
        if self.is_closed(id)
            && let Some(slot) = self.backends.get_mut(id)
        {
            *slot = None;
        }
    }

    /// The committed rows of a table, as text, in the order in which they were inserted.
    pub fn rows(&self, database: &str, schema: &str, table: &str) -> Vec<Vec<Option<String>>> {
        let Some(database) = self.shared.databases.get(database) else { return Vec::new() };
        let Some(table) = database.find(schema, table, None).and_then(|id| database.tables.get(&id)) else {
            return Vec::new();
        };
        let committed = table.rows.iter().filter(|row| row.inserted_by.is_none());
        committed.map(|row| row.cells.iter().map(Value::shown).collect()).collect()
    }

    /// The committed tables of a schema, with their columns.
    pub fn tables(&self, database: &str, schema: &str) -> BTreeMap<String, Vec<String>> {
        let Some(database) = self.shared.databases.get(database) else { return BTreeMap::new() };
        let committed = database.tables.values().filter(|t| *t.schema == *schema && t.created_by.is_none());
        let columns = |table: &super::catalog::Table| table.columns.iter().map(|c| c.name.to_string()).collect();
        committed.map(|table| (table.name.to_string(), columns(table))).collect()
    }

    /// Whether no lock is held and nothing waits.
    pub fn is_quiet(&self) -> bool {
        self.shared.locks.is_empty() && self.shared.locks.waiting.is_empty()
    }

    /// Texts that are not of the dialect, the first hundred of them.
    pub fn unparsed(&self) -> &[String] {
        &self.shared.unparsed
    }

    /// What was done that the model does not do as the server does: what followed proves nothing.
    pub fn beyond(&self) -> &[&'static str] {
        &self.shared.beyond
    }

    /// Whether two backends have gone on at the same time after one had waited for the other. Then a server might have
    /// done what they did in another order.
    pub fn raced(&self) -> bool {
        self.shared.locks.raced()
    }

    /// Whether prepared transactions are left, which others may wait for.
    pub fn has_prepared(&self) -> bool {
        !self.shared.prepared.is_empty()
    }

    /// What one backend's work means to others: signals, notifications, locks.
    fn settle(&mut self) {
        loop {
            let mut progress = false;
            for pid in std::mem::take(&mut self.shared.terminated) {
                progress = true;
                if let Some(backend) = self.backends.iter_mut().flatten().find(|backend| backend.pid == pid) {
                    let fatal = Report::fatal("57P01", "terminating connection due to administrator command");
                    if backend.phase != Phase::Closed {
                        backend.interrupt(&mut self.shared, &fatal);
                    }
                }
            }
            for (pid, secret) in std::mem::take(&mut self.shared.cancelled) {
                progress = true;
                let asked = |b: &&mut Backend| b.pid == pid && secret.is_none_or(|secret| b.secret == secret);
                let Some(backend) = self.backends.iter_mut().flatten().find(asked) else { continue };
                if backend.waiting {
                    let cancelled = Report::error("57014", "canceling statement due to user request");
                    backend.interrupt(&mut self.shared, &cancelled);
                    backend.run(&mut self.shared);
                } else if backend.copy.is_some() {
                    backend.cancelled = true;
                }
            }
            for note in std::mem::take(&mut self.shared.notifications) {
                for backend in self.backends.iter_mut().flatten() {
                    let hears = backend.database == note.database && backend.listening.contains(&note.channel);
                    if hears && backend.pid != note.pid {
                        backend.notified.push((note.pid, note.channel.clone(), note.payload.clone()));
                        if !backend.waiting {
                            backend.run(&mut self.shared);
                        }
                    }
                }
            }
            if std::mem::take(&mut self.shared.locks.released) {
                let mut woken = 0;
                for (id, wait) in self.shared.locks.waiting.clone() {
                    let free = match wait {
                        Wait::Lock(tag, mode) => self.shared.locks.is_free(tag, mode, id),
                        Wait::Until(at) => at <= self.shared.now,
                    };
                    let Some(backend) = self.backends.get_mut(id).and_then(Option::as_mut).filter(|_| free) else {
                        continue;
                    };
                    self.shared.locks.waiting.retain(|(waiting, _)| *waiting != id);
                    backend.waiting = false;
                    if let Wait::Lock(tag, _) = wait {
                        self.shared.locks.granted = Some((id, tag));
                    }
                    woken += 1;
                    self.shared.locks.go_on(woken);
                    backend.run(&mut self.shared);
                    self.shared.locks.granted = None;
                    progress = true;
                }
            }
            if !progress && self.shared.notifications.is_empty() {
                return;
            }
        }
    }
}
