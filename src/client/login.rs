//! Who comes in, and the welcome.

use std::future::Future;
use std::time::Duration;

use nix::unistd::{Uid, User};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::Shared;
use super::checkout;
use crate::auth::{Credential, Password};
use crate::config::{Auth, PeerRule, Settings, value};
use crate::error::{Blame, Fault, sqlstate};
use crate::net::{Conn, Peer, RecvError};
use crate::track::{Params, Wanted};
use crate::upstream::account::{Knowledge, attempt};
use crate::upstream::{Ask, DialError, Pool, PoolKey, Secret};
use crate::wire::{Startup, backend, frontend};

/// The longest password message (`PG_MAX_AUTH_TOKEN_LENGTH`); tokens of cloud providers take kilobytes.
const PASSWORD_LIMIT: usize = 65_535;

/// The first and the longest pause before another attempt while the upstream is down.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// A client that may come in.
#[derive(Debug)]
pub enum Admitted {
    /// To a session.
    Session(Session),
    /// To a connection of its own: replication.
    Dedicated(Dedicated),
}

/// What a session begins with.
#[derive(Debug)]
pub struct Session {
    /// Where its connections come from.
    pub pool: Arc<Pool>,
    /// The settings it asked for, as the server spells them where that is known.
    pub wanted: Wanted,
    /// The reported settings that it was told.
    pub view: Params,
    /// The protocol version it speaks.
    pub version: u32,
}

/// What a dedicated connection begins with.
#[derive(Debug)]
pub struct Dedicated {
    /// The client's startup packet.
    pub startup: Startup,
    /// Who it is.
    pub user: Vec<u8>,
}

/// Decides whether a client may come in; `None` when it went away.
///
/// # Errors
/// What the client is told when it may not.
pub async fn log_in(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    startup: Startup,
    settings: &Settings,
) -> Result<Option<Admitted>, Fault> {
    let user = startup.get("user").unwrap_or_default().to_vec();
    let database = startup.get("database").map_or_else(|| user.clone(), <[u8]>::to_vec);
    let deadline = Instant::now() + settings.login_timeout;
    if is_replication(&startup)? {
        local_rules(conn, settings, &user).await?;
        return Ok(Some(Admitted::Dedicated(Dedicated { startup, user })));
    }
    let (wanted, extra) = Wanted::split(&startup);
    let pool = shared.registry.pool(&PoolKey { database, user, extra });
    pool.touch();
    let login = Login { shared, conn, pool: &pool, settings, deadline };
    let welcome = match login.authenticate().await {
        Ok(true) => checkout::welcome(shared, &pool, wanted, deadline).await.map(Some),
        Ok(false) => Ok(None),
        Err(fault) => Err(fault),
    };
    let Ok(Some((wanted, view))) = welcome else {
        shared.registry.forget(&pool);
        return welcome.map(|_| None);
    };
    if settings.log_connections {
        let key = &pool.key;
        info!(database = %String::from_utf8_lossy(&key.database), user = %String::from_utf8_lossy(&key.user), "client logged in");
    }
    let (version, _) = startup.negotiated();
    Ok(Some(Admitted::Session(Session { pool, wanted, view, version })))
}

/// What a client is told that takes too long.
#[must_use]
pub fn timed_out(limit: Duration) -> Fault {
    Fault::fatal(Blame::Client, sqlstate::INVALID_AUTHORIZATION, "canceling authentication due to timeout")
        .detail(format!("The login took longer than {} s (login_timeout).", limit.as_secs_f32()))
}

/// Whether the startup packet asks for replication, as PostgreSQL reads it.
fn is_replication(startup: &Startup) -> Result<bool, Fault> {
    let Some(text) = startup.get("replication") else { return Ok(false) };
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let is_start_of = |word: &str, least: usize| text.len() >= least && word.starts_with(text.as_str());
    if text == "database" || text == "1" || is_start_of("true", 1) || is_start_of("yes", 1) || text == "on" {
        return Ok(true);
    }
    if text == "0" || is_start_of("false", 1) || is_start_of("no", 1) || is_start_of("off", 2) {
        return Ok(false);
    }
    Err(Fault::fatal(
        Blame::Client,
        sqlstate::INVALID_PARAMETER,
        format!("invalid value for parameter \"replication\": \"{text}\""),
    )
    .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
}

/// One client's login.
struct Login<'a> {
    shared: &'a Arc<Shared>,
    conn: &'a mut Conn,
    pool: &'a Arc<Pool>,
    settings: &'a Settings,
    deadline: Instant,
}

