//! What is sent in front of a client's first message to make the connection fit for the client.
//!
//! Besides what it does, its answer proves that the connection was alive: while it has not come, the server has not come
//! to the client's message either. And if any of it fails, the server discards what follows up to the next `Sync`
//! (`exec_parse_message` and others in `src/backend/tcop/postgres.c`), so that nothing of the client's runs in a session
//! that is not its own: that is why it is said in the extended protocol. What it sets is committed before the client's
//! message, which may fail.

use std::borrow::Cow;
use std::time::Instant;

use crate::config::Reset;
use crate::error::sqlstate::QUERY_CANCELED;
use crate::track::function_plans;
use crate::track::keeping_reset::KeepingReset;
use crate::track::parameter_cache::ParameterCache;
use crate::track::params;
use crate::track::plan_settings::{DISCARD_PLANS, PlannedUnder};
use crate::track::reset_statements::ResetStatements;
use crate::track::sequences::Sequences;
use crate::track::server_state::{ResetCommits, ServerState, UsedBy};
use crate::track::session_code::Reach;
use crate::track::setting_overrides::SettingOverrides;
use crate::track::statements::{self, StatementCache};
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{ClientState, Request, ServerParams};
use crate::wire::frontend;

/// Statement that makes a session forget the last values of its sequences.
const RESET_SEQUENCES: &[u8] = b"DISCARD SEQUENCES";

/// `DISCARD ALL` in the extended protocol, and a `Flush`: what most short connections need.
const RESET_MESSAGES: &[u8] =
    b"P\0\0\0\x13\0DISCARD ALL\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0H\0\0\0\x04";

/// Requests in [`RESET_MESSAGES`].
const RESET_REQUESTS: &[Request] = &[Request::Parse, Request::Bind, Request::Execute, Request::Flush];

/// Extent of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetPolicy {
    /// Everything, by `DISCARD ALL` or a reset that keeps pgferry's own prepared statements.
    All,
    /// The state of sequences: nothing else was seen to be left.
    Sequences,
    /// Nothing.
    Nothing,
}

impl ResetPolicy {
    /// Returns the reset that `reset` demands where `server` changes hands at `now`.
    #[must_use]
    pub fn of(reset: Reset, server: &ServerState, now: Instant) -> Self {
        let reach = match reset {
            Reset::Always => Reach::Anything,
            Reset::Auto => server.code.reach(now),
            Reset::OnChange => Reach::Nothing,
            Reset::Never => return Self::Nothing,
        };
        match reach {
            Reach::Anything => Self::All,
            Reach::Sequences => Self::Sequences,
            Reach::Nothing if server.sequences == Sequences::GaveValues => Self::Sequences,
            Reach::Nothing => Self::Nothing,
        }
    }
}

/// Moment at which the client's first messages may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proceed {
    /// Together with the preparation.
    Together,
    /// Once it has been answered: the server may refuse a setting, or has to say how it spells it.
    After,
}

/// Fate of the plans in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plans {
    Kept,
    /// The server makes them anew, and reads texts anew for that.
    Discarded {
        /// Numbers of the statements that are closed, since they would mean something else.
        closes: Vec<u64>,
    },
}

/// Contents of a preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing: the connection is known to be alive, and as the client expects it.
    Nothing,
    /// A `Sync`, to see whether the connection is alive.
    Probe,
    /// Statements, of which the first `resets` requests reset the session, and those from number `renews` on prepare statements
    /// anew.
    Statements { resets: usize, renews: usize },
}

/// Knowledge of whether a connection is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It has been used just now.
    Known,
    /// It may have ended without a sign of it so far, as `pg_terminate_backend` does.
    Unknown,
}

/// A connection and the client that it is given to.
#[derive(Clone, Copy, Debug)]
struct Handover<'h> {
    server: &'h ServerState,
    client: &'h ClientState,
    /// The client's number.
    id: u64,
    parameters: &'h ParameterCache,
}

