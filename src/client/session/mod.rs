//! A client's session: it waits for work holding neither buffer nor connection, gets a connection for the work, and
//! gives it back. `refuse` answers requests without one.

mod refuse;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::complaints::Mishap;
use super::control::{Control, Whose};
use super::relay::{End, Relay, max_text_bytes};
use super::sessions::{Newcomer, Registered};
use super::{FAREWELL, Shared, checkin, farewell, login};
use crate::config::{Mode, Reset, Settings};
use crate::drain::Phase;
use crate::error::{Blame, Fault, sqlstate};
use crate::machine;
use crate::machine::first_request::{FirstRequest, first_request};
use crate::machine::preparation::{Preparation, ResetPolicy};
use crate::net::{Conn, RecvError};
use crate::track::ClientState;
use crate::track::params::startup_time;
use crate::track::server_state::Sequences;
use crate::upstream::link::MOMENT;
use crate::upstream::pool::{Called, CheckoutError, Loan};
use crate::upstream::slots::Slot;
use crate::upstream::{Lease, Pool};
use crate::wire::backend;

/// The setting that bounds how long a session may be idle.
const IDLE_TIMEOUT: &[u8] = b"idle_session_timeout";

/// How many dead connections one request may meet before the client is told.
const STALE_LIMIT: usize = 10;

/// What a client is told when the process goes away; the words are PostgreSQL's.
#[must_use]
pub fn shutdown() -> Fault {
    Fault::fatal(Blame::Client, sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .detail("pgferry is shutting down.")
}

/// What a client is told that somebody ends by hand; the words are PostgreSQL's.
#[must_use]
pub fn killed() -> Fault {
    Fault::fatal(Blame::Client, sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .detail("It was ended at pgferry's console (KILL, KILL_CLIENT).")
}

/// How a session ends.
enum SessionEnd {
    /// The client is gone, or has said good-bye.
    Quiet,
    /// The server has told the client why.
    Told,
    /// The client is told why.
    Tell(Fault),
}

/// What waiting for a connection came to.
enum Acquired {
    /// It, and the time.
    Lease(Lease, Instant),
    /// The client cancelled its request.
    Cancelled,
    ClientGone,
    Failed(CheckoutError),
    Stopping,
    Killed,
}

/// What happens to an idle client.
enum IdleEvent {
    /// It has sent something, or there may be something to see to.
    Received,
    Gone,
    /// Something is to become of the connection on loan.
    Recalled(Called),
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    control: Arc<Control>,
    conn: &'a mut Conn,
    pool: Arc<Pool>,
    /// What it is to find on whatever connection serves it.
    state: ClientState,
    /// The mode it came in with.
    mode: Mode,
    /// A connection that it has not used yet.
    loan: Option<Box<Loan>>,
    _place: Option<Slot>,
}

/// Runs a session from its welcome to its end.
///
/// Not an `async fn`, which would keep what it is called with beside what it makes of that, for as long as the client is
/// there.
pub fn run<'a>(
    shared: &'a Arc<Shared>,
    conn: &'a mut Conn,
    admitted: login::Session,
    came: Instant,
) -> impl Future<Output = ()> + 'a {
    let (mut session, registered) = Session::begin(shared, conn, admitted, came);
    async move {
        if session.flush_greeting().await.is_err() {
            session.give_loan_back();
            return;
        }
        session.count_login();
        let end = session.serve().await;
        session.give_loan_back();
        drop(registered);
        let id = session.control.id;
        if session.shared.registry.settings.load().log_connections {
            tracing::info!(client = id, "client ended");
        }
        match end {
            SessionEnd::Quiet => return,
            SessionEnd::Told => {}
            SessionEnd::Tell(fault) => {
                session.shared.errors.note(Mishap::Ended, Some(id), &fault);
                fault.put(&mut session.conn.output);
            }
        }
        Box::pin(farewell(session.conn)).await;
    }
}

