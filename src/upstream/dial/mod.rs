//! Opens one connection and logs in.
//!
//! `login` follows the manual's "Start-up" flow; messages are read whole, each bounded before it is read, and all together.
//! `incoming` reads them. `authentication` is its first stage, `scram` the part of that which takes several messages; `against` is for
//! tests and fuzzing.

pub(crate) mod against;
mod authentication;
mod error;
mod incoming;
mod login;
mod scram;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub(crate) use error::{DialError, DialFailure, Obstacle};

use super::close::{CloseReason, Closed};
use super::conn_info::Birth;
use super::counters::Counters;
use super::login_slots::LoginSlots;
use super::server_tls::{ServerTls, ServerTlsError};
use super::simple_query;
use super::target::{self, Address, TargetHost, TlsAttempt, UpstreamTarget};
use crate::auth::{Credential, Password};
use crate::config::{Settings, TargetSessionAttrs};
use crate::error::sqlstate;
use crate::net::{BufferPool, Conn, Stream};
use crate::track::ServerParams;
use crate::track::session_code::SessionCode;
use crate::wire::frontend;

/// A client that can be asked for its password, once.
#[derive(Debug)]
pub(crate) struct PasswordPrompt {
    question: oneshot::Sender<oneshot::Sender<Password>>,
    slots: Arc<LoginSlots>,
}

impl PasswordPrompt {
    /// The prompt, and where the client's side learns that it is asked: it answers through the sender it gets there.
    #[must_use]
    pub(crate) fn new(slots: &Arc<LoginSlots>) -> (Self, oneshot::Receiver<oneshot::Sender<Password>>) {
        let (question, asked) = oneshot::channel();
        (Self { question, slots: Arc::clone(slots) }, asked)
    }

    pub(super) async fn password(self) -> Result<Password, DialError> {
        let (answer, answered) = oneshot::channel();
        self.question.send(answer).map_err(|_| DialError::ClientGone)?;
        tokio::select! {
            biased;
            password = answered => password.map_err(|_| DialError::ClientGone),
            () = self.slots.patience_ends() => Err(DialError::Unanswered),
        }
    }
}

/// Source of the password if the upstream asks for one.
#[derive(Debug)]
pub(crate) enum Secret {
    /// There is none.
    None,
    /// It is known.
    Known(Credential),
    /// It is looked up where the settings say (`credentials`); where nothing is found, this is used.
    Fixed(Option<Credential>),
    /// A client is asked.
    PasswordPrompt(PasswordPrompt),
    /// It is being looked up.
    Sought,
    /// It has been used: a server asks once.
    Used,
}

impl Secret {
    /// The same once more, for another server; `None` where there is a client to ask, which can be done only once.
    fn spare(&self) -> Option<Self> {
        match self {
            Self::Known(credential) => Some(Self::Known(credential.clone())),
            Self::Fixed(other) => Some(Self::Fixed(other.clone())),
            Self::None => Some(Self::None),
            Self::PasswordPrompt(_) | Self::Sought | Self::Used => None,
        }
    }
}

/// A login: role, parameters, credentials.
#[derive(Debug)]
pub(crate) struct Login {
    /// The connection's identity.
    pub birth: Birth,
    /// The role.
    pub user: Vec<u8>,
    /// `database`, `options` and all else that goes into the startup packet.
    pub params: Vec<(Vec<u8>, Vec<u8>)>,
    /// The password's source.
    pub secret: Secret,
    /// The way there.
    pub upstream_target: Arc<UpstreamTarget>,
}

impl Login {
    fn database(&self) -> &[u8] {
        let named = self.params.iter().find(|(name, _)| name == b"database");
        named.map_or(&self.user, |(_, value)| value)
    }
}

