//! A reset that does what `DISCARD ALL` does and keeps the statements that pgferry has prepared on the connection.
//!
//! `DISCARD ALL` (`DiscardAll` in `src/backend/commands/discard.c`) is these statements, `DEALLOCATE ALL` and `DISCARD PLANS`.
//! In place of those two the server is asked whether the statements on the connection are those of the books: code inside the
//! database may have prepared others by SQL, or freed some of them; then the reset fails. Statements that were prepared
//! while code may have changed what their names mean are closed, or prepared anew by a session that is as new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client_state::ClientState;
use super::server_state::ServerState;
use super::statements::{self, PREFIX, Standing, Statement};
use crate::wire::frontend;

/// The statements in their order. What is left of a transaction's properties by a default must not make it wait, so that its
/// isolation level is said.
const STATEMENTS: [&str; 9] = [
    "BEGIN ISOLATION LEVEL READ COMMITTED",
    "CLOSE ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "UNLISTEN *",
    CHECK,
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
    "COMMIT",
];

/// Releases advisory locks, and fails if there are other prepared statements than `$1` that were prepared by the protocol, as
/// SQL's `PREPARE` does not.
const CHECK: &str = "SELECT pg_catalog.pg_advisory_unlock_all(), \
    CASE WHEN pg_catalog.sum(CASE WHEN from_sql THEN 1000000 ELSE 1 END) OPERATOR(pg_catalog.=) $1::pg_catalog.int8 THEN 0 \
    ELSE ('pgferry: not its own prepared statements: ' OPERATOR(pg_catalog.||) pg_catalog.count(*)::pg_catalog.text)\
    ::pg_catalog.int4 END FROM pg_catalog.pg_prepared_statements";

/// The time that preparing a statement anew may wait for a lock: it is not known whether the client wants it now.
const LOCK_TIMEOUT: &[u8] = b"SET LOCAL lock_timeout = 10";

/// How many statements are closed or prepared anew at a time. Where there are more, all are dropped.
const MAX_DOUBTFUL: usize = 32;

/// Whether a connection has the statements of such a reset prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetStatements {
    /// It has not.
    #[default]
    Absent,
    /// It has.
    Prepared,
}

impl ResetStatements {
    /// Number of statements.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Prepared => STATEMENTS.len(),
        }
    }
}

/// Whether resets of a pool's connections may keep their statements.
#[derive(Debug, Default)]
pub struct KeepsStatements {
    refused: AtomicBool,
}