impl Handover<'_> {
    /// Returns as much of `policy` as is needed, given the clients that have used the connection.
    fn needed(self, policy: ResetPolicy) -> ResetPolicy {
        let used = self.server.used;
        match policy {
            ResetPolicy::All if used.is_others_than(self.id) => ResetPolicy::All,
            // Numbers that a sequence has given in advance (`CACHE`) are not its next ones any more, perhaps.
            ResetPolicy::All | ResetPolicy::Sequences if !used.is_continued_by(self.id, self.client.work) => {
                ResetPolicy::Sequences
            }
            _ => ResetPolicy::Nothing,
        }
    }

    /// Returns whether the client has used the connection before, and no other client has.
    fn is_own(self) -> bool {
        self.server.used != UsedBy::Nothing && !self.server.used.is_foreign_to(self.id)
    }

    /// Returns the `SET`s of what the server reports that make the session the client's, once what `policy` says is removed.
    fn following_settings(self, policy: ResetPolicy) -> Vec<Vec<u8>> {
        let Self { server, client, .. } = self;
        let is_reset = policy == ResetPolicy::All;
        let have = if is_reset { &server.base } else { &server.params };
        // What a client was told last is what it wants.
        if !is_reset && have.is(&client.view) && (self.is_own() || client.wanted == client.asked) {
            return Vec::new();
        }
        let baseline = self.parameters.baseline().unwrap_or_default();
        let mut following = params::differences(have, &client.wanted, &baseline);
        if is_reset || !self.is_own() {
            following.extend(said_again(have, server, client, &baseline));
        }
        following
    }
}

/// Messages in front of a client's first one.
#[derive(Debug)]
pub struct Preparation {
    messages: Cow<'static, [u8]>,
    requests: Cow<'static, [Request]>,
    kind: Kind,
    proceed: Proceed,
    policy: ResetPolicy,
    /// Fate of functions' plans, but for what a reset does.
    plans: Plans,
    /// The reset, where it keeps statements.
    keeping: Option<KeepingReset>,
}

impl Preparation {
    /// Prepares `server`, which `client` (number `id`) is given. `policy` says what is removed of what another client may
    /// have left.
    #[must_use]
    pub fn new(
        server: &ServerState,
        client: &ClientState,
        id: u64,
        (parameters, statements): (&ParameterCache, &StatementCache),
        policy: ResetPolicy,
        liveness: Liveness,
    ) -> Self {
        let handover = Handover { server, client, id, parameters };
        let policy = handover.needed(policy);
        let mut preparation = Self {
            messages: Cow::Borrowed(&[]),
            requests: Cow::Borrowed(&[]),
            kind: Kind::Nothing,
            proceed: Proceed::Together,
            policy,
            plans: Plans::Kept,
            keeping: None,
        };
        if policy == ResetPolicy::All {
            preparation.keeping = KeepingReset::before(server, client, &statements.keeps);
        }
        preparation.put_reset();
        let resets = preparation.answers();
        preparation.put_closes();
        preparation.put_settings(handover);
        let renews = preparation.answers();
        preparation.put_renewals();
        let discards_all = policy == ResetPolicy::All && preparation.keeping.is_none();
        if discards_all && server.reset_commits == ResetCommits::WithSync {
            preparation.proceed = Proceed::After;
        }
        if !preparation.requests.is_empty() {
            preparation.kind = Kind::Statements { resets, renews };
            preparation.end_statements();
        } else if liveness == Liveness::Unknown {
            preparation.kind = Kind::Probe;
            preparation.messages = Cow::Borrowed(frontend::SYNC_MESSAGE);
            preparation.requests = Cow::Borrowed(&[Request::Sync]);
        }
        preparation
    }

    fn put_reset(&mut self) {
        match self.policy {
            ResetPolicy::All if self.keeping.is_some() => self.put_keeping_reset(),
            ResetPolicy::All => {
                self.messages = Cow::Borrowed(RESET_MESSAGES);
                self.requests = Cow::Borrowed(RESET_REQUESTS);
            }
            ResetPolicy::Sequences => {
                // In a transaction that ends, for what the client says may have to be the first statement of one.
                for sql in [&b"BEGIN"[..], RESET_SEQUENCES, b"COMMIT"] {
                    self.put_statement(sql);
                }
            }
            ResetPolicy::Nothing => {}
        }
    }

