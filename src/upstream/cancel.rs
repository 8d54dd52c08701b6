//! `CancelRequest`s to the upstream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::cancel_gate::CancelGuard;
use super::close::Closed;
use super::counters::Counters;
use super::server_conn::BackendKey;
use super::server_side::ServerSide;
use crate::net::{Conn, Stream};
use crate::wire::frontend;

/// Longest time that a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a cancel request and waits until the server has closed the connection: only then has it been acted upon.
/// The connection must not change hands meanwhile, which the gate ensures.
///
/// Requests for one connection that come while one waits to be sent are one: a storm of them keeps no other client's waiting. One that
/// still waits when its client's query has ended is not sent.
pub(crate) async fn send(server_side: &ServerSide, key: &BackendKey, gate: CancelGuard) {
    gate.once(|begun| async {
        let slot = tokio::select! {
            biased;
            slot = server_side.logins.cancels.acquire() => Some(slot),
            () = begun.over() => None,
        };
        begun.note();
        if slot.is_some() {
            send_now(server_side, key).await;
        }
    })
    .await;
    drop(gate);
}

async fn send_now(server_side: &ServerSide, key: &BackendKey) {
    let ServerSide { counters, buffers, .. } = server_side;
    counters.cancels.add();
    let deadline = Instant::now() + CANCEL_TIMEOUT;
    let failed = |error: io::Error| debug!(pid = key.pid, %error, "a cancel request failed");
    let mut stream = match in_time(deadline, key.address.connect()).await {
        Ok(stream) => stream,
        Err(error) => {
            counters.fail_to_connect(&error);
            return failed(error);
        }
    };
    if let Some(server_tls) = &key.server_tls {
        let start =
            async { server_tls.start(&mut stream).await.map_err(|error| io::Error::other(format!("{error:?}"))) };
        if let Err(error) = in_time(deadline, start).await {
            // The secret does not go out in clear text where the session itself was encrypted.
            close(counters, &stream);
            return failed(error);
        }
    }
    let mut conn = Conn::new(stream, Arc::clone(buffers));
    frontend::put_cancel(&mut conn.output, key.pid, &key.secret);
    let tell = async {
        conn.flush().await?;
        conn.drain().await;
        Ok(())
    };
    if let Err(error) = in_time(deadline, tell).await {
        close(counters, conn.stream());
        failed(error);
    }
}

/// Closes the connection of a request, of which the server has not closed its side.
fn close(counters: &Counters, stream: &Stream) {
    if Closed::by_us(stream) == Closed::First {
        counters.time_waits.add();
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
