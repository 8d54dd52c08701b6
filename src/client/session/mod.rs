//! A client's session: it waits for work holding neither buffer nor connection, gets a connection for the work, and
//! gives it back. `reject` answers a request without one.

mod reject;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::complaints::Mishap;
use super::control::{Control, Whose};
use super::relay::{End, Relay, look_limit};
use super::sessions::{Newcomer, Registered};
use super::{FAREWELL, Shared, checkout, farewell, give_back, login};
use crate::config::{Mode, Reset, Settings};
use crate::drain::Phase;
use crate::error::{Blame, Fault, sqlstate};
use crate::net::{Conn, RecvError};
use crate::track::{Luggage, Request, names};
use crate::upstream::pool::{Called, CheckoutError, Loan};
use crate::upstream::slots::Slot;
use crate::upstream::{Lease, Pool};
use crate::wire::{Head, backend, frame, frontend, head};

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
enum Farewell {
    /// The client is gone, or has said good-bye.
    Quiet,
    /// The server has told the client why.
    Said,
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
enum News {
    /// It has sent something, or there may be something to see to.
    Received,
    Gone,
    /// Something is to become of the connection on loan.
    Called(Called),
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    control: Arc<Control>,
    conn: &'a mut Conn,
    pool: Arc<Pool>,
    bag: Luggage,
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
        if session.flush_welcome().await.is_err() {
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
            Farewell::Quiet => return,
            Farewell::Said => {}
            Farewell::Tell(fault) => {
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
        let login::Session { pool, welcome, secret, place } = admitted;
        // Its backend's pid is a client's own in session mode: other sessions see it in pg_locks and pg_stat_activity.
        let mode = shared.registry.settings_of(&pool.key.database).mode;
        let loan = if mode == Mode::Session { pool.lend(&welcome.wanted) } else { None };
        let backend = loan.as_ref().map(Loan::pid);
        let whose = Whose::Pool(Arc::clone(&pool));
        let registered =
            shared.sessions.register(Newcomer { whose, secret, backend, view: welcome.view.clone(), came });
        let control = Arc::clone(&registered.control);
        let out = &mut conn.output;
        // A `NegotiateProtocolVersion` may be there already.
        out.reserve_exact(welcome.messages.len() + 64);
        out.extend_from_slice(&welcome.messages);
        backend::put_key_data(out, control.pid, &control.secret);
        backend::put_ready(out, crate::track::pipeline::IDLE);
        let bag = Luggage::new(welcome.wanted.clone(), welcome.view.clone());
        (Self { shared, control, conn, pool, bag, mode, loan: loan.map(Box::new), _place: place }, registered)
    }

    fn count_login(&mut self) {
        let counters = &self.shared.registry.counters;
        counters.logins.add();
        counters.timings.login.observe(self.control.came.elapsed());
        // What the login took is nobody's work.
        let _ = self.conn.take_traffic();
        self.pool.traffic.logins.add();
    }

    async fn flush_welcome(&mut self) -> Result<(), RecvError> {
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
        if now.mode == self.mode {
            return now;
        }
        let mut own = (*now).clone();
        own.mode = self.mode;
        Arc::new(own)
    }

    async fn serve(&mut self) -> Farewell {
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
    /// header, or all of a message that must be looked at. Until then it needs no connection. Late copy messages, which
    /// PostgreSQL ignores, are dropped.
    async fn next_request(&mut self) -> Result<(), Farewell> {
        loop {
            let limit = look_limit(self.mode, self.conn.input.capacity());
            let bytes = self.conn.input.unparsed();
            let next = head(bytes, frame::FRONTEND_LIMIT);
            let enough = |head: &Head| names::can_judge(*head, bytes, limit);
            if let Ok(Some(head)) = next
                && !enough(&head)
            {
                self.conn.input.make_room(head.size);
            }
            let bytes = self.conn.input.unparsed();
            let enough = |head: &Head| names::can_judge(*head, bytes, limit);
            match next.map(|head| head.filter(enough)) {
                Err(bad) => return Err(Farewell::Tell(Fault::violation(bad.to_string()))),
                Ok(Some(head)) => match (head.tag, Request::of(head.tag)) {
                    (frontend::TERMINATE, _) => return Err(Farewell::Quiet),
                    (_, Some(Request::CopyData | Request::CopyEnd)) => Box::pin(self.discard(head.size)).await?,
                    (_, Some(_)) => return Ok(()),
                    (tag, None) => {
                        return Err(Farewell::Tell(Fault::unknown_message(tag)));
                    }
                },
                Ok(None) => {
                    if self.control.is_killed() {
                        return Err(Farewell::Tell(killed()));
                    }
                    if self.shared.drain.phase() >= Phase::Draining {
                        return Err(Farewell::Tell(shutdown()));
                    }
                    match poll_fn(|cx| self.poll_news(cx)).await {
                        News::Received => {}
                        News::Gone => return Err(Farewell::Quiet),
                        News::Called(Called::In) => self.give_loan_back(),
                        News::Called(Called::ToRest) => Box::pin(self.rest()).await,
                    }
                }
            }
        }
    }

    /// Waits for whatever may happen to an idle client.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        if let Poll::Ready(filled) = self.conn.poll_fill(cx) {
            return Poll::Ready(if filled.is_ok_and(|n| n > 0) { News::Received } else { News::Gone });
        }
        if self.control.wake.poll_woken(cx).is_ready() {
            self.control.introduce(self.conn.stream());
            return Poll::Ready(News::Received);
        }
        match &self.loan {
            Some(loan) => loan.poll_called(cx).map(News::Called),
            None => Poll::Pending,
        }
    }

