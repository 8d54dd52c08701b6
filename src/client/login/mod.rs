//! The login of a client, by the rules.
//!
//! The rules (`[[rule]]`, or the one that `auth_type` stands for) say how a client logs in: `pass_through` asks the
//! upstream, `local` looks at what this machine knows, `stored` compares secrets. [`challenge`] does the asking.

pub(crate) mod challenge;
mod console;
mod local;
mod pass_through;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::Shared;
use super::cancel_key::CancelKey;
use super::client_slots::PendingLogins;
use super::greeting;
use super::presence::while_present;
use super::startup_cache::{ParsedStartup, Replication};
use crate::auth::{Check, Credential};
use crate::config::{Auth, ClientIdentity, Mode, Rule, Settings, Transport};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::tls::{self, CertificateOrigin};
use crate::net::{Conn, Peer, Stream};
use crate::track::parameter_cache::Greeting;
use crate::track::startup_settings::StartupSettings;
use crate::upstream::attempt::recheck;
use crate::upstream::limiter::{CheckTurn, SourceLimit, Turn};
use crate::upstream::quota::QuotaExceeded;
use crate::upstream::role_auth::{Freshness, PasswordChange};
use crate::upstream::slots::Slot;
use crate::upstream::{Pool, ServerSide};
use crate::wire::Startup;
pub(super) use console::authorize;
pub(crate) use console::{AdminRole, AdminUser};
use pass_through::PassThrough;

/// A client that may come in.
#[derive(Debug)]
pub(crate) enum AuthOutcome {
    /// To a session.
    Session(SessionStart),
    /// To a connection of its own: replication.
    Dedicated(Box<Dedicated>),
    /// To the console.
    Console(Box<AdminUser>),
}

/// Start of a session.
#[derive(Debug)]
pub(crate) struct SessionStart {
    /// Pool of its connections.
    pub pool: Arc<Pool>,
    /// The settings that it begins with.
    pub greeting: Arc<Greeting>,
    /// The mode in which it is served.
    pub mode: Mode,
    /// Other settings of its startup packet.
    pub settings: StartupSettings,
    /// Key that cancels its queries.
    pub secret: CancelKey,
    /// Its place among its user's clients, if these are limited.
    pub place: Option<Slot>,
}

/// Start of a dedicated connection.
#[derive(Debug)]
pub(crate) struct Dedicated {
    /// The client's startup packet.
    pub startup: Startup,
    /// The replication that it asks for.
    pub replication: Replication,
    /// Database as the client calls it.
    pub database: Vec<u8>,
    /// Its user.
    pub user: Vec<u8>,
    /// Method of the login; with pass-through the upstream asks the client for its password.
    pub method: Auth,
    /// Upstream credential, if its login has yielded one.
    pub credential: Option<Credential>,
    /// Key that cancels its queries.
    pub secret: CancelKey,
    /// The role of its client, as which it has its place among clients.
    pub client_user: Vec<u8>,
}