impl<'a> Session<'a> {
    /// Gives the client its number and secret, and puts all that it must know into one write: it has not got a
    /// connection that it could wait for.
    fn begin(
        shared: &'a Arc<Shared>,
        conn: &'a mut Conn,
        admitted: login::Session,
        came: Instant,
    ) -> (Self, Registered<'a>) {
        let login::Session { pool, greeting, settings, secret, place } = admitted;
        // Its backend's pid is a client's own in session mode: other sessions see it in pg_locks and pg_stat_activity.
        let mode = shared.registry.settings_of(&pool.key.database).pool_mode;
        let loan = if mode == Mode::Session { pool.lend(&greeting.wanted) } else { None };
        let backend = loan.as_ref().map(Loan::pid);
        let whose = Whose::Pool(Arc::clone(&pool));
        let registered =
            shared.sessions.register(Newcomer { whose, secret, backend, view: greeting.view.clone(), came });
        let control = Arc::clone(&registered.control);
        let out = &mut conn.output;
        // A `NegotiateProtocolVersion` may be there already.
        out.reserve_exact(greeting.messages.len() + 64);
        out.extend_from_slice(&greeting.messages);
        backend::put_key_data(out, control.pid, &control.secret);
        backend::put_ready(out, crate::track::pipeline::IDLE);
        let state = ClientState::new(greeting.wanted.clone(), greeting.view.clone()).with_startup(settings);
        (Self { shared, control, conn, pool, state, mode, loan: loan.map(Box::new), _place: place }, registered)
    }

    fn count_login(&mut self) {
        let counters = &self.shared.registry.counters;
        counters.logins.add();
        counters.timings.login.observe(self.control.came.elapsed());
        // What the login took is nobody's work.
        let _ = self.conn.take_traffic();
        self.pool.traffic.logins.add();
    }

    async fn flush_greeting(&mut self) -> Result<(), RecvError> {
        if !self.conn.flush_now()? {
            Box::pin(timeout(FAREWELL, self.conn.flush())).await.map_err(|_| RecvError::Closed)??;
        }
        // Most clients get nothing as long again.
        self.conn.trim();
        Ok(())
    }

    /// The settings in force, but for the mode: a client keeps the one it came in with, since what it has done so far
    /// can't be followed in another one.
    fn settings(&self) -> Arc<Settings> {
        let now = self.shared.registry.settings_of(&self.pool.key.database);
        if now.pool_mode == self.mode {
            return now;
        }
        let mut own = (*now).clone();
        own.pool_mode = self.mode;
        Arc::new(own)
    }

