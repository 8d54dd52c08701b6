//! What clients are asked, and what they answer.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::timed_out;
use crate::auth::Password;
use crate::client::client_slots::{PendingLogins, evicted};
use crate::client::presence::gone;
use crate::config::value;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::{Conn, Peer, RecvError};
use crate::upstream::limiter::SourceLimit;
use crate::wire::{backend, frame, frontend, head};

/// The longest answer (`PG_MAX_AUTH_TOKEN_LENGTH`); tokens of cloud providers take kilobytes.
const MAX_ANSWER_BYTES: usize = 65_535;

/// An answer that is longer than most, in bytes: few of these are waited for at a time.
const LONG_ANSWER_BYTES: usize = 4096;

/// Asks the client for its password, in clear text; `None` when it goes away, as libpq does to ask its user.
///
/// # Errors
/// When others could listen in, the client takes too long or answers with something else.
pub(crate) async fn password(
    conn: &mut Conn,
    pending_logins: &PendingLogins,
    deadline: Instant,
    limit: Duration,
) -> Result<Option<Password>, ClientError> {
    if conn.stream().tls().is_none()
        && let Ok(Peer::Tcp(address)) = conn.stream().peer()
        && !value::is_loopback(address.ip())
    {
        return Err(ClientError::fatal(
            ErrorSource::Client,
            sqlstate::INVALID_AUTHORIZATION,
            "password authentication over an unencrypted network connection is refused",
        )
        .detail("Pass-through login needs the password in clear text.")
        .hint("Connect with TLS (client_tls_cert_file, sslmode=require), through the unix socket, or over loopback."));
    }
    backend::put_cleartext_request(&mut conn.output);
    let Some(body) = answer(conn, pending_logins, "password", deadline, limit).await? else { return Ok(None) };
    read_password(&body).map(Some)
}

/// The password in an answer.
///
/// # Errors
/// When it is empty or not one.
pub(crate) fn read_password(body: &[u8]) -> Result<Password, ClientError> {
    match frontend::password(body) {
        Some([]) => Err(ClientError::fatal(
            ErrorSource::Client,
            sqlstate::INVALID_PASSWORD,
            "empty password returned by client",
        )),
        Some(password) => Ok(Password::new(password.to_vec())),
        None => Err(ClientError::violation("invalid password packet size")),
    }
}

/// Holds back the reply to a wrong answer, until `deadline` at most: the longer, the more of them came from there.
///
/// # Errors
/// Always: `reply`.
pub(crate) async fn delay_reply<T>(
    conn: &mut Conn,
    pending_logins: &PendingLogins,
    source: &SourceLimit,
    deadline: Instant,
    reply: ClientError,
) -> Result<T, ClientError> {
    let delay = source.delay(deadline.saturating_duration_since(Instant::now()));
    if delay.is_zero() {
        return Err(reply);
    }
    let held = pending_logins.wait(async {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = gone(conn) => {}
        }
    });
    // Where the place is needed, the reply comes sooner.
    let _ = held.await;
    Err(reply)
}

/// Sends the question in the connection's output and receives the answer, which errors call `what`; `None` when the client
/// goes away.
///
/// # Errors
/// When the client takes too long or sends something else.
pub(crate) async fn answer(
    conn: &mut Conn,
    pending_logins: &PendingLogins,
    what: &str,
    deadline: Instant,
    limit: Duration,
) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, ClientError> {
    let exchange = async {
        conn.flush().await?;
        let header = conn.peek(frame::HEADER_BYTES).await?;
        let size = head(header, MAX_ANSWER_BYTES)?.map_or(0, |head| head.size);
        let received = if size > LONG_ANSWER_BYTES {
            let Some(received) = pending_logins.wait_for_long_answer(conn.peek(size)).await else { return Ok(None) };
            received.map(drop)
        } else {
            conn.peek(size).await.map(drop)
        };
        received?;
        let frame = conn.peek_frame(MAX_ANSWER_BYTES).await?;
        let answer = match frame.tag {
            frontend::PASSWORD => Ok(zeroize::Zeroizing::new(frame.body().to_vec())),
            tag => Err(ClientError::violation(format!("expected {what} response, got message type {tag}"))),
        };
        let size = frame.bytes.len();
        conn.wipe(size);
        Ok::<_, RecvError>(Some(answer))
    };
    match timeout_at(deadline, pending_logins.wait(exchange)).await {
        Err(_) => Err(timed_out(limit)),
        Ok(None | Some(Ok(None))) => Err(evicted()),
        Ok(Some(Err(RecvError::Length(bad)))) => Err(ClientError::violation(bad.to_string())),
        Ok(Some(Err(_))) => Ok(None),
        Ok(Some(Ok(Some(answer)))) => answer.map(Some),
    }
}