/// An open connection that has just logged in.
#[derive(Debug)]
pub(crate) struct NewConn {
    /// Its identity.
    pub birth: Birth,
    /// The socket.
    pub conn: Conn,
    /// Remote address.
    pub address: Address,
    /// Settings that the server reported.
    pub params: ServerParams,
    /// Encryption, if it is encrypted: cancel requests are as well.
    pub server_tls: Option<Arc<ServerTls>>,
    /// The backend's process id.
    pub pid: i32,
    /// The server process that serves it, if that has been asked: behind a pooler another one.
    pub process: Option<i32>,
    /// The backend's cancel secret.
    pub secret: Box<[u8]>,
    /// Credential that was asked for and accepted; `None` when the server asked for nothing.
    pub credential: Option<Credential>,
    /// Knowledge of the code in its database, where it is to belong to a pool.
    pub code: Arc<SessionCode>,
}

/// Opens a connection and logs in, all within `limit`.
///
/// # Errors
/// As [`DialError`] lists; the caller makes use of it and then closes what is left.
pub(crate) async fn dial(
    settings: &Settings,
    login: Login,
    counters: &Counters,
    buffers: &Arc<BufferPool>,
    limit: Duration,
) -> Result<NewConn, DialFailure> {
    let upstream_target = Arc::clone(&login.upstream_target);
    let deadline = Instant::now() + limit;
    Dial {
        settings,
        counters,
        buffers,
        upstream_target: &upstream_target,
        endpoint: &upstream_target.endpoints[0],
        login,
        fixed: None,
        limit,
        deadline,
    }
    .connect_any_host()
    .await
}

/// The attempts that opening one connection may take.
struct Dial<'a> {
    settings: &'a Settings,
    counters: &'a Counters,
    buffers: &'a Arc<BufferPool>,
    upstream_target: &'a UpstreamTarget,
    endpoint: &'a TargetHost,
    login: Login,
    /// The looked-up password that was used last.
    fixed: Option<Password>,
    limit: Duration,
    deadline: Instant,
}

