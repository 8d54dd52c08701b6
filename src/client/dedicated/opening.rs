//! The opening of a replication client's connection: the login upstream as the client asks for it.

use std::sync::Arc;
use std::time::Instant as StdInstant;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::auth::{Credential, Password};
use crate::client::Shared;
use crate::client::client_slots::PendingLogins;
use crate::client::login::{self, Dedicated, challenge};
use crate::client::presence::while_present;
use crate::config::{Auth, Settings};
use crate::error::ClientError;
use crate::net::Conn;
use crate::track::server_state::CloseMethod;
use crate::upstream::counters::Counters;
use crate::upstream::dial::{self, Login, NewConn};
use crate::upstream::limiter::SourceLimit;
use crate::upstream::login_slots::LoginSlot;
use crate::upstream::queue::pause_while_full;
use crate::upstream::server_conn::ServerConn;
use crate::upstream::server_side::Basis;
use crate::upstream::{CloseReason, DialError, PasswordPrompt, Secret, ServerSide};

/// The client's answer to a question of the server's: the password, or `None` where the client went away.
type Answer = Result<Option<Password>, ClientError>;

/// A login that the server's question may interrupt: it goes to the client, and the answer is tried again where the login's slot has
/// gone to others meanwhile.
pub(super) struct Opening<'a> {
    shared: &'a Shared,
    conn: &'a mut Conn,
    pending_logins: &'a PendingLogins,
    admitted: &'a Dedicated,
    settings: Arc<Settings>,
    source: Arc<SourceLimit>,
    deadline: Instant,
    /// The client's password, once it was asked for it.
    given: Option<Password>,
    attempt: Attempt,
}

/// The attempt that is under way, if one is, in a task of its own: it ends with a connection that has an owner, whatever becomes of the
/// login.
#[derive(Default)]
pub(super) struct Attempt(Option<JoinHandle<Result<NewConn, DialError>>>);

impl Attempt {
    /// Waits for its outcome. Cancel-safe.
    async fn outcome(&mut self) -> Result<NewConn, DialError> {
        let Some(task) = &mut self.0 else { return Err(DialError::ClientGone) };
        let outcome = task.await.unwrap_or_else(|error| Err(DialError::Protocol(error.to_string())));
        self.0 = None;
        outcome
    }

    /// Waits for the end of what is under way, and closes the connection that comes of it.
    pub(super) async fn give_up(mut self, counters: &Counters) {
        if let Ok(new_conn) = self.outcome().await {
            let how = ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
            counters.close(how, CloseReason::Login);
        }
    }
}

impl<'a> Opening<'a> {
    /// Prepares the login of a client that came at `connected_at`.
    pub(super) fn new(
        shared: &'a Shared,
        conn: &'a mut Conn,
        pending_logins: &'a PendingLogins,
        admitted: &'a Dedicated,
        connected_at: StdInstant,
    ) -> Self {
        let settings = shared.server_side.config.settings.load_full();
        let deadline = Instant::from_std(connected_at) + settings.timeouts.client_login_timeout;
        let source = shared.server_side.logins.limiter.of(conn.stream());
        let attempt = Attempt::default();
        Self { shared, conn, pending_logins, admitted, settings, source, deadline, given: None, attempt }
    }

    /// Returns what is under way where the login has been cut off.
    pub(super) fn into_attempt(self) -> Attempt {
        self.attempt
    }

