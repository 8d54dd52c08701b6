//! A client's session: it waits for work holding neither buffer nor connection, gets a connection for the work, and
//! gives it back. `acquire` gets it, `refuse` answers requests without one.

mod acquire;
mod end;
mod errors;
mod refuse;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::error_log::ErrorEvent;
use super::relay::{Pairing, max_text_bytes};
use super::session_handle::{SessionHandle, SessionTarget};
use super::sessions::{RegistrationGuard, SessionSpec};
use super::{FAREWELL_TIMEOUT, Shared, checkin, close, farewell, login};
use crate::config::{Mode, Settings};
use crate::drain::Phase;
use crate::machine::first_request::{FirstRequest, first_request};
use crate::machine::preparation::{Liveness, Preparation, ResetPolicy};
use crate::net::{Conn, RecvError};
use crate::track::params::startup_time;
use crate::track::{ClientState, ServerParams};
use crate::upstream::looped_clients::LoopedClient;
use crate::upstream::loops;
use crate::upstream::pool::{Recall, TentativeLease};
use crate::upstream::server_conn::RECENTLY_USED;
use crate::upstream::slots::Slot;
use crate::upstream::{Lease, Pool};
use crate::wire::backend;
use acquire::Acquired;
use end::{Progress, SessionEnd};
use errors::{cancelled, idle_for_too_long, lost};
pub(crate) use errors::{killed, shutdown};

/// The setting that bounds how long a session may be idle.
const IDLE_SESSION_TIMEOUT: &[u8] = b"idle_session_timeout";

/// Number of dead connections that one request may meet before its client is told.
const MAX_DEAD_CONNS: usize = 10;

/// Events of an idle client.
enum IdleEvent {
    /// It has sent something, or there may be something to see to.
    Received,
    Gone,
    /// Something is to become of the reserved connection.
    Recalled(Recall),
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    handle: Arc<SessionHandle>,
    conn: &'a mut Conn,
    pool: Arc<Pool>,
    /// Session that the client is to find on every connection.
    state: ClientState,
    /// The mode it came in with.
    mode: Mode,
    /// A connection that it has not used yet.
    tentative: Option<Box<TentativeLease>>,
    _place: Option<Slot>,
    /// Links to the backends that this client may itself be.
    _origins: Option<Box<[Arc<LoopedClient>]>>,
}

/// Runs a session from its greeting to its end.
///
/// Not an `async fn`, which would keep what it is called with beside what it makes of that, for as long as the client is
/// there.
pub(crate) fn run<'a>(
    shared: &'a Arc<Shared>,
    conn: &'a mut Conn,
    admitted: login::SessionStart,
    connected_at: Instant,
) -> impl Future<Output = ()> + 'a {
    let (mut session, registered) = Session::begin(shared, conn, admitted, connected_at);
    async move {
        if session.flush_greeting().await.is_err() {
            session.return_tentative_lease();
            return;
        }
        session.count_login();
        let end = session.serve().await;
        session.return_tentative_lease();
        drop(registered);
        let id = session.handle.id;
        if session.shared.settings().log.log_connections {
            tracing::info!(client = id, "client ended");
        }
        match end {
            SessionEnd::Quiet => return close(session.conn).await,
            SessionEnd::Told => {}
            SessionEnd::Tell(client_error) => {
                session.shared.errors.note(ErrorEvent::Ended, Some(id), &client_error);
                client_error.put(&mut session.conn.output);
            }
        }
        Box::pin(farewell(session.conn)).await;
    }
}

/// Notes the client with the backends that it may have come out of.
fn trace_origins(shared: &Shared, conn: &Conn, view: &ServerParams) -> Option<Box<[Arc<LoopedClient>]>> {
    let busy = || {
        let conn_infos = shared.pools.with_former().into_iter().flat_map(|pool| pool.conn_infos.all());
        conn_infos.filter(|conn_info| conn_info.client().is_some()).collect()
    };
    let name = view.get(b"application_name").unwrap_or_default();
    let may_be_remote = conn.stream().is_tcp() && shared.settings().listen.allow_remote;
    loops::trace(conn.stream(), name, &shared.server_side.local_backends, may_be_remote, busy)
}