impl Dial<'_> {
    /// Tries one server after another until one will do, as libpq does: another one is tried where a server can't be
    /// reached, is starting or stopping, or does not satisfy `target_session_attrs`; each has the whole time.
    async fn connect_any_host(mut self) -> Result<NewConn, DialFailure> {
        let mut wanted = vec![self.upstream_target.target];
        if self.upstream_target.target == TargetSessionAttrs::PreferStandby {
            wanted.insert(0, TargetSessionAttrs::Standby);
        }
        let order = self.upstream_target.order(self.counters.opened.get());
        let only_one = wanted.len() == 1 && order.len() == 1;
        let mut tried = Vec::new();
        for target in wanted {
            for &at in &order {
                self.endpoint = &self.upstream_target.endpoints[at];
                self.deadline = Instant::now() + self.limit;
                let spare = self.login.secret.spare();
                let error = match self.connect_host(target).await {
                    Ok(new_conn) => {
                        self.upstream_target.is_good(at);
                        return Ok(new_conn);
                    }
                    Err(failed) if only_one || !failed.error.another_may_do() => return Err(failed),
                    Err(failed) => {
                        let error = failed.error.clone();
                        failed.close(self.counters).await;
                        error
                    }
                };
                if let Secret::Used = self.login.secret {
                    match spare {
                        Some(spare) => self.login.secret = spare,
                        // The client has answered, and the server is gone: its login tries again with that.
                        None => return Err(DialFailure::of(error)),
                    }
                }
                tried.push(error);
            }
        }
        Err(DialFailure::of(DialError::all_hosts_failed(&self.upstream_target.places(), &tried)))
    }

    /// Tries the server at hand, and whether it is what is wanted.
    async fn connect_host(&mut self, target: TargetSessionAttrs) -> Result<NewConn, DialFailure> {
        let mut new_conn = self.connect_addr().await?;
        match self.in_time(target_mismatch(&mut new_conn, target)).await.and_then(|asked| asked) {
            Ok(None) => Ok(new_conn),
            Ok(Some(why)) => {
                let error = DialError::Misfit { host: self.endpoint.host.to_string(), why };
                // A client is asked for its password once, not again for the next server.
                if let Some(credential) = new_conn.credential.take() {
                    self.login.secret = Secret::Known(credential);
                }
                Err(DialFailure::with(error, new_conn.conn))
            }
            Err(error) => Err(DialFailure::with(error, new_conn.conn)),
        }
    }

    /// Tries with and without encryption, as the target allows; and again when a password was refused that has changed
    /// meanwhile where it is looked up.
    async fn connect_addr(&mut self) -> Result<NewConn, DialFailure> {
        let failed = match self.with_or_without_encryption().await {
            Err(failed)
                if failed.error.is_credential()
                    && self.in_time(self.has_changed()).await.is_ok_and(|changed| changed) =>
            {
                failed
            }
            other => return other,
        };
        self.login.secret = Secret::Fixed(None);
        failed.close(self.counters).await;
        self.with_or_without_encryption().await
    }

    async fn with_or_without_encryption(&mut self) -> Result<NewConn, DialFailure> {
        let mut attempts = self.upstream_target.attempts(self.endpoint).iter().peekable();
        while let Some(&encrypt) = attempts.next() {
            match self.attempt(encrypt).await {
                Err((failed, TlsRetry::Yes)) if attempts.peek().is_some() => failed.close(self.counters).await,
                Err((failed, _)) => return Err(failed),
                Ok(new_conn) => return Ok(new_conn),
            }
        }
        Err(DialFailure::of(DialError::Protocol("there is no way to connect".into())))
    }

    async fn attempt(&mut self, encrypt: TlsAttempt) -> Result<NewConn, (DialFailure, TlsRetry)> {
        let connected = self.connect().await;
        let (mut stream, address) = connected.map_err(|error| (DialFailure::of(error), TlsRetry::No))?;
        self.counters.opened.add();
        // Options that can't be set cost comfort, not correctness.
        let _ =
            stream.set_upstream_options(self.settings.upstream.tcp_keepidle, self.settings.upstream.tcp_user_timeout);
        let encrypted = self.in_time(self.encrypt(&mut stream, encrypt)).await.and_then(|encrypted| encrypted);
        let server_tls = match encrypted {
            Ok(server_tls) => server_tls,
            Err(error) => {
                // No server is there that would close first.
                self.counters.close(Closed::by_us(&stream), CloseReason::Login);
                return Err((DialFailure::of(error), TlsRetry::Yes));
            }
        };
        let mut conn = Conn::new(stream, Arc::clone(self.buffers));
        let login = login::log_in(&mut conn, &mut self.login, self.endpoint, &mut self.fixed);
        let session = timeout_at(self.deadline, login).await;
        match session.unwrap_or_else(|_| Err(self.timed_out())) {
            Ok(session) => Ok(NewConn {
                birth: self.login.birth,
                conn,
                address,
                server_tls,
                params: session.params,
                pid: session.pid,
                process: None,
                secret: session.secret,
                credential: session.credential,
                code: Arc::default(),
            }),
            Err(error) => {
                if error.takes_no_connections() {
                    self.upstream_target.note_stopping(&address);
                }
                // Where the server has offered no encryption, the next attempt would be the same as this one.
                let another = match (encrypt, &server_tls) {
                    (TlsAttempt::IfOffered, None) => TlsRetry::No,
                    _ => self.may_another_help(&error),
                };
                Err((DialFailure::with(error, conn), another))
            }
        }
    }

    async fn connect(&self) -> Result<(Stream, Address), DialError> {
        if Instant::now() >= self.deadline {
            // The attempt before this one, with another encryption, has taken all of the time.
            return Err(self.timed_out());
        }
        let failed = |error: io::Error| {
            self.counters.fail_to_connect(&error);
            let obstacle = Obstacle::of(&error);
            DialError::Unreachable { host: self.endpoint.host.to_string(), why: describe(&error), obstacle }
        };
        let Ok(place) = timeout_at(self.deadline, self.endpoint.place()).await else {
            let limit = self.limit.as_secs_f32();
            return Err(self.unreachable(format!("no name server answered within {limit} s (server_connect_timeout)")));
        };
        let place = place.map_err(failed)?;
        self.in_time(place.connect()).await?.map_err(failed)
    }

    /// Returns whether a server that has refused us may let us in with encryption, or without: as long as it has not asked for a
    /// password, it is `pg_hba.conf` that has no line for us.
    fn may_another_help(&self, error: &DialError) -> TlsRetry {
        let not_asked = !matches!(self.login.secret, Secret::Sought | Secret::Used);
        match error {
            DialError::Refused(client_error, _)
                if not_asked && client_error.code() == sqlstate::INVALID_AUTHORIZATION =>
            {
                TlsRetry::Yes
            }
            DialError::Untrusted(_) => TlsRetry::Yes,
            _ => TlsRetry::No,
        }
    }

    async fn encrypt(&self, stream: &mut Stream, encrypt: TlsAttempt) -> Result<Option<Arc<ServerTls>>, DialError> {
        let server_tls = match (encrypt, &self.endpoint.server_tls) {
            (TlsAttempt::No, _) | (_, None) => return Ok(None),
            (_, Some(server_tls)) => server_tls,
        };
        match server_tls.start(stream).await {
            Ok(()) => Ok(Some(Arc::clone(server_tls))),
            Err(ServerTlsError::NotOffered) if encrypt == TlsAttempt::IfOffered => Ok(None),
            Err(ServerTlsError::NotOffered) => {
                Err(DialError::Untrusted("server does not support SSL, but SSL was required (sslmode)".into()))
            }
            Err(ServerTlsError::Untrusted(why)) => Err(DialError::Untrusted(why)),
            Err(ServerTlsError::Broke(why)) => Err(self.unreachable(why)),
        }
    }

    /// Returns whether the password that was refused is another one by now.
    async fn has_changed(&self) -> bool {
        let Some(refused) = &self.fixed else { return false };
        let credentials = &self.endpoint.credentials;
        let (database, user) = (self.login.database(), &self.login.user);
        credentials.refused(database, user, refused);
        matches!(credentials.password(database, user).await, Ok(Some(now)) if now != *refused)
    }

    /// A connection that is left behind at a timeout is closed as after any other failure: hence no time limit around
    /// all of this.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, DialError> {
        timeout_at(self.deadline, work).await.map_err(|_| self.timed_out())
    }

    fn timed_out(&self) -> DialError {
        let limit = self.limit.as_secs_f32();
        match self.login.secret {
            Secret::Sought => DialError::Credential(format!(
                "no password was found within {limit} s (server_connect_timeout): password_command has not ended, or the file has not \
                 been read"
            )),
            _ => self.unreachable(format!("timed out after {limit} s (server_connect_timeout)")),
        }
    }

    /// The error for a server that may have got something of the attempt.
    fn unreachable(&self, why: String) -> DialError {
        DialError::Unreachable { host: self.endpoint.host.to_string(), why, obstacle: Obstacle::Other }
    }
}