/// Decides whether a client may come in; `None` when it went away.
///
/// # Errors
/// What the client is told when it may not.
pub(crate) async fn log_in(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    pending_logins: &PendingLogins,
    parsed_startup: &ParsedStartup,
    settings: &Settings,
    connected_at: std::time::Instant,
) -> Result<Option<AuthOutcome>, ClientError> {
    let (database, user) = (parsed_startup.database(), parsed_startup.user());
    let Some(replication) = parsed_startup.replication else {
        return Err(no_such_replication(&parsed_startup.startup));
    };
    if shared.server_side.pauses.of(database).disabled {
        return Err(disabled(database));
    }
    let key = parsed_startup.pool_key(settings.forced_role(database));
    let deadline = Instant::from_std(connected_at) + settings.timeouts.client_login_timeout;
    let rule = match settings.auth.rules.first() {
        Some(first) if first.fits_all() && first.method != Auth::Reject => first,
        _ => rule_for(settings, &client_identity(conn.stream(), database, user))?,
    };
    let mut attempt = LoginAttempt { shared, conn, pending_logins, settings, deadline, rule, database, user };
    if replication != Replication::None {
        let dedicated = Box::pin(attempt.dedicated(&parsed_startup.startup, &key.user, replication)).await?;
        return Ok(dedicated.map(|dedicated| AuthOutcome::Dedicated(Box::new(dedicated))));
    }
    // A client that only connects leaves no pool behind.
    let password = match rule.method {
        Auth::PassThrough => PasswordChange::Unchanged,
        _ => match Box::pin(attempt.authenticate()).await? {
            AuthResult::Gone => return Ok(None),
            AuthResult::Given(given) => match Box::pin(attempt.credential(given, &key.user)).await {
                Some(credential) => shared.server_side.roles.auth(database, &key.user).learn(credential),
                None => PasswordChange::Unchanged,
            },
        },
    };
    let mut pool = shared.pools.get(&key);
    pool.touch(connected_at);
    let now = std::time::Instant::now();
    let known = pool.role_auth.freshness(settings.auth.auth_recheck, now);
    let entered = match rule.method {
        Auth::PassThrough => PassThrough { attempt: &mut attempt, pool: &pool, password_given: false }.run(known).await,
        _ => Box::pin(recheck_before_login(shared, &pool, settings, deadline, password)).await.map(|()| true),
    };
    if pool.role_auth.succession().is_some() {
        // The role has turned out to have another password, or to be another one.
        pool = shared.pools.get(&key);
    }
    if known == Freshness::Due
        && let Ok(true) = entered
    {
        // It asks nothing where this login has just been tried upstream.
        recheck_in_background(shared, &pool, settings, now);
    }
    // Only a client that has logged in takes a place that others need.
    let begun = match entered.and_then(|entered| entered.then(|| client_slot(shared, user)).transpose()) {
        Ok(Some(place)) => {
            greeting::greet(shared, &pool, parsed_startup, deadline).await.map(|told| Some((told, place)))
        }
        Ok(None) => Ok(None),
        Err(client_error) => Err(client_error),
    };
    let Ok(Some((greeting, place))) = begun else {
        shared.pools.forget(&pool);
        return begun.map(|_| None);
    };
    if settings.log.log_connections {
        attempt.log();
    }
    let mode = shared.settings_of(database).pool.pool_mode;
    if mode == Mode::Session {
        pool.let_return().await;
    }
    let secret = shared.sessions.secret(parsed_startup.startup.negotiated().0)?;
    let settings = parsed_startup.settings.clone();
    Ok(Some(AuthOutcome::Session(SessionStart { pool, greeting, mode, settings, secret, place })))
}

/// The place of a client among those of `user`, which it has logged in as; `None` where the settings do not limit these.
///
/// # Errors
/// When all are taken.
pub(super) fn client_slot(shared: &Shared, user: &[u8]) -> Result<Option<Slot>, ClientError> {
    let ServerSide { config, quotas, .. } = &*shared.server_side;
    quotas.client_slot(&config.settings, user).map_err(|QuotaExceeded| too_many(user, "max_user_client_connections"))
}

/// Error for a client of `user`, which has as many clients or connections as `setting` allows.
pub(super) fn too_many(user: &[u8], setting: &str) -> ClientError {
    let role = String::from_utf8_lossy(user);
    let message = format!("too many connections for role \"{role}\"");
    ClientError::fatal(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, message)
        .hint(format!("The setting is {setting} in [users.\"{role}\"]."))
}

/// Asks the upstream whether it lets the client in that pgferry itself has let in, where it last did so long ago, or where
/// the client has another password than before.
async fn recheck_before_login(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    settings: &Settings,
    deadline: Instant,
    password: PasswordChange,
) -> Result<(), ClientError> {
    let is_changed = password == PasswordChange::Changed;
    let is_needed = || {
        is_changed
            || pool.role_auth.freshness(settings.auth.auth_recheck, std::time::Instant::now()) == Freshness::Stale
    };
    if !is_needed() {
        return Ok(());
    }
    let rechecked = Box::pin(async {
        let _turn = pool.role_auth.turn().await;
        // Another client may have done it meanwhile.
        if is_needed() { recheck(pool, &shared.pools, password).await } else { Ok(()) }
    });
    in_time(deadline, settings.timeouts.client_login_timeout, rechecked).await?
}

