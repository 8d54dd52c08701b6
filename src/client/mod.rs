//! One client from its first byte to its last, a file per phase.
//!
//! [`serve`] is the table of contents: [`handshake`] → [`login`] ([`greeting`]) → [`session`], which waits for work, gets a
//! connection, and moves bytes with [`relay`] until the connection can be given back ([`checkin`]).
//! [`door`] is what clients meet first, [`secrets`] what they must know there.
//! [`complaints`] is what the log tells of errors. [`sessions`] are all of them and [`control`] is how others reach one, [`cancel`] how cancel requests do; [`dedicated`] is what replication gets instead of a session.

pub mod applicant;
pub mod cancel;
pub mod checkin;
pub mod complaints;
pub mod control;
pub mod dedicated;
pub mod door;
pub mod greeting;
pub mod handshake;
pub mod login;
pub mod relay;
pub mod secrets;
pub mod session;
pub mod sessions;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::drain::{Drain, Phase};
use crate::error::{Blame, Fault, sqlstate};
use crate::log::Queue;
use crate::net::Conn;
use crate::upstream::Registry;
use crate::upstream::slots::{Slot, Slots};
use applicant::Applicants;
use complaints::{Complaints, Mishap};
use door::Door;
use handshake::Hello;
use login::Admitted;
pub use login::{Guest, Rights};
use sessions::Sessions;

/// How long a farewell may take to arrive.
const FAREWELL: Duration = Duration::from_secs(2);

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The upstream's side, and the settings.
    pub registry: Arc<Registry>,
    /// Who can be cancelled.
    pub sessions: Sessions,
    /// What clients meet before they are let in.
    pub door: ArcSwap<Door>,
    /// Those who came last.
    pub applicants: Applicants,
    /// The errors that clients were told lately.
    pub errors: Complaints,
    /// Where in its life the process is.
    pub drain: Drain,
    /// The log's queue.
    pub log: Arc<Queue>,
    /// Places for clients.
    pub places: Arc<Slots>,
}

/// Serves one client to its end, unless it wants to speak with pgferry itself: then it is returned.
pub async fn serve(shared: &Arc<Shared>, conn: &mut Conn) -> Option<Box<Guest>> {
    let came = Instant::now();
    let place = shared.places.try_take();
    // What is over when the session begins, or seldom, lies elsewhere: an idle client should cost little memory.
    let admitted = match Box::pin(greet(shared, conn, place.as_ref(), came)).await {
        Ok(Some(Admitted::Session(admitted))) => admitted,
        other => return Box::pin(serve_others(shared, conn, other, came)).await,
    };
    session::run(shared, conn, admitted, came).await;
    None
}

/// Those who get no session.
async fn serve_others(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    greeted: Result<Option<Admitted>, Fault>,
    came: Instant,
) -> Option<Box<Guest>> {
    match greeted {
        Ok(Some(Admitted::Session(admitted))) => session::run(shared, conn, admitted, came).await,
        Ok(Some(Admitted::Dedicated(admitted))) => dedicated::run(shared, conn, *admitted, came).await,
        Ok(Some(Admitted::Console(guest))) => return Some(guest),
        Ok(None) => {}
        Err(fault) => refuse(shared, conn, &fault).await,
    }
    None
}

/// From the first byte to the welcome; `None` when the client wanted something else or went away.
async fn greet(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: Option<&Slot>,
    came: Instant,
) -> Result<Option<Admitted>, Fault> {
    let settings = shared.registry.settings.load_full();
    let limit = settings.login_timeout;
    let hello = {
        let mut hello = pin!(handshake::handshake(conn, shared));
        // Mostly all that it needs is there, and no clock need be wound up.
        match poll_fn(|cx| Poll::Ready(hello.as_mut().poll(cx))).await {
            Poll::Ready(hello) => Ok(hello),
            Poll::Pending => tokio::time::timeout_at((came + limit).into(), hello).await,
        }
    };
    match hello.map_err(|_| login::timed_out(limit))?? {
        Hello::Gone => Ok(None),
        Hello::Cancel { pid, secret } => {
            Box::pin(shared.sessions.cancel(&shared.registry, pid, &secret)).await;
            Ok(None)
        }
        // Who operates pgferry gets in when nobody else does.
        Hello::Startup(applicant) if applicant.console => {
            Box::pin(login::admit(shared, conn, &applicant.startup, &settings))
                .await
                .map(|guest| guest.map(|guest| Admitted::Console(Box::new(guest))))
        }
        Hello::Startup(_) if shared.drain.phase() >= Phase::Closed => {
            Err(Fault::fatal(Blame::Client, sqlstate::CANNOT_CONNECT_NOW, "the database system is shutting down")
                .detail("pgferry is shutting down."))
        }
        Hello::Startup(_) if place.is_none() => {
            let max = shared.places.cap();
            Err(Fault::fatal(Blame::Limits, sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                .detail(format!("{max} clients are connected to this pgferry."))
                .hint("Raise max_clients, and the limit on open files if it is lower."))
        }
        Hello::Startup(applicant) => login::log_in(shared, conn, &applicant, &settings, came).await,
    }
}

/// Tells a client why it is refused.
async fn refuse(shared: &Shared, conn: &mut Conn, fault: &Fault) {
    shared.registry.counters.refused.add();
    shared.registry.counters.refusals.add(&fault.code());
    shared.errors.note(Mishap::Refused, None, fault);
    fault.put(&mut conn.output);
    farewell(conn).await;
}

/// Sends what is to be sent last, in a way that it arrives, and closes.
pub async fn farewell(conn: &mut Conn) {
    // A client that does not take its farewell gets a plain close.
    let _ = tokio::time::timeout(FAREWELL, conn.linger()).await;
}