impl<'a> Session<'a> {
    /// Gives the client its number and secret, and puts all that it must know into one write: it has not got a
    /// connection that it could wait for.
    fn begin(
        shared: &'a Arc<Shared>,
        conn: &'a mut Conn,
        admitted: login::SessionStart,
        connected_at: Instant,
    ) -> (Self, RegistrationGuard<'a>) {
        let login::SessionStart { pool, greeting, mode, settings, secret, place } = admitted;
        // Its backend's pid is a client's own in session mode: other sessions see it in pg_locks and pg_stat_activity.
        let tentative = if mode == Mode::Session { pool.reserve_idle(&greeting.wanted) } else { None };
        let backend = tentative.as_ref().map(TentativeLease::pid);
        let target = SessionTarget::Pool(Arc::clone(&pool));
        let registered = shared.sessions.register(SessionSpec {
            target,
            secret,
            backend,
            view: greeting.view.clone(),
            connected_at,
        });
        let handle = Arc::clone(&registered.handle);
        let out = &mut conn.output;
        // A `NegotiateProtocolVersion` may be there already.
        out.reserve_exact(greeting.messages.len() + 64);
        out.extend_from_slice(&greeting.messages);
        backend::put_key_data(out, handle.pid, &handle.secret);
        backend::put_ready(out, crate::track::transaction_block::IDLE);
        let state = ClientState::new(greeting.wanted.clone(), greeting.view.clone()).with_startup(settings);
        let origins = trace_origins(shared, conn, &greeting.view);
        let tentative = tentative.map(Box::new);
        (Self { shared, handle, conn, pool, state, mode, tentative, _place: place, _origins: origins }, registered)
    }

    fn count_login(&mut self) {
        let counters = self.shared.counters();
        counters.logins.add();
        counters.timings.login.observe(self.handle.connected_at.elapsed());
        // The login's time is not a query's.
        let _ = self.conn.take_traffic();
        self.shared.server_side.roles.note_login(&self.pool.stats);
    }

    async fn flush_greeting(&mut self) -> Result<(), RecvError> {
        if !self.conn.flush_now()? {
            Box::pin(timeout(FAREWELL_TIMEOUT, self.conn.flush())).await.map_err(|_| RecvError::Closed)??;
        }
        // Most clients get nothing as long again.
        self.conn.trim();
        Ok(())
    }

    /// The settings in force, but for the mode: a client keeps the one it came in with, since what it has done so far
    /// can't be followed in another one.
    fn settings(&self) -> Arc<Settings> {
        let now = self.shared.settings_of(&self.pool.key.database);
        if now.pool.pool_mode == self.mode {
            return now;
        }
        let mut own = (*now).clone();
        own.pool.pool_mode = self.mode;
        Arc::new(own)
    }

    async fn serve(&mut self) -> SessionEnd {
        loop {
            if let Err(end) = self.next_request().await {
                return end;
            }
            let settings = self.settings();
            // Boxed, so that an idle client costs little memory.
            if let Err(end) = Box::pin(self.work(&settings)).await {
                return end;
            }
        }
    }

    /// Waits until as much of a request is there as the relay needs to send something on, which stays unread: its
    /// header, or all of a message that must be looked at. Until then it needs no connection. Late copy messages and a
    /// `Flush` of nothing, which PostgreSQL ignores, are dropped.
    async fn next_request(&mut self) -> Result<(), SessionEnd> {
        loop {
            let limit = max_text_bytes(self.conn.input.capacity());
            match first_request(&mut self.conn.input, limit) {
                FirstRequest::Violation(client_error) => return Err(SessionEnd::Tell(client_error)),
                FirstRequest::Terminate => return Err(SessionEnd::Quiet),
                FirstRequest::Ignored(size) => Box::pin(self.ignore(size)).await?,
                FirstRequest::There => return Ok(()),
                FirstRequest::NeedMore => match self.wait_for_more().await? {
                    None => {}
                    Some(Recall::Needed) => self.return_tentative_lease(),
                    Some(Recall::Reset) => Box::pin(self.reset_tentative()).await,
                },
            }
        }
    }

