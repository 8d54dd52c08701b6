//! One client from its first byte to its last, a file per phase.
//!
//! [`serve`] is the table of contents: [`handshake`] → [`login`] ([`greeting`]) → [`session`], which waits for work, gets a
//! connection, and moves bytes with [`relay`] until the connection can be given back ([`checkin`]).
//! [`places`] is how many may come, [`door`] is what clients meet first, [`secrets`] what they must know there.
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
pub mod places;
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
use applicant::Applicants;
use complaints::{Complaints, Mishap};
use door::Door;
use handshake::Hello;
use login::Admitted;
pub use login::{Guest, Rights};
use places::{Place, Places};
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
    pub places: Places,
}

/// Serves one client to its end, unless it wants to speak with pgferry itself: then it is returned.
pub async fn serve(shared: &Arc<Shared>, conn: &mut Conn) -> Option<Box<Guest>> {
    let came = Instant::now();
    let mut place = shared.places.try_take();
    // What is over when the session begins, or seldom, lies elsewhere: an idle client should cost little memory.
    let guest = match Box::pin(greet(shared, conn, &mut place, came)).await {
        Ok(Some(Admitted::Session(admitted))) => {
            place.iter_mut().for_each(Place::logged_in);
            session::run(shared, conn, admitted, came).await;
            None
        }
        other => Box::pin(serve_others(shared, conn, other, &mut place, came)).await,
    };
    shared.places.give_back(place);
    guest
}

/// Those who get no session.
async fn serve_others(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    greeted: Result<Option<Admitted>, Fault>,
    place: &mut Option<Place>,
    came: Instant,
) -> Option<Box<Guest>> {
    match greeted {
        Ok(Some(Admitted::Session(admitted))) => session::run(shared, conn, admitted, came).await,
        Ok(Some(Admitted::Dedicated(admitted))) => {
            dedicated::run(shared, conn, place, *admitted, came).await;
        }
        Ok(Some(Admitted::Console(guest))) => return Some(guest),
        Ok(None) => {}
        // While others need its place, a client that is refused is not waited for.
        Err(fault) if shared.places.are_taken() => refuse_at_once(shared, conn, &fault),
        Err(fault) => refuse(shared, conn, &fault).await,
    }
    None
}

/// From the first byte to the welcome; `None` when the client wanted something else or went away.
async fn greet(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: &mut Option<Place>,
    came: Instant,
) -> Result<Option<Admitted>, Fault> {
    let settings = shared.registry.settings.load_full();
    let limit = settings.client_login_timeout;
    if place.is_none() {
        *place = shared.places.take().await;
    }
    let hello = {
        let mut hello = pin!(handshake::handshake(conn, shared));
        // Mostly all that it needs is there, and no clock need be wound up.
        match poll_fn(|cx| Poll::Ready(hello.as_mut().poll(cx))).await {
            Poll::Ready(hello) => Ok(Some(hello)),
            Poll::Pending => {
                let room = shared.places.room(place.as_ref());
                tokio::time::timeout_at((came + limit).into(), room.wait(hello)).await
            }
        }
    };
    let Some(hello) = hello.map_err(|_| login::timed_out(limit))? else {
        return Err(places::evicted());
    };
    match hello? {
        Hello::Gone => Ok(None),
        Hello::Cancel { pid, secret } => {
            let source = shared.registry.limiter.of(conn.stream());
            Box::pin(shared.sessions.cancel(&shared.registry, &source, pid, &secret)).await;
            Ok(None)
        }
        // Who operates pgferry gets in when nobody else does.
        Hello::Startup(applicant) if applicant.console => {
            Box::pin(login::admit(shared, conn, shared.places.room(place.as_ref()), &applicant.startup, &settings))
                .await
                .map(|guest| guest.map(|guest| Admitted::Console(Box::new(guest))))
        }
        Hello::Startup(_) if shared.drain.phase() >= Phase::Closed => {
            Err(Fault::fatal(Blame::Client, sqlstate::CANNOT_CONNECT_NOW, "the database system is shutting down")
                .detail("pgferry is shutting down."))
        }
        Hello::Startup(_) if place.is_none() => Err(shared.places.none_left()),
        Hello::Startup(applicant) => {
            let room = shared.places.room(place.as_ref());
            login::log_in(shared, conn, room, &applicant, &settings, came).await
        }
    }
}

/// Tells a client why it is refused.
async fn refuse(shared: &Shared, conn: &mut Conn, fault: &Fault) {
    put_refusal(shared, conn, fault);
    farewell(conn).await;
}

/// Tells a client why it is refused, as far as that takes no time.
fn refuse_at_once(shared: &Shared, conn: &mut Conn, fault: &Fault) {
    put_refusal(shared, conn, fault);
    // Whoever does not take it gets a plain close.
    let _ = conn.flush_now();
}

fn put_refusal(shared: &Shared, conn: &mut Conn, fault: &Fault) {
    shared.registry.counters.refused.add();
    shared.registry.counters.refusals.add(&fault.code());
    shared.errors.note(Mishap::Refused, None, fault);
    fault.put(&mut conn.output);
}

/// Sends what is to be sent last, in a way that it arrives, and closes.
pub async fn farewell(conn: &mut Conn) {
    // A client that does not take its farewell gets a plain close.
    let _ = tokio::time::timeout(FAREWELL, conn.linger()).await;
}
