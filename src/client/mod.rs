//! One client from its first byte to its last, a file per phase.
//!
//! [`serve`] is the table of contents: [`handshake`] → [`login`] ([`greeting`]) → [`session`], which waits for work, gets a
//! connection, and moves bytes with [`relay`] until the connection can be given back ([`checkin`]).
//! Beside the phases:
//! - [`client_slots`]: the number of clients that there may be.
//! - [`client_auth`]: what clients meet first, with [`tls_offer`] and [`secrets`] (`salt_key` makes the salts of roles that have none);
//!   [`tls_incapable`] is about programs that TLS is not offered to.
//! - [`presence`]: the sign that a waiting client is gone.
//! - [`error_log`]: what the log tells of errors.
//! - [`sessions`]: all of them; [`session_handle`] is how others reach one.
//! - [`cancel`]: requests that reach a session by its [`cancel_key`], or by [`predecessor`] the process before this one.
//! - [`dedicated`]: what replication gets instead of a session.

pub(crate) mod cancel;
pub(crate) mod cancel_key;
pub(crate) mod checkin;
pub(crate) mod client_auth;
pub(crate) mod client_slots;
pub(crate) mod dedicated;
pub(crate) mod error_log;
pub(crate) mod greeting;
pub(crate) mod handshake;
pub(crate) mod login;
pub(crate) mod predecessor;
mod presence;
pub(crate) mod relay;
mod salt_key;
pub(crate) mod secrets;
pub(crate) mod session;
pub(crate) mod session_handle;
pub(crate) mod sessions;
pub(crate) mod startup_cache;
pub(crate) mod tls_incapable;
pub(crate) mod tls_offer;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};

use crate::config::Settings;
use crate::drain::{Drain, Phase};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::log::Queue;
use crate::net::Conn;
use crate::track::administration::RoleChange;
use crate::upstream::counters::Counters;
use crate::upstream::{Pools, ServerSide};
use client_auth::ClientAuth;
use client_slots::{ClientSlot, ClientSlots};
use error_log::{ErrorEvent, ErrorLog};
use handshake::Hello;
pub(crate) use login::{AdminRole, AdminUser};
use login::{AuthOutcome, SessionStart};
use predecessor::Predecessor;
use sessions::Sessions;
use startup_cache::{ParsedStartup, StartupCache};
use tls_incapable::TlsIncapable;

/// Longest time that a farewell may take to arrive.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time that a client takes to say what it wants once the process is to end: it may be a request to cancel what keeps the
/// process from ending.
const OPENING_GRACE: Duration = Duration::from_secs(1);

/// State that all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// State that pools, logins and sessions have in common: the settings in force, counters, limits.
    pub server_side: Arc<ServerSide>,
    /// All pools.
    pub pools: Arc<Pools>,
    /// All sessions, by their cancel keys.
    pub sessions: Sessions,
    /// The process that this one has replaced.
    pub predecessor: Option<Predecessor>,
    /// TLS, secrets and rules that apply to clients before they are let in.
    pub client_auth: ArcSwap<ClientAuth>,
    /// Programs that can't use TLS where they ask for it.
    pub tls_incapable: TlsIncapable,
    /// Cache of recently seen startup packets.
    pub startup_cache: StartupCache,
    /// The errors that clients were told lately.
    pub errors: ErrorLog,
    /// Phase of the process's life.
    pub drain: Drain,
    /// The log's queue.
    pub log: Arc<Queue>,
    /// Places for clients.
    pub client_slots: ClientSlots,
}

impl Shared {
    /// The settings in force.
    pub(crate) fn settings(&self) -> Guard<Arc<Settings>> {
        self.server_side.config.settings.load()
    }

    /// Roles on the server behind clients' `database` have changed, as `change` says.
    pub(crate) fn role_changed(&self, change: RoleChange, database: &[u8]) {
        if change != RoleChange::Unchanged {
            self.client_auth.load().secrets.forget_answers();
        }
        match change {
            RoleChange::Unchanged => {}
            RoleChange::Created => self.server_side.roles.forget_refusals(),
            RoleChange::Changed => self.pools.outdate_sessions(database),
        }
    }

