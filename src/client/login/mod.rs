//! Who comes in, and the welcome.
//!
//! The rules (`[[rule]]`, or the one that `auth_type` stands for) say how a client proves who it is: `pass_through` asks the
//! upstream, `local` looks at what this machine knows, `stored` compares secrets. [`ask`] does the asking.

pub mod ask;
mod console;
mod local;
mod pass_through;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::Shared;
use super::applicant::Applicant;
use super::cancel::Secret;
use super::greeting;
use super::places::Room;
use crate::auth::Credential;
use crate::config::{Auth, Caller, Rule, Settings, Transport};
use crate::error::{Blame, Fault, sqlstate};
use crate::net::{Conn, Peer, Stream};
use crate::track::parameter_cache::Greeting;
use crate::track::startup_settings::StartupSettings;
use crate::upstream::account::Freshness;
use crate::upstream::attempt::recheck;
use crate::upstream::limiter::{SourceLimit, Turn};
use crate::upstream::slots::Slot;
use crate::upstream::{Account, Pool, PoolKey};
use crate::wire::Startup;
pub(super) use console::admit;
pub use console::{Guest, Rights, is_console};
use pass_through::PassThrough;

/// A client that may come in.
#[derive(Debug)]
pub enum Admitted {
    /// To a session.
    Session(Session),
    /// To a connection of its own: replication.
    Dedicated(Box<Dedicated>),
    /// To the console.
    Console(Box<Guest>),
}

/// What a session begins with.
#[derive(Debug)]
pub struct Session {
    /// Where its connections come from.
    pub pool: Arc<Pool>,
    /// The settings that it begins with.
    pub greeting: Arc<Greeting>,
    /// What else its startup packet has set.
    pub settings: StartupSettings,
    /// What cancels its queries.
    pub secret: Secret,
    /// Its place among its user's clients, if these are limited.
    pub place: Option<Slot>,
}

/// What a dedicated connection begins with.
#[derive(Debug)]
pub struct Dedicated {
    /// The client's startup packet.
    pub startup: Startup,
    /// Who it is.
    pub user: Vec<u8>,
    /// How it got in; with pass-through the upstream asks it for its password.
    pub method: Auth,
    /// What it can log in upstream with, if its login has shown that.
    pub credential: Option<Credential>,
    /// What cancels its queries.
    pub secret: Secret,
}

/// Decides whether a client may come in; `None` when it went away.
///
/// # Errors
/// What the client is told when it may not.
pub async fn log_in(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    room: &Room,
    applicant: &Applicant,
    settings: &Settings,
    came: std::time::Instant,
) -> Result<Option<Admitted>, Fault> {
    let (database, user) = (applicant.database(), applicant.user());
    let Some(replication) = applicant.replication else { return Err(no_such_replication(&applicant.startup)) };
    if shared.registry.switches.of(database).disabled {
        let shown = String::from_utf8_lossy(database);
        return Err(Fault::fatal(
            Blame::Limits,
            sqlstate::CANNOT_CONNECT_NOW,
            format!("database \"{shown}\" is disabled"),
        )
        .hint("ENABLE at pgferry's console lets clients in again."));
    }
    let forced = settings.forced_role(database);
    let forced = forced.map(|role| PoolKey { user: role.as_bytes().to_vec(), ..applicant.key.clone() });
    let key = forced.as_ref().unwrap_or(&applicant.key);
    let deadline = Instant::from_std(came) + settings.client_login_timeout;
    let rule = match settings.rules.first() {
        Some(first) if first.fits_all() && first.method != Auth::Reject => first,
        _ => rule_for(settings, &caller(conn.stream(), database, user))?,
    };
    let mut entry = Entry { shared, conn, room, settings, deadline, rule, database, user };
    if replication {
        let credential = match rule.method {
            Auth::PassThrough => None,
            _ => match entry.prove().await? {
                Proof::Gone => return Ok(None),
                Proof::Given(credential) => credential,
            },
        };
        let method = rule.method;
        let credential = credential.filter(|_| key.user == *user);
        let secret = shared.sessions.secret(applicant.startup.negotiated().0)?;
        let (startup, user) = (applicant.startup.clone(), key.user.clone());
        let dedicated = Dedicated { startup, user, method, credential, secret };
        return Ok(Some(Admitted::Dedicated(Box::new(dedicated))));
    }
    let mut changed = false;
    // Whoever only knocks leaves no pool behind.
    if rule.method != Auth::PassThrough {
        match entry.prove().await? {
            Proof::Gone => return Ok(None),
            Proof::Given(None) => {}
            // What shows who somebody is does not log somebody else in.
            Proof::Given(Some(_)) if key.user != *user => {}
            Proof::Given(Some(credential)) => changed = entry.account().learn(credential),
        }
    }
    let Ok(place) = shared.registry.client_slot(user) else {
        let role = String::from_utf8_lossy(user);
        return Err(Fault::fatal(
            Blame::Limits,
            sqlstate::TOO_MANY_CONNECTIONS,
            format!("too many connections for role \"{role}\""),
        )
        .hint(format!("The setting is max_user_client_connections in [users.\"{role}\"].")));
    };
    let mut pool = shared.registry.pool(key);
    pool.touch(came);
    let entered = match rule.method {
        Auth::PassThrough => PassThrough { entry: &mut entry, pool: &pool, password_given: false }.run().await,
        _ => recheck_first(shared, &pool, settings, deadline, changed).await.map(|()| true),
    };
    if pool.account.succession().is_some() {
        // The role has turned out to have another password, or to be another one.
        pool = shared.registry.pool(key);
    }
    if let Ok(true) = entered {
        recheck_behind(shared, &pool, settings);
    }
    let greeting = match entered {
        Ok(true) => greeting::greet(shared, &pool, applicant, deadline).await.map(Some),
        Ok(false) => Ok(None),
        Err(fault) => Err(fault),
    };
    let Ok(Some(greeting)) = greeting else {
        shared.registry.forget(&pool);
        return greeting.map(|_| None);
    };
    if settings.log_connections {
        info!(
            database = %String::from_utf8_lossy(database),
            user = %String::from_utf8_lossy(user),
            method = %rule.method,
            tls = conn.stream().tls().map(crate::net::tls::Session::describe),
            "client logged in"
        );
    }
    let secret = shared.sessions.secret(applicant.startup.negotiated().0)?;
    let settings = applicant.settings.clone();
    Ok(Some(Admitted::Session(Session { pool, greeting, settings, secret, place })))
}

