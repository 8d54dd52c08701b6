//! What a client's statements do to its session: what keeps it on its connection, what it carries to the next one, and
//! what pgferry asks and tells the server for that.

use std::sync::Arc;
use std::time::Instant;

use super::{Next, Relay};
use crate::config::{Mode, Pin};
use crate::error::{Blame, Fault, sqlstate};
use crate::track::acts::Act;
use crate::track::params::{self, FOLLOWING};
use crate::track::pinning::{self, Look};
use crate::track::{Pins, Reply, Request};
use crate::wire::{backend, frontend};

/// Reported settings that change without the client's doing.
const THE_SERVERS_OWN: [&[u8]; 6] = [
    b"in_hot_standby",
    b"integer_datetimes",
    b"is_superuser",
    b"server_encoding",
    b"server_version",
    b"session_authorization",
];

/// The reasons for keeping a connection that [`question`] asks about, in its order.
const ASKED: [Pins; 6] = [Pins::ROLE, Pins::TEMP, Pins::LISTEN, Pins::PREPARE, Pins::CURSOR, Pins::LOCK];

impl Relay<'_> {
    /// Notes what a text may do, before it is sent.
    ///
    /// # Errors
    /// What the client is told instead if it must not be sent.
    pub(super) fn consider(&mut self, look: &Look) -> Result<(), Fault> {
        if self.mode == Mode::Session {
            self.pins.add(look.pins);
            return Ok(());
        }
        self.sets |= look.pins.contains(Pins::SETTING) || look.local;
        let mut holds = look.holds();
        if look.nested && !look.is_clear() && self.bag.ledger.is_open() {
            holds.add(Pins::SETTING);
        }
        if holds.contains(Pins::SEQUENCE) && self.foreign_sequences && !self.pins.contains(Pins::SEQUENCE) {
            return Err(sequence_elsewhere());
        }
        if self.pin == Pin::Refuse && !holds.is_empty() {
            return Err(would_pin(holds));
        }
        self.pins.add(holds);
        self.asks |= look.frees;
        if look.local && !look.is_clear() {
            self.bag.blur();
        }
        Ok(())
    }

    /// Notes that the message sent last does `act` if it succeeds. The client's next messages wait until that is known.
    pub(super) fn note_act(&mut self, act: Option<Arc<Act>>) {
        let Some(act) = act.filter(|_| !self.pipeline.skipping()) else { return };
        let resets = self.resets_of(&act);
        match *act {
            _ if self.mode == Mode::Session && resets.is_empty() => return,
            Act::Savepoint { .. } | Act::RollbackTo { .. } | Act::Release { .. } if !self.bag.ledger.has_changes() => {
                return;
            }
            Act::SetLocal { ref name, .. } if self.bag.names.is_empty() && params::following(name).is_none() => {
                return self.bag.blur();
            }
            Act::Unclear => {
                // What is prepared next must know the settings that the server reports.
                self.barrier = true;
                self.flushed = false;
                return;
            }
            _ => {}
        }
        self.correcting = !resets.is_empty();
        self.resets = resets;
        self.pipeline.mark_last();
        self.act = Some(act);
        self.barrier = true;
        self.flushed = false;
    }

    /// The settings that `act` resets to something else than this client's startup packet asked for: a `RESET` goes back
    /// to what the connection was opened with.
    fn resets_of(&self, act: &Act) -> Vec<&'static str> {
        let names: &[&'static str] = match act {
            Act::Reset { name } => match params::following(name) {
                Some(name) => &[name],
                None => &[],
            },
            Act::ResetAll | Act::DiscardAll => &FOLLOWING,
            _ => &[],
        };
        let Some(baseline) = self.loan.pool().baseline().filter(|_| !names.is_empty()) else { return Vec::new() };
        let asked = |name: &str| self.bag.asked.get(name).or_else(|| baseline.get(name.as_bytes()));
        let differs = |name: &&&'static str| self.link.base.get(name.as_bytes()) != asked(name);
        names.iter().filter(differs).copied().collect()
    }

    /// A command of the client's has completed with `tag`.
    pub(super) fn completed(&mut self, tag: &[u8], acting: bool) {
        self.pins.add(pinning::of_tag(tag));
        if self.mode == Mode::Session {
            return;
        }
        match self.act.take_if(|_| acting) {
            Some(act) => self.acted(&act),
            None => self.bag.completed(tag),
        }
        match tag {
            b"DISCARD ALL" => {
                self.bag.discard_all();
                self.link.swept();
                self.unnamed_here = true;
                self.pins = self.pins.among(Pins::INDELIBLE);
            }
            b"DEALLOCATE ALL" => {
                self.bag.names.clear();
                self.link.prepared.clear();
            }
            _ => {
                self.defines |= [&b"CREATE "[..], b"ALTER ", b"DROP ", b"IMPORT "].iter().any(|d| tag.starts_with(d));
            }
        }
    }

    fn acted(&mut self, act: &Act) {
        match act {
            Act::Deallocate { name } => {
                if let Some(statement) = self.bag.names.get(name).cloned() {
                    self.link.prepared.remove(statement.id);
                    for variant in self.variants.iter().filter(|variant| variant.of == statement.id) {
                        self.link.prepared.remove(variant.statement.id);
                    }
                    self.forget(name);
                }
            }
            Act::ResetAll => self.reset_all = true,
            _ => {}
        }
        self.bag.acted(act);
    }

    /// The server has failed a request of the client's; `acting` says whether it was the marked one.
    pub(super) fn failed(&mut self, acting: bool) {
        self.bag.ledger.failed();
        self.reset_all = false;
        if acting || !self.pipeline.has_mark() {
            // It has not happened.
            self.act = None;
            self.resets.clear();
        }
    }

    /// The server is ready for the client's next request, with transaction status `status`.
    pub(super) fn ready_for_query(&mut self, status: u8) {
        self.count_ready(status);
        if self.mode == Mode::Session {
            return;
        }
        self.bag.ready(status);
        let idle = status == crate::track::pipeline::IDLE;
        if self.defines {
            // Others see it when it is committed; this client at once.
            self.shared.registry.catalog.definitions_changed();
            self.defines = !idle;
        }
        if idle {
            if std::mem::take(&mut self.reset_all) {
                self.pins = self.pins.without(Pins::SETTING);
            }
            self.variants.iter_mut().for_each(|variant| variant.holds = false);
            self.portals.clear();
        }
    }

    fn count_ready(&mut self, status: u8) {
        let idle = status == crate::track::pipeline::IDLE;
        let now = Instant::now();
        self.ready = Some(now);
        let ended = self.tally.ready(now, idle, !self.pipeline.answered());
        let timings = &self.shared.registry.counters.timings;
        timings.query.observe(ended.query);
        if let Some(transaction) = ended.transaction {
            timings.transaction.observe(transaction);
        }
    }

    /// Everything has been answered: what pgferry itself has to say before the client's next message.
    pub(super) fn interject(&mut self) -> Next {
        if self.correcting {
            let sql = if self.corrected { None } else { self.correction() };
            self.corrected = sql.is_some();
            if let Some(sql) = sql {
                self.say(&sql);
            } else {
                self.correcting = false;
                self.tell_differences();
            }
            return Next::Again;
        }
        if self.mode == Mode::Transaction && self.pipeline.settled() && !self.sets && self.origins.is_none() {
            let changed = self.link.params.beyond(&self.start).filter_map(|(name, _)| params::following(name));
            let changed: Vec<_> = changed.collect();
            if !changed.is_empty() {
                self.ask(&origin(&changed));
                self.origins = Some(changed);
                return Next::Again;
            }
        }
        let askable = !self.pins.is_empty() && self.pins.without(Pins::ASKABLE).is_empty();
        if self.mode == Mode::Transaction && self.asks && askable && self.pipeline.settled() {
            self.asks = false;
            let user = self.loan.pool().key.user.clone();
            self.ask(&question(&user));
            return Next::Again;
        }
        Next::Wait
    }

    /// Asks the server something. The client's next messages wait: the answer is about what holds now.
    fn ask(&mut self, sql: &[u8]) {
        self.asking = true;
        self.barrier = true;
        self.flushed = true;
        self.say(sql);
    }

    /// Sends a query of pgferry's own.
    fn say(&mut self, sql: &[u8]) {
        frontend::put_query(&mut self.link.conn.output, sql);
        self.pipeline.request(Request::Query, Reply::Hide);
        // A simple query ends the unnamed statement.
        self.unnamed_here = false;
    }

    /// What makes of the settings that were reset what the client's startup packet asked for.
    fn correction(&self) -> Option<Vec<u8>> {
        let failed = self.pipeline.status() == b'E';
        let baseline = self.loan.pool().baseline().filter(|_| !failed)?;
        params::sets(&self.link.params, &self.bag.asked, &baseline, |name| self.resets.contains(&name))
    }

    /// The first message of our own has been answered. After a reset the session is as the server gives it now; after a
    /// `Sync` what has changed is the server's doing.
    pub(super) fn learn_base(&mut self) {
        let pool = Arc::clone(self.loan.pool());
        if self.preparation.reset {
            pool.learn_reset(self.link);
        } else if !self.preparation.settings && self.link.params != self.start {
            for (name, value) in self.link.params.clone().beyond(&self.start) {
                self.link.base.set(name, value);
            }
            pool.learn_base(self.link);
        }
    }

    /// A row of the answer to [`question`] or [`origin`].
    pub(super) fn learn_answer(&mut self, row: &[u8]) {
        if self.origins.is_some() {
            let columns = backend::columns(row);
            let [name, value] = columns.as_slice() else { return };
            let (name, value) = (name.to_vec(), value.to_vec());
            if self.link.params.get(&name) == Some(&value) {
                // The server's doing: from now on that is what those get who ask for nothing.
                self.link.base.set(&name, &value);
                self.start.set(&name, &value);
                let pool = Arc::clone(self.loan.pool());
                pool.learn_base(self.link);
            }
            return;
        }
        for (pin, held) in ASKED.into_iter().zip(backend::columns(row)) {
            if held == b"f" {
                self.pins = self.pins.without(pin);
            }
        }
    }

    /// The client is between two pieces of work: takes along what it has set.
    pub(super) fn pack(&mut self) {
        self.variants.clear();
        self.former.clear();
        self.origins = None;
        self.link.kept.clone_from(self.bag.ledger.kept());
        if self.link.params == self.start {
            return;
        }
        let pool = Arc::clone(self.loan.pool());
        let baseline = pool.baseline().unwrap_or_default();
        let now = self.link.params.clone();
        for (name, value) in now.beyond(&self.start) {
            match params::following(name) {
                Some(known) => {
                    let default = baseline.get(name) == Some(value) && self.bag.asked.get(known).is_none();
                    self.bag.wanted.set(known, (!default).then_some(value));
                }
                None if THE_SERVERS_OWN.contains(&name) || self.bag.ledger.kept().mentions(name) => {}
                // It has been reset.
                None if self.link.base.get(name) == Some(value) => {}
                None => self.pins.add(Pins::SETTING),
            }
        }
        pool.learn_canonical(&self.bag.wanted, &now);
        self.start = now;
    }
}