    /// Sets what differs between the session and the client's, and has plans made anew that were made under other settings.
    fn put_settings(&mut self, handover: Handover<'_>) {
        let Handover { server, client, parameters, .. } = handover;
        let is_reset = self.policy == ResetPolicy::All;
        let is_own = handover.is_own();
        let following = handover.following_settings(self.policy);
        let nothing = SettingOverrides::default();
        let carried = client.settings.kept().difference(if is_reset { &nothing } else { &server.kept });
        let unknown = |(name, value): (&'static str, &[u8])| parameters.canonical(name, value).is_none();
        if !following.is_empty() && client.wanted.iter().any(unknown) {
            self.proceed = Proceed::After;
        }
        let planned_otherwise = !is_reset && !is_own && function_plans::are_outdated(server, client);
        if planned_otherwise {
            self.plans = Plans::Discarded { closes: server.prepared.changed_by_rereading().collect() };
        }
        self.put_closes_for_plans();
        if following.is_empty() && carried.is_empty() && !planned_otherwise {
            return;
        }
        // In a transaction of their own: an error of the client's must not take them back.
        self.put_statement(b"BEGIN");
        if planned_otherwise {
            self.put_statement(DISCARD_PLANS.as_bytes());
        }
        for sql in following.iter().chain(&carried) {
            self.put_statement(sql);
        }
        self.put_statement(b"COMMIT");
    }

    /// Ends messages that have statements, with the request that has them answered.
    fn end_statements(&mut self) {
        match self.proceed {
            Proceed::After => self.put_end(Request::Sync),
            Proceed::Together if self.requests.last() == Some(&Request::Flush) => {}
            Proceed::Together => self.put_end(Request::Flush),
        }
    }

    /// Number of answers that it gets.
    fn answers(&self) -> usize {
        self.requests.iter().filter(|request| **request != Request::Flush).count()
    }

    fn put_keeping_reset(&mut self) {
        let Some(reset) = &self.keeping else { return };
        let (parses, runs) = reset.put(self.messages.to_mut());
        let requests = self.requests.to_mut();
        requests.extend(std::iter::repeat_n(Request::Parse, parses));
        requests.extend(std::iter::repeat_n([Request::Bind, Request::Execute], runs).flatten());
    }

    fn put_closes(&mut self) {
        let Some(reset) = &self.keeping else { return };
        let closes = reset.put_closes(self.messages.to_mut());
        self.requests.to_mut().extend(std::iter::repeat_n(Request::Close, closes));
    }

    fn put_closes_for_plans(&mut self) {
        let Plans::Discarded { closes } = &self.plans else { return };
        for id in closes {
            frontend::put_close(self.messages.to_mut(), &format!("{}{id}", statements::PREFIX));
            self.requests.to_mut().push(Request::Close);
        }
    }

    /// Prepares statements anew, with the client's settings, in a transaction that ends: they are not to hold locks.
    fn put_renewals(&mut self) {
        let Some((limit, statements)) = self.keeping.as_ref().and_then(KeepingReset::renews) else { return };
        let statements = statements.to_vec();
        self.put_statement(b"BEGIN");
        self.put_statement(limit);
        for statement in &statements {
            let body = statement.text.as_ref().map_or(&b"\0\0\0"[..], |text| &text.body);
            frontend::put_parse(self.messages.to_mut(), statement.name(), body);
            self.requests.to_mut().push(Request::Parse);
        }
        self.put_statement(b"COMMIT");
    }

    fn put_statement(&mut self, sql: &[u8]) {
        let out = self.messages.to_mut();
        frontend::put_parse(out, "", &[sql, b"\0\0\0"].concat());
        frontend::put_bind(out, "", "");
        frontend::put_execute(out, "");
        self.requests.to_mut().extend([Request::Parse, Request::Bind, Request::Execute]);
    }

    fn put_end(&mut self, request: Request) {
        if request == Request::Sync {
            frontend::put_sync(self.messages.to_mut());
        } else {
            frontend::put_flush(self.messages.to_mut());
        }
        self.requests.to_mut().push(request);
    }

    /// Its messages.
    #[must_use]
    pub fn messages(&self) -> &[u8] {
        &self.messages
    }

    /// Returns the requests of its messages.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Returns whether the client's messages may go with it.
    #[must_use]
    pub fn goes_together(&self) -> bool {
        self.proceed == Proceed::Together
    }

    /// Returns whether it only asks whether the connection is alive.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Probe
    }

    /// Returns whether it changes settings or makes the session as new.
    #[must_use]
    pub fn has_statements(&self) -> bool {
        matches!(self.kind, Kind::Statements { .. })
    }

    /// Returns whether an error means that the session can't be reset, rather than that the server refuses a setting of the
    /// client's: `left` answers were still to come.
    #[must_use]
    pub fn was_resetting(&self, left: usize) -> bool {
        let answered = self.answers() - left;
        matches!(self.kind, Kind::Statements { resets, .. } if answered < resets)
    }

    /// Notes an error with this SQLSTATE while `left` answers were still to come. Says whether it is no matter of the client's: its
    /// work goes to another connection.
    pub(super) fn failed(&self, left: usize, sqlstate: &[u8], statements: &StatementCache) -> bool {
        let answered = self.answers() - left;
        let Kind::Statements { renews, .. } = self.kind else { return false };
        // The time that the client before has allowed counts until it is set back, which takes a statement itself.
        let out_of_time = sqlstate == QUERY_CANCELED.as_bytes();
        let Some(reset) = &self.keeping else { return out_of_time || self.was_resetting(left) };
        if self.was_resetting(left) {
            statements.keeps.refused(sqlstate);
        } else if answered >= renews {
            reset.on_refused_renewal();
        } else {
            return out_of_time;
        }
        true
    }