    /// The settings in force for the clients of `database`.
    #[must_use]
    pub(crate) fn settings_of(&self, database: &[u8]) -> Arc<Settings> {
        self.server_side.config.settings_of(database)
    }

    /// Counters of the process.
    #[must_use]
    pub(crate) fn counters(&self) -> &Counters {
        &self.server_side.counters
    }
}

/// Serves one client to its end, unless it wants to speak with pgferry itself: then it is returned.
///
/// Not an `async fn`, for the sake of the memory that a client takes: see [`session::run`].
pub(crate) fn serve<'a>(
    shared: &'a Arc<Shared>,
    conn: &'a mut Conn,
) -> impl Future<Output = Option<Box<AdminUser>>> + 'a {
    let connected_at = Instant::now();
    let mut place = shared.client_slots.try_take();
    async move {
        // What is over when the session begins, or seldom, lies elsewhere: an idle client should cost little memory.
        let start = match Box::pin(admit(shared, conn, &mut place, connected_at)).await {
            Ok(start) => start,
            Err(admin_user) => {
                shared.client_slots.give_back(place);
                return admin_user;
            }
        };
        session::run(shared, conn, start, connected_at).await;
        shared.client_slots.give_back(place);
        None
    }
}

/// Greets a client that gets a session.
///
/// # Errors
/// Any other client, once it has been served, unless it wants to speak with pgferry itself.
async fn admit(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: &mut Option<ClientSlot>,
    connected_at: Instant,
) -> Result<SessionStart, Option<Box<AdminUser>>> {
    match greet(shared, conn, place, connected_at).await {
        Ok(Some(AuthOutcome::Session(start))) => {
            place.iter_mut().for_each(ClientSlot::logged_in);
            return Ok(start);
        }
        Ok(Some(AuthOutcome::Dedicated(outcome))) => {
            Box::pin(dedicated::run(shared, conn, place, *outcome, connected_at)).await;
        }
        Ok(Some(AuthOutcome::Console(admin_user))) => return Err(Some(admin_user)),
        Ok(None) => {}
        // While others need its place, a client that is refused is not waited for.
        Err(client_error) if shared.client_slots.are_taken() => refuse_at_once(shared, conn, &client_error),
        Err(client_error) => Box::pin(refuse(shared, conn, &client_error)).await,
    }
    Err(None)
}

/// From the first byte to the greeting; `None` when the client wanted something else or went away.
async fn greet(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: &mut Option<ClientSlot>,
    connected_at: Instant,
) -> Result<Option<AuthOutcome>, ClientError> {
    let settings = shared.server_side.config.settings.load_full();
    if place.is_none() {
        *place = Box::pin(shared.client_slots.take()).await;
    }
    let hello = meet(shared, conn, place.as_ref(), connected_at, settings.timeouts.client_login_timeout).await?;
    match hello {
        Hello::Gone => Ok(None),
        Hello::Cancel { pid, secret } => {
            Box::pin(carry_out_cancel(shared, conn, pid, secret)).await;
            Ok(None)
        }
        // An administrator gets in when no other client does.
        Hello::Startup(parsed_startup) if parsed_startup.console => Box::pin(login::authorize(
            shared,
            conn,
            shared.client_slots.pending_logins(place.as_ref()),
            &parsed_startup.startup,
            &settings,
        ))
        .await
        .map(|admin_user| admin_user.map(|admin_user| AuthOutcome::Console(Box::new(admin_user)))),
        Hello::Startup(_) if shared.drain.phase() >= Phase::Closed => Err(shutting_down()),
        Hello::Startup(_) if place.is_none() => Err(shared.client_slots.none_left()),
        Hello::Startup(parsed_startup) => {
            log_in(shared, conn, place.as_ref(), &parsed_startup, &settings, connected_at).await
        }
    }
}