impl KeepsStatements {
    /// Notes that the server has refused such a reset with this SQLSTATE. Where that will come again, since code makes or frees
    /// prepared statements, or the role may not call a function, none is tried any more.
    pub fn refused(&self, sqlstate: &[u8]) {
        if matches!(sqlstate, b"22P02" | b"26000" | b"42501") {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    fn may(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }
}

/// Such a reset of one connection.
#[derive(Debug)]
pub struct KeepingReset {
    /// Number of statements that the connection has.
    expected: usize,
    statements: ResetStatements,
    /// Numbers of those that are closed.
    closes: Vec<u64>,
    /// Those among them that are prepared anew.
    renews: Vec<Arc<Statement>>,
}

impl KeepingReset {
    /// That of a connection which `client` is given, if it has statements that are worth it.
    #[must_use]
    pub fn before(server: &ServerState, client: &ClientState, keeps: &KeepsStatements) -> Option<Self> {
        if server.prepared.is_empty() || !keeps.may() {
            return None;
        }
        let mut reset = Self::of(server)?;
        if !reset.closes.is_empty() {
            let closes = &reset.closes;
            reset.renews = client.renewable(|id| closes.contains(&id));
        }
        (reset.keeps_any(server) || !reset.renews.is_empty()).then_some(reset)
    }

    /// That of a connection which no client has, as a text, if it has statements that are worth it.
    #[must_use]
    pub fn alone(server: &ServerState) -> Option<(Self, Vec<u8>)> {
        let reset = Self::of(server).filter(|reset| reset.keeps_any(server))?;
        let mut sql = STATEMENTS.join(";").replace("$1", &reset.expected.to_string());
        for id in &reset.closes {
            sql.push_str(&format!(";DEALLOCATE {PREFIX}{id}"));
        }
        Some((reset, sql.into_bytes()))
    }

    fn of(server: &ServerState) -> Option<Self> {
        let closes: Vec<u64> = server.prepared.doubtful().take(MAX_DOUBTFUL + 1).collect();
        let expected = server.prepared.len() + server.reset_statements.count();
        let reset = Self { expected, statements: server.reset_statements, closes, renews: Vec::new() };
        (reset.closes.len() <= MAX_DOUBTFUL).then_some(reset)
    }

    fn keeps_any(&self, server: &ServerState) -> bool {
        server.prepared.len() > self.closes.len()
    }

    /// Appends the messages that reset, and returns by what requests: so many `Parse`s, and pairs of `Bind` and `Execute`.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> (usize, usize) {
        let mut expected = self.expected;
        let mut parses = 0;
        if self.statements == ResetStatements::Absent {
            for (nth, sql) in STATEMENTS.iter().enumerate() {
                frontend::put_parse(out, &name(nth), &[sql.as_bytes(), b"\0\0\0"].concat());
            }
            expected += STATEMENTS.len();
            parses = STATEMENTS.len();
        }
        for (nth, sql) in STATEMENTS.iter().enumerate() {
            if *sql == CHECK {
                frontend::put_bind_one(out, &name(nth), expected.to_string().as_bytes());
            } else {
                frontend::put_bind(out, "", &name(nth));
            }
            frontend::put_execute(out, "");
        }
        (parses, STATEMENTS.len())
    }

    /// Appends the messages that close statements, and returns how many.
    pub(crate) fn put_closes(&self, out: &mut Vec<u8>) -> usize {
        for id in &self.closes {
            frontend::put_close(out, &format!("{PREFIX}{id}"));
        }
        self.closes.len()
    }

    /// What keeps the preparing of statements anew from waiting, and the statements.
    pub(crate) fn renews(&self) -> Option<(&'static [u8], &[Arc<Statement>])> {
        (!self.renews.is_empty()).then_some((LOCK_TIMEOUT, &self.renews))
    }

    /// The server has refused to prepare one of them anew.
    pub(crate) fn on_refused_renewal(&self) {
        self.renews.iter().for_each(|statement| statement.is_not_renewed());
    }

    /// Notes in the connection's books that it is sent; they run ahead of the server.
    pub fn apply(&self, server: &mut ServerState) {
        for &id in &self.closes {
            server.prepared.remove(id);
        }
        for statement in &self.renews {
            server.prepared.add(statement, Standing::Trusted);
        }
        server.on_keeping_reset();
    }
}

fn name(nth: usize) -> String {
    format!("{PREFIX}reset_{nth}")
}

impl ClientState {
    /// The statements among those that `wanted` names by number which this client has a name for, and which mean what they
    /// always did when they are prepared in a session that is as new but for the client's settings.
    fn renewable(&self, wanted: impl Fn(u64) -> bool) -> Vec<Arc<Statement>> {
        let Some(parse_context) = self.current_parse_context() else { return Vec::new() };
        let mut found: Vec<Arc<Statement>> = Vec::new();
        for statement in self.names.statements().filter(|statement| wanted(statement.id)) {
            let plain = statement.text.as_ref().is_some_and(|text| !text.effects.names_statements);
            let same = statement.parse_context.as_ref() == Some(parse_context)
                && statements::other_settings(&statement.params, &self.view).next().is_none();
            let known = found.iter().any(|known| known.id == statement.id);
            if plain && same && !known && !statement.is_retired() && statement.is_renewable() {
                found.push(Arc::clone(statement));
            }
        }
        found
    }
}
