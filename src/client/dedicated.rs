//! Replication: a connection of its own for a client, passed through byte by byte.

mod opening;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::client_slots::ClientSlot;
use super::login::{self, Dedicated};
use super::session_handle::{SessionHandle, SessionTarget};
use super::sessions::SessionSpec;
use super::{Shared, farewell, refuse, unless_draining};
use crate::drain::Phase;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::Conn;
use crate::net::tls::TlsSession;
use crate::track::server_state::CloseMethod;
use crate::upstream::CloseReason;
use crate::upstream::cancel_gate::CancelGate;
use crate::upstream::conn_info::ConnInfo;
use crate::upstream::dial::NewConn;
use crate::upstream::quota::QuotaExceeded;
use crate::upstream::rebalance::UnpooledSlot;
use crate::upstream::server_conn::{BackendKey, ServerConn};
use crate::upstream::slots::Slot;
use crate::wire::{StreamPosition, backend, frontend};
use opening::Opening;

/// Serves a replication client to its end.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    place: &mut Option<ClientSlot>,
    admitted: Dedicated,
    connected_at: Instant,
) {
    let pending_logins = shared.client_slots.pending_logins(place.as_ref());
    let mut opening = Opening::new(shared, conn, pending_logins, &admitted, connected_at);
    let new_conn = match unless_draining(shared, Duration::ZERO, opening.run()).await {
        Ok(Some(new_conn)) => new_conn,
        Ok(None) => return,
        Err(client_error) => {
            let attempt = opening.into_attempt();
            tokio::join!(refuse(shared, conn, &client_error), attempt.give_up(shared.counters()));
            return;
        }
    };
    place.iter_mut().for_each(ClientSlot::logged_in);
    let _slots = match unless_draining(shared, Duration::ZERO, slots(shared, &admitted)).await {
        Ok(slots) => slots,
        Err(client_error) => {
            let how = ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
            shared.counters().close(how, CloseReason::Login);
            return refuse(shared, conn, &client_error).await;
        }
    };
    let target = SessionTarget::Dedicated(Box::new((admitted.database, admitted.user, admitted.replication)));
    let (backend, view) = (Some(new_conn.pid), new_conn.params.clone());
    let spec = SessionSpec { target, secret: admitted.secret, backend, view, connected_at };
    let registered = shared.sessions.register(spec);
    let handle = &registered.handle;
    put_greeting(conn, handle, &new_conn);
    let (mut upstream, _conn_info) = publish(shared, handle, new_conn, connected_at);
    shared.counters().logins.add();
    let mut passthrough = Passthrough::new(conn, &mut upstream);
    let ended_by = tokio::select! {
        () = poll_fn(|cx| passthrough.poll(cx)) => None,
        () = until_killed(handle) => Some(super::session::killed()),
        () = shared.drain.reached(Phase::Draining) => Some(super::session::shutdown()),
    };
    if let Some(client_error) = ended_by {
        passthrough.put_error(&client_error);
    }
    let close_method = passthrough.close_method();
    drop(registered);
    let how = ServerConn::close(upstream, close_method).await;
    shared.counters().close(how, CloseReason::Session);
    farewell(conn).await;
}

/// Puts what the client is told at the end of its login.
fn put_greeting(conn: &mut Conn, handle: &SessionHandle, new_conn: &NewConn) {
    backend::put_authentication_ok(&mut conn.output);
    for (name, value) in new_conn.params.iter() {
        backend::put_parameter_status(&mut conn.output, name, value);
    }
    backend::put_key_data(&mut conn.output, handle.pid, &handle.secret);
    backend::put_ready(&mut conn.output, crate::track::transaction_block::IDLE);
}

/// Shows the connection at the console for as long as the [`ConnInfo`] is there, and lets cancel requests hit it.
fn publish(shared: &Shared, handle: &SessionHandle, new_conn: NewConn, connected_at: Instant) -> (Conn, Arc<ConnInfo>) {
    let NewConn { birth, conn, address, server_tls, pid, secret, .. } = new_conn;
    let key = Arc::new(BackendKey { address, server_tls, pid, secret });
    let gate = Arc::new(CancelGate::default());
    let server_side = &shared.server_side;
    let conn_info = ConnInfo::new(birth, key.pid, key.address.clone(), Arc::clone(&gate));
    let tls = conn.stream().tls().map(TlsSession::describe);
    let conn_info = Arc::new(conn_info.over(conn.stream().local(), tls));
    conn_info.taken(handle.id);
    server_side.dedicated.add(&conn_info);
    // No other client could be hit by a request, so it may always be sent.
    let _ = handle.set_running(&key, &gate, connected_at);
    (conn, conn_info)
}