/// Carries out a cancel request.
async fn carry_out_cancel(shared: &Arc<Shared>, conn: &mut Conn, pid: i32, secret: Vec<u8>) {
    let source = shared.server_side.logins.limiter.of(conn.stream());
    shared.cancel(&source, pid, &secret).await;
    // libpq takes an end of TLS without its goodbye for a cancel request that has failed.
    if conn.stream().tls().is_some() {
        farewell(conn).await;
    }
}

/// Logs a client in that may become a session's, unless the process is to end first. Apart from [`greet`], as [`meet`] is.
async fn log_in(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: Option<&ClientSlot>,
    parsed_startup: &ParsedStartup,
    settings: &Settings,
    connected_at: Instant,
) -> Result<Option<AuthOutcome>, ClientError> {
    let pending_logins = shared.client_slots.pending_logins(place);
    let mut login = pin!(login::log_in(shared, conn, pending_logins, parsed_startup, settings, connected_at));
    // Mostly it waits for nothing.
    if let Poll::Ready(outcome) = poll_once(login.as_mut()).await {
        return outcome;
    }
    Box::pin(unless_draining(shared, Duration::ZERO, login)).await
}

/// Does `work`, unless the process is to end and has been so for `grace`.
///
/// # Errors
/// What the client is told then.
async fn unless_draining<T>(
    shared: &Shared,
    grace: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let ends = async {
        shared.drain.reached(Phase::Draining).await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = ends => Err(shutting_down()),
    }
}

/// Receives what a client wants, within `limit` of when it connected. Apart from [`greet`], so that a login takes the room of this.
async fn meet(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: Option<&ClientSlot>,
    connected_at: Instant,
    limit: Duration,
) -> Result<Hello, ClientError> {
    let mut hello = pin!(handshake::handshake(conn, shared));
    // Mostly all that it needs is there, and no clock need be wound up.
    if let Poll::Ready(hello) = poll_once(hello.as_mut()).await {
        return hello;
    }
    let waited = shared.client_slots.pending_logins(place).wait(hello);
    let in_time = tokio::time::timeout_at((connected_at + limit).into(), waited);
    let hello =
        Box::pin(unless_draining(shared, OPENING_GRACE, async { in_time.await.map_err(|_| login::timed_out(limit)) }));
    hello.await?.ok_or_else(client_slots::evicted)?
}

/// Polls `future` once: where it needs not wait, no clock or watch has to be set for it.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Error for clients that are not let in because the process ends; the words are PostgreSQL's.
fn shutting_down() -> ClientError {
    let message = "the database system is shutting down";
    ClientError::fatal(ErrorSource::Client, sqlstate::CANNOT_CONNECT_NOW, message).detail("pgferry is shutting down.")
}

/// Tells a client why it is refused.
async fn refuse(shared: &Shared, conn: &mut Conn, client_error: &ClientError) {
    put_refusal(shared, conn, client_error);
    farewell(conn).await;
}

/// Tells a client why it is refused, as far as that takes no time.
fn refuse_at_once(shared: &Shared, conn: &mut Conn, client_error: &ClientError) {
    put_refusal(shared, conn, client_error);
    // A client that does not take it gets a plain close.
    let _ = conn.flush_now();
}

fn put_refusal(shared: &Shared, conn: &mut Conn, client_error: &ClientError) {
    shared.counters().refused.add();
    shared.counters().refusals.add(&client_error.code());
    shared.errors.note(ErrorEvent::Refused, None, client_error);
    client_error.put(&mut conn.output);
}

/// Closes the connection of a client that has said goodbye. Inside TLS, TLS's own goodbye comes behind PostgreSQL's: over a
/// unix socket it would fail (EPIPE), and some drivers would report that.
pub(crate) async fn close(conn: &mut Conn) {
    if conn.stream().tls().is_some() && !conn.stream().is_tcp() {
        Box::pin(farewell(conn)).await;
    }
}

/// Sends what is to be sent last, in a way that it arrives, and closes.
pub(crate) async fn farewell(conn: &mut Conn) {
    // A client that does not take its farewell gets a plain close.
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, conn.linger()).await;
}
