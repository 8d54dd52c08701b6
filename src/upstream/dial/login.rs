//! The login: authentication, and then what the server says of the session.
//!
//! The manual's "Start-up" flow, one function for each of its stages, in which only the messages of that stage are taken: what
//! a server leaves out, repeats or says too early ends the login. `authentication` is the first stage.

use super::authentication::authenticate;
use super::incoming::Incoming;
use super::{DialError, Login};
use crate::auth::{Credential, Password};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::Conn;
use crate::track::ServerParams;
use crate::track::transaction_block::IDLE;
use crate::upstream::target::TargetHost;
use crate::wire::{backend, frontend, startup};

/// Result of a login.
#[derive(Default)]
pub(super) struct LoggedIn {
    pub params: ServerParams,
    pub pid: i32,
    pub secret: Box<[u8]>,
    pub credential: Option<Credential>,
}

/// Logs in. A looked-up password is noted in `fixed`.
pub(super) async fn log_in(
    conn: &mut Conn,
    login: &mut Login,
    endpoint: &TargetHost,
    fixed: &mut Option<Password>,
) -> Result<LoggedIn, DialError> {
    let minor = login.upstream_target.minor;
    let params = login.params.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let user = [(&b"user"[..], login.user.as_slice())];
    frontend::put_startup(&mut conn.output, minor, user.into_iter().chain(params));
    if conn.output.len() > startup::MAX_BYTES {
        conn.output.clear();
        return Err(too_long());
    }
    conn.flush().await?;
    let mut incoming = Incoming::new(conn);
    incoming.negotiated(minor).await?;
    let credential = authenticate(&mut incoming, login, endpoint, fixed).await?;
    session(&mut incoming, credential).await
}

/// Receives what follows `AuthenticationOk`, up to the first `ReadyForQuery`.
async fn session(incoming: &mut Incoming<'_>, credential: Option<Credential>) -> Result<LoggedIn, DialError> {
    let mut session = LoggedIn { credential, ..LoggedIn::default() };
    loop {
        let (tag, bytes) = incoming.next(session.credential.as_ref()).await?;
        let body = &bytes[crate::wire::frame::HEADER_BYTES..];
        match tag {
            backend::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status(body).ok_or_else(|| malformed("ParameterStatus"))?;
                if !session.params.has_room_for(name, value) {
                    return Err(DialError::Protocol("the server reports too many settings".into()));
                }
                session.params.set(name, value);
            }
            backend::BACKEND_KEY_DATA => {
                let (pid, secret) = backend::key_data(body).ok_or_else(|| malformed("BackendKeyData"))?;
                (session.pid, session.secret) = (pid, secret.into());
            }
            backend::NOTICE => {}
            backend::READY if body == [IDLE] => return Ok(session),
            backend::READY => {
                return Err(DialError::Protocol("a session that begins inside a transaction".into()));
            }
            _ => {
                let shown = char::from(tag).escape_default();
                return Err(DialError::Protocol(format!("unexpected message {shown} after authentication")));
            }
        }
    }
}

/// Error for a startup packet that no server reads. PostgreSQL closes the connection without a word, as if it were going down.
fn too_long() -> DialError {
    let message = "the startup packet would be longer than PostgreSQL allows";
    let detail = format!("With all names and settings written out it has more than {} bytes.", startup::MAX_BYTES);
    let client_error = ClientError::fatal(ErrorSource::Client, sqlstate::PROTOCOL_VIOLATION, message).detail(detail);
    DialError::Refused(client_error, None)
}

fn malformed(what: &str) -> DialError {
    DialError::Protocol(format!("a malformed {what}"))
}