/// The places that the client and its connection take. Only a client that has logged in takes any that others need.
///
/// # Errors
/// What the client is told when one of them can't be had.
async fn slots(shared: &Shared, admitted: &Dedicated) -> Result<(Option<Slot>, UnpooledSlot), ClientError> {
    let client = login::client_slot(shared, &admitted.client_user)?;
    let patience = shared.settings().timeouts.server_connect_timeout;
    let user = shared.pools.user_slot(&admitted.user, patience).await;
    let user = user.map_err(|QuotaExceeded| login::too_many(&admitted.user, "max_user_connections"))?;
    let slot = shared.pools.slot(Some(user), patience).await.ok_or_else(|| {
        let message = "no upstream connection is free for replication";
        ClientError::fatal(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, message)
            .hint("A replication connection takes one of max_upstream for itself.")
    })?;
    Ok((client, slot))
}

/// Waits until the session is ended by hand.
async fn until_killed(handle: &SessionHandle) {
    while !handle.is_killed() {
        handle.wake.woken().await;
    }
}

/// End of what is said to the server, once the client sends no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// Nothing yet: the client may send more.
    Awaited,
    /// `Terminate`, which waits to be sent, or has been.
    Terminate,
    /// The end of the stream: part of a message was passed on, which anything else would complete.
    HalfClose,
    /// Nothing any more.
    Said,
}

/// Bytes that are passed both ways, and where in their messages they are.
struct Passthrough<'a> {
    client: &'a mut Conn,
    upstream: &'a mut Conn,
    from_client: StreamPosition,
    from_server: StreamPosition,
    farewell: Farewell,
}

impl<'a> Passthrough<'a> {
    fn new(client: &'a mut Conn, upstream: &'a mut Conn) -> Self {
        let (from_client, from_server) = (StreamPosition::default(), StreamPosition::default());
        Self { client, upstream, from_client, from_server, farewell: Farewell::Awaited }
    }

    /// Moves bytes until the server has said all, or the client is gone. One that sends no more gets the answers to what it has sent.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.farewell == Farewell::Awaited
            && poll_one_way(cx, self.client, self.upstream, &mut self.from_client).is_ready()
        {
            if self.client.stream().is_hung_up() {
                return Poll::Ready(());
            }
            self.farewell = if self.from_client.is_between() { Farewell::Terminate } else { Farewell::HalfClose };
            if self.farewell == Farewell::Terminate {
                frontend::put_terminate(&mut self.upstream.output);
            }
        }
        let said = match self.farewell {
            Farewell::Awaited | Farewell::Said => false,
            Farewell::Terminate => self.upstream.poll_flush(cx).is_ready(),
            Farewell::HalfClose => self.upstream.poll_half_close(cx).is_ready(),
        };
        if said {
            self.farewell = Farewell::Said;
        }
        poll_one_way(cx, self.upstream, self.client, &mut self.from_server)
    }

    /// Puts an error for the client where it can be understood: in the middle of a message of the server's it would be taken for a part of
    /// that.
    fn put_error(&mut self, client_error: &ClientError) {
        if self.from_server.is_between() {
            client_error.put(&mut self.client.output);
        }
    }

    /// Returns how the server connection is closed.
    fn close_method(&self) -> CloseMethod {
        if self.from_client.is_between() { CloseMethod::Terminate } else { CloseMethod::Silent }
    }
}

/// Moves bytes one way; ready when no more will come or go.
fn poll_one_way(cx: &mut Context<'_>, from: &mut Conn, to: &mut Conn, position: &mut StreamPosition) -> Poll<()> {
    loop {
        match to.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
        // The first of it may have come with the login.
        let arrived = from.input.unparsed().len();
        from.input.parse(arrived);
        if !from.input.unsent().is_empty() {
            match to.poll_write(cx, from.input.unsent()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    position.pass(&from.input.unsent()[..n]);
                    from.input.sent(n);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            continue;
        }
        match from.poll_fill(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
