//! `CancelRequest`s to the upstream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::cancel_gate::CancelGuard;
use super::close::Closed;
use super::server_conn::BackendKey;
use super::server_side::ServerSide;
use crate::net::{Conn, Stream};
use crate::wire::frontend;

/// Longest time that a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a cancel request and waits until the server has closed the connection: only then has it been acted upon.
/// The connection must not change hands meanwhile, which the gate ensures.
///
/// Requests for one connection that come while one waits to be sent are one: a storm of them keeps no other client's waiting.
pub(crate) async fn send(server_side: &ServerSide, key: &BackendKey, gate: CancelGuard) {
    gate.once(|begun| async {
        let _slot = server_side.logins.cancels.acquire().await;
        begun.note();
        send_now(server_side, key).await;
    })
    .await;
    drop(gate);
}

async fn send_now(server_side: &ServerSide, key: &BackendKey) {
    let ServerSide { counters, buffers, .. } = server_side;
    counters.cancels.add();
    let request = async {
        let mut stream = key.address.connect().await.inspect_err(|error| counters.fail_to_connect(error))?;
        let by_us = |stream: &Stream| {
            if Closed::by_us(stream) == Closed::First {
                counters.time_waits.add();
            }
        };
        if let Some(server_tls) = &key.server_tls
            && let Err(error) = server_tls.start(&mut stream).await
        {
            // The secret does not go out in clear text where the session itself was encrypted.
            by_us(&stream);
            return Err(io::Error::other(format!("{error:?}")));
        }
        let mut conn = Conn::new(stream, Arc::clone(buffers));
        frontend::put_cancel(&mut conn.output, key.pid, &key.secret);
        conn.flush().await?;
        if tokio::time::timeout(CANCEL_TIMEOUT / 2, conn.drain()).await.is_err() {
            by_us(conn.stream());
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(CANCEL_TIMEOUT, request).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(pid = key.pid, %error, "a cancel request failed"),
        Err(_) => debug!(pid = key.pid, "a cancel request timed out"),
    }
}