/// Where pgferry itself has let the client in: tries first whether the upstream does where it is long that it did, or where the
/// client has another password than before.
async fn recheck_first(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    settings: &Settings,
    deadline: Instant,
    changed: bool,
) -> Result<(), Fault> {
    let is_needed = || changed || pool.account.freshness(settings.auth_recheck) == Freshness::Stale;
    if !is_needed() {
        return Ok(());
    }
    let rechecked = Box::pin(async {
        let _turn = pool.account.turn().await;
        // Another client may have done it meanwhile.
        if is_needed() { recheck(pool, &shared.registry, changed).await } else { Ok(()) }
    });
    timeout_at(deadline, rechecked).await.map_err(|_| timed_out(settings.client_login_timeout))?
}

/// Has the upstream asked in the background whether it still lets the user in, where that is due.
fn recheck_behind(shared: &Arc<Shared>, pool: &Arc<Pool>, settings: &Settings) {
    let limit = settings.auth_recheck;
    if pool.account.freshness(limit) == Freshness::Due && pool.account.claim_recheck(limit) {
        let (registry, pool) = (Arc::clone(&shared.registry), Arc::clone(pool));
        // What came of it is seen by the next client.
        tokio::spawn(async move { recheck(&pool, &registry, false).await });
    }
}

/// What a client is told that takes too long.
#[must_use]
pub fn timed_out(limit: Duration) -> Fault {
    Fault::fatal(Blame::Client, sqlstate::INVALID_AUTHORIZATION, "canceling authentication due to timeout")
        .detail(format!("The login took longer than {} s (client_login_timeout).", limit.as_secs_f32()))
}

/// Who wants to come in, as the rules see it.
fn caller<'a>(stream: &Stream, database: &'a [u8], user: &'a [u8]) -> Caller<'a> {
    let (transport, address, ids) = match stream.peer() {
        Ok(Peer::Tcp(address)) => {
            let transport = if stream.tls().is_some() { Transport::Tls } else { Transport::Tcp };
            (transport, Some(address.ip()), None)
        }
        Ok(Peer::Unix { uid, gid, .. }) => {
            let transport = if stream.is_abstract() { Transport::Abstract } else { Transport::Unix };
            (transport, None, Some((uid, gid)))
        }
        // Gone already; nobody is left to be let in.
        Err(_) => (Transport::Tcp, None, None),
    };
    Caller { transport, address, ids, database, user }
}