/// Returns why a server does not satisfy `target_session_attrs`, if so; servers before 14 don't report it, and are asked.
async fn target_mismatch(
    new_conn: &mut NewConn,
    target: TargetSessionAttrs,
) -> Result<Option<&'static str>, DialError> {
    if matches!(target, TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby) {
        return Ok(None);
    }
    if new_conn.params.get(b"in_hot_standby").is_some() {
        return Ok(target::target_mismatch(target, &new_conn.params));
    }
    let conn = &mut new_conn.conn;
    frontend::put_query(&mut conn.output, SERVER_ROLE_QUERY);
    let answer = simple_query::rows(conn).await?.map_err(DialError::Protocol)?;
    let is_on = |at: usize| answer.first().and_then(|row| row.get(at)).is_some_and(|value| value == b"t");
    Ok(target::mismatch_of(target, is_on(0), is_on(1)))
}

/// Asks whether the server is a standby, and whether sessions are read-only by default.
const SERVER_ROLE_QUERY: &[u8] =
    b"SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') \
OPERATOR(pg_catalog.=) 'on'";

/// Prospects of a retry with encryption instead of without, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsRetry {
    Yes,
    No,
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "Cannot assign requested address (no ephemeral port is free)".into(),
        _ => error.to_string(),
    }
}