    async fn serve(&mut self) -> SessionEnd {
        loop {
            if let Err(end) = self.next_request().await {
                return end;
            }
            let settings = self.settings();
            // Boxed, so that who is idle costs little memory.
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
                FirstRequest::Violation(fault) => return Err(SessionEnd::Tell(fault)),
                FirstRequest::Terminate => return Err(SessionEnd::Quiet),
                FirstRequest::Ignored(size) => Box::pin(self.discard(size)).await?,
                FirstRequest::There => return Ok(()),
                FirstRequest::NeedMore => {
                    if self.control.is_killed() {
                        return Err(SessionEnd::Tell(killed()));
                    }
                    if self.shared.drain.phase() >= Phase::Draining {
                        return Err(SessionEnd::Tell(shutdown()));
                    }
                    match self.wait_idle().await? {
                        IdleEvent::Received => {}
                        IdleEvent::Gone => return Err(SessionEnd::Quiet),
                        IdleEvent::Recalled(Called::In) => self.give_loan_back(),
                        IdleEvent::Recalled(Called::ToRest) => Box::pin(self.rest()).await,
                    }
                }
            }
        }
    }

    /// Waits for whatever may happen to an idle client, for as long as it may be idle: in transaction mode no server sees
    /// that.
    async fn wait_idle(&mut self) -> Result<IdleEvent, SessionEnd> {
        match self.idle_limit() {
            None => Ok(poll_fn(|cx| self.poll_event(cx)).await),
            Some(limit) => Box::pin(timeout(limit, poll_fn(|cx| self.poll_event(cx))))
                .await
                .map_err(|_| SessionEnd::Tell(idle_for_too_long())),
        }
    }

    /// How long the client has allowed itself to be idle between its transactions, by `SET` or in its startup packet.
    fn idle_limit(&self) -> Option<Duration> {
        if self.mode == Mode::Session && self.loan.is_none() && self.state.work > 0 {
            return None;
        }
        let kept = self.state.ledger.kept();
        if kept.mentions(IDLE_TIMEOUT) {
            kept.time(IDLE_TIMEOUT)
        } else {
            startup_time(&self.pool.key.extra, IDLE_TIMEOUT)
        }
    }

    /// Looks at whatever may happen to an idle client.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<IdleEvent> {
        if let Poll::Ready(filled) = self.conn.poll_fill(cx) {
            return Poll::Ready(if filled.is_ok_and(|n| n > 0) { IdleEvent::Received } else { IdleEvent::Gone });
        }
        if self.control.wake.poll_woken(cx).is_ready() {
            self.control.introduce(self.conn.stream());
            return Poll::Ready(IdleEvent::Received);
        }
        match &self.loan {
            Some(loan) => loan.poll_called(cx).map(IdleEvent::Recalled),
            None => Poll::Pending,
        }
    }

    /// Gets a connection and works on it until it can be given back.
    async fn work(&mut self, settings: &Settings) -> Result<(), SessionEnd> {
        self.state.work += 1;
        for _ in 0..STALE_LIMIT {
            let (mut lease, now) = match self.acquire(settings).await {
                Acquired::Lease(lease, now) => (lease, now),
                Acquired::ClientGone => return Err(SessionEnd::Quiet),
                Acquired::Stopping => return Err(SessionEnd::Tell(shutdown())),
                Acquired::Killed => return Err(SessionEnd::Tell(killed())),
                Acquired::Cancelled => return self.refuse(&cancelled()).await,
                Acquired::Failed(error) => return self.refuse(&error.fault()).await,
            };
            let preparation = self.prepare(&lease, settings, now);
            let Self { shared, control, conn, state, .. } = self;
            let outcome = Relay::new(shared, conn, &mut lease, control, state, preparation, settings).run(now).await;
            // From here on a cancel request has nothing to hit; one that is under way closes the gate.
            self.control.set_idle(&self.state);
            let end = match &outcome.end {
                End::Machine(machine::End::Settled) => Ok(true),
                End::Machine(machine::End::Stale) => {
                    debug!(
                        server = lease.id,
                        "an upstream connection was dead or could not be reset; the request goes elsewhere"
                    );
                    Ok(false)
                }
                End::Machine(machine::End::Goodbye) | End::ClientGone => Err(SessionEnd::Quiet),
                End::Machine(machine::End::ServerLost { told: true }) => Err(SessionEnd::Told),
                End::Machine(machine::End::ServerLost { told: false }) => Err(SessionEnd::Tell(lost())),
                End::Machine(machine::End::Refuse(fault)) => Err(SessionEnd::Tell(fault.clone())),
                End::Shutdown => Err(SessionEnd::Tell(shutdown())),
                End::Killed => Err(SessionEnd::Tell(killed())),
            };
            let cut = outcome.remains.cut;
            checkin::check_in(self.shared, settings, lease, outcome);
            match end {
                // Whatever is sent behind half a message would be taken for its other half.
                Err(SessionEnd::Tell(fault)) if cut => {
                    warn!(client = self.control.id, "ended a session in the middle of a message: {fault}");
                    return Err(SessionEnd::Quiet);
                }
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(end) => return Err(end),
            }
        }
        Err(SessionEnd::Tell(lost()))
    }

    /// What goes in front of the client's first message on `lease`, which it is given at `now`.
    fn prepare(&self, lease: &Lease, settings: &Settings, now: Instant) -> Preparation {
        let policy = match (settings.reset, self.mode) {
            (Reset::Always, _) => ResetPolicy::All,
            (Reset::OnChange, Mode::Session) if lease.state.sequences == Sequences::GaveValues => {
                ResetPolicy::Sequences
            }
            _ => ResetPolicy::Nothing,
        };
        let probe = now.saturating_duration_since(lease.returned) >= MOMENT;
        let parameters = &lease.pool().parameters;
        Preparation::new(&lease.state, &self.state, self.control.id, parameters, policy, probe)
    }

    fn give_loan_back(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.give_back();
        }
    }

    /// The client leaves its connection unused: whatever somebody else has left there is reset, as in an idle one.
    async fn rest(&mut self) {
        let settings = self.settings();
        let Some(loan) = self.loan.take().filter(|_| settings.reset == Reset::Always) else { return };
        self.loan = loan.reset(settings.cleanup_timeout).await.map(Box::new);
    }

    /// The connection on loan, or one that is idle, or one that is waited for while the client is watched.
    async fn acquire(&mut self, settings: &Settings) -> Acquired {
        let timings = &self.shared.registry.counters.timings;
        if self.pool.is_outdated(&self.shared.registry) {
            self.give_loan_back();
            self.pool = self.shared.registry.successor(&self.pool);
        }
        let now = Instant::now();
        let own = self.loan.take().and_then(|loan| loan.take());
        let at_once = own.or_else(|| self.pool.checkout_idle(&self.state.wanted, now));
        if let Some(lease) = at_once {
            timings.wait.observe_none();
            self.pool.traffic.assigned(Duration::ZERO);
            return Acquired::Lease(lease, now);
        }
        let acquired = self.wait_for_lease(settings, now).await;
        let waited = match &acquired {
            Acquired::Lease(_, at) => at.duration_since(now),
            _ => now.elapsed(),
        };
        timings.wait.observe(waited);
        if let Acquired::Lease(..) = acquired {
            self.pool.traffic.assigned(waited);
        }
        acquired
    }

    async fn wait_for_lease(&mut self, settings: &Settings, since: Instant) -> Acquired {
        self.control.set_waiting(since);
        // As many may wait as there are clients.
        self.conn.input.shrink();
        let Self { shared, control, conn, pool, state, .. } = self;
        let mut checkout = pin!(async {
            let mut since = since;
            if shared.registry.switches.of(&pool.key.database).paused {
                // Who pauses a database by hand knows how long; the client's patience begins when it is over.
                Box::pin(shared.registry.switches.resumed(&pool.key.database)).await;
                since = Instant::now();
            }
            pool.checkout(&state.wanted, since, settings.query_wait_timeout).await
        });
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = checkout.as_mut().poll(cx) {
                return Poll::Ready(
                    outcome.map_or_else(Acquired::Failed, |lease| Acquired::Lease(lease, Instant::now())),
                );
            }
            while control.wake.poll_woken(cx).is_ready() {
                control.introduce(conn.stream());
                if control.is_killed() {
                    return Poll::Ready(Acquired::Killed);
                }
                if control.is_cancelled() {
                    return Poll::Ready(Acquired::Cancelled);
                }
                if shared.drain.phase() == Phase::Stopping {
                    return Poll::Ready(Acquired::Stopping);
                }
            }
            poll_gone(conn, cx).map(|()| Acquired::ClientGone)
        })
        .await
    }
}

/// Completes when the client is gone. What it sends meanwhile is kept, as far as the buffer goes.
fn poll_gone(conn: &mut Conn, cx: &mut Context<'_>) -> Poll<()> {
    while !conn.input.is_full() {
        // Not before something comes is there need for more storage.
        if ready!(conn.poll_readable(cx)).is_err() {
            return Poll::Ready(());
        }
        match ready!(conn.poll_fill(cx)) {
            Ok(1..) => {}
            // It sends no more, and still waits for its answers.
            Ok(0) if !conn.stream().is_hung_up() => return Poll::Pending,
            Ok(0) | Err(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

/// What a client is told that was idle for longer than it has allowed itself; the words are PostgreSQL's.
fn idle_for_too_long() -> Fault {
    Fault::fatal(Blame::Client, sqlstate::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout")
}

fn cancelled() -> Fault {
    Fault::error(Blame::Client, sqlstate::QUERY_CANCELED, "canceling statement due to user request")
        .detail("The statement was waiting for an upstream connection.")
}

fn lost() -> Fault {
    Fault::fatal(Blame::Upstream, sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly")
        .detail("The upstream server's process ended, or the connection to it broke, while it worked for this client.")
        .hint("The server's log tells more.")
}