    /// Notes in the state of `server` what is being sent, in front of messages of `client`; it runs ahead of the server.
    pub(super) fn apply(&self, server: &mut ServerState, client: &ClientState) {
        if self.has_statements() {
            server.unnamed = UnnamedStatement::Unknown;
        }
        if server.used == UsedBy::Nothing {
            server.code.is_as_new();
        }
        if let Plans::Discarded { closes } = &self.plans {
            server.planned = PlannedUnder::Nothing;
            for &id in closes {
                server.prepared.remove(id);
            }
        }
        match self.policy {
            ResetPolicy::All => match &self.keeping {
                Some(reset) => {
                    reset.apply(server);
                    server.reset_statements = ResetStatements::Prepared;
                }
                None => server.on_reset(),
            },
            ResetPolicy::Sequences => server.sequences = Sequences::Untouched,
            ResetPolicy::Nothing => {}
        }
        server.planned.runs_under(&client.view, client.settings.kept());
    }
}

/// The `SET`s of what a client has set to just what another one's startup packet asked for, which a session that has `have` has: it is
/// not to be taken for what is left where code has run `RESET`.
fn said_again<'p>(
    have: &'p ServerParams,
    server: &'p ServerState,
    client: &'p ClientState,
    baseline: &'p ServerParams,
) -> impl Iterator<Item = Vec<u8>> + 'p {
    params::FOLLOWING.into_iter().filter_map(|name| {
        let wanted = client.wanted.get(name)?;
        let own = client.asked.get(name).or_else(|| baseline.get(name.as_bytes()));
        let is_there = |params: &ServerParams| params.get(name.as_bytes()) == Some(wanted);
        (own != Some(wanted) && is_there(have) && is_there(&server.base)).then(|| params::set_to(name, wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::server_state::RESET;
    use crate::track::{RequestedParams, ServerParams};

    fn server(version: &str) -> ServerState {
        let mut params = ServerParams::default();
        params.set(b"server_version", version.as_bytes());
        params.set(b"TimeZone", b"UTC");
        ServerState::new(params, RequestedParams::default())
    }

    #[test]
    fn a_reset_is_what_it_would_be_written_as() {
        let mut written = Vec::new();
        frontend::put_parse(&mut written, "", &[RESET, b"\0\0\0"].concat());
        frontend::put_bind(&mut written, "", "");
        frontend::put_execute(&mut written, "");
        frontend::put_flush(&mut written);
        assert_eq!(RESET_MESSAGES, written);
    }

    #[test]
    fn nothing_is_sent_where_nothing_differs() {
        let server = server("15.1");
        let parameters = ParameterCache::default();
        parameters.learn_baseline(&mut server.params.clone(), &RequestedParams::default());
        let client = ClientState::new(RequestedParams::default(), server.params.clone());
        let idle = Preparation::new(
            &server,
            &client,
            1,
            (&parameters, &StatementCache::default()),
            ResetPolicy::All,
            Liveness::Known,
        );
        assert!(idle.requests().is_empty() && idle.messages().is_empty());
        let probe = Preparation::new(
            &server,
            &client,
            1,
            (&parameters, &StatementCache::default()),
            ResetPolicy::All,
            Liveness::Unknown,
        );
        assert_eq!((probe.requests(), probe.is_probe()), (&[Request::Sync][..], true));
    }

    #[test]
    fn a_reset_comes_first_and_an_error_tells_which_part_failed() {
        let mut server = server("15.1");
        let parameters = ParameterCache::default();
        parameters.learn_baseline(&mut server.params.clone(), &RequestedParams::default());
        server.used = UsedBy::Nothing.and(7, 1);
        let mut wanted = RequestedParams::default();
        wanted.set("application_name", Some(b"me"));
        server.params.set(b"application_name", b"");
        server.base.set(b"application_name", b"");
        let mut view = server.params.clone();
        view.set(b"application_name", b"me");
        let client = ClientState::new(wanted, view);
        let preparation = Preparation::new(
            &server,
            &client,
            1,
            (&parameters, &StatementCache::default()),
            ResetPolicy::All,
            Liveness::Known,
        );
        // DISCARD ALL and a Flush; BEGIN, SET, COMMIT and a Flush.
        assert_eq!(preparation.requests().len(), 4 * 3 + 2);
        assert!(preparation.was_resetting(12) && preparation.was_resetting(10) && !preparation.was_resetting(9));
        let own = Preparation::new(
            &server,
            &client,
            7,
            (&parameters, &StatementCache::default()),
            ResetPolicy::All,
            Liveness::Known,
        );
        assert_eq!(own.requests().len(), 3 * 3 + 1, "its own state is not reset");
    }
}