impl Login<'_> {
    /// `false` when the client went away.
    async fn authenticate(mut self) -> Result<bool, Fault> {
        match self.settings.auth {
            Auth::PassThrough => self.pass_through().await,
            Auth::Peer | Auth::Trust => local_rules(self.conn, self.settings, &self.pool.key.user).await.map(|()| true),
        }
    }

    /// The upstream decides: by what it is known to do, or by trying.
    async fn pass_through(&mut self) -> Result<bool, Fault> {
        let account = Arc::clone(&self.pool.account);
        if account.knowledge() == Knowledge::Unknown {
            let turn = timeout_at(self.deadline, account.turn()).await;
            let turn = turn.map_err(|_| timed_out(self.settings.login_timeout))?;
            if account.knowledge() == Knowledge::Unknown {
                return self.first_contact(turn).await;
            }
        }
        if account.knowledge() == Knowledge::Open {
            return Ok(true);
        }
        let Some(password) = self.ask().await? else { return Ok(false) };
        self.check(password).await
    }

    /// Compares a password with what is known, or tries it upstream.
    async fn check(&mut self, password: Password) -> Result<bool, Fault> {
        let account = Arc::clone(&self.pool.account);
        let registry = &self.shared.registry;
        if account.matches(registry, &password) {
            return Ok(true);
        }
        // Whoever waited for a turn looks again: somebody may have tried the same password meanwhile.
        let _turn =
            timeout_at(self.deadline, account.turn()).await.map_err(|_| timed_out(self.settings.login_timeout))?;
        if account.matches(registry, &password) {
            return Ok(true);
        }
        if let Some(refusal) = account.refusal(registry, &password) {
            return Err(refusal);
        }
        self.pace().await?;
        self.until_up(|| attempt(self.pool, registry, Secret::Known(Credential::Password(password.clone()))))
            .await
            .map(|()| true)
    }

    /// Nobody knows this user: lets the upstream decide whether it wants a password, and asks the client only then.
    async fn first_contact(&mut self, turn: tokio::sync::MutexGuard<'_, ()>) -> Result<bool, Fault> {
        self.pace().await?;
        let mut retry = Retry::until(self.deadline);
        loop {
            let (ask, asked) = Ask::new();
            let attempt = attempt(self.pool, &self.shared.registry, Secret::Ask(ask));
            // An attempt that ends without asking lets go of its end.
            let Ok(answer) = asked.await else {
                match attempt.await {
                    Ok(()) => return Ok(true),
                    Err(error) => retry.after(error).await?,
                }
                continue;
            };
            // The others may ask their clients while this one thinks.
            self.pool.account.asks();
            drop(turn);
            let Some(password) = self.ask().await? else { return Ok(false) };
            // Nobody listens any more if the upstream has lost patience; the outcome says so.
            let _ = answer.send(password.clone());
            return match attempt.await {
                Ok(()) => Ok(true),
                Err(error) if error.may_pass() => self.check(password).await,
                Err(error) => Err(error.fault()),
            };
        }
    }

    /// Keeps to the rate at which passwords may be tried upstream.
    async fn pace(&self) -> Result<(), Fault> {
        let patience = self.deadline.saturating_duration_since(Instant::now());
        let pause = self.pool.account.may_try(&self.shared.registry, patience)?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Tries again while the upstream is down and the client's time is not up.
    async fn until_up<F: Future<Output = Result<(), DialError>>>(&self, attempt: impl Fn() -> F) -> Result<(), Fault> {
        let mut retry = Retry::until(self.deadline);
        loop {
            match attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn ask(&mut self) -> Result<Option<Password>, Fault> {
        ask_password(self.conn, self.deadline, self.settings.login_timeout).await
    }
}

/// The pauses between attempts while the upstream is down.
struct Retry {
    pause: Duration,
    deadline: Instant,
}

impl Retry {
    fn until(deadline: Instant) -> Self {
        Self { pause: PAUSES.0, deadline }
    }

    /// Waits for the next attempt, or gives up: when waiting does not help against `error`, or the time is up.
    async fn after(&mut self, error: DialError) -> Result<(), Fault> {
        if !error.may_pass() || Instant::now() + self.pause >= self.deadline {
            return Err(error.fault());
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

/// Asks the client for its password, in clear text; `None` when it goes away, as libpq does to ask its user.
///
/// # Errors
/// When the connection is not local, the client takes too long or answers with something else.
pub async fn ask_password(conn: &mut Conn, deadline: Instant, limit: Duration) -> Result<Option<Password>, Fault> {
    if let Ok(Peer::Tcp(address)) = conn.stream().peer()
        && !value::is_loopback(address.ip())
    {
        return Err(Fault::fatal(
            Blame::Client,
            sqlstate::INVALID_AUTHORIZATION,
            "password authentication over an unencrypted network connection is refused",
        )
        .detail("pass-through login needs the password in clear text.")
        .hint("Connect through the unix socket or over loopback."));
    }
    backend::put_cleartext_request(&mut conn.output);
    let exchange = async {
        conn.flush().await?;
        let frame = conn.peek_frame(PASSWORD_LIMIT).await?;
        let answer = match (frame.tag, frontend::password(frame.body())) {
            (frontend::PASSWORD, Some([])) => {
                Err(Fault::fatal(Blame::Client, sqlstate::INVALID_PASSWORD, "empty password returned by client"))
            }
            (frontend::PASSWORD, Some(password)) => Ok(Password::new(password.to_vec())),
            (frontend::PASSWORD, None) => {
                Err(Fault::fatal(Blame::Client, sqlstate::PROTOCOL_VIOLATION, "invalid password packet size"))
            }
            (tag, _) => Err(Fault::fatal(
                Blame::Client,
                sqlstate::PROTOCOL_VIOLATION,
                format!("expected password response, got message type {tag}"),
            )),
        };
        let size = frame.bytes.len();
        conn.consume(size);
        Ok::<_, RecvError>(answer)
    };
    match timeout_at(deadline, exchange).await {
        Err(_) => Err(timed_out(limit)),
        Ok(Err(RecvError::Length(bad))) => {
            Err(Fault::fatal(Blame::Client, sqlstate::PROTOCOL_VIOLATION, bad.to_string()))
        }
        Ok(Err(_)) => Ok(None),
        Ok(Ok(answer)) => answer.map(Some),
    }
}

/// `auth = "trust"` and `"peer"`: whether this machine's rules let the client be `role`, and whether there is a
/// credential for it. With pass-through there is nothing to check.
async fn local_rules(conn: &Conn, settings: &Settings, role: &[u8]) -> Result<(), Fault> {
    let shown = String::from_utf8_lossy(role).into_owned();
    if settings.auth == Auth::PassThrough {
        return Ok(());
    }
    let Ok(Peer::Unix { uid, gid }) = conn.stream().peer() else {
        return Err(Fault::fatal(
            Blame::Client,
            sqlstate::INVALID_AUTHORIZATION,
            format!("{} authentication works on unix sockets only", settings.auth),
        ));
    };
    if settings.auth == Auth::Peer && !peer_may_be(&settings.peer, uid, gid, &shown).await {
        return Err(Fault::fatal(
            Blame::Client,
            sqlstate::INVALID_AUTHORIZATION,
            format!("Peer authentication failed for user \"{shown}\""),
        )
        .detail(format!("The client runs as uid {uid}, gid {gid}."))
        .hint("The rules are the [[peer]] tables of pgferry's configuration."));
    }
    match &settings.upstream.user {
        Some(user) if user.as_bytes() != role => Err(Fault::fatal(
            Blame::Client,
            sqlstate::INVALID_AUTHORIZATION,
            format!("there is no upstream credential for user \"{shown}\""),
        )
        .hint(format!(
            "With auth = \"{}\" clients connect as the user of the upstream URL: \"{user}\".",
            settings.auth
        ))),
        _ => Ok(()),
    }
}

async fn peer_may_be(rules: &[PeerRule], uid: u32, gid: u32, role: &str) -> bool {
    let needs_name = rules.iter().any(|rule| rule.user.is_some() || rule.roles.is_empty());
    let name = if needs_name {
        // The name service may go to the network.
        let found = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
        found.ok().and_then(Result::ok).flatten().map(|user| user.name)
    } else {
        None
    };
    rules.iter().any(|rule| {
        rule.uid.is_none_or(|wanted| wanted == uid)
            && rule.gid.is_none_or(|wanted| wanted == gid)
            && rule.user.as_ref().is_none_or(|wanted| Some(wanted) == name.as_ref())
            && match rule.roles.as_slice() {
                [] => name.as_deref() == Some(role),
                roles => roles.iter().any(|allowed| allowed == "*" || allowed == role),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        let ask = |value: &str| {
            let params = vec![(b"replication".to_vec(), value.as_bytes().to_vec())];
            is_replication(&Startup { params, ..Startup::default() })
        };
        for value in ["database", "true", "on", "yes", "1", "t", "TRUE"] {
            assert_eq!(ask(value), Ok(true), "{value}");
        }
        for value in ["false", "off", "no", "0", "f", ""] {
            assert_eq!(ask(value), Ok(false), "{value}");
        }
        for value in ["o", "2", "maybe", "databases"] {
            assert!(ask(value).is_err(), "{value}");
        }
    }

    #[tokio::test]
    async fn peer_rules() {
        let rules = PeerRule::parse_list("uid=1000 roles=app,reports; gid=33 roles=*; uid=0 gid=0").expect("good");
        assert!(peer_may_be(&rules, 1000, 5, "app").await);
        assert!(!peer_may_be(&rules, 1000, 5, "root").await);
        assert!(peer_may_be(&rules, 7, 33, "anybody").await);
        assert!(!peer_may_be(&rules, 7, 34, "anybody").await);
        assert!(peer_may_be(&rules, 0, 0, "root").await, "no roles: the role named like the user");
        assert!(!peer_may_be(&rules, 0, 0, "app").await);
    }
}
