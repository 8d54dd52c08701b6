//! A reset that does what `DISCARD ALL` does and keeps the statements that pgferry has prepared on the connection.
//!
//! `DISCARD ALL` (`DiscardAll` in `src/backend/commands/discard.c`) is these statements, `DEALLOCATE ALL` and `DISCARD PLANS`.
//! In place of those two the server is asked whether the statements on the connection are those that its state has: code inside the
//! database may have prepared others by SQL, or freed some of them; then the reset fails. Statements that were prepared
//! while code may have changed what their names mean are closed, or prepared anew by a session that is as new. Plans are discarded
//! where one may have been made while code may have changed settings: a text is looked at anew whenever what it reads changes.

use std::sync::Arc;

use super::client_state::ClientState;
use super::function_plans;
use super::keeps_statements::KeepsStatements;
use super::plan_settings::DISCARD_PLANS;
use super::prepared_statement::Standing;
use super::reset_statements::ResetStatements;
use super::server_state::ServerState;
use super::statements::{self, PREFIX, Statement};
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

/// The place of [`CHECK`] among the statements.
const CHECK_AT: usize = 5;

/// `Bind` and `Execute` of the statements in front of [`CHECK`].
const MESSAGES_BEFORE: &[u8] = b"B\0\0\0\x1b\0pgferry_reset_0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0\
    B\0\0\0\x1b\0pgferry_reset_1\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0\
    B\0\0\0\x1b\0pgferry_reset_2\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0\
    B\0\0\0\x1b\0pgferry_reset_3\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0\
    B\0\0\0\x1b\0pgferry_reset_4\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";

/// The same of those behind it, but for the last.
const MESSAGES_AFTER: &[u8] = b"B\0\0\0\x1b\0pgferry_reset_6\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0\
    B\0\0\0\x1b\0pgferry_reset_7\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";

/// The same of the last.
const MESSAGES_OF_COMMIT: &[u8] = b"B\0\0\0\x1b\0pgferry_reset_8\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";

/// The time that preparing a statement anew may wait for a lock: it is not known whether the client wants it now.
const LOCK_TIMEOUT: &[u8] = b"SET LOCAL lock_timeout = 10";

/// Number of statements that are closed or prepared anew at a time. Where there are more, all are dropped.
const MAX_DOUBTFUL: usize = 32;

impl ResetStatements {
    /// Number of statements.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Prepared => STATEMENTS.len() + 1,
        }
    }
}

/// Treatment of the plans of statements that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plans {
    Kept,
    Discarded,
}

/// Such a reset of one connection.
#[derive(Debug)]
pub struct KeepingReset {
    /// Number of statements that the connection has.
    expected: usize,
    statements: ResetStatements,
    plans: Plans,
    /// Numbers of those that are closed.
    closes: Vec<u64>,
    /// Statements among them that are prepared anew.
    renews: Vec<Arc<Statement>>,
}

impl KeepingReset {
    /// Returns the reset of a connection which `client` is given, if it has statements that are worth it.
    #[must_use]
    pub fn before(server: &ServerState, client: &ClientState, keeps: &KeepsStatements) -> Option<Self> {
        if server.prepared.is_empty() || !keeps.may() {
            return None;
        }
        let planned_otherwise = function_plans::are_outdated(server, client);
        let mut reset = Self::of(server, if planned_otherwise { Plans::Discarded } else { Plans::Kept })?;
        if !reset.closes.is_empty() {
            let closes = &reset.closes;
            reset.renews = client.renewable(|id| closes.contains(&id));
        }
        (reset.keeps_any(server) || !reset.renews.is_empty()).then_some(reset)
    }