/// What asks the server which reasons for keeping a connection still hold, a column each. All names are qualified: the
/// client's `search_path` is in force.
fn question(user: &[u8]) -> Vec<u8> {
    let mut sql = b"SELECT NOT (pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' \
        AND session_user OPERATOR(pg_catalog.=) "
        .to_vec();
    params::put_literal(&mut sql, user);
    sql.extend_from_slice(
        b"::pg_catalog.name), \
        EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
        OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
        OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()), \
        EXISTS (SELECT FROM pg_catalog.pg_listening_channels()), \
        EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql), \
        EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable), \
        EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
        AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    );
    sql
}

/// What asks the server to what a `RESET` would set `names`: a change that it made itself is that.
fn origin(names: &[&str]) -> Vec<u8> {
    let mut sql =
        b"SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY ('{".to_vec();
    sql.extend_from_slice(names.join(",").as_bytes());
    sql.extend_from_slice(b"}')");
    sql
}

/// `pin = "refuse"`.
fn would_pin(pins: Pins) -> Fault {
    Fault::error(
        Blame::Client,
        sqlstate::FEATURE_NOT_SUPPORTED,
        "the statement needs an upstream connection of its own, which this database's clients may not keep",
    )
    .detail(format!("It leaves state in its session ({pins}), and pgferry runs with mode = \"transaction\", pin = \"refuse\"."))
    .hint("Leave no state behind (SET LOCAL, pg_advisory_xact_lock, ON COMMIT DROP), or set pin = \"auto\" or mode = \"session\".")
}

/// A sequence's state is asked for, and what the connection has is somebody else's.
fn sequence_elsewhere() -> Fault {
    Fault::error(
        Blame::Client,
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "lastval and currval are not known on the upstream connection that now serves this client",
    )
    .detail("In transaction mode its earlier transactions may have run on other connections.")
    .hint(SEQUENCE_HINT)
}

/// What helps those who miss a sequence's state.
pub(super) const SEQUENCE_HINT: &str =
    "pgferry runs with mode = \"transaction\": use RETURNING or nextval's own result, or mode = \"session\".";