    /// Gets a connection and works on it until it can be given back.
    async fn work(&mut self, settings: &Settings) -> Result<(), Farewell> {
        for _ in 0..STALE_LIMIT {
            let (mut lease, now) = match self.acquire(settings).await {
                Acquired::Lease(lease, now) => (lease, now),
                Acquired::ClientGone => return Err(Farewell::Quiet),
                Acquired::Stopping => return Err(Farewell::Tell(shutdown())),
                Acquired::Killed => return Err(Farewell::Tell(killed())),
                Acquired::Cancelled => return self.reject(&cancelled()).await,
                Acquired::Failed(error) => return self.reject(&error.fault()).await,
            };
            let preparation = checkout::prepare(&lease, settings, &self.bag, self.control.id, now);
            let Self { shared, control, conn, bag, .. } = self;
            let outcome = Relay::new(shared, conn, &mut lease, control, bag, &preparation, settings).run(now).await;
            // From here on a cancel request has nothing to hit; one that is under way closes the gate.
            self.control.set_idle(&self.bag);
            let end = match &outcome.end {
                End::Settled => Ok(true),
                End::Stale => {
                    debug!(link = lease.id, "an idle upstream connection was dead; the request goes elsewhere");
                    Ok(false)
                }
                End::Goodbye | End::ClientGone => Err(Farewell::Quiet),
                End::UpstreamLost { told: true } => Err(Farewell::Said),
                End::Shutdown => Err(Farewell::Tell(shutdown())),
                End::Refuse(fault) => Err(Farewell::Tell(fault.clone())),
                End::UpstreamLost { told: false } => Err(Farewell::Tell(lost())),
            };
            let cut = outcome.cut;
            give_back::give_back(self.shared, settings, lease, outcome, self.control.id);
            match end {
                // Whatever is sent behind half a message would be taken for its other half.
                Err(Farewell::Tell(fault)) if cut => {
                    warn!(client = self.control.id, "ended a session in the middle of a message: {fault}");
                    return Err(Farewell::Quiet);
                }
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(farewell) => return Err(farewell),
            }
        }
        Err(Farewell::Tell(lost()))
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
        let at_once = own.or_else(|| self.pool.checkout_idle(&self.bag.wanted, now));
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
        let Self { shared, control, conn, pool, bag, .. } = self;
        let mut checkout = pin!(async {
            let mut since = since;
            if shared.registry.switches.of(&pool.key.database).paused {
                // Who pauses a database by hand knows how long; the client's patience begins when it is over.
                Box::pin(shared.registry.switches.resumed(&pool.key.database)).await;
                since = Instant::now();
            }
            pool.checkout(&bag.wanted, since, settings.wait_timeout).await
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
        if ready!(conn.poll_readable(cx)).is_err() || !matches!(ready!(conn.poll_fill(cx)), Ok(1..)) {
            return Poll::Ready(());
        }
    }
    Poll::Pending
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