/// Has the upstream asked in the background whether it still lets the user in, where that is due `now`.
fn recheck_in_background(shared: &Arc<Shared>, pool: &Arc<Pool>, settings: &Settings, now: std::time::Instant) {
    let limit = settings.auth.auth_recheck;
    if pool.role_auth.freshness(limit, now) == Freshness::Due && pool.role_auth.claim_recheck(limit) {
        let (pools, pool) = (Arc::clone(&shared.pools), Arc::clone(pool));
        // What came of it is seen by the next client.
        tokio::spawn(async move { recheck(&pool, &pools, PasswordChange::Unchanged).await });
    }
}

/// Does `work` until `deadline`, at which the login has taken `limit`.
///
/// # Errors
/// When it is not done by then.
pub(crate) async fn in_time<T>(
    deadline: Instant,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, ClientError> {
    timeout_at(deadline, work).await.map_err(|_| timed_out(limit))
}

/// Error for a client that takes too long.
#[must_use]
pub(crate) fn timed_out(limit: Duration) -> ClientError {
    ClientError::fatal(ErrorSource::Client, sqlstate::INVALID_AUTHORIZATION, "canceling authentication due to timeout")
        .detail(format!("The login took longer than {} s (client_login_timeout).", limit.as_secs_f32()))
}

/// Builds the client's identity, as the rules see it.
fn client_identity<'a>(stream: &Stream, database: &'a [u8], user: &'a [u8]) -> ClientIdentity<'a> {
    let (transport, address, ids) = match stream.peer() {
        Ok(Peer::Tcp(address)) => {
            let certificate = stream.tls().and_then(tls::TlsSession::own_certificate);
            // One that proves nothing makes TCP on this machine neither more nor less trustworthy.
            let is_proof = certificate.is_some_and(|shown| shown.origin == CertificateOrigin::Configured);
            let transport = if is_proof { Transport::Tls } else { Transport::Tcp };
            (transport, Some(address.ip()), None)
        }
        Ok(Peer::Unix { uid, gid, .. }) => {
            let transport = if stream.is_abstract() { Transport::Abstract } else { Transport::Unix };
            (transport, None, Some((uid, gid)))
        }
        // Gone already.
        Err(_) => (Transport::Tcp, None, None),
    };
    ClientIdentity { transport, address, ids, database, user }
}

/// Finds the rule that decides, unless it rejects.
fn rule_for<'a>(settings: &'a Settings, client_identity: &ClientIdentity<'_>) -> Result<&'a Rule, ClientError> {
    let refused = |why: &str| {
        let host = client_identity.address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
        let encryption = if client_identity.transport == Transport::Tls { "SSL encryption" } else { "no encryption" };
        let (user, database) =
            (String::from_utf8_lossy(client_identity.user), String::from_utf8_lossy(client_identity.database));
        ClientError::fatal(
            ErrorSource::Client,
            sqlstate::INVALID_AUTHORIZATION,
            format!("{why} host \"{host}\", user \"{user}\", database \"{database}\", {encryption}"),
        )
        .hint("The rules are the [[rule]] tables of pgferry's configuration; \"pgferry check --user\" explains them.")
    };
    match settings.rule(client_identity) {
        None => Err(refused("no [[rule]] for")),
        Some((_, rule)) if rule.method == Auth::Reject => Err(refused("a [[rule]] rejects connection for")),
        Some((_, rule)) => Ok(rule),
    }
}

fn disabled(database: &[u8]) -> ClientError {
    let message = format!("database \"{}\" is disabled", String::from_utf8_lossy(database));
    ClientError::fatal(ErrorSource::Limits, sqlstate::CANNOT_CONNECT_NOW, message)
        .hint("ENABLE at pgferry's console lets clients in again.")
}

fn no_such_replication(startup: &Startup) -> ClientError {
    let text = String::from_utf8_lossy(startup.get("replication").unwrap_or_default()).into_owned();
    ClientError::fatal(
        ErrorSource::Client,
        sqlstate::INVALID_PARAMETER,
        format!("invalid value for parameter \"replication\": \"{text}\""),
    )
    .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

/// Outcome of an authentication that was not refused.
enum AuthResult {
    /// The client went away.
    Gone,
    /// It may come in; and what it can log in upstream with, if the proof has shown that.
    Given(Option<Credential>),
}

/// One client's attempt to log in.
struct LoginAttempt<'a> {
    shared: &'a Arc<Shared>,
    conn: &'a mut Conn,
    /// List in which the client is waited for.
    pending_logins: &'a PendingLogins,
    settings: &'a Settings,
    deadline: Instant,
    rule: &'a Rule,
    database: &'a [u8],
    user: &'a [u8],
}

impl LoginAttempt<'_> {
    /// Admits a client that asks for `replication`, to log in upstream as `role`; `None` when it went away.
    async fn dedicated(
        &mut self,
        startup: &Startup,
        role: &[u8],
        replication: Replication,
    ) -> Result<Option<Dedicated>, ClientError> {
        let method = self.rule.method;
        let credential = match method {
            Auth::PassThrough => None,
            _ => match self.authenticate().await? {
                AuthResult::Gone => return Ok(None),
                AuthResult::Given(given) => self.credential(given, role).await,
            },
        };
        let secret = self.shared.sessions.secret(startup.negotiated().0)?;
        Ok(Some(Dedicated {
            startup: startup.clone(),
            replication,
            database: self.database.to_vec(),
            user: role.to_vec(),
            method,
            credential,
            secret,
            client_user: self.user.to_vec(),
        }))
    }

    /// Logs that the client has come in.
    fn log(&self) {
        info!(
            database = %String::from_utf8_lossy(self.database),
            user = %String::from_utf8_lossy(self.user),
            method = %self.rule.method,
            tls = self.conn.stream().tls().map(tls::TlsSession::describe),
            "client logged in"
        );
    }

    /// Authenticates the client by a method other than pass-through.
    async fn authenticate(&mut self) -> Result<AuthResult, ClientError> {
        match self.rule.method {
            Auth::Scram | Auth::Md5 | Auth::Password => Box::pin(self.stored()).await,
            _ => self.local().await.map(|()| AuthResult::Given(None)),
        }
    }

    /// Returns the credential to log in upstream with as `role`: the one that the client's proof has `given`, which is good for its own
    /// user only, or else a stored one.
    async fn credential(&self, given: Option<Credential>, role: &[u8]) -> Option<Credential> {
        match given.filter(|_| role == self.user) {
            Some(own) => Some(own),
            None => self.shared.client_auth.load_full().secrets.credential(role).await,
        }
    }

    /// The attempts of where the client comes from.
    fn source(&self) -> Arc<SourceLimit> {
        self.shared.server_side.logins.limiter.of(self.conn.stream())
    }

    /// Waits for the client's turn to be tried upstream; `None` when it goes away.
    async fn turn<'s>(&mut self, source: &'s SourceLimit) -> Result<Option<Turn<'s>>, ClientError> {
        while_present(self.conn, source.turn(self.deadline)).await.transpose()
    }

    /// Waits for the turn to check the client's answer here; `None` when it goes away.
    async fn turn_to_check<'s>(
        &mut self,
        check: Check,
        source: &'s SourceLimit,
    ) -> Result<Option<CheckTurn<'s>>, ClientError> {
        while_present(self.conn, source.turn_to_check(check, self.deadline)).await.transpose()
    }

    /// Does `work`, which waits for others; `None` when the client goes away.
    async fn or_disconnected<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, ClientError> {
        let done = while_present(self.conn, timeout_at(self.deadline, work)).await;
        done.transpose().map_err(|_| timed_out(self.settings.timeouts.client_login_timeout))
    }

    /// Holds back the reply to a wrong answer: the longer, the more of them came from there.
    ///
    /// # Errors
    /// Always: `reply`.
    async fn delay_reply<T>(&mut self, source: &SourceLimit, reply: ClientError) -> Result<T, ClientError> {
        self.shared.counters().wrong_passwords.add();
        challenge::delay_reply(self.conn, self.pending_logins, source, self.deadline, reply).await
    }

    fn shown_user(&self) -> String {
        String::from_utf8_lossy(self.user).into_owned()
    }
}