    /// Returns the reset of a connection which no client has, as a text, if it has statements that are worth it.
    #[must_use]
    pub fn alone(server: &ServerState) -> Option<(Self, Vec<u8>)> {
        let reset = Self::of(server, Plans::Kept).filter(|reset| reset.keeps_any(server))?;
        let mut sql = STATEMENTS.join(";").replace("$1", &reset.expected.to_string());
        if reset.plans == Plans::Discarded {
            sql.push(';');
            sql.push_str(DISCARD_PLANS);
        }
        for id in &reset.closes {
            sql.push_str(";DEALLOCATE ");
            sql.push_str(PREFIX);
            sql.push_str(&id.to_string());
        }
        Some((reset, sql.into_bytes()))
    }

    /// Returns that of a connection on which `plans` of functions are kept, or are not.
    fn of(server: &ServerState, plans: Plans) -> Option<Self> {
        let plans = if server.prepared.has_used() { Plans::Discarded } else { plans };
        let mut closes: Vec<u64> = server.prepared.doubtful().take(MAX_DOUBTFUL + 1).collect();
        if plans == Plans::Discarded {
            let others: Vec<u64> = server.prepared.changed_by_rereading().filter(|id| !closes.contains(id)).collect();
            closes.extend(others);
        }
        let expected = server.prepared.len() + server.reset_statements.count();
        let reset = Self { expected, statements: server.reset_statements, plans, closes, renews: Vec::new() };
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
            for (nth, sql) in STATEMENTS.iter().chain([&DISCARD_PLANS]).enumerate() {
                frontend::put_parse(out, &name(nth), &[sql.as_bytes(), b"\0\0\0"].concat());
            }
            parses = ResetStatements::Prepared.count();
            expected += parses;
        }
        out.extend_from_slice(MESSAGES_BEFORE);
        frontend::put_bind_one(out, &name(CHECK_AT), expected.to_string().as_bytes());
        frontend::put_execute(out, "");
        out.extend_from_slice(MESSAGES_AFTER);
        let mut runs = STATEMENTS.len();
        if self.plans == Plans::Discarded {
            // In that transaction: the client's first statement may have to be the first of one.
            frontend::put_bind(out, "", &name(STATEMENTS.len()));
            frontend::put_execute(out, "");
            runs += 1;
        }
        out.extend_from_slice(MESSAGES_OF_COMMIT);
        (parses, runs)
    }

    /// Appends the messages that close statements, and returns how many.
    pub(crate) fn put_closes(&self, out: &mut Vec<u8>) -> usize {
        for id in &self.closes {
            frontend::put_close(out, &format!("{PREFIX}{id}"));
        }
        self.closes.len()
    }

    /// Returns the statements that are prepared anew, and the text in front of them that keeps that from waiting.
    pub(crate) fn renews(&self) -> Option<(&'static [u8], &[Arc<Statement>])> {
        (!self.renews.is_empty()).then_some((LOCK_TIMEOUT, &self.renews))
    }

    /// The server has refused to prepare one of them anew.
    pub(crate) fn on_refused_renewal(&self) {
        self.renews.iter().for_each(|statement| statement.is_not_renewed());
    }

    /// Notes in the connection's state that it is sent; that runs ahead of the server.
    pub fn apply(&self, server: &mut ServerState) {
        for &id in &self.closes {
            server.prepared.remove(id);
        }
        if self.plans == Plans::Discarded {
            server.on_discard_plans();
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

#[cfg(test)]
mod tests {
    use super::super::client_statements::NamedStatement;
    use super::super::params::{RequestedParams, ServerParams};
    use super::super::server_state::Ran;
    use super::super::sql_effects::SqlEffects;
    use super::super::statements::{ParsedQuery, StatementCache};
    use super::*;

    fn statement(client: &mut ClientState, cache: &StatementCache, name: &str) -> Arc<Statement> {
        let params = client.view.clone();
        let parse_context = client.parse_context(&params, super::super::Pins::empty());
        let body = [name.as_bytes(), b"\0\0\0"].concat();
        let text = || Arc::new(ParsedQuery { body: body.clone().into(), effects: SqlEffects::default() });
        let statement = cache.intern(parse_context.as_ref(), &params, &body, text);
        client.names.set(name.as_bytes(), Some(NamedStatement::new(Arc::clone(&statement))));
        statement
    }

    #[test]
    fn messages_are_what_they_would_be_written_as() {
        let mut written = Vec::new();
        for (nth, sql) in STATEMENTS.iter().enumerate() {
            assert_eq!(nth == CHECK_AT, *sql == CHECK);
            if nth == CHECK_AT {
                frontend::put_bind_one(&mut written, &name(nth), b"12");
            } else {
                frontend::put_bind(&mut written, "", &name(nth));
            }
            frontend::put_execute(&mut written, "");
        }
        let reset = KeepingReset {
            expected: 12,
            statements: ResetStatements::Prepared,
            plans: Plans::Kept,
            closes: Vec::new(),
            renews: Vec::new(),
        };
        let mut put = Vec::new();
        assert_eq!((reset.put(&mut put), put), ((0, STATEMENTS.len()), written));
    }

    #[test]
    fn statements_are_kept_closed_or_prepared_anew() {
        let cache = StatementCache::default();
        let mut client = ClientState::new(RequestedParams::default(), ServerParams::default());
        let mut server = ServerState::default();
        let keeps = KeepsStatements::default();
        assert!(KeepingReset::before(&server, &client, &keeps).is_none(), "there is nothing to keep");
        let first = statement(&mut client, &cache, "first");
        let standing = server.standing_of(&first);
        server.prepared.add(&first, standing);
        server.ran = Ran::Something;
        let behind = statement(&mut client, &cache, "behind");
        let standing = server.standing_of(&behind);
        server.prepared.add(&behind, standing);
        assert!(KeepingReset::alone(&server).expect("one to keep").1.ends_with(b"COMMIT;DEALLOCATE pgferry_2"));

        let stranger = ClientState::new(RequestedParams::default(), ServerParams::default());
        let reset = KeepingReset::before(&server, &stranger, &keeps).expect("one to keep");
        assert_eq!((reset.closes.as_slice(), reset.renews.len()), (&[behind.id][..], 0));
        let reset = KeepingReset::before(&server, &client, &keeps).expect("both to keep");
        assert_eq!((reset.closes.as_slice(), reset.renews[0].id), (&[behind.id][..], behind.id));
        reset.apply(&mut server);
        assert_eq!((server.prepared.len(), server.ran), (2, Ran::Nothing));
        assert!(server.prepared.doubtful().next().is_none());

        server.ran = Ran::Something;
        assert!(server.may_have_other_settings(), "nothing is known of the code");
        server.prepared.use_under_unknown_settings(first.id);
        assert!(KeepingReset::alone(&server).expect("two to keep").1.ends_with(b"COMMIT;DISCARD PLANS"));
        KeepingReset::before(&server, &stranger, &keeps).expect("two to keep").apply(&mut server);
        assert!(!server.prepared.has_used() && server.prepared.standing(first.id) == Some(Standing::Trusted));

        keeps.refused(b"57014");
        assert!(KeepingReset::before(&server, &client, &keeps).is_some(), "that may not come again");
        keeps.refused(b"22P02");
        assert!(KeepingReset::before(&server, &client, &keeps).is_none());
    }

    #[test]
    fn one_that_could_not_be_prepared_anew_is_not_tried_again() {
        let cache = StatementCache::default();
        let mut client = ClientState::new(RequestedParams::default(), ServerParams::default());
        let (kept, behind) = (statement(&mut client, &cache, "kept"), statement(&mut client, &cache, "behind"));
        let mut server = ServerState::default();
        server.prepared.add(&kept, Standing::Trusted);
        server.prepared.add(&behind, Standing::Doubtful);
        let keeps = KeepsStatements::default();
        KeepingReset::before(&server, &client, &keeps).expect("one to keep").on_refused_renewal();
        assert!(KeepingReset::before(&server, &client, &keeps).expect("one to keep").renews.is_empty());
    }
}