    /// Drops the next `left` bytes. What has not come of them is waited for as any client that is idle.
    async fn ignore(&mut self, mut left: usize) -> Result<(), SessionEnd> {
        loop {
            let here = self.conn.input.unparsed().len().min(left);
            self.conn.consume(here);
            left -= here;
            if left == 0 {
                return Ok(());
            }
            match self.wait_for_more().await? {
                None => {}
                Some(Recall::Needed) => self.return_tentative_lease(),
                Some(Recall::Reset) => self.reset_tentative().await,
            }
        }
    }

    /// Waits until the client has sent more, unless its session is to end, for as long as it may be idle: it has no connection on which
    /// a server would see that. Returns what is wanted of its tentative lease, if that came first.
    async fn wait_for_more(&mut self) -> Result<Option<Recall>, SessionEnd> {
        if self.handle.is_killed() {
            return Err(SessionEnd::Tell(killed()));
        }
        if self.shared.drain.phase() >= Phase::Draining {
            return Err(SessionEnd::Tell(shutdown()));
        }
        let event = match self.idle_limit() {
            None => poll_fn(|cx| self.poll_event(cx)).await,
            Some(limit) => Box::pin(timeout(limit, poll_fn(|cx| self.poll_event(cx))))
                .await
                .map_err(|_| SessionEnd::Tell(idle_for_too_long()))?,
        };
        match event {
            IdleEvent::Received => Ok(None),
            IdleEvent::Gone => Err(SessionEnd::Quiet),
            IdleEvent::Recalled(recall) => Ok(Some(recall)),
        }
    }

    /// Returns the client's own `idle_session_timeout`, set by `SET` or in its startup packet.
    fn idle_limit(&self) -> Option<Duration> {
        let kept = self.state.settings.kept();
        if kept.mentions(IDLE_SESSION_TIMEOUT) {
            kept.time(IDLE_SESSION_TIMEOUT)
        } else {
            startup_time(&self.pool.key.extra, IDLE_SESSION_TIMEOUT)
        }
    }