    /// Logs in; `None` when the client went away.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) async fn run(&mut self) -> Result<Option<NewConn>, ClientError> {
        loop {
            let Some(slot) = self.slot().await? else { return Ok(None) };
            let (outcome, answer) = self.attempt(slot).await;
            let error = match outcome {
                Ok(new_conn) => return Ok(Some(new_conn)),
                Err(error) => error,
            };
            self.shared.counters().fail(&error.client_error());
            if error.is_clients() {
                self.source.count();
            }
            match (error, answer) {
                (_, Some(Err(client_error))) => return Err(client_error),
                (_, Some(Ok(None))) => return Ok(None),
                (DialError::Unanswered, _) => {}
                (error, _) if error.is_full() => {
                    self.shared.pools.server_is_full(None, &self.admitted.database, &error);
                    let pause = timeout_at(self.deadline, sleep(pause_while_full()));
                    let Some(paused) = while_present(self.conn, pause).await else { return Ok(None) };
                    paused.map_err(|_| error.client_error())?;
                }
                (error, _) if error.is_credential() && self.given.is_some() => {
                    self.shared.counters().wrong_passwords.add();
                    let Self { conn, pending_logins, source, deadline, .. } = self;
                    return challenge::delay_reply(conn, pending_logins, source, *deadline, error.client_error()).await;
                }
                (error, _) => return Err(error.client_error()),
            }
        }
    }

    /// Waits for a slot among those that log in; `None` when the client went away.
    async fn slot(&mut self) -> Result<Option<LoginSlot>, ClientError> {
        let turn = while_present(self.conn, self.source.turn(self.deadline)).await.transpose()?;
        // The next of the same source may wait for a slot once this one has it.
        let Some(_turn) = turn else { return Ok(None) };
        let slot = self.shared.server_side.logins.slots.take();
        login::in_time(self.deadline, self.settings.timeouts.client_login_timeout, slot).await.map(Some)
    }

    /// Tries to log in once. Returns the client's answer as well, where the server has asked for one.
    async fn attempt(&mut self, slot: LoginSlot) -> (Result<NewConn, DialError>, Option<Answer>) {
        let server_side = &self.shared.server_side;
        let (ask, asked) = PasswordPrompt::new(&server_side.logins.slots);
        let login = login_as_requested(server_side, self.admitted, self.secret(ask));
        // In a task of its own, so that the slot does not wait for the client.
        let task = tokio::spawn(dial(Arc::clone(server_side), Arc::clone(&self.settings), login, slot));
        self.attempt = Attempt(Some(task));
        // An attempt that asks nothing lets go of its end.
        let answer = match asked.await {
            Ok(reply) => {
                let limit = self.settings.timeouts.client_login_timeout;
                let answer = challenge::password(self.conn, self.pending_logins, self.deadline, limit).await;
                if let Ok(Some(password)) = &answer {
                    // An attempt that has ended meanwhile says so.
                    let _ = reply.send(password.clone());
                    self.given = Some(password.clone());
                }
                Some(answer)
            }
            Err(_) => None,
        };
        (self.attempt.outcome().await, answer)
    }

    /// The secret to log in with; only where the client is to be asked is `ask` part of it.
    fn secret(&self, ask: PasswordPrompt) -> Secret {
        match (&self.given, self.admitted.method) {
            (Some(password), _) => Secret::Known(Credential::Password(password.clone())),
            (None, Auth::PassThrough) => Secret::PasswordPrompt(ask),
            (None, _) => Secret::Fixed(self.admitted.credential.clone()),
        }
    }
}

/// Opens a connection by `login`, which has `slot` among those that log in.
async fn dial(
    server_side: Arc<ServerSide>,
    settings: Arc<Settings>,
    login: Login,
    slot: LoginSlot,
) -> Result<NewConn, DialError> {
    // A client that is asked for its password meanwhile has no more than a moment for that.
    let limit = settings.timeouts.server_connect_timeout;
    let ServerSide { counters, buffers, .. } = &*server_side;
    let outcome = dial::dial(&settings, login, counters, buffers, limit).await;
    outcome.map_err(|failed| {
        let error = failed.error.clone();
        // The client need not wait for that; the connection still counts as one that logs in.
        tokio::spawn(async move {
            failed.close(&server_side.counters).await;
            drop(slot);
        });
        error
    })
}

/// The login of a client as its startup packet asks for it.
fn login_as_requested(server_side: &ServerSide, admitted: &Dedicated, secret: Secret) -> Login {
    let (user, database) = (admitted.user.clone(), &*admitted.database);
    let Basis { birth, settings, upstream_target } = server_side.basis(database);
    let real = settings.real_database(database).to_vec();
    let others = admitted.startup.params.iter().filter(|(name, _)| **name != *b"user" && **name != *b"database");
    let others = others.map(|(name, value)| (name.to_vec(), value.to_vec()));
    let params = std::iter::once((b"database".to_vec(), real)).chain(others).collect();
    Login { birth, user, params, secret, upstream_target }
}
