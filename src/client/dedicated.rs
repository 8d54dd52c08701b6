//! Replication: a connection of its own for a client, passed through byte by byte.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use std::time::Instant;

use super::control::{Control, Whose};
use super::login::{self, Dedicated};
use super::sessions::Newcomer;
use super::{Shared, farewell};
use crate::config::Auth;
use crate::drain::Phase;
use crate::error::{Blame, Fault, sqlstate};
use crate::net::Conn;
use crate::upstream::dial::{self, Dialled, Failed, Login};
use crate::upstream::link::{BackendKey, Gate, Link};
use crate::upstream::{Ask, Closing, Registry, Secret};
use crate::wire::backend;

/// Serves a replication client to its end.
pub async fn run(shared: &Arc<Shared>, conn: &mut Conn, admitted: Dedicated, came: Instant) {
    let Some(_slot) = shared.registry.try_slot() else {
        let fault = Fault::fatal(
            Blame::Limits,
            sqlstate::TOO_MANY_CONNECTIONS,
            "no upstream connection is free for replication",
        )
        .hint("A replication connection takes one of max_upstream for itself.");
        fault.put(&mut conn.output);
        return farewell(conn).await;
    };
    let dialled = match open(shared, conn, &admitted).await {
        Ok(Some(dialled)) => dialled,
        Ok(None) => return,
        Err(fault) => {
            fault.put(&mut conn.output);
            return farewell(conn).await;
        }
    };
    let database = admitted.startup.get("database").unwrap_or(&admitted.user).to_vec();
    let whose = Whose::Dedicated(Box::new((database, admitted.user)));
    let view = dialled.params.clone();
    let newcomer = Newcomer { whose, secret: admitted.secret, backend: None, view, came };
    let registered = shared.sessions.register(newcomer);
    let control = &registered.control;
    backend::put_authentication_ok(&mut conn.output);
    for (name, value) in dialled.params.iter() {
        backend::put_parameter_status(&mut conn.output, name, value);
    }
    backend::put_key_data(&mut conn.output, control.pid, &control.secret);
    backend::put_ready(&mut conn.output, crate::track::pipeline::IDLE);
    let key = Arc::new(BackendKey {
        address: dialled.address,
        encryptor: dialled.encryptor,
        pid: dialled.pid,
        secret: dialled.secret,
    });
    let gate = Arc::new(Gate::default());
    // There is nobody else whom a request could hit, so it may always be sent.
    let _ = control.set_running(&key, &gate, came);
    shared.registry.counters.logins.add();
    let mut upstream = dialled.conn;
    tokio::select! {
        () = poll_fn(|cx| both(cx, conn, &mut upstream)) => {}
        () = killed(control) => super::session::killed().put(&mut conn.output),
        () = shared.drain.reached(Phase::Draining) => {
            super::session::shutdown().put(&mut conn.output);
        }
    }
    drop(registered);
    let how = Link::close(upstream, false).await;
    shared.registry.closed(how, Closing::Session);
    farewell(conn).await;
}

/// Waits until somebody ends the session.
async fn killed(control: &Control) {
    while !control.is_killed() {
        control.wake.woken().await;
    }
}

/// Logs in upstream as the client asks; the server's questions go to the client. `None` when it went away.
async fn open(shared: &Arc<Shared>, conn: &mut Conn, admitted: &Dedicated) -> Result<Option<Dialled>, Fault> {
    let registry = &shared.registry;
    let settings = registry.settings.load_full();
    let deadline = tokio::time::Instant::now() + settings.login_timeout;
    let user = admitted.user.clone();
    let database = admitted.startup.get("database").unwrap_or(&user);
    let (ask, asked) = Ask::new(&registry.login_slots);
    let secret = match admitted.method {
        Auth::PassThrough => Secret::Ask(ask),
        _ => Secret::Fixed(admitted.credential.clone()),
    };
    let params = admitted.startup.params.iter().filter(|(name, _)| **name != *b"user");
    let settings_there = registry.settings_of(database);
    let real = settings_there.dbname.as_ref().map_or(database, |name| name.as_bytes());
    let value_of = |name: &[u8], value: &[u8]| if name == b"database" { real.to_vec() } else { value.to_vec() };
    let params = params.map(|(name, value)| (name.to_vec(), value_of(name, value))).collect();
    let limit = settings.login_timeout + settings.connect_timeout;
    let route = registry.route(database);
    let login = Login { user, params, secret, route };
    let dialled = dial::dial(&settings, login, registry, limit);
    tokio::pin!(dialled);
    tokio::select! {
        biased;
        asked = asked => if let Ok(answer) = asked {
            let Some(password) = login::ask::password(conn, deadline, settings.login_timeout).await? else {
                drop(answer);
                if let Err(failed) = dialled.await {
                    failed.close(registry).await;
                }
                return Ok(None);
            };
            // The outcome says if nobody listens any more.
            let _ = answer.send(password);
        },
        outcome = &mut dialled => return opened(registry, outcome),
    }
    opened(registry, dialled.await)
}

fn opened(registry: &Arc<Registry>, outcome: Result<Dialled, Failed>) -> Result<Option<Dialled>, Fault> {
    outcome.map(Some).map_err(|failed| {
        let fault = failed.error.fault();
        let registry = Arc::clone(registry);
        tokio::spawn(async move { failed.close(&registry).await });
        fault
    })
}

/// Moves bytes both ways until either side ends.
fn both(cx: &mut Context<'_>, client: &mut Conn, upstream: &mut Conn) -> Poll<()> {
    let ended = one_way(cx, client, upstream).is_ready() | one_way(cx, upstream, client).is_ready();
    if ended { Poll::Ready(()) } else { Poll::Pending }
}

/// Moves bytes one way; ready when no more will come or go.
fn one_way(cx: &mut Context<'_>, from: &mut Conn, to: &mut Conn) -> Poll<()> {
    loop {
        match to.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
        if !from.input.unsent().is_empty() {
            match to.poll_write(cx, from.input.unsent()) {
                Poll::Ready(Ok(n)) if n > 0 => from.input.sent(n),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            continue;
        }
        match from.poll_fill(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {
                let all = from.input.unparsed().len();
                from.input.parse(all);
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