    /// Looks at whatever may happen to an idle client.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<IdleEvent> {
        if let Poll::Ready(filled) = self.conn.poll_fill(cx) {
            return Poll::Ready(if filled.is_ok_and(|n| n > 0) { IdleEvent::Received } else { IdleEvent::Gone });
        }
        if self.handle.wake.poll_woken(cx).is_ready() {
            self.handle.publish_addrs(self.conn.stream());
            return Poll::Ready(IdleEvent::Received);
        }
        match &self.tentative {
            Some(tentative) => tentative.poll_recalled(cx).map(IdleEvent::Recalled),
            None => Poll::Pending,
        }
    }

    /// Gets a connection and works on it until it can be given back.
    async fn work(&mut self, settings: &Settings) -> Result<(), SessionEnd> {
        self.state.work += 1;
        for _ in 0..MAX_DEAD_CONNS {
            let refusal = match self.acquire_fit(settings).await {
                Acquired::Lease(lease, now) => match self.work_on(lease, settings, now).await? {
                    Progress::Answered => return Ok(()),
                    Progress::Unanswered => {
                        debug!(client = self.handle.id, "the request goes to another connection");
                        continue;
                    }
                    Progress::Cancelled => cancelled(),
                },
                Acquired::ClientGone => return Err(SessionEnd::Quiet),
                Acquired::Stopping => return Err(SessionEnd::Tell(shutdown())),
                Acquired::Killed => return Err(SessionEnd::Tell(killed())),
                Acquired::Cancelled => cancelled(),
                Acquired::Failed(error) => error.client_error(),
            };
            return self.refuse(&refusal).await;
        }
        Err(SessionEnd::Tell(lost()))
    }

    /// Works on `lease`, which the client is given at `now`, and gives it back.
    ///
    /// Not an `async fn`, for the sake of room: see [`run`].
    #[expect(clippy::manual_async_fn, reason = "one would keep what it is called with twice")]
    fn work_on<'b>(
        &'b mut self,
        mut lease: Lease,
        settings: &'b Settings,
        now: Instant,
    ) -> impl Future<Output = Result<Progress, SessionEnd>> + use<'b, 'a> {
        async move {
            let outcome = {
                let mut pairing = self.pair(&mut lease, settings, now);
                match pairing.plain_request() {
                    None => pairing.relay().run(now).await,
                    Some(request) => {
                        let mut exchange = pairing.begin_plain(request, now);
                        if poll_fn(|cx| pairing.poll_plain(cx, &mut exchange)).await {
                            pairing.finish_plain(exchange)
                        } else {
                            // Boxed, since that is seldom: all of this fits what the allocator has at hand, a kilobyte.
                            Box::pin(pairing.go_on(exchange)).await
                        }
                    }
                }
            };
            let after = match end::after(&outcome.end) {
                Ok(Progress::Unanswered) if !self.has_request() => Ok(Progress::Answered),
                after => after,
            };
            // From here on a cancel request has nothing to hit there; one that is under way closes the gate.
            let after = match after {
                Ok(Progress::Unanswered) if self.handle.set_unconnected() => Ok(Progress::Cancelled),
                Ok(Progress::Unanswered) => Ok(Progress::Unanswered),
                after => {
                    self.handle.set_idle(&self.state);
                    after
                }
            };
            let cut = outcome.remains.cut;
            checkin::check_in(self.shared, settings, lease, outcome);
            match after {
                // Whatever is sent behind half a message would be taken for its other half.
                Err(SessionEnd::Tell(client_error)) if cut => {
                    warn!(client = self.handle.id, "ended a session in the middle of a message: {client_error}");
                    Err(SessionEnd::Quiet)
                }
                after => after,
            }
        }
    }

    /// Returns whether the client has a request: a connection may have ended behind its last answer.
    fn has_request(&mut self) -> bool {
        let limit = max_text_bytes(self.conn.input.capacity());
        matches!(first_request(&mut self.conn.input, limit), FirstRequest::There)
    }

    /// Joins the client with `lease`, which it is given at `now`. Not part of [`Session::work`], which would keep what goes into the
    /// pairing beside that.
    fn pair<'b>(&'b mut self, lease: &'b mut Lease, settings: &Settings, now: Instant) -> Pairing<'b> {
        let preparation = self.prepare(lease, settings, now);
        let Self { shared, handle, conn, state, .. } = self;
        Pairing::new(shared, conn, lease, handle, state, preparation, settings)
    }

    /// Prepares `lease`, which the client is given at `now`, for its first message.
    fn prepare(&self, lease: &Lease, settings: &Settings, now: Instant) -> Preparation {
        let policy = ResetPolicy::of(settings.pool.reset, &lease.state, now);
        let rested = now.saturating_duration_since(lease.returned);
        let liveness = if rested < RECENTLY_USED { Liveness::Known } else { Liveness::Unknown };
        let known = (&lease.pool().parameters, &lease.pool().statements);
        Preparation::new(&lease.state, &self.state, self.handle.id, known, policy, liveness)
    }

    fn return_tentative_lease(&mut self) {
        if let Some(tentative) = self.tentative.take() {
            tentative.give_back();
        }
    }

    /// Resets what another client has left in the reserved connection, as in an idle one, since the client does not use it.
    async fn reset_tentative(&mut self) {
        let settings = self.settings();
        let Some(tentative) = self.tentative.take() else { return };
        self.tentative = tentative.reset(settings.pool.reset, settings.timeouts.cleanup_timeout).await.map(Box::new);
    }
}