/// The rule that decides, unless it is that nobody comes in.
fn rule_for<'a>(settings: &'a Settings, caller: &Caller<'_>) -> Result<&'a Rule, Fault> {
    let refused = |why: &str| {
        let host = caller.address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
        let encryption = if caller.transport == Transport::Tls { "SSL encryption" } else { "no encryption" };
        let (user, database) = (String::from_utf8_lossy(caller.user), String::from_utf8_lossy(caller.database));
        Fault::fatal(
            Blame::Client,
            sqlstate::INVALID_AUTHORIZATION,
            format!("{why} host \"{host}\", user \"{user}\", database \"{database}\", {encryption}"),
        )
        .hint("The rules are the [[rule]] tables of pgferry's configuration; \"pgferry check --user\" explains them.")
    };
    match settings.rule(caller) {
        None => Err(refused("no [[rule]] for")),
        Some((_, rule)) if rule.method == Auth::Reject => Err(refused("a [[rule]] rejects connection for")),
        Some((_, rule)) => Ok(rule),
    }
}

/// Whether a startup packet asks for replication, as PostgreSQL reads it; `None` when PostgreSQL could not say.
pub(super) fn asks_for_replication(startup: &Startup) -> Option<bool> {
    let Some(text) = startup.get("replication") else { return Some(false) };
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let is_start_of = |word: &str, least: usize| text.len() >= least && word.starts_with(text.as_str());
    if text == "database" || text == "1" || is_start_of("true", 1) || is_start_of("yes", 1) || text == "on" {
        return Some(true);
    }
    if text == "0" || is_start_of("false", 1) || is_start_of("no", 1) || is_start_of("off", 2) {
        return Some(false);
    }
    None
}

fn no_such_replication(startup: &Startup) -> Fault {
    let text = String::from_utf8_lossy(startup.get("replication").unwrap_or_default()).into_owned();
    Fault::fatal(
        Blame::Client,
        sqlstate::INVALID_PARAMETER,
        format!("invalid value for parameter \"replication\": \"{text}\""),
    )
    .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

/// How a proof ended, other than with a refusal.
enum Proof {
    /// The client went away.
    Gone,
    /// It may come in; and what it can log in upstream with, if the proof has shown that.
    Given(Option<Credential>),
}

/// One client at the door.
struct Entry<'a> {
    shared: &'a Arc<Shared>,
    conn: &'a mut Conn,
    /// Where the client is waited for.
    room: &'a Room,
    settings: &'a Settings,
    deadline: Instant,
    rule: &'a Rule,
    database: &'a [u8],
    user: &'a [u8],
}

impl Entry<'_> {
    /// Lets the client prove who it is, by a method other than pass-through.
    async fn prove(&mut self) -> Result<Proof, Fault> {
        match self.rule.method {
            Auth::Scram | Auth::Md5 | Auth::Password => Box::pin(self.stored()).await,
            _ => self.local().await.map(|()| Proof::Given(None)),
        }
    }

    /// The attempts of where the client comes from.
    fn source(&self) -> Arc<SourceLimit> {
        self.shared.registry.limiter.of(self.conn.stream())
    }

    /// Waits for the client's turn to be tried upstream; `None` when it goes away.
    async fn turn<'s>(&mut self, source: &'s SourceLimit) -> Result<Option<Turn<'s>>, Fault> {
        tokio::select! {
            biased;
            // A client that does not wait takes no turn.
            () = ask::gone(self.conn) => Ok(None),
            turn = source.turn(self.deadline) => turn.map(Some),
        }
    }

    /// Does `work`, which waits for others; `None` when the client goes away.
    async fn unless_gone<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, Fault> {
        let work = tokio::select! {
            biased;
            () = ask::gone(self.conn) => return Ok(None),
            done = timeout_at(self.deadline, work) => done,
        };
        work.map(Some).map_err(|_| timed_out(self.settings.client_login_timeout))
    }

    /// Holds back the reply to a wrong answer: the longer, the more of them came from there.
    ///
    /// # Errors
    /// Always: `reply`, or that too many are held back.
    async fn hold_back<T>(&mut self, source: &SourceLimit, reply: Fault) -> Result<T, Fault> {
        self.shared.registry.counters.wrong_passwords.add();
        ask::hold_back(self.conn, self.room, source, self.deadline, reply).await
    }

    fn account(&self) -> Arc<Account> {
        self.shared.registry.account(self.database, self.user)
    }

    fn shown_user(&self) -> String {
        String::from_utf8_lossy(self.user).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        let ask = |value: &str| {
            let params = vec![("replication".into(), value.to_owned().into())];
            asks_for_replication(&Startup { params, ..Startup::default() })
        };
        for value in ["database", "true", "on", "yes", "1", "t", "TRUE"] {
            assert_eq!(ask(value), Some(true), "{value}");
        }
        for value in ["false", "off", "no", "0", "f", ""] {
            assert_eq!(ask(value), Some(false), "{value}");
        }
        for value in ["o", "2", "maybe", "databases"] {
            assert_eq!(ask(value), None, "{value}");
        }
    }
}
